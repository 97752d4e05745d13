"""Whether calls of one kind may be made: all of them back off together. Pure.

There is one breaker for submissions, one for polls, one for downloads and one for deliveries to a bucket. It opens on
failures that no job causes: at once if the account refuses or the service throttles, after a streak if the service is
down or unreachable. An open breaker lets a single call probe after a growing wait, and closes when that call is
answered.

A submission that ends in doubt may have been accepted, so three of them in a row open the breaker for half an hour at a
time: each further one may be one more job in doubt. Any answer to a submission ends that, because it shows that the
service answers; so does an acceptance in the service's log (`settled`). A log that can be read and does not list them
shows less: the service works again, and will list what it accepts. Then the next submission goes sooner, and each later
unclear reply has a longer wait (`searched`).

A call that was active when the breaker opened neither lengthens the wait nor ends it: its breaker generation is old.
"""

from enum import StrEnum
from typing import NamedTuple

from batchrunner.engine import backoff
from batchrunner.errors import AccountFault, CallError, LocalFault, NetworkFault, ServiceFault
from batchrunner.plan.endings import NO_REASON, StopReason


class CallStatus(StrEnum):
    """The status of one kind of call."""

    FINE = "fine"
    THROTTLED = "throttled"  # the service asks for fewer calls
    DOWN = "down"  # the service or the file host fails
    UNREACHABLE = "unreachable"  # the service or the file host cannot be reached
    PAUSED = "paused"  # the account: out of credits, locked, key refused


class FailurePolicy(NamedTuple):
    """What a kind of failure does.

    streak: how many in a row open the breaker. wait: between two probes while it is open.
    """

    status: CallStatus
    streak: int
    wait: backoff.Backoff


_THROTTLED = FailurePolicy(CallStatus.THROTTLED, 1, backoff.Backoff(base_s=2.0, cap_s=120.0))
_POLICIES: tuple[tuple[type[CallError], FailurePolicy], ...] = (
    # The first probes come soon: another job may be accepted, which shows that the account is not at fault.
    (AccountFault, FailurePolicy(CallStatus.PAUSED, 1, backoff.Backoff(base_s=8.0, cap_s=600.0))),
    (ServiceFault, FailurePolicy(CallStatus.DOWN, 3, backoff.Backoff(base_s=5.0, cap_s=300.0))),
    (NetworkFault, FailurePolicy(CallStatus.UNREACHABLE, 3, backoff.Backoff(base_s=2.0, cap_s=120.0))),
)
MOST_UNCLEAR = 3  # submissions in a row that end in doubt, before the breaker opens
DOUBT_PROBE_S = 1800.0  # between two submissions after that
_SETTLED_WAIT_S = 30.0  # if the log showed that the last ones were not accepted
# if the log was read: a longer wait after each unclear reply, then DOUBT_PROBE_S
_SEARCHED_WAITS_S = (30.0, 120.0, 480.0)
# Settings of this machine have to be corrected first: one more attempt, and the run ends.
LASTING = {"certificate", "proxy_refused"}
_LASTING = FailurePolicy(CallStatus.UNREACHABLE, 2, backoff.Backoff(base_s=2.0, cap_s=2.0))
# Errors that concern one generation or one file, and say nothing about the others.
_ONE_JOBS = {
    "unknown_generation",
    "foreign_reply",
    "link_expired",
    "link_refused",
    "link_certificate",
    "link_proxy",
    "bad_file",
    "check_limit",
    "bad_range",
    "id_reused",
}


