"""Call health: whether calls of each kind may be made now, and what failed calls say about jobs and service.

`CallHealth` is the only owner of this state. The engine asks it before it starts a call, and every call goes through
`CallHealth.call`, which updates the state and announces each change once. There are four circuit breakers
(`batchrunner.engine.circuit_breaker`): for submissions, polls, downloads and deliveries to a bucket.

A failure counts against a job only if it concerns that job alone: the error says so, or another job's call was answered
between two failures. So an outage uses up no job's retries, however long it lasts.
Rule: nothing here waits, and nothing here decides what follows for a job.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchrunner.engine import limits
from batchrunner.engine.circuit_breaker import LASTING, CallStatus, CircuitBreaker, policy_for
from batchrunner.engine.policy import Policy
from batchrunner.engine.ports import Dependencies
from batchrunner.errors import CallError
from batchrunner.events import CallHealthChanged, CapChanged
from batchrunner.formatting import length_text
from batchrunner.plan.endings import StopReason

CALLS = ("submit", "poll", "download", "deliver")
_DELIVERIES = 2  # at once: each has up to 64 MB in memory
_OF_THE_ACCOUNT = {"rate_limited", "out_of_credits"}  # what the other batches of the account meet as well
_EARLY_S = 0.1  # the wait of the others ends a little before that of the batch that met it, which tries first
_T = TypeVar("_T")


class CallHealth:
    """The health of each kind of call: ``submit``, ``poll``, ``download`` and ``deliver`` (to a bucket).

    in_flight: how many generations are in flight, asked when a submission is throttled. cap: the working cap: how many
    may be in flight. Moments are of the monotonic clock, in seconds. A breaker generation identifies the state in which
    a call started (`CircuitBreaker.enter`).
    """

    def __init__(self, deps: Dependencies, policy: Policy, in_flight: Callable[[], int]) -> None:
        self._deps = deps
        self._policy = policy
        self._in_flight = in_flight
        # A submission can end in doubt, so after an outage a free status request must succeed first.
        self._breakers = {call: CircuitBreaker(deps.rng, careful=call == "submit") for call in CALLS}
        own = {"submit": policy.submissions, "poll": policy.polls, "download": policy.downloads}
        self._most = {**own, "deliver": _DELIVERIES}
        self._given_up: set[str] = set()  # kinds of calls that this run no longer makes
        self._allowance = limits.NO_LIMIT
        self.cap = limits.working_cap(policy.concurrency, self._allowance)
        self._lasting: dict[str, bool] = {}  # whether the last failure is one that lasts, by call
        self._answered: Counter[str] = Counter()
        self._failures: dict[
            tuple[str, str], tuple[int, int]
        ] = {}  # own failures in a row, and `_answered` at the last

    # May a call be made?

    def enter(self, call: str) -> int:
        """Begin a call. Returns the breaker generation, which belongs to the call's outcome."""
        return self._breakers[call].enter()

    def leave(self, call: str, breaker_generation: int) -> None:
        """End a call whose outcome is not known, because it was never made."""
        self._breakers[call].left(breaker_generation)

    def next_call_at(self, call: str, now: float, running: int) -> float | None:
        """Return when the next call may start: `now`, a later moment, or None until a running call has ended.

        running: how many calls of this kind are running.
        """
        return None if running >= self._most[call] else self._breakers[call].next_call_at(now, running)

    def is_closed(self, call: str) -> bool:
        """Return whether the breaker is closed: calls of this kind may start without waiting."""
        return self._breakers[call].is_closed

    def wants_probe(self) -> bool:
        """Return whether a free status request (`probe`) must succeed before the next submission."""
        return self._breakers["submit"].wants_probe

    # Giving up

    def has_given_up(self, call: str) -> bool:
        """Return whether this run makes no more calls of this kind."""
        return call in self._given_up

    def patience_ends(self) -> dict[str, float]:
        """Return until when each open breaker is waited for, if no try comes before that moment."""
        waits = {CallStatus.PAUSED: self._policy.account_wait_s}
        ends = {}
        for call, breaker in self._breakers.items():
            if breaker.since is None or call in self._given_up:
                continue
            wait_s = 0.0 if self.is_lasting(call) else waits.get(breaker.status, self._policy.outage_wait_s)
            if breaker.next_at >= breaker.since + wait_s:
                ends[call] = breaker.since + wait_s
        return ends

    def give_up(self, call: str) -> StopReason:
        """Make no more calls of this kind in this run. Returns the reason."""
        self._given_up.add(call)
        breaker = self._breakers[call]
        if self.is_lasting(call):
            return breaker.reason
        waited_s = self._deps.clock.monotonic() - (breaker.since or 0.0)
        reason = breaker.reason.rstrip(".")
        return StopReason(breaker.reason.kind, f"{reason}; waited {length_text(waited_s)}")

    def is_lasting(self, call: str) -> bool:
        """Return whether waiting does not help, because settings of this machine have to be corrected."""
        return self._lasting.get(call, False)

    # Calls and their outcomes

    async def call(self, call: str, fingerprint: str, breaker_generation: int, reply: Awaitable[_T]) -> _T:
        """Make a call of this kind for this job and take in its outcome. Raises what the call raises."""
        breaker = self._breakers[call]
        try:
            result = await reply
        except CallError as error:
            self._lasting[call] = error.kind in LASTING
            self._count(call, fingerprint, error)
            if breaker.failed(breaker_generation, error, self._deps.clock.monotonic()):
                throttled = call == "submit" and breaker.status is CallStatus.THROTTLED
                self._announce_health(call)
                if call == "submit" and error.kind in _OF_THE_ACCOUNT:
                    until = self._deps.clock.now() + breaker.next_at - self._deps.clock.monotonic()
                    self._deps.account.throttled(until - _EARLY_S, breaker.reason)
                if throttled:
                    self._throttled()
            raise
        self._answered[call] += 1
        self._failures.pop((call, fingerprint), None)
        if breaker.passed(breaker_generation):
            self._announce_health(call)
            if call == "submit":
                self._deps.account.throttled(0.0, "")
        if call == "submit":
            self._set_allowance(limits.allowance_after_acceptance(self._allowance))
        return result

    async def probe(self, breaker_generation: int, reply: Awaitable[None]) -> None:
        """Make a free call to see whether the service answers, before a submission is risked.

        A failed call is taken in and not raised.
        """
        breaker = self._breakers["submit"]
        try:
            await reply
        except CallError as error:
            self._lasting["submit"] = error.kind in LASTING
            if breaker.failed(breaker_generation, error, self._deps.clock.monotonic(), probe=True):
                self._announce_health("submit")
        else:
            breaker.probe_answered(breaker_generation)
        finally:
            breaker.left(breaker_generation)

    def settled(self, *, accepted: bool) -> None:
        """Take in that the service's log settled a submission in doubt: it was accepted, or it was not."""
        if self._breakers["submit"].settled(self._deps.clock.monotonic(), accepted=accepted):
            self._announce_health("submit")

    def searched(self) -> None:
        """Take in that the service's log was read after the last submission in doubt."""
        if self._breakers["submit"].searched(self._deps.clock.monotonic()):
            self._announce_health("submit")

    def failures(self, call: str, fingerprint: str) -> int:
        """Return how often in a row this call failed for this job alone."""
        return self._failures.get((call, fingerprint), (0, 0))[0]

    def _count(self, call: str, fingerprint: str, error: CallError) -> None:
        if error.kind == "rate_limited":
            return  # says nothing about the job
        count, answered = self._failures.get((call, fingerprint), (0, -1))
        if answered != self._answered[call] or policy_for(error) is None:
            self._failures[call, fingerprint] = (count + 1, self._answered[call])

    def _announce_health(self, call: str) -> None:
        breaker, clock = self._breakers[call], self._deps.clock
        next_at = None if breaker.is_closed else clock.now() + breaker.next_at - clock.monotonic()
        self._deps.announce(CallHealthChanged(clock.now(), call, breaker.status.value, breaker.reason, next_at))

    def _throttled(self) -> None:
        limit, in_flight = self._policy.concurrency, self._in_flight()
        self._set_allowance(limits.allowance_after_throttling(limit, self._allowance, in_flight))

    def _set_allowance(self, allowance: float) -> None:
        if allowance == self._allowance:
            return
        before, limit = self.cap, self._policy.concurrency
        self._allowance, self.cap = allowance, limits.working_cap(limit, allowance)
        if self.cap != before:
            self._deps.announce(CapChanged(self._deps.clock.now(), self.cap, limit))
