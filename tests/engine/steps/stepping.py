"""Steps for one job, against a service that replies as a test says."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any
from unittest.mock import Mock

from batchrunner.clock import LoopClock
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.job_queue import JobQueue
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.outcomes import NextStep
from batchrunner.engine.policy import Policy
from batchrunner.engine.poll_history import PollHistories
from batchrunner.engine.ports import Bucket, Dependencies, Inputs, ReadyInputs
from batchrunner.engine.steps import deliver, poll, submit
from batchrunner.engine.steps.context import StepContext
from batchrunner.errors import CallError, LocalFault
from batchrunner.events import Event
from batchrunner.job import Record, TimelineEvent
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.providers.base import Accepted, Capabilities, GenerationStatus, Phase
from batchrunner.transfer.downloader import Fetched
from tests.conftest import NOW

PRICE = 208_000.0  # of each submission, in credits
URL = "https://e.com/a.mp4"


class VirtualClock(LoopClock):
    """A clock that a sleep moves on at once. drift: seconds of wall time per second of monotonic time."""

    def __init__(self, drift: float = 1.0) -> None:
        super().__init__()
        self.at_s = 0.0
        self._drift = drift

    def now(self) -> float:
        return NOW + self._drift * self.at_s

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class RefusingJournal:
    """A journal on a full disk that stores a record after so many refusals. attempted: every record it was given."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.attempted: list[Record] = []

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        self.attempted.append(record)
        self.refusals -= 1
        if self.refusals >= 0:
            raise LocalFault("disk_full", "the disk is full", "Make room.")

    async def save_attempts(self, records: Iterable[Record]) -> None:
        for record in records:
            await self.save(record)

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Nothing here depends on it."""


class Service:
    """Replies to polls with `replies`, one after the other, and to submissions with `submissions`, then accepts."""

    def __init__(self, *replies: Phase | GenerationStatus | CallError, **capabilities: Any) -> None:
        self.replies = list(replies)
        self.submissions: list[CallError] = []
        self.submitted: list[str] = []
        self.notice = ""
        self.capabilities = Capabilities(**({"find_submissions": True} | capabilities))

    async def submit(self, _: object, request_id: str) -> Accepted:
        self.submitted.append(request_id)
        if self.submissions:
            raise self.submissions.pop(0)
        return Accepted("gen:new", None, self.notice)

    async def status(self, *_: object) -> GenerationStatus:
        reply = self.replies.pop(0)
        if isinstance(reply, CallError):
            raise reply
        if isinstance(reply, GenerationStatus):
            return reply
        return GenerationStatus(reply, reply.value, result_url=URL if reply is Phase.COMPLETED else None)


class Clips:
    """Downloads that all end with `error`."""

    def __init__(self, error: CallError) -> None:
        self._error = error

    async def fetch(self, *_: object) -> Fetched:
        raise self._error


class Stepping:
    """The steps of one job. `take` makes one. policy: as for `Policy`."""

    def __init__(
        self,
        record: Record,
        service: Service | None = None,
        *,
        journal: RefusingJournal | None = None,
        clips: Clips | None = None,
        clock: VirtualClock | None = None,
        inputs: Inputs | None = None,
        bucket: Bucket | None = None,
        **policy: Any,
    ) -> None:
        self.fingerprint = record.job.fingerprint
        self.clock = clock or VirtualClock()
        self.announced: list[Event] = []
        self.forecast = Forecast()
        service = service or Service()
        deps = Dependencies(
            provider=Mock(submit=service.submit, status=service.status, capabilities=service.capabilities),
            journal=journal or RefusingJournal(),
            clips=clips or Mock(),
            store=Mock(),
            clock=self.clock,
            rng=Mock(uniform=lambda _a, b: b),
            announce=self.announced.append,
            ids=lambda name: (name,),
            inputs=inputs or ReadyInputs(),
            bucket=bucket,
        )
        bounds = Policy(**({"concurrency": 1, "poll_interval_s": 15.0} | policy))
        self.queue = JobQueue(1)
        self.context = StepContext(
            deps=deps,
            policy=bounds,
            run_id="run",
            records=JobRecords({self.fingerprint: record}, deps, Ledger(Budget(), [record])),
            calls=CallHealth(deps, bounds, lambda: self.queue.in_flight),
            queue=self.queue,
            times=GenerationTimes(deps.clock, self.forecast, deps.durations, 3 * bounds.poll_interval_s + 60),
            polls=PollHistories(),
            price=lambda _: None,
        )

    @property
    def record(self) -> Record:
        return self.context.records[self.fingerprint]

    def take(self, step: str, after_s: float = 15.0) -> NextStep:
        """Make a step ``submit``, ``poll``, ``download`` or ``deliver`` after so many seconds."""
        self.clock.at_s += after_s
        breaker_generation = self.context.calls.enter(step)
        if step == "submit":
            return asyncio.run(submit.submit(self.context, self.fingerprint, PRICE, breaker_generation))
        if step == "poll":
            return asyncio.run(poll.poll(self.context, self.fingerprint, breaker_generation))
        if step == "deliver":
            return asyncio.run(deliver.copy_to_bucket(self.context, self.fingerprint, breaker_generation))
        return asyncio.run(deliver.download(self.context, self.fingerprint, URL, breaker_generation))

    def answer_another(self, call: str) -> None:
        """Let a call of another job be answered."""

        async def reply() -> None:
            """The reply does not matter."""

        calls = self.context.calls
        asyncio.run(_drop(calls.call(call, "another", calls.enter(call), reply())))


async def _drop(call: Coroutine[Any, Any, None]) -> None:
    await call
