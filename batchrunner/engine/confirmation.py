"""How many polls in a row have to say the same before a terminal status is believed. Pure.

A failure that is believed may pay for another generation, so it is seen twice. A reply that names no generation may be
that of an edge, or about another one: it is believed after three polls in a row that say the same, the place of the
clip included, and never pays by itself. The counts are not stored: a new process begins anew, which costs polls and no
money.
"""

from dataclasses import dataclass, replace

from batchrunner.errors import Problem
from batchrunner.providers.base import GenerationStatus, Phase

POLLS_WITHOUT_ID = 3
POLLS_OF_A_FAILURE = 2
TERMINAL = {Phase.COMPLETED, Phase.FAILED}

UNNAMED_FAILURE = "unnamed_failure"
_UNNAMED_HINT = (
    "The replies name no generation, so no other one was paid for. Every run polls it again, at no charge; "
    "--retry-failed pays for another generation."
)


@dataclass(frozen=True, slots=True)
class _Said:
    """A terminal phase, how many polls in a row said it, and how many of these named the generation.

    place: where the clip is, without what may change from link to link.
    """

    phase: Phase
    place: str = ""
    polls: int = 0
    named: int = 0


class Confirmations:
    """Counts, by fingerprint, how often in a row a terminal status was seen."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}

    def confirms(self, fingerprint: str, seen: GenerationStatus) -> bool:
        """Take in a reply with a terminal status, and say whether it is believed now."""
        said = self._said.get(fingerprint)
        place = (seen.result_url or "").partition("?")[0]
        if said is None or (said.phase, said.place) != (seen.phase, place):
            said = _Said(seen.phase, place)
        said = replace(said, polls=said.polls + 1, named=said.named + seen.named)
        self._said[fingerprint] = said
        needed = POLLS_OF_A_FAILURE if seen.phase is Phase.FAILED else 1
        return said.named >= needed or said.polls >= POLLS_WITHOUT_ID

    def forget(self, fingerprint: str) -> None:
        """Another answer came in between: the count starts again."""
        self._said.pop(fingerprint, None)

    def may_pay(self, fingerprint: str) -> bool:
        """Whether the failure that is believed was named often enough to pay for another generation."""
        said = self._said.get(fingerprint)
        return said is not None and said.phase is Phase.FAILED and said.named >= POLLS_OF_A_FAILURE


def unnamed(problem: Problem | None) -> Problem:
    """The failure that replies without an id told of, as it stands in the record."""
    if problem is None:
        return Problem(UNNAMED_FAILURE, "the service called the generation failed", _UNNAMED_HINT, "service")
    words = f"{problem.message} ({problem.kind})"
    return Problem(UNNAMED_FAILURE, words, _UNNAMED_HINT, problem.fault)
