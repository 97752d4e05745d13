"""Whether calls of one kind may be made just now: all of them back off together, as one. Pure.

There is one gate for submissions, one for polls and one for downloads. It closes on trouble that is no job's fault: at
once where the account refuses or the service asks for patience, after a streak where it is down or out of reach. A
closed gate lets a single call try after a growing wait, and opens when that one is answered.

A submission that ends in doubt may have been accepted, so three of them in a row close the gate for half an hour at a
time: each further one may be one more job in doubt. Any answer to a submission ends that, since it shows that the
service answers; so does its log (`settled`). A log that can be read and does not list them shows less: the service
works again, and will list what it accepts. Then the next submission goes sooner, and each doubt after that has a
longer wait (`searched`).
Rule: what was under way when the gate closed neither lengthens the wait nor ends it; one round, one verdict.
"""

from dataclasses import dataclass
from enum import StrEnum

from batchrunner.engine import backoff
from batchrunner.errors import AccountFault, CallError, LocalFault, NetworkFault, ServiceFault


class CallStatus(StrEnum):
    """How calls of one kind fare."""

    FINE = "fine"
    THROTTLED = "throttled"  # the service asks for fewer
    DOWN = "down"  # the service, or the file host, is in trouble
    UNREACHABLE = "unreachable"  # the way to it is
    PAUSED = "paused"  # the account: out of credits, locked, key refused


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """A kind of trouble. streak: how many in a row close the gate. wait: between two tries while it is closed."""

    word: CallStatus
    streak: int
    wait: backoff.Backoff


