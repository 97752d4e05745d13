"""Make a new journal from the readable rows of a damaged one, or from other knowledge about a batch.

A row is used only if its checksum is valid, and a job only if its rows agree. The caller keeps all other jobs in doubt.
The earlier files are moved and kept. The new journal is complete before it takes their place. If anything may be
missing in it, no witness knows it, so only a recovery opens it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from batchrunner.errors import JournalError
from batchrunner.job import Attempt, Job, PlacedFile, Record, Result, Retake, Run, State, TimelineEvent
from batchrunner.journal import journal, reader, rollback, rows
from batchrunner.journal.errors import reading
from batchrunner.journal.statements import (
    PUT_ATTEMPT,
    PUT_FILE,
    PUT_JOB,
    PUT_MARK,
    PUT_RETAKE,
    PUT_RUN,
    PUT_TIMELINE_EVENT,
    Change,
    in_few,
)
from batchrunner.journal.witness import Mark
from batchrunner.storage.durable_files import Disk

_T = TypeVar("_T")
_UNKNOWN = "in_doubt"  # outcome of an attempt whose row is lost


@dataclass
class Remains:
    """The known facts about a batch. runs: oldest first. records: by fingerprint. files: by name."""

    runs: list[Run] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    files: dict[str, PlacedFile] = field(default_factory=dict)
    timeline_events: list[TimelineEvent] = field(default_factory=list)
    retakes: list[Retake] = field(default_factory=list)


def whole(path: Path) -> tuple[Remains, Mark]:
    """Return the content of a sound journal, and its mark. Raises JournalError, LocalFault."""

    def content(connection: sqlite3.Connection) -> tuple[Remains, Mark]:
        journal.require_sound(connection, thorough=True)
        mark, _ = reader.mark(connection)
        snapshot, files = reader.snapshot(connection), reader.files(connection)
        if snapshot is None:
            return Remains(files=files), mark
        runs, events = list(snapshot.runs), list(snapshot.timeline_events)
        return Remains(runs, dict(snapshot.records), files, events, list(snapshot.retakes)), mark

    found = journal.view(path, content)
    if found is None:
        raise JournalError(f"{path} is gone")
    return found


def readable(path: Path, named: Callable[[Sequence[Retake]], Mapping[str, Job]]) -> Remains:
    """Read the undamaged rows of the journal at `path`.

    named: returns the jobs of the manifest and of the readable retakes by fingerprint, for lost rows.
    Raises LocalFault for an error of the disk.
    """
    with (
        rollback.plain_copy(path) as plain,
        closing(sqlite3.connect(f"{plain.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection,
    ):
        connection.text_factory = lambda content: content.decode(
            "utf-8", "replace"
        )  # the checksum of its row then fails
        runs = _rows(connection, "runs", rows.RUN_COLUMNS, rows.run)
        timeline_events = _rows(connection, "timeline_events", rows.TIMELINE_EVENT_COLUMNS, rows.timeline_event)
        files = dict(_rows(connection, "files", rows.FILE_COLUMNS, rows.file))
        retakes = _rows(connection, "retakes", rows.RETAKE_COLUMNS, rows.retake)
        jobs = dict(named(retakes)) | dict(_rows(connection, "jobs", rows.JOB_COLUMNS, _job))
        standing = dict(_rows(connection, "jobs", rows.JOB_COLUMNS, _standing))
        attempts = _attempts(connection)
    records = {
        name: _record(job, standing.get(name), attempts.get(name, {}))
        for name, job in jobs.items()
        if name in standing or name in attempts
    }
    files = {name: file for name, file in files.items() if file.fingerprint in records}
    return Remains(runs, records, files, timeline_events, retakes)


def _attempts(connection: sqlite3.Connection) -> dict[str, dict[int, Attempt]]:
    """Return the readable attempts by job and number.

    A row that is not in the place of its job is damaged. It only counts if there is no other with its number.
    """
    places = dict(_rows(connection, "jobs", ["fingerprint", _place_of(connection, "jobs")[0]], tuple))
    place = _place_of(connection, "attempts")[0]
    found = _rows(connection, "attempts", [place, *rows.ATTEMPT_COLUMNS], lambda row: (row[0], *rows.attempt(row[1:])))
    attempts: dict[str, dict[int, Attempt]] = {}
    for _, owner, attempt in sorted(found, key=lambda item: item[0] == places.get(item[1])):
        attempts.setdefault(owner, {})[attempt.number] = attempt
    return attempts


def replace_with(path: Path, remains: Remains, mark: Mark | None = None) -> None:
    """Replace the journal at `path` by a new one with `remains`. The old file is kept beside it.

    mark: of the journal that `remains` is a full copy of; None where anything may be missing. Raises LocalFault.
    """
    new = path.with_name(f"{path.name}.recovered")
    with reading(path):
        journal.remove(new)
        journal.create(new)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            mark = mark or reader.mark(connection)[0]
            connection.execute("BEGIN")
            for statement, values in in_few([*_changes(remains), (PUT_MARK, rows.mark_row(*mark, is_open=True))]):
                connection.execute(statement, values)
            connection.execute("COMMIT")
        _keep_aside(path)
        new.replace(path)
        Disk().flush_folder(path.parent)


def finish(path: Path) -> None:
    """Finish a replacement that was interrupted between its two steps."""
    new = path.with_name(f"{path.name}.recovered")
    if new.exists() and not path.exists():
        new.replace(path)


def _keep_aside(path: Path) -> None:
    names = (path.name, f"{path.name}-wal", f"{path.name}-journal")
    files = [file for file in map(path.with_name, names) if file.exists()]
    if not files:
        return
    number = 1
    while (folder := path.with_name(f"damaged.{number}")).exists():
        number += 1
    folder.mkdir()
    for file in reversed(files):  # the journal last: SQLite would use the others with the new one
        file.rename(folder / file.name)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _changes(remains: Remains) -> Iterator[Change]:
    yield from ((PUT_RUN, rows.run_row(run)) for run in remains.runs)
    for name, record in remains.records.items():
        yield PUT_JOB, rows.job_row(record)
        yield from ((PUT_ATTEMPT, rows.attempt_row(name, attempt)) for attempt in record.attempts)
    yield from ((PUT_FILE, rows.file_row(name, placed)) for name, placed in remains.files.items())
    yield from (
        (PUT_TIMELINE_EVENT, rows.timeline_event_row(timeline_event)) for timeline_event in remains.timeline_events
    )
    yield from ((PUT_RETAKE, rows.retake_row(retake)) for retake in remains.retakes)


def _rows(connection: sqlite3.Connection, table: str, columns: Sequence[str], make: Callable[[Any], _T]) -> list[_T]:
    """Return the readable rows of a table, from both of its ends towards the damage."""
    found: dict[tuple[Any, ...], _T] = {}
    backwards: list[tuple[tuple[Any, ...], _T]] = []
    keys = _place_of(connection, table)
    for order in ("ASC", "DESC"):
        by = ", ".join(f"{name} {order}" for name in keys)
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {by}"
        with suppress(sqlite3.Error, UnicodeDecodeError):  # raised for a message that quotes a damaged name
            for row in connection.execute(query):
                with suppress(ValueError, TypeError, LookupError, AttributeError):
                    item = make(row)
                    if order == "ASC":
                        found[row] = item
                    elif row in found:
                        break
                    else:
                        backwards.append((row, item))
    return [*found.values(), *(item for _, item in reversed(backwards))]


def _place_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns that order the rows of a table in the file, in a journal of any version."""
    query = (
        "SELECT columns.name FROM pragma_table_list(?1) AS tables, pragma_table_info(?1) AS columns "
        "WHERE tables.wr AND columns.pk > 0 ORDER BY columns.pk"
    )
    with suppress(sqlite3.Error, UnicodeDecodeError):
        if key := [name for (name,) in connection.execute(query, (table,))]:
            return key
    return ["rowid"]


