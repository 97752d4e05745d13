"""How many polls in a row must show the same terminal status before it is believed. Pure.

A failure that is believed may lead to another paid generation, so two polls must show it. A completion frees the slot
of its generation. Its link shows that the service has made a clip; without a link, two polls must show it. A reply that
names no generation may come from a proxy or be about another generation. It is believed after three polls in a row with
the same status and link, and it never leads to a payment alone.
"""

from typing import NamedTuple

from batchrunner.errors import Problem
from batchrunner.providers.base import GenerationStatus, Phase

POLLS_WITHOUT_ID = 3
POLLS_WITHOUT_CLIP = 2  # of a failure, or of a completion without a link
TERMINAL = {Phase.COMPLETED, Phase.FAILED}

UNNAMED_FAILURE = "unnamed_failure"
_UNNAMED_HINT = (
    "The replies name no generation id, so no other generation was paid for. Every run polls it again, at no charge; "
    "--retry-failed pays for another generation."
)


class _Seen(NamedTuple):
    """A terminal phase, how many polls in a row showed it, and how many of these replies named the generation.

    place: the clip's link without its query, which may differ from reply to reply.
    """

    phase: Phase
    place: str = ""
    polls: int = 0
    named: int = 0


class Confirmation:
    """Counts how often in a row the polls of one generation showed the same terminal status."""

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def take(self, status: GenerationStatus) -> bool:
        """Take in a reply, and return whether it shows a terminal status that is believed now."""
        if status.phase in TERMINAL:
            return self.confirms(status)
        self._seen = None
        return False

    def confirms(self, status: GenerationStatus) -> bool:
        """Take in a reply with a terminal status, and return whether the status is believed now."""
        place = (status.result_url or "").partition("?")[0]
        seen = self._seen
        is_same = seen is not None and (seen.phase, seen.place) == (status.phase, place)
        polls, named = (seen.polls, seen.named) if seen is not None and is_same else (0, 0)
        self._seen = seen = _Seen(status.phase, place, polls + 1, named + status.named)
        has_clip = status.phase is Phase.COMPLETED and status.result_url is not None
        needed = 1 if has_clip else POLLS_WITHOUT_CLIP
        return seen.named >= needed or seen.polls >= POLLS_WITHOUT_ID

    def reset(self) -> None:
        """Start the count again, because another reply came in between."""
        self._seen = None

    def may_pay(self) -> bool:
        """Return whether enough replies named the failed generation, so that another one may be paid for."""
        seen = self._seen
        return seen is not None and seen.phase is Phase.FAILED and seen.named >= POLLS_WITHOUT_CLIP


def unnamed(problem: Problem | None) -> Problem:
    """Return the problem for a failure that only replies without a generation id reported."""
    if problem is None:
        return Problem(UNNAMED_FAILURE, "the service reported that the generation failed", _UNNAMED_HINT, "service")
    return Problem(UNNAMED_FAILURE, f"{problem.message} ({problem.kind})", _UNNAMED_HINT, problem.fault)
