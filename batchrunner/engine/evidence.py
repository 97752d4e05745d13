"""What the service's log proves about a submission in doubt that it does not list. Pure.

All times are the service's own: the Date header of its replies, and the submission times in its log. This machine's
clock may be wrong, or be set. Without usable times of the service, nothing is proved.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from batchrunner.errors import Problem
from batchrunner.formatting import rfc3339
from batchrunner.job import Attempt, TimelineEvent
from batchrunner.providers.base import Submissions

SEARCHED = "searched"  # kind of the timeline event that keeps a window for later runs
LONGEST_LAG_S = 3 * 3600.0  # of the log behind the service, unless the log itself shows it to be shorter
_FACTOR = 10.0
_RESOLUTION_S = 1.0  # of a Date header
_MARGIN_S = 86_400.0  # the largest error of an age that only the wall clock gives
NOT_ACCEPTED = Problem(
    "not_listed",
    "the service's log does not list the submission in doubt, so it was not accepted",
    "It is submitted again; nothing was charged for it.",
    "service",
)
LOG_LACKS_IT = Problem(
    "not_listed",
    "the service's log lists later submissions as finished and lacks the one in doubt",
    "It is submitted again, as --in-doubt evidence asks for.",
    "service",
)


def plausible_s(seen_s: Iterable[float], least_s: float) -> float:
    """Return how long a generation may plausibly take: ten times the longest observed, and at least `least_s`."""
    return max([least_s, *(_FACTOR * item for item in seen_s)])


class Finished(NamedTuple):
    """A submission that the log lists as finished.

    created: when it was made. listed_at: when that was first observed.
    """

    created: float
    listed_at: float


def is_disproved(latest: float, now: float, plausible_s: float, later: Sequence[Finished]) -> bool:
    """Return whether the log would list a submission by now if it had been accepted.

    latest: the latest time at which it can have been accepted. plausible_s: the longest plausible time of a generation.
    later: submissions made after it that the log lists as finished; without any, nothing is proved. If one was made
    after the longest plausible time, the one in doubt would have been finished, and listed, before it. Otherwise the
    log gets as long to list it as it needed at most for the others, or three hours if that is not known.
    """
    if not later:
        return False
    over_at = latest + plausible_s
    if max(item.created for item in later) >= over_at:
        return True
    lag_s = max(item.listed_at - item.created for item in later)
    return now >= over_at + min(max(lag_s, 0.0), LONGEST_LAG_S)


class _Window(NamedTuple):
    """The period in which a submission can have been accepted."""

    earliest: float
    latest: float


class Evidence:
    """The results of earlier searches. timeline: of earlier runs; it contains the windows that they found."""

    def __init__(self, timeline: Iterable[TimelineEvent] = ()) -> None:
        self._windows: dict[str, _Window] = {}  # by request id
        self._listed_at: dict[str, float] = {}  # by request id: when it was first observed as finished
        for event in timeline:
            if event.kind == SEARCHED and (window := _window(event.status)) is not None:
                self._windows.setdefault(event.call, window)

    def searched(self, request_id: str, age_s: float, settle_s: float, listed: Submissions) -> tuple[str, str] | None:
        """Record a search without the submission; return a window for later runs and a message, or None.

        age_s: how old it was when the search began. settle_s: how long the service may take to accept it after that.
        """
        if listed.now is None or request_id in self._windows:
            return None
        self._windows[request_id] = window = _Window(
            listed.now - age_s - _MARGIN_S, listed.now + _RESOLUTION_S + settle_s
        )
        moment = rfc3339(listed.now)
        message = f"the service's log does not list submission {request_id} at {moment}, by the service's clock"
        return f"{window.earliest:.0f} {window.latest:.0f}", message

    def finished(self, listed: Submissions) -> None:
        """Record when submissions were first observed as finished."""
        if listed.now is not None:
            for request_id in listed.finished:
                self._listed_at.setdefault(request_id, listed.now)

    def disproves(
        self, attempt: Attempt, others: Iterable[Attempt], listed: Submissions, longest_plausible_s: float
    ) -> bool:
        """Return whether the log shows that this attempt was not accepted. others: the batch's attempts."""
        window, now = self._windows.get(attempt.request_id), listed.now
        if window is None or now is None or now - window.earliest > listed.reaches_back_s:
            return False
        created: Mapping[str, float] = listed.created
        later = [
            Finished(created[other.request_id], self._listed_at[other.request_id])
            for other in others
            if other.submitted_at > attempt.submitted_at
            and other.request_id in listed.finished
            and other.request_id in created
            and other.request_id in self._listed_at
        ]
        return is_disproved(window.latest, now, longest_plausible_s, later)


def _window(text: str) -> _Window | None:
    try:
        earliest, latest = map(float, text.split())
    except ValueError:
        return None
    return _Window(earliest, latest)