_THROTTLED = FailurePolicy(CallStatus.THROTTLED, 1, backoff.Backoff(base_s=2.0, cap_s=120.0))
_TROUBLES: tuple[tuple[type[CallError], FailurePolicy], ...] = (
    # The first tries come soon: another job may be accepted, which shows that the account is not at fault.
    (AccountFault, FailurePolicy(CallStatus.PAUSED, 1, backoff.Backoff(base_s=8.0, cap_s=600.0))),
    (ServiceFault, FailurePolicy(CallStatus.DOWN, 3, backoff.Backoff(base_s=5.0, cap_s=300.0))),
    (NetworkFault, FailurePolicy(CallStatus.UNREACHABLE, 3, backoff.Backoff(base_s=2.0, cap_s=120.0))),
)
MOST_DOUBTS = 3  # submissions in a row that end in doubt, before the others stop
DOUBT_PROBE_S = 1800.0  # between two submissions after that
_SETTLED_WAIT_S = 30.0  # where the log showed that the last ones were not accepted
_SEARCHED_WAITS_S = (30.0, 120.0, 480.0)  # where the log was read: after each doubt a longer one, then DOUBT_PROBE_S
# Settings of this machine have to be corrected first: one more try, and the run ends.
LASTING = {"certificate", "proxy_refused"}
_LASTING = FailurePolicy(CallStatus.UNREACHABLE, 2, backoff.Backoff(base_s=2.0, cap_s=2.0))
# What concerns one generation or one file, and says nothing about the others.
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
    """The gate of one kind of call. Moments are of the monotonic clock, seconds.

    word: how calls fare. since: when the gate closed, or None while it is open; the account's trouble and all other
    count from their own beginnings. reason: why, in words.
    next_at: when one may try, while it is closed. careful: whether a look that costs nothing has to succeed before
    the one call that tries after an outage: where a call may end in doubt, it is not thrown into an outage.
    """

    def __init__(self, rng: backoff.Rng, *, careful: bool = False) -> None:
        self.word = CallStatus.FINE
        self.since: float | None = None
        self.next_at = 0.0
        self.reason = ""
        self._began: dict[bool, float] = {}  # by whether it is the account's trouble
        self._rng = rng
        self._careful = careful
        self._streak = 0
        self._tries = 0
        self._round = 0
        self._trying = False
        self._vouched = False
        self._in_doubt = 0  # submissions in a row that ended in doubt
        self._shut_in_doubt = 0  # how often in a row that closed the gate
        self._doubted_at = 0.0  # when it last did
        self._answered = False

    @property
    def room(self) -> int | None:
        """How many calls may be under way at once; None: any number.

        Until the first submission is answered, and after one that ended in doubt, only so many are risked that no
        more than MOST_DOUBTS in a row can end in doubt.
        """
        if not self._careful or (self._answered and not self._in_doubt):
            return None
        return max(1, MOST_DOUBTS - self._in_doubt)

    @property
    def open(self) -> bool:
        """Whether any number of calls may go."""
        return self.since is None

    @property
    def wants_probe(self) -> bool:
        """Whether the next to enter has to be a look instead of the call itself."""
        return self._careful and not self._vouched and self.word in {CallStatus.DOWN, CallStatus.UNREACHABLE}

    def opens_at(self, now: float) -> float | None:
        """When the next call may go: `now`, a moment to come, or None while one that tries is under way."""
        if self.open:
            return now
        return None if self._trying else max(now, self.next_at)

    def enter(self) -> int:
        """Take a ticket for a call; it is given back with the call's outcome."""
        self._trying = not self.open
        return self._round

    def passed(self, breaker_generation: int) -> bool:
        """The call was answered. Returns whether the gate opened by it."""
        in_doubt = self._is_shut_by_doubts()
        self._no_doubt()
        if breaker_generation != self._round and not in_doubt:
            return False
        self._streak = self._tries = 0
        opened = not self.open
        self.word, self.since, self.reason = CallStatus.FINE, None, ""
        self._began.clear()
        self._trying = self._vouched = False
        return opened

    def settled(self, now: float, *, accepted: bool) -> bool:
        """The service's log settled a doubt. Returns whether that is news: the gate opened by it, or tries sooner.

        An acceptance is as good as an answer. A submission that was not accepted leaves the trouble as it is, and the
        next one tries as after any other failure.
        """
        if accepted:
            return self.passed(self._round if self._is_shut_by_doubts() else -1)
        sooner = self._is_shut_by_doubts()
        if sooner:
            self.next_at = min(self.next_at, now + _SETTLED_WAIT_S)
        self._in_doubt = self._shut_in_doubt = 0
        return sooner

    def searched(self, now: float) -> bool:
        """The service's log was read after the last submission in doubt. Returns whether the next try is sooner."""
        if not self._is_shut_by_doubts():
            return False
        waits_s = _SEARCHED_WAITS_S[self._shut_in_doubt - 1 :]
        at = max(now, self._doubted_at + (waits_s[0] if waits_s else DOUBT_PROBE_S))
        sooner = at < self.next_at
        self.next_at = min(self.next_at, at)
        return sooner

    def probe_answered(self, breaker_generation: int) -> None:
        """The look was answered: the next call may go at once."""
        if breaker_generation == self._round:
            self._trying, self._vouched = False, True

    def left(self, breaker_generation: int) -> None:
        """The call ended without a verdict, before anything was sent."""
        if breaker_generation == self._round:
            self._trying = False

    def failed(self, breaker_generation: int, error: CallError, now: float, *, probe: bool = False) -> bool:
        """The call failed. Returns whether that is news: the gate closed, stays closed for longer, or opened by it.

        look: it was the look before a submission, which settles nothing about submissions.
        """
        if error.in_doubt:
            self._in_doubt += 1
        elif _is_answer(error) and not probe:
            if self._is_shut_by_doubts():
                breaker_generation = self._round
            self._no_doubt()
        if breaker_generation != self._round:
            return False
        if isinstance(error, LocalFault):
            self.left(breaker_generation)
            return False
        trouble = policy_for(error)
        if trouble is None:  # an answer is an answer
            return self.passed(breaker_generation)
        self._streak += 1
        in_doubt = error.in_doubt and self._in_doubt >= MOST_DOUBTS
        if self.open and self._streak < trouble.streak and not in_doubt:
            return False
        self._round += 1
        self._tries += 1
        self._trying = self._vouched = False
        told = ""
        if in_doubt:
            self._shut_in_doubt, self._doubted_at = self._shut_in_doubt + 1, now
            told = f"{self._in_doubt} submissions in a row ended in doubt: "
        self.word, self.reason = trouble.word, told + error.message
        self.since = self._began.setdefault(trouble.word is CallStatus.PAUSED, now)
        wait_s = backoff.wait_s(trouble.wait, self._tries, error, self._rng) or 0.0
        self.next_at = now + (max(DOUBT_PROBE_S, wait_s) if in_doubt else wait_s)
        return True

    def _no_doubt(self) -> None:
        """A submission was answered: the counts of those in doubt start again."""
        self._in_doubt = self._shut_in_doubt = 0
        self._answered = True

    def _is_shut_by_doubts(self) -> bool:
        return not self.open and self._in_doubt >= MOST_DOUBTS


def _is_answer(error: CallError) -> bool:
    """Whether the service answered the call, so that it is known what became of it."""
    return error.status is not None or policy_for(error) is None


def policy_for(error: CallError) -> FailurePolicy | None:
    """What an error says about the calls of its kind; None where it concerns one job alone."""
    if error.kind in _ONE_JOBS and not error.in_doubt:
        return None
    if error.kind == "rate_limited":
        return _THROTTLED
    if error.kind in LASTING:
        return _LASTING
    return next((trouble for kind, trouble in _TROUBLES if isinstance(error, kind)), None)
