"""Settle charges: join the service's transactions with the attempts of a batch. Pure.

A charge is *estimated* from the price table, *quoted* by the reply to a submission, and *settled* when the service's
transactions list it, which may be minutes after its generation has ended. A settled charge replaces the others. A later
transaction for the same generation (a refund) is added to it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from batchrunner.job import Attempt, Record
from batchrunner.providers.base import Charge

REACH_S = 40 * 86_400.0  # an older submission is not waited for any more
MARGIN_S = 600.0  # the service's clock may be behind
Totals = Mapping[str, tuple[float, float]]  # credits and the time of the latest transaction, by generation id


def awaits_settlement(attempt: Attempt) -> bool:
    """Return whether its generation has ended with a charge, as far as known, that is not settled."""
    is_over = attempt.outcome == "succeeded" or attempt.completed_at is not None
    return is_over and attempt.settled is None and attempt.generation_id is not None and not attempt.is_reused


def unsettled(records: Iterable[Record], now: float) -> list[Attempt]:
    """Return the attempts that wait for their charges. now: wall time, s."""
    attempts = (attempt for record in records for attempt in record.attempts)
    return [item for item in attempts if awaits_settlement(item) and item.submitted_at > now - REACH_S]


def list_since(attempts: Iterable[Attempt]) -> float:
    """Return from when on the transactions have to be listed (wall time, s)."""
    return min(attempt.submitted_at for attempt in attempts) - MARGIN_S


def total_of(known: tuple[float, float] | None, charges: Iterable[Charge]) -> tuple[float, float] | None:
    """Return the charge of a generation and its time after these transactions; None if they do not show it.

    known: its charge before. A transaction that is no newer is part of it already.
    """
    at = known[1] if known else float("-inf")
    new = [item for item in charges if item.recorded_at > at]
    if not new:
        return known
    total = (known[0] if known else 0.0) + sum(item.credits for item in new)
    # Refunds alone: the charge is not in the list.
    return None if total < 0 else (total, max(item.recorded_at for item in new))


def by_generation(charges: Iterable[Charge]) -> dict[str, list[Charge]]:
    """Return the transactions of each generation."""
    found: dict[str, list[Charge]] = {}
    for charge in charges:
        found.setdefault(charge.generation_id, []).append(charge)
    return found


def settled(records: Iterable[Record], charges: Iterable[Charge]) -> list[Record]:
    """Return the records whose charges change by these transactions."""
    listed = by_generation(charges)

    def total(attempt: Attempt) -> tuple[float, float] | None:
        rows = listed.get(attempt.generation_id or "")
        return total_of(_known(attempt), rows) if rows else None

    return _changed(records, total)


def settled_from(records: Iterable[Record], totals: Totals) -> list[Record]:
    """Return the records whose charges change by what the account knows."""

    def total(attempt: Attempt) -> tuple[float, float] | None:
        found, known = totals.get(attempt.generation_id or ""), _known(attempt)
        return None if found is None or (known is not None and found[1] <= known[1]) else found

    return _changed(records, total) if totals else []


def _known(attempt: Attempt) -> tuple[float, float] | None:
    return None if attempt.settled is None else (attempt.settled, attempt.settled_at or 0.0)


def _changed(records: Iterable[Record], total: Callable[[Attempt], tuple[float, float] | None]) -> list[Record]:
    changed = []
    for record in records:
        if not record.attempts:
            continue
        attempts = tuple(_settled(attempt, total(attempt)) for attempt in record.attempts)
        if attempts != record.attempts:
            changed.append(replace(record, attempts=attempts))
    return changed


def _settled(attempt: Attempt, total: tuple[float, float] | None) -> Attempt:
    if total is None or attempt.is_reused:
        return attempt
    return attempt._replace(settled=total[0], settled_at=total[1])
