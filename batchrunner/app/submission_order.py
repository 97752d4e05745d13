"""Choose the order of submissions of a run before it starts: by the setting and by the budgets of the account.

The engine decides about the budget of the batch and about the time (`batchrunner.engine.order_switch`).
"""

from collections.abc import Collection, Mapping

from batchrunner.account.limits import AccountBudgets
from batchrunner.app.setup import Setup, priorities_of
from batchrunner.engine.job_records import JobRecords
from batchrunner.job import State
from batchrunner.plan.prices import Prices
from batchrunner.plan.submission_order import LONGEST, NOT_ALL


def priorities_for(
    setup: Setup,
    prices: Prices,
    budgets: AccountBudgets,
    records: JobRecords,
    elsewhere: Collection[str],
) -> tuple[Mapping[str, int] | None, str]:
    """Return the priorities that are not 0, to submit the longest jobs first; None for the order of the manifest.

    Also returns a notice for the user, or "". budgets: of the account, at the start. elsewhere: jobs that other batches
    have paid for.
    """
    if setup.settings.order != LONGEST:
        return None, ""
    if budgets.rows:
        names = dict.fromkeys(entry.job.fingerprint for entry in setup.chosen if entry.job.fingerprint not in elsewhere)
        jobs = [records[name].job for name in names if records[name].state is State.PENDING]
        limit, _ = budgets.refusal(0.0, sum(one.credits or 0.0 for one in prices.estimates(jobs)))
        if limit:
            return None, NOT_ALL.format(limit)
    return priorities_of(setup.chosen), ""
