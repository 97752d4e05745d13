"""Decide which of the batches that wait for a slot of the account goes first. Pure.

A batch with a higher priority goes first. Among equal ones, the batch with fewer open slots goes first, and then the
one that has waited longer. A batch that does not wait is not counted, so a single batch may use every slot.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Waiting(NamedTuple):
    """A batch that wants a slot. since: when it began to wait (wall time, s)."""

    batch_id: str
    priority: int
    slots: int
    since: float

    @property
    def rank(self) -> tuple[int, int, float, str]:
        """Batches go in this order."""
        return (-self.priority, self.slots, self.since, self.batch_id)


def ahead_of(own: Waiting, others: Iterable[Waiting]) -> list[str]:
    """Return the batches that go before `own`."""
    return [other.batch_id for other in others if other.rank < own.rank]
