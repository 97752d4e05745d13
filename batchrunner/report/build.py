"""Build the content of report.json as a dict from a snapshot of the journal. Pure.

The dict has the keys of the contract in the contract's order, and further keys. Rows are created on access
(`batchrunner.report.rows`), because all rows of a large batch do not fit in memory. Costs are counted once per job,
even if several entries share the job.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from batchrunner.job import Entry, Record, Run, Snapshot, State, TimelineEvent
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Spend, budget_of, total_of
from batchrunner.plan.prices import AS_OF, Prices, overrun, prices_from
from batchrunner.providers.base import CREDITS_PER_USD
from batchrunner.report.rows import RowContext, cost_kinds, earlier_rows, in_usd, number, owners_of, rows, shown, time

if TYPE_CHECKING:
    from batchrunner.review.verdicts import Verdict

SCHEMA_VERSION = 2
MOST_TAGS = 500
_NOT_SETTINGS = {"manifest_files", "dataset"}  # stored with the settings of a run, and shown elsewhere

Report = dict[str, Any]
Verdicts = Mapping[tuple[str, str], "Verdict"]

EARLIER = {"succeeded", "in_doubt", "in_flight"}  # states of former jobs that the report lists
SHOWN = ("succeeded", "failed", "in_doubt", "in_flight", "pending")  # the contract's order


def build(snapshot: Snapshot, version: str, verdicts: Verdicts | None = None) -> Report:
    """Return the report on `snapshot`. As JSON it conforms to report.schema.json. version: of this program.
    verdicts: by row id and SHA-256 of the clip (`batchrunner.review.verdicts.VerdictLines.by_clip`).

    Sizes are in bytes, times are RFC 3339 in UTC, lengths are in seconds, unknown values are None. All values are ready
    for JSON except ``jobs`` and ``earlier_jobs``: these are `rows.Rows`, which have a length, can be iterated
    repeatedly, and create each row anew.
    """
    run = snapshot.run
    settings: Report = json.loads(run.settings_json)
    prices = prices_from(settings)
    context = RowContext(
        run,
        prices,
        Forecast(snapshot.records.values()),
        settings.get("only") or (),
        settings.get("quality") or {},
        owners_of(snapshot.entries, snapshot.records),
        verdicts or {},
        snapshot.runs or (run,),
        settings.get("deliver") or "",
    )
    found = [(entry, snapshot.records.get(entry.job.fingerprint)) for entry in snapshot.entries]
    named = {entry.job.fingerprint: record for entry, record in found}
    known = [record for record in named.values() if record is not None]
    others = [record for fingerprint, record in snapshot.records.items() if fingerprint not in named]
    earlier = [record for record in others if shown(record.state, run) in EARLIER]
    spend_known = total_of(known)
    total = spend_known + total_of(others)
    return {
        **head(run, settings, version, _first_submission(known)),
        **_asked(snapshot.entries, prices),
        "totals": {
            **_count_rows([record for _, record in found], run),
            **usage(known),
            **cost_kinds(spend_known),
            **_count_verdicts(found, context.verdicts),
        },
        "money": _money(snapshot, total, settings),
        "runs": [_run(item) for item in snapshot.runs or (run,)],
        "timeline": [_timeline_event(item) for item in snapshot.timeline_events],
        "jobs": rows(snapshot.entries, snapshot.records, context),
        "earlier_jobs": earlier_rows(earlier, context),
    }


def _first_submission(records: Iterable[Record]) -> float | None:
    return min([item.attempts[0].submitted_at for item in records if item.attempts], default=None)


def head(run: Run, settings: Report, version: str, first_submitted_at: float | None) -> Report:
    """Return the first keys of the report. first_submitted_at: the first submission of a job in the manifest."""
    shown_settings = {name: value for name, value in settings.items() if name not in _NOT_SETTINGS}
    return {
        "schema_version": SCHEMA_VERSION,
        "batchrunner_version": version,
        "name": run.name,
        "provider": run.provider,
        "service": run.service,
        "manifest": {
            "path": run.manifest_path,
            "sha256": run.manifest_sha256,
            "files": settings.get("manifest_files"),
        },
        "run_id": run.run_id,
        "concurrency": run.concurrency,
        "started_at": time(run.started_at),
        "finished_at": time(run.finished_at),
        "exit_status": run.exit_status,
        "stopped": run.stopped or None,
        "stop_kind": run.stop_kind or None,
        "first_submitted_at": time(first_submitted_at),
        "settings": shown_settings,
        "dataset": settings.get("dataset"),
    }


def _asked(entries: Sequence[Entry], prices: Prices) -> Report:
    """Return what the jobs ask for: models, the basis of their prices, and names of tags, parameters and inputs."""
    jobs = [entry.job for entry in entries]
    return {
        "models": sorted({job.model for job in jobs}),
        "price_basis": prices.bases(jobs),
        "columns": column_names(entries),
    }


def column_names(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the sorted names of the tags, parameters and inputs of any job: the columns that depend on the batch.

    At most MOST_TAGS tags have a column: the most frequent ones.
    """
    tags = Counter(chain.from_iterable([entry.tags for entry in entries]))
    parameters = set(chain.from_iterable([entry.job.params for entry in entries]))
    inputs = set(chain.from_iterable([entry.job.inputs for entry in entries]))
    frequent = sorted(tags, key=lambda name: (-tags[name], name))[:MOST_TAGS]
    return {
        "tags": sorted(frequent),
        "parameters": sorted(parameters),
        "inputs": sorted(inputs),
        "tags_left_out": len(tags) - len(frequent),
    }