class CircuitBreaker:
    """The breaker of one kind of call. Times are of the monotonic clock, in seconds.

    status: of the calls. since: when the breaker opened, or None while it is closed; account failures and all others
    have their own starts. reason: why it opened. next_at: when the next probe may start, while it is open. careful:
    whether a free status request must succeed before the one call that probes after an outage: a call that may end in
    doubt is not risked during an outage.
    """

    def __init__(self, rng: backoff.Rng, *, careful: bool = False) -> None:
        self.status = CallStatus.FINE
        self.since: float | None = None
        self.next_at = 0.0
        self.reason = NO_REASON
        self._began: dict[bool, float] = {}  # by whether it is an account failure
        self._rng = rng
        self._careful = careful
        self._streak = 0
        self._attempts = 0
        self._round = 0
        self._probing = False
        self._probed = False
        self._in_doubt = 0  # submissions in a row that ended in doubt
        self._opened_in_doubt = 0  # how often in a row that opened the breaker
        self._opened_in_doubt_at = 0.0  # when it last did
        self._answered = False

    @property
    def most_active(self) -> int | None:
        """How many calls may be active at once; None: any number.

        Until the first submission is answered, and after one that ended in doubt, only so many are risked that no
        more than MOST_UNCLEAR in a row can end in doubt.
        """
        if not self._careful or (self._answered and not self._in_doubt):
            return None
        return max(1, MOST_UNCLEAR - self._in_doubt)

    @property
    def is_closed(self) -> bool:
        """Whether any number of calls may start."""
        return self.since is None

    @property
    def wants_probe(self) -> bool:
        """Whether a free status request must succeed before the next call."""
        return self._careful and not self._probed and self.status in {CallStatus.DOWN, CallStatus.UNREACHABLE}

    def next_call_at(self, now: float, running: int = 0) -> float | None:
        """Return when the next call may start: `now`, a later time, or None until a running call has ended.

        running: the number of active calls.
        """
        if self._careful and (most := self.most_active) is not None and running >= most:
            return None
        if self.since is None:
            return now
        return None if self._probing else max(now, self.next_at)

    def enter(self) -> int:
        """Start a call and return its breaker generation, which is passed back with the call's outcome."""
        self._probing = self.since is not None
        return self._round

    def passed(self, breaker_generation: int) -> bool:
        """Record that the call was answered. Return whether that closed the breaker."""
        in_doubt = self._is_open_for_unclear_replies()
        self._record_answer()
        if breaker_generation != self._round and not in_doubt:
            return False
        self._streak = self._attempts = 0
        if self.since is None:
            return False
        self.status, self.since, self.reason = CallStatus.FINE, None, NO_REASON
        self._began.clear()
        self._probing = self._probed = False
        return True

    def settled(self, now: float, *, accepted: bool) -> bool:
        """Record that the service's log settled a job in doubt.

        Return whether the breaker closed or the next probe is sooner.

        An acceptance counts as an answer. After a submission that was not accepted the failure continues, and the next
        one waits as after any other failure.
        """
        if accepted:
            return self.passed(self._round if self._is_open_for_unclear_replies() else -1)
        sooner = self._is_open_for_unclear_replies()
        if sooner:
            self.next_at = min(self.next_at, now + _SETTLED_WAIT_S)
        self._in_doubt = self._opened_in_doubt = 0
        return sooner

    def searched(self, now: float) -> bool:
        """Record that the service's log was read after the last submission in doubt.

        Return whether the next probe is sooner.
        """
        if not self._is_open_for_unclear_replies():
            return False
        waits_s = _SEARCHED_WAITS_S[self._opened_in_doubt - 1 :]
        at = max(now, self._opened_in_doubt_at + (waits_s[0] if waits_s else DOUBT_PROBE_S))
        sooner = at < self.next_at
        self.next_at = min(self.next_at, at)
        return sooner

    def probe_answered(self, breaker_generation: int) -> None:
        """Record that the free status request was answered: the next call may start at once."""
        if breaker_generation == self._round:
            self._probing, self._probed = False, True

    def left(self, breaker_generation: int) -> None:
        """Record that the call ended without an outcome, before anything was sent."""
        if breaker_generation == self._round:
            self._probing = False

    def failed(self, breaker_generation: int, error: CallError, now: float, *, probe: bool = False) -> bool:
        """Record that the call failed. Return whether the breaker opened, stays open for longer, or closed.

        probe: it was the free status request before a submission, which settles nothing about submissions.
        """
        if error.in_doubt:
            self._in_doubt += 1
        elif _is_answer(error) and not probe:
            if self._is_open_for_unclear_replies():
                breaker_generation = self._round
            self._record_answer()
        if breaker_generation != self._round:
            return False
        if isinstance(error, LocalFault):
            self.left(breaker_generation)
            return False
        policy = policy_for(error)
        if policy is None:  # an error of one job is an answer
            return self.passed(breaker_generation)
        self._streak += 1
        in_doubt = error.in_doubt and self._in_doubt >= MOST_UNCLEAR
        if self.is_closed and self._streak < policy.streak and not in_doubt:
            return False
        self._round += 1
        self._attempts += 1
        self._probing = self._probed = False
        prefix = ""
        if in_doubt:
            self._opened_in_doubt, self._opened_in_doubt_at = self._opened_in_doubt + 1, now
            prefix = f"{self._in_doubt} submissions in a row ended in doubt: "
        self.status = policy.status
        self.reason = StopReason(_stop_kind(error, policy.status), prefix + error.message)
        self.since = self._began.setdefault(policy.status is CallStatus.PAUSED, now)
        wait_s = backoff.wait_s(policy.wait, self._attempts, error, self._rng) or 0.0
        self.next_at = now + (max(DOUBT_PROBE_S, wait_s) if in_doubt else wait_s)
        return True

    def _record_answer(self) -> None:
        """A submission was answered: the counts of those in doubt start again."""
        self._in_doubt = self._opened_in_doubt = 0
        self._answered = True

    def _is_open_for_unclear_replies(self) -> bool:
        return self.since is not None and self._in_doubt >= MOST_UNCLEAR


def _stop_kind(error: CallError, status: CallStatus) -> str:
    """Return the kind of the reason if the run gives up this kind of call."""
    if status is CallStatus.PAUSED or error.kind in LASTING:
        return error.kind
    if error.kind == "bucket_unreachable":
        return error.kind
    kinds = {CallStatus.THROTTLED: "rate_limited", CallStatus.DOWN: "service_down"}
    return kinds.get(status, "network_down")


def _is_answer(error: CallError) -> bool:
    """Return whether the service answered the call, so that its outcome is known."""
    return error.status is not None or policy_for(error) is None


def policy_for(error: CallError) -> FailurePolicy | None:
    """Return what an error does to the calls of its kind; None if it concerns one job only."""
    if error.kind in _ONE_JOBS and not error.in_doubt:
        return None
    if error.kind == "rate_limited":
        return _THROTTLED
    if error.kind in LASTING:
        return _LASTING
    return next((policy for kind, policy in _POLICIES if isinstance(error, kind)), None)
