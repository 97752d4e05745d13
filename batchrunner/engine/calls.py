"""How calls fare: every call goes through here, so that trouble is met by all of them together, and told once.

Three gates (`batchrunner.engine.circuit_breaker`), one each for submissions, polls and downloads; the working cap
moves with what the
service says to submissions. Failures are counted per job only where they are that job's own: they say so themselves,
or between two that count another job's call was answered. So an outage uses up no job's retries, however long it lasts.
Rule: nothing here waits or decides what follows for a job; the engine asks the gates before it starts a call.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from batchrunner.engine.circuit_breaker import LASTING, CallStatus, CircuitBreaker, policy_for
from batchrunner.engine.job_queue import Scheduler
from batchrunner.engine.ports import Dependencies, Policy
from batchrunner.errors import AccountFault, CallError, LocalFault
from batchrunner.events import CallHealthChanged, CapChanged, Fetching
from batchrunner.job import TimelineEvent

CALLS = ("submit", "poll", "download")
_TELL_EVERY_S = 0.5
REFUSALS_ALONE = 3  # with another job accepted between each two: the job itself is at fault
_PLAINLY_THE_ACCOUNTS = {"out_of_credits", "unauthorized"}
_T = TypeVar("_T")


class CallHealth:
    """The gates, by the name of their calls, and what is known of each job's own failures.

    given_up: kinds of calls that this run makes no more.
    """

    def __init__(self, deps: Dependencies, scheduler: Scheduler) -> None:
        # A submission can end in doubt, so after an outage a look that costs nothing goes before it.
        self.breakers = {call: CircuitBreaker(deps.rng, careful=call == "submit") for call in CALLS}
        self.given_up: set[str] = set()
        self._deps = deps
        self._scheduler = scheduler
        self._lasting: dict[str, bool] = {}  # whether the last failure is one that lasts, by call
        self._answered: Counter[str] = Counter()
        self._failures: dict[tuple[str, str], tuple[int, int]] = {}  # own failures in a row, and `answered` at the last

    async def call(self, call: str, fingerprint: str, breaker_generation: int, made: Awaitable[_T]) -> _T:
        """Make a call of this kind for this job; its outcome moves gate and cap. Raises what the call raises."""
        breaker, clock = self.breakers[call], self._deps.clock
        try:
            reply = await made
        except CallError as error:
            before = breaker.word
            self._lasting[call] = error.kind in LASTING
            self._count(call, fingerprint, error)
            if breaker.failed(breaker_generation, error, clock.monotonic()):
                throttled = call == "submit" and breaker.word is CallStatus.THROTTLED
                await self._announce_health(call, before)
                if throttled:
                    await self._move_cap(throttled=True)
            raise
        self._answered[call] += 1
        self._failures.pop((call, fingerprint), None)
        before = breaker.word
        if breaker.passed(breaker_generation):
            await self._announce_health(call, before)
        if call == "submit":
            await self._move_cap(throttled=False)
        return reply

    async def probe(self, breaker_generation: int, made: Awaitable[None]) -> None:
        """See whether the service answers at all, before a submission is risked. Raises nothing for a failed call."""
        breaker = self.breakers["submit"]
        try:
            await made
        except CallError as error:
            before = breaker.word
            self._lasting["submit"] = error.kind in LASTING
            if breaker.failed(breaker_generation, error, self._deps.clock.monotonic(), probe=True):
                await self._announce_health("submit", before)
        else:
            breaker.probe_answered(breaker_generation)
        finally:
            breaker.left(breaker_generation)

    async def settled(self, *, accepted: bool) -> None:
        """The service's log settled a submission in doubt: one way, or the other."""
        breaker = self.breakers["submit"]
        before = breaker.word
        if breaker.settled(self._deps.clock.monotonic(), accepted=accepted):
            await self._announce_health("submit", before)

    async def searched(self) -> None:
        """The service's log was read after the last submission in doubt."""
        breaker = self.breakers["submit"]
        if breaker.searched(self._deps.clock.monotonic()):
            await self._announce_health("submit", breaker.word)

    def is_at_fault(self, fingerprint: str, error: AccountFault) -> bool:
        """Whether a job that the account is refused is at fault itself: others are accepted, it is not.

        Shown by acceptances of other jobs between three of its refusals. Between two of them they show it where no
        other job is left to ask with, unless the service speaks of credits or the key.
        """
        refusals = self.failures("submit", fingerprint)
        if refusals >= REFUSALS_ALONE:
            return True
        if refusals < REFUSALS_ALONE - 1 or error.kind in _PLAINLY_THE_ACCOUNTS:
            return False
        alike = sum(self.failures("submit", other) >= refusals for other in self._scheduler.set_back)
        return self._scheduler.waiting <= alike

    def patience(self, policy: Policy) -> dict[str, float]:
        """Until when each closed gate is waited for (monotonic, s), once no other try comes before that."""
        waits = {CallStatus.PAUSED: policy.account_wait_s}
        ends = {
            call: breaker.since + (0.0 if self.is_lasting(call) else waits.get(breaker.word, policy.outage_wait_s))
            for call, breaker in self.breakers.items()
            if breaker.since is not None and call not in self.given_up
        }
        return {call: end for call, end in ends.items() if self.breakers[call].next_at >= end}

    def is_lasting(self, call: str) -> bool:
        """Whether waiting does not help: settings of this machine have to be corrected."""
        return self._lasting.get(call, False)

    def failures(self, call: str, fingerprint: str) -> int:
        """How often in a row this call failed for this job alone."""
        return self._failures.get((call, fingerprint), (0, 0))[0]

    def _count(self, call: str, fingerprint: str, error: CallError) -> None:
        if error.kind == "rate_limited":
            return  # says nothing about the job
        count, answered = self._failures.get((call, fingerprint), (0, -1))
        if answered != self._answered[call] or policy_for(error) is None:
            self._failures[call, fingerprint] = (count + 1, self._answered[call])

    async def _announce_health(self, call: str, before: CallStatus) -> None:
        breaker, clock = self.breakers[call], self._deps.clock
        next_at = None if breaker.open else clock.now() + breaker.next_at - clock.monotonic()
        self._deps.announce(CallHealthChanged(clock.now(), call, breaker.word.value, breaker.reason, next_at))
        if breaker.word is not before:
            await self._note("call_health", call, breaker.word.value, breaker.reason)

    async def _move_cap(self, *, throttled: bool) -> None:
        cap = self._scheduler.cap
        before = cap.working
        if throttled:
            cap.throttled(self._scheduler.in_flight)
        else:
            cap.accepted()
        if cap.working != before:
            self._deps.announce(CapChanged(self._deps.clock.now(), cap.working, cap.limit))
            await self._note("cap", "submit", str(cap.working), f"working cap {cap.working} of {cap.limit}")

    async def _note(self, kind: str, about: str, word: str, message: str) -> None:
        with suppress(LocalFault):  # a line of the timeline is not worth what waits for this call's outcome
            await self._deps.journal.note(TimelineEvent(self._deps.clock.now(), kind, about, word, message))


def watched(deps: Dependencies, fingerprint: str) -> Callable[[int, int | None], None]:
    """Tells how far a job's download is, called with bytes received and in all: a short one not, a long one calmly."""
    told_at = deps.clock.monotonic()

    def told(received_bytes: int, total_bytes: int | None) -> None:
        nonlocal told_at
        if deps.clock.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = deps.clock.monotonic()
            ids = deps.ids(fingerprint)
            deps.announce(Fetching(deps.clock.now(), ids, fingerprint, received_bytes, total_bytes))

    return told
