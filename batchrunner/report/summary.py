"""What the sentences on a batch are read off: the report's dict without what no sentence needs. Pure.

Rules: what it holds it holds under the names, and with the values, of `batchrunner.report.build`, so that there is one
source of sentences. Its jobs are those that have something to say; of others that are alike there is one, and ``alike``
tells how many it stands for, by id.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchrunner.job import Run, State
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Spend, spend_of_group
from batchrunner.plan.prices import Prices
from batchrunner.report.build import EARLIER, SHOWN, Report, head, money
from batchrunner.report.rows import RowContext, rows, shown

if TYPE_CHECKING:
    from batchrunner.journal.summary import Counts


def outline(counts: "Counts", version: str) -> Report:
    """The outline of a batch that the journal gave in figures. version: this program's."""
    run = counts.run
    settings: Report = json.loads(run.settings_json)
    states = _shown(counts.states, run)
    said = [*counts.listed, *((entry, record) for entry, record, _ in counts.plain)]
    records = {record.job.fingerprint: record for _, record in said}
    total = sum((spend_of_group(each.sum, each.number) for each in counts.every), Spend())
    return {
        **head(run, settings, version, counts.first_submitted_at),
        "totals": {
            "jobs": states.total(),
            **{state: states[state] for state in SHOWN},
            "bytes": counts.size_bytes,
            "generations": counts.generations,
        },
        "money": money(total, settings),
        "jobs": rows([entry for entry, _ in said], records, RowContext(run, Prices({}), Forecast())),
        "alike": {entry.id: number for entry, _, number in counts.plain},
        "earlier_jobs": range(sum(number for state, number in _shown(counts.earlier, run).items() if state in EARLIER)),
    }


def _shown(states: Mapping[State, int], run: Run) -> Counter[str]:
    """The same by the contract's words."""
    told = Counter[str]()
    for state, number in states.items():
        told[shown(state, run)] += number
    return told
