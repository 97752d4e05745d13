"""The `RunStarted` event: the state of a batch at the start of a run. Pure.

A run announces it. `batchrunner status` creates it from a journal, so both show the same numbers.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchrunner.events import PlannedEnd, RemainderSummary, RunStarted
from batchrunner.job import Record, Run, State, count_states
from batchrunner.moments import Moment
from batchrunner.plan.ledger import Spend, budget_of, spend_of_group, total_of
from batchrunner.plan.prices import Prices

if TYPE_CHECKING:
    from batchrunner.journal.live_view import Moving


def opened(
    run: Run, run_dir: str, ids: Mapping[str, tuple[str, ...]], records: Mapping[str, Record], prices: Prices
) -> RunStarted:
    """Return the event. ids: the entry ids of each job, by fingerprint. records: by fingerprint; jobs without ids are
    omitted.
    """
    named = {fingerprint: records[fingerprint] for fingerprint in ids}
    waiting = [record.job for record in named.values() if record.state is State.PENDING]
    fingerprints = (job.fingerprint for job in waiting)
    estimates = dict(zip(fingerprints, prices.estimates(waiting), strict=True))
    different = {id(one): one for one in estimates.values()}.values()
    return RunStarted(
        at=run.started_at,
        name=run.name,
        provider=run.provider,
        run_dir=run_dir,
        concurrency=run.concurrency,
        states=count_states(named.values()),
        records=named,
        expected={fingerprint: estimate.credits for fingerprint, estimate in estimates.items()},
        bases=tuple(sorted({one.basis for one in different if one.credits is not None})),
        ids=ids,
        budget=budget_of(json.loads(run.settings_json)),
        planned_end=planned_end(run),
    )


def planned_end(run: Run) -> PlannedEnd | None:
    """Return when the run stops at the latest by its settings; None without such a limit."""
    settings = json.loads(run.settings_json)
    ends = []
    if text := settings.get("deadline"):
        ends.append((Moment(text, rehearsed=run.provider == "sandbox").after(run.started_at), "deadline"))
    if (max_runtime_s := settings.get("max_runtime_s")) is not None:
        ends.append((run.started_at + max_runtime_s, "max_runtime"))
    return PlannedEnd(*min(ends)) if ends else None


def reopened(batch: "Moving", run_dir: str, prices: Prices) -> RunStarted:
    """Return the event for a batch of which only some records are loaded; the others are counted."""
    run = batch.counts.run
    estimates = [(job, number, prices.estimate(job)) for job, number in batch.waiting]
    spent = sum((spend_of_group(item.sum, item.number) for item in batch.counts.attempts), Spend())
    remainder = spent - total_of(batch.records.values())
    return RunStarted(
        at=run.started_at,
        name=run.name,
        provider=run.provider,
        run_dir=run_dir,
        concurrency=run.concurrency,
        states=batch.counts.jobs,
        records=batch.records,
        bases=tuple(sorted({estimate.basis for _, _, estimate in estimates if estimate.credits is not None})),
        ids=batch.ids,
        budget=budget_of(json.loads(run.settings_json)),
        planned_end=planned_end(run),
        remainder=RemainderSummary(
            remainder, tuple((job, number, estimate.credits) for job, number, estimate in estimates), batch.ended_at
        ),
    )
