"""Automatic verdicts during a run: marks whose action is ``reject``, and the hook (``--on-clip``).

Each finished clip is checked beside the downloads, in threads. At the end of a run, the marks of all clips are checked
again: duplicates are known only then, and an earlier run may have been killed. A verdict of a person is never changed,
and no clip is ever deleted. A failure here is announced once and does not change the outcome of the run.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchrunner.app.environment import Environment
from batchrunner.app.setup import Setup, prices_of
from batchrunner.engine.chunks import in_chunks
from batchrunner.engine.job_records import JobRecords
from batchrunner.errors import BatchrunnerError
from batchrunner.events import Event, EventBus, JobMoved, Noticed
from batchrunner.formatting import count_text, rfc3339
from batchrunner.job import Entry, Move, Record, Run, State
from batchrunner.media.decoder_pool import WORKERS
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.endings import StopReason
from batchrunner.quality import marks
from batchrunner.report.rows import Row, RowContext, owners_of, rows
from batchrunner.review.verdicts import ON_CLIP, QUALITY, REJECT, Verdict, VerdictLog

if TYPE_CHECKING:
    from batchrunner.review.hook import Hook

_OUT_OF_TIME = {"deadline", "max_runtime", "interrupted"}


class ClipChecks:
    """Gives automatic verdicts in one run. Its methods belong to the event loop."""

    def __init__(self, setup: Setup, run: Run, outside: Environment, publish: Callable[[Event], None]) -> None:
        self._actions = setup.settings.quality
        self._rejects = any(action == REJECT for action in self._actions.values())
        self._hook = outside.on_clip
        self._outside, self._publish = outside, publish
        self._rundir, self._entries = setup.rundir, setup.batch.entries
        self._context = RowContext(run, prices_of(setup), Forecast(), actions=self._actions)
        self._by_job: dict[str, list[Entry]] = {}
        self._pending: set[asyncio.Future[str]] = set()
        self._begun: set[tuple[str, str]] = set()
        self._warned: set[str] = set()
        if self.is_needed:
            for entry in self._entries:
                self._by_job.setdefault(entry.job.fingerprint, []).append(entry)
        if self._hook is not None:
            from batchrunner.review.hook import Outcomes  # here, as most batches have no hook

            self._outcomes = Outcomes(self._rundir.path)
            self._threads = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="on_clip")

    @property
    def is_needed(self) -> bool:
        """Whether a delivered clip is checked at all: a mark rejects clips, or there is a hook."""
        return self._rejects or self._hook is not None

    def on_event(self, event: Event) -> None:
        """Check a clip that was delivered."""
        if isinstance(event, JobMoved) and event.move is Move.DELIVER:
            self._check(event.record)

    async def begin(self, records: Iterable[Record]) -> None:
        """Call the hook for clips of earlier runs about which it has not decided."""
        if self._hook is not None:
            async for chunk in in_chunks(list(records)):
                for record in chunk:
                    if record.state is State.SUCCEEDED:
                        self._call_hook(self._hook, record)

    def _check(self, record: Record) -> None:
        if record.result is None or record.job.fingerprint not in self._by_job:
            return
        if self._rejects and record.result.quality is not None:
            found = marks.marks_of(record.result.quality, self._actions)
            if reasons := _reasons((mark.kind, mark.action) for mark in found):
                self._start(self._outside.executor, self._store_all, [(record, QUALITY, reasons)])
        if self._hook is not None:
            self._call_hook(self._hook, record)

    def _call_hook(self, hook: "Hook", record: Record) -> None:
        fingerprint = record.job.fingerprint
        if record.result is None or fingerprint not in self._by_job:
            return
        clip = (fingerprint, record.result.sha256)
        if clip not in self._begun and not self._outcomes.has(*clip, hook.digest):
            self._begun.add(clip)
            self._start(self._threads, self._decide, hook, record)

    def _start(self, executor: object, function: Callable[..., str], *arguments: object) -> None:
        call = partial(function, rfc3339(self._outside.clock.now()), *arguments)
        future = asyncio.get_running_loop().run_in_executor(executor, call)  # type: ignore[arg-type]  # an Executor
        self._pending.add(future)
        future.add_done_callback(self._end)

    def _end(self, future: "asyncio.Future[str]") -> None:
        self._pending.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        problem = future.result() if error is None else f"a finished clip could not be checked: {error!r}"
        kind = problem.partition(" ")[0]
        if problem and kind not in self._warned:
            self._warned.add(kind)
            self._publish(Noticed(self._outside.clock.now(), (), problem))

    def _decide(self, at: str, hook: "Hook", record: Record) -> str:
        """Call the hook, store its verdict, then its outcome. Return a problem for the user, or "". Blocks."""
        assert record.result is not None
        entry = self._by_job[record.job.fingerprint][0]
        row = dict(Row(record.job, record, self._context, entry))
        path = (self._rundir.path / entry.file).absolute()
        outcome = hook.run({**row, "path": str(path)})
        if outcome.problem:
            return (
                f"--on-clip {outcome.problem} (clip of {entry.id}). The run goes on without its verdict. Further "
                "failures of the hook are not shown; the next run calls it again for these clips"
            )
        if not outcome.is_decided:
            return ""
        problem = self._store_all(at, [(record, ON_CLIP, (outcome.reason,))]) if outcome.reason else ""
        if not problem:
            try:
                self._outcomes.add(record.job.fingerprint, record.result.sha256, hook.digest)
            except BatchrunnerError as error:
                problem = error.message
        return problem

    def _store_all(self, at: str, rejections: Iterable[tuple[Record, str, tuple[str, ...]]]) -> str:
        """Store rejections, with the time `at`, for all names of their jobs. Return a problem or "". Blocks."""
        try:
            with VerdictLog(self._rundir.path) as log:
                for record, by, reasons in rejections:
                    for entry in self._by_job[record.job.fingerprint]:
                        log.propose(_rejection(entry, record, reasons, at=at, by=by))
        except BatchrunnerError as error:
            return error.message
        return ""

    async def finish(self, records: JobRecords, reason: StopReason) -> None:
        """Wait for the hook, then check the marks of all clips. Without time, running calls of the hook end.

        reason: why the run stopped, or NO_REASON.
        """
        if self._hook is not None and reason.kind in _OUT_OF_TIME:
            self._hook.stop()
        if self._pending:
            message = f"Waiting for the checks of {count_text(len(self._pending), 'clip')}."
            self._publish(Noticed(self._outside.clock.now(), (), message, routine=True))
            await asyncio.wait(self._pending)
        if self._rejects:
            self._start(self._outside.executor, self._check_marks, records.view)
            await asyncio.wait(self._pending)

    def _check_marks(self, at: str, records: Mapping[str, Record]) -> str:
        """Store the rejections that marks of all clips ask for, duplicates included. Blocks."""
        context = replace(self._context, owners=owners_of(self._entries, records))
        found = []
        for row in rows(self._entries, records, context):
            quality = row["quality"]
            if quality is not None and quality["verdict"] == REJECT:
                reasons = _reasons((mark["kind"], mark["action"]) for mark in quality["marks"])
                found.append((row.record, QUALITY, reasons))
        return self._store_all(at, found) if found else ""

    def close(self) -> None:
        """End all calls of the hook."""
        if self._hook is not None:
            self._hook.stop()
            self._threads.shutdown(wait=True, cancel_futures=True)


def _rejection(entry: Entry, record: Record, reasons: tuple[str, ...], *, at: str, by: str) -> Verdict:
    assert record.result is not None
    fingerprint, sha256 = record.job.fingerprint, record.result.sha256
    return Verdict(entry.id, entry.take, fingerprint, sha256, REJECT, reasons, at=at, by=by)


def _reasons(found: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the kinds of the marks that ask for a rejection. found: kinds and actions."""
    return tuple(kind for kind, action in found if action == REJECT)


@contextmanager
def opened(setup: Setup, run: Run, outside: Environment, bus: EventBus) -> Iterator[ClipChecks]:
    """Check clips until the context ends. Raises LocalFault."""
    checks = ClipChecks(setup, run, outside, bus.publish)
    if checks.is_needed:
        bus.subscribe(checks.on_event, name="clip checks", events=(JobMoved,))
    try:
        yield checks
    finally:
        checks.close()
