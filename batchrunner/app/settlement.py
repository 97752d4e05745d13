"""Settle the charges of a run at its end.

Rule: the run does not depend on it. It is one short try, and whatever goes wrong is a line of the log: the amounts stay
as quoted until the next run or ``batchrunner account`` settles them.
"""

import asyncio
from collections.abc import Collection

from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.ports import Dependencies
from batchrunner.errors import CallError, LocalFault
from batchrunner.events import Noticed
from batchrunner.formatting import count_text
from batchrunner.job import Record, TimelineEvent
from batchrunner.journal.journal import Journal
from batchrunner.plan.ledger import spend_of
from batchrunner.plan.prices import dollars
from batchrunner.plan.settlement import list_since, settled, settled_from, unsettled
from batchrunner.providers.base import Charges

KIND = "charges"  # of the timeline event
SETTLED, QUOTED, NOT_LISTED, UNREAD = "settled", "quoted", "not_listed", "unread"  # its statuses
_WITHIN_S = 10.0
_PER_CHARGE_S = 0.005  # a page of a hundred charges takes up to half a second
_LONGEST_S = 60.0
_SIGNALLED_WITHIN_S = 2.0


async def take_known(deps: Dependencies, records: JobRecords) -> None:
    """Take over charges that the account has settled since the last run of this batch."""
    try:
        known = await deps.account.known_charges()
        await records.settle(await deps.in_thread(settled_from, records.view.values(), known))
    except LocalFault as fault:
        _notice(deps, f"the account's settled charges could not be stored: {fault.message}")


async def settle(deps: Dependencies, journal: Journal, records: JobRecords, *, signalled: bool) -> None:
    """Ask the service for the charges of this batch, and store them. signalled: a signal has stopped the run."""
    waiting = await deps.in_thread(unsettled, records.view.values(), deps.clock.now())
    if not waiting:
        return
    within_s = _SIGNALLED_WITHIN_S if signalled else min(_LONGEST_S, _WITHIN_S + _PER_CHARGE_S * len(waiting))
    try:
        charges = await _listed(deps, list_since(waiting), within_s)
        if charges is None:
            status, message = NOT_LISTED, "the service does not list its charges: the amounts are as quoted"
        else:
            deps.account.settled(charges.charges)
            await records.settle(await deps.in_thread(settled, records.view.values(), charges.charges))
            status, message = await deps.in_thread(_outcome, records.view.values(), deps.clock.now())
    except (CallError, LocalFault, TimeoutError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else error.message
        status, message = UNREAD, f"the charges could not be settled, and stay as quoted: {why}"
    journal.post(TimelineEvent(deps.clock.now(), KIND, "", status, message))
    _notice(deps, message, routine=status in {SETTLED, NOT_LISTED})


async def _listed(deps: Dependencies, since: float, within_s: float) -> Charges | None:
    if not deps.provider.capabilities.charges:
        return None
    async with asyncio.timeout(within_s):
        return await deps.provider.charges(since)


def _outcome(records: Collection[Record], now: float) -> tuple[str, str]:
    left = len(unsettled(records, now))
    total = sum(spend_of(record).settled for record in records)
    if not left:
        return SETTLED, f"all charges of this batch are settled: {dollars(total)}"
    return QUOTED, f"{dollars(total)} of this batch is settled; {count_text(left, 'charge')} not listed yet: as quoted"


def _notice(deps: Dependencies, message: str, *, routine: bool = False) -> None:
    deps.announce(Noticed(deps.clock.now(), (), message, routine=routine))
