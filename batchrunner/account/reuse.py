"""Decide what a batch does with a job that other batches of the account know. Pure.

Paid work is not paid for again unasked: a delivered clip is copied, a generation without a clip is polled again, and a
job that is in flight or in doubt elsewhere is held. A generation that this batch has itself seen fail is no use.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from batchrunner.account.base import HELD_BY_BATCH, HELD_IN_DOUBT, Clip, Granted, Hold, Reuse, Source
from batchrunner.account.rows import CLAIMED, IN_DOUBT, IN_FLIGHT, SUBMITTING, SUCCEEDED, WITHHELD, BatchRow, JobRow
from batchrunner.errors import Problem

Rows = Sequence[tuple[JobRow, BatchRow]]


class Unsettled(NamedTuple):
    """No process runs these batches, and the index does not include the end of their journals yet."""

    batch_ids: tuple[str, ...]


Decision = Granted | Hold | Reuse | Unsettled


def decide(
    rows: Rows,
    is_running: Callable[[str], bool],
    exists: Callable[[Clip], bool],
    useless: Collection[str] = (),
) -> Decision:
    """Decide by the rows that other batches have for the job.

    is_running: whether a process runs a batch. exists: whether a clip stands where its batch recorded it. useless:
    generations that failed in this batch.
    """
    usable = [(row, batch) for row, batch in rows if row.generation_id is None or row.generation_id not in useless]
    delivered = [(row, batch) for row, batch in usable if row.state == SUCCEEDED and row.generation_id]
    if copied := _copied(delivered, exists):
        return copied
    pending = [(row, batch) for row, batch in usable if row.state in (CLAIMED, SUBMITTING, IN_FLIGHT)]
    stale = [batch.batch_id for _, batch in pending if batch.sequence is None and not is_running(batch.batch_id)]
    if stale:
        return Unsettled(tuple(stale))
    for row, batch in pending:
        if is_running(batch.batch_id):
            return _in_use(row, batch)
    for row, batch in (*delivered, *pending, *((row, batch) for row, batch in usable if row.state == WITHHELD)):
        if row.generation_id:
            in_flight = row.state == IN_FLIGHT
            return Reuse(row.generation_id, source_of(batch), in_flight=in_flight)
    in_doubt = [(row, batch) for row, batch in usable if row.state in (IN_DOUBT, SUBMITTING, CLAIMED)]
    return _in_doubt(*in_doubt[0]) if in_doubt else Granted()


def source_of(batch: BatchRow) -> Source:
    """Return a batch as the engine and people see it."""
    return Source(batch.batch_id, batch.name, batch.directory)


def _copied(delivered: Rows, exists: Callable[[Clip], bool]) -> Reuse | None:
    """Return a reuse of the first generation of which a clip exists, with all of its clips."""
    clips: dict[str, list[Clip]] = {}
    for row, batch in delivered:
        if row.file is None or row.size_bytes is None or row.sha256 is None:
            continue
        path = Path(batch.directory, row.file)
        clip = Clip(path, row.size_bytes, row.sha256, source_of(batch), row.result_json or "{}")
        if exists(clip):
            clips.setdefault(str(row.generation_id), []).append(clip)
    for generation_id, found in clips.items():
        return Reuse(generation_id, found[0].source, tuple(found))
    return None


def _in_use(row: JobRow, batch: BatchRow) -> Hold:
    doing = f"in flight as generation {row.generation_id}" if row.generation_id else "being submitted"
    problem = Problem(
        HELD_BY_BATCH,
        f"the batch {batch.name} has this job: it is {doing} there ({batch.directory}), and a process runs that batch",
        "Nothing was submitted for it here. When that batch has ended, run again: its clip is delivered at no charge.",
        "local",
    )
    return Hold(source_of(batch), problem)


def _in_doubt(row: JobRow, batch: BatchRow) -> Hold:
    problem = Problem(
        HELD_IN_DOUBT,
        f"the batch {batch.name} may have paid for this job: its submission {row.request_id} is in doubt there "
        f"({batch.directory})",
        "Nothing was submitted for it here. Run that batch again, which searches the service's log for it, or settle "
        "it by hand: batchrunner resolve.",
        "local",
    )
    return Hold(source_of(batch), problem)