def states(snapshot: Snapshot) -> list[str]:
    """Return the state of each entry, as the contract names it."""
    return _states_of([snapshot.records.get(entry.job.fingerprint) for entry in snapshot.entries], snapshot.run)


def _states_of(records: Sequence[Record | None], run: Run) -> list[str]:
    names = {state: shown(state, run) for state in State}
    return ["pending" if record is None else names[record.state] for record in records]


def _count_rows(records: Sequence[Record | None], run: Run) -> Report:
    """Count the entries by state, and sum the bytes of their files. records: of each entry."""
    counts = Counter(_states_of(records, run))
    sizes = [item.result.size_bytes for item in records if item and item.result and item.state is State.SUCCEEDED]
    return {"jobs": len(records), **{state: counts[state] for state in SHOWN}, "bytes": sum(sizes)}


def _count_verdicts(found: Sequence[tuple[Entry, Record | None]], verdicts: Verdicts) -> Report:
    """Count the rows whose present clip is accepted or rejected. found: the entries and their records."""
    clips = [
        (entry.id, item.result.sha256)
        for entry, item in (found if verdicts else ())
        if item and item.result and item.state is State.SUCCEEDED
    ]
    counts = Counter(verdicts[clip].verdict for clip in clips if clip in verdicts)
    return {"accepted": counts["accept"], "rejected": counts["reject"]}


def usage(records: Iterable[Record]) -> Report:
    """Sum the credits, generations and polls of the jobs. A reused generation belongs to another batch."""
    credits_, generations, polls = 0.0, 0, 0
    for record in records:
        for item in record.attempts:
            # A failed generation costs nothing: the service cancels the hold (fact sheet, 1.6).
            # Known transactions decide.
            if item.outcome != "failed" or item.settled is not None:
                credits_ += number(item.charge) or 0
            generations += item.generation_id is not None and not item.is_reused
            polls += item.polls
    return {"credits": number(credits_), "generations": generations, "polls": polls, "cost_usd": in_usd(credits_)}


def overrun_of(records: Iterable[Record]) -> float:
    """Return by how many credits quotes and charges are above their estimates, failed generations left out."""
    return sum([overrun(item) for record in records for item in record.attempts if item.outcome != "failed"])


def money(total: Spend, settings: Mapping[str, Any], overrun_credits: float = 0.0) -> Report:
    """Return the cost of the batch over all runs, jobs of earlier manifests included. The budget limits this cost.

    overrun_credits: by how much quotes and charges are above their estimates.
    """
    budget = budget_of(settings)
    return {
        "spent": number(total.spent) or 0,
        "reserved": number(total.reserved) or 0,
        "worst_case": number(total.worst) or 0,
        "unpriced": total.unpriced,
        "generations": total.generations,
        "budget_credits": number(budget.limit),
        "budget_generations": settings.get("max_generations"),
        "credits_per_usd": CREDITS_PER_USD,
        "prices_as_of": AS_OF,
        "spent_usd": in_usd(total.spent),
        "reserved_usd": in_usd(total.reserved),
        "worst_case_usd": in_usd(total.worst),
        "budget_usd": None if budget.limit is None else in_usd(budget.limit),
        "budget_setting": budget.setting or None,
        "overrun_usd": in_usd(overrun_credits),
        **cost_kinds(total),
        "unsettled": total.unsettled,
    }


def _money(snapshot: Snapshot, total: Spend, settings: Report) -> Report:
    command = settle_command(snapshot.run, total, settings, charges_status(snapshot.timeline_events))
    return {**money(total, settings, overrun_of(snapshot.records.values())), "settle_command": command}


def charges_status(timeline_events: Iterable[TimelineEvent]) -> str:
    """Return what the last run learned of its charges: the status of its timeline event, or ""."""
    return next((item.status for item in reversed(tuple(timeline_events)) if item.kind == "charges"), "")


def settle_command(run: Run, total: Spend, settings: Mapping[str, Any], charges: str) -> str | None:
    """Return the command that settles the charges that are only quoted so far; None if there is nothing to settle.

    charges: as for `charges_status`. The sandbox's charges are of no account, and are lost with its process.
    """
    if not total.unsettled or run.provider == "sandbox" or charges == "not_listed":
        return None
    name = settings.get("account")
    return f"batchrunner account --account {shlex.quote(name)}" if name else "batchrunner account"


def _run(run: Run) -> Report:
    return {
        "run_id": run.run_id,
        "started_at": time(run.started_at),
        "finished_at": time(run.finished_at),
        "exit_status": run.exit_status,
        "stopped": run.stopped or None,
        "stop_kind": run.stop_kind or None,
        "concurrency": run.concurrency,
        "manifest_sha256": run.manifest_sha256,
        "provider": run.provider,
        "service": run.service,
    }


def _timeline_event(timeline_event: TimelineEvent) -> Report:
    return {
        "at": time(timeline_event.at),
        "kind": timeline_event.kind,
        "call": timeline_event.call,
        "status": timeline_event.status,
        "message": timeline_event.message,
    }