def _job(row: Sequence[Any]) -> tuple[str, Job]:
    return row[0], rows.job_of(*row[:3])


def _standing(row: Sequence[Any]) -> tuple[str, tuple[State, Record]]:
    """Return the part of a job's row that changes, as a record without a job."""
    record = rows.record((row[0], _NO_JOB, rows.checksum("jobs", (row[0], _NO_JOB)), *row[3:]), ())
    return row[0], (record.state, record)


_NO_JOB = '{"image":{"kind":"","source":""},"model":"","params":{},"video":{"kind":"","source":""}}'


def _record(job: Job, standing: tuple[State, Record] | None, known: Mapping[int, Attempt]) -> Record:
    """Return the job's record if its rows agree, else one that is in flight (with a generation id) or pending."""
    attempts = tuple(known.get(number) or _lost(job, number) for number in range(1, max(known, default=0) + 1))
    last = attempts[-1] if attempts else None
    error, result = (standing[1].error, standing[1].result) if standing else (None, None)
    record = Record(job, State.PENDING, attempts, error, result)
    if standing is not None and _agrees(standing[0], last, result):
        return replace(record, state=standing[0])
    in_flight = last is not None and last.generation_id is not None and last.outcome in {None, "accepted", "succeeded"}
    return replace(record, state=State.IN_FLIGHT if in_flight else State.PENDING, error=None, result=None)


def _agrees(state: State, last: Attempt | None, result: Result | None) -> bool:
    """Return whether a job in this state can have this latest attempt."""
    match state:
        case State.PENDING:
            return True
        case State.SUBMITTING | State.IN_DOUBT:
            return last is not None and last.generation_id is None
        case State.SUCCEEDED:
            return last is not None and last.generation_id is not None and result is not None
        case _:
            return last is not None and last.generation_id is not None


def _lost(job: Job, number: int) -> Attempt:
    return Attempt(number, f"lost.{job.key}.{number}", 0.0, outcome=_UNKNOWN)
