"""The subset of the report's dict that summary sentences need. Pure.

It has the names and values of `batchrunner.report.build`, so both produce the same sentences. It lists the jobs with an
error or a doubt. Similar jobs are represented by one of them; ``group_sizes`` has the size of each group by the id of
that job.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batchrunner.job import Entry, Record, Run, State
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Spend, spend_of_group
from batchrunner.plan.prices import Prices
from batchrunner.report.build import EARLIER, SHOWN, Report, Verdicts, head, money, settle_command
from batchrunner.report.rows import RowContext, Rows, owners_of, rows, shown

if TYPE_CHECKING:
    from batchrunner.journal.summary import Counts


def outline(
    counts: "Counts",
    version: str,
    clips: Sequence[tuple[Entry, Record]] = (),
    verdicts: Verdicts | None = None,
) -> Report:
    """Return the subset for a batch that the journal has counted.

    version: of this program. clips: the measured and the reviewed ones (`batchrunner.journal.summary.clips`). verdicts:
    as for `build`.
    """
    run = counts.run
    settings: Report = json.loads(run.settings_json)
    states = _shown(counts.states, run)
    listed = [*counts.listed, *((entry, record) for entry, record, _ in counts.plain)]
    records = {record.job.fingerprint: record for _, record in listed}
    only, deliver = settings.get("only") or (), settings.get("deliver") or ""
    context = RowContext(run, Prices({}), Forecast(), only, deliver=deliver)
    total = sum((spend_of_group(item.sum, item.number) for item in counts.every), Spend())
    return {
        **head(run, settings, version, counts.first_submitted_at),
        "totals": {
            "jobs": states.total(),
            **{state: states[state] for state in SHOWN},
            "bytes": counts.size_bytes,
            "generations": counts.generations,
        },
        "money": {
            **money(total, settings, _overrun(counts)),
            "settle_command": settle_command(run, total, settings, counts.charges),
        },
        "jobs": rows([entry for entry, _ in listed], records, context),
        "clips": _clips(run, settings, clips, verdicts or {}),
        "group_sizes": {entry.id: number for entry, _, number in counts.plain},
        "earlier_jobs": range(sum(number for state, number in _shown(counts.earlier, run).items() if state in EARLIER)),
    }


def _clips(run: Run, settings: Report, clips: Sequence[tuple[Entry, Record]], verdicts: Verdicts) -> Rows:
    """Return the rows of the clips, of which the summary counts marks and verdicts."""
    entries, records = [entry for entry, _ in clips], {record.job.fingerprint: record for _, record in clips}
    actions, owners = settings.get("quality") or {}, owners_of(entries, records)
    context = RowContext(run, Prices({}), Forecast(), actions=actions, owners=owners, verdicts=verdicts)
    return rows(entries, records, context)


def _shown(states: Mapping[State, int], run: Run) -> Counter[str]:
    """Count the states by the contract's names."""
    shown_states = Counter[str]()
    for state, number in states.items():
        shown_states[shown(state, run)] += number
    return shown_states


def _overrun(counts: "Counts") -> float:
    """Return by how many credits quotes and charges are above their estimates, failed generations left out."""
    return sum(item.overrun for item in counts.every if item.sum.outcome != "failed" and not item.sum.is_reused)
