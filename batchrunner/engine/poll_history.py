"""What the polls of each generation showed so far. Pure: `now` is an argument.

All counts concern one generation and are forgotten when another one begins. They are not stored: a new process starts
to count again, which costs polls and no money. Moments are of the monotonic clock, in seconds.
"""

from dataclasses import dataclass, field

from batchrunner.engine.confirmation import Confirmation
from batchrunner.errors import AccountFault, CallError, JobFault


@dataclass(slots=True)
class PollHistory:
    """The polls of one generation.

    missing_since: the first 404 since the service last knew the generation. failing_since: the first failed poll since
    one was answered. generating_since: when this run first saw the service working on it.
    refusals: polls that were refused with a 4xx that concerns this generation alone. foreign_replies: replies about
    another generation, in a row. without_link: how often it was complete and had no link.
    """

    confirmation: Confirmation = field(default_factory=Confirmation)
    missing_since: float | None = None
    failing_since: float | None = None
    generating_since: float | None = None
    refusals: int = 0
    foreign_replies: int = 0
    without_link: int = 0
    _counted: int = 0  # the generation's own failures at the last refusal

    def answered(self) -> None:
        """Take in a usable reply."""
        self.missing_since = self.failing_since = None
        self.refusals = self.foreign_replies = self._counted = 0

    def failed(self, error: CallError, now: float, own_failures: int) -> None:
        """Take in a failed poll. own_failures: failures in a row that concern this generation (`CallHealth`).

        A refusal of the account counts only where another generation's poll was answered in between.
        """
        if self.failing_since is None:
            self.failing_since = now
        if error.kind == "foreign_reply":
            self.confirmation.reset()
            self.foreign_replies += 1
        elif error.kind == "unknown_generation":
            if self.missing_since is None:
                self.missing_since = now
        elif isinstance(error, JobFault | AccountFault):
            self.refusals += own_failures > self._counted
            self._counted = own_failures

    def generating_s(self, now: float) -> float:
        """Return for how long this run has seen the service working on it, s, and start to count if it is new."""
        if self.generating_since is None:
            self.generating_since = now
        return now - self.generating_since


class PollHistories:
    """The histories of the generations that this run polls, by fingerprint."""

    def __init__(self) -> None:
        self._histories: dict[str, PollHistory] = {}

    def of(self, fingerprint: str) -> PollHistory:
        """Return the history of a job's present generation."""
        return self._histories.setdefault(fingerprint, PollHistory())

    def forget(self, fingerprint: str) -> None:
        """Forget a generation that has ended: the next one of this job starts without a history."""
        self._histories.pop(fingerprint, None)
