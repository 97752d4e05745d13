"""Whether calls of one kind may be made just now: all of them back off together, as one. Pure.

There is one gate for submissions, one for polls and one for downloads. It closes on trouble that is no job's fault: at
once where the account refuses or the service asks for patience, after a streak where it is down or out of reach. A
closed gate lets a single call try after a growing wait, and opens when that one is answered.
Rule: what was under way when the gate closed neither lengthens the wait nor ends it; one round, one verdict.
"""

from dataclasses import dataclass
from enum import StrEnum

from batchrunner import retry
from batchrunner.errors import AccountFault, CallError, LocalFault, NetworkFault, ServiceFault


class Word(StrEnum):
    """How calls of one kind fare."""

    FINE = "fine"
    THROTTLED = "throttled"  # the service asks for fewer
    DOWN = "down"  # the service, or the file host, is in trouble
    UNREACHABLE = "unreachable"  # the way to it is
    PAUSED = "paused"  # the account: out of credits, locked, key refused


@dataclass(frozen=True, slots=True)
class Trouble:
    """A kind of trouble. streak: how many in a row close the gate. wait: between two tries while it is closed."""

    word: Word
    streak: int
    wait: retry.Backoff


_THROTTLED = Trouble(Word.THROTTLED, 1, retry.Backoff(base_s=2.0, cap_s=120.0))
_TROUBLES: tuple[tuple[type[CallError], Trouble], ...] = (
    (AccountFault, Trouble(Word.PAUSED, 1, retry.Backoff(base_s=30.0, cap_s=600.0))),
    (ServiceFault, Trouble(Word.DOWN, 3, retry.Backoff(base_s=5.0, cap_s=300.0))),
    (NetworkFault, Trouble(Word.UNREACHABLE, 3, retry.Backoff(base_s=2.0, cap_s=120.0))),
)
# What concerns one generation or one file, and says nothing about the others.
_ONE_JOBS = {
    "unknown_generation",
    "foreign_reply",
    "link_expired",
    "link_refused",
    "bad_file",
    "check_limit",
    "bad_range",
    "id_reused",
}


class Gate:
    """The gate of one kind of call. Moments are of the monotonic clock, seconds.

    word: how calls fare. since: when the gate closed, or None while it is open; the account's trouble and all other
    count from their own beginnings. reason: why, in words.
    next_at: when one may try, while it is closed. careful: whether a look that costs nothing has to succeed before
    the one call that tries after an outage: where a call may end in doubt, it is not thrown into an outage.
    """

    def __init__(self, rng: retry.Rng, *, careful: bool = False) -> None:
        self.word = Word.FINE
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

    @property
    def open(self) -> bool:
        """Whether any number of calls may go."""
        return self.since is None

    @property
    def wants_a_look(self) -> bool:
        """Whether the next to enter has to be a look instead of the call itself."""
        return self._careful and not self._vouched and self.word in {Word.DOWN, Word.UNREACHABLE}

    def opens_at(self, now: float) -> float | None:
        """When the next call may go: `now`, a moment to come, or None while one that tries is under way."""
        if self.open:
            return now
        return None if self._trying else max(now, self.next_at)

    def enter(self) -> int:
        """Take a ticket for a call; it is given back with the call's outcome."""
        self._trying = not self.open
        return self._round

    def passed(self, ticket: int) -> bool:
        """The call was answered. Returns whether the gate opened by it."""
        if ticket != self._round:
            return False
        self._streak = self._tries = 0
        opened = not self.open
        self.word, self.since, self.reason = Word.FINE, None, ""
        self._began.clear()
        self._trying = self._vouched = False
        return opened

    def looked(self, ticket: int) -> None:
        """The look was answered: the next call may go at once."""
        if ticket == self._round:
            self._trying, self._vouched = False, True

    def left(self, ticket: int) -> None:
        """The call ended without a verdict, before anything was sent."""
        if ticket == self._round:
            self._trying = False

    def failed(self, ticket: int, error: CallError, now: float) -> bool:
        """The call failed. Returns whether that is news: the gate closed, stays closed for longer, or opened by it."""
        if ticket != self._round:
            return False
        if isinstance(error, LocalFault):
            self.left(ticket)
            return False
        trouble = trouble_of(error)
        if trouble is None:  # an answer is an answer
            return self.passed(ticket)
        self._streak += 1
        if self.open and self._streak < trouble.streak:
            return False
        self._round += 1
        self._tries += 1
        self._trying = self._vouched = False
        self.word, self.reason = trouble.word, error.message
        self.since = self._began.setdefault(trouble.word is Word.PAUSED, now)
        self.next_at = now + (retry.wait_s(trouble.wait, self._tries, error, self._rng) or 0.0)
        return True


def trouble_of(error: CallError) -> Trouble | None:
    """What an error says about the calls of its kind; None where it concerns one job alone."""
    if error.kind in _ONE_JOBS:
        return None
    if error.kind == "rate_limited":
        return _THROTTLED
    return next((trouble for kind, trouble in _TROUBLES if isinstance(error, kind)), None)
