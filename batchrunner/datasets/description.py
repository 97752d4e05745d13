"""What a data set says of its origin: the heads of its batches, with the runs that rendered its clips. Pure.

Rule: a run that rendered no clip of the data set is left out. So a further run that renders nothing changes no byte.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from batchrunner.datasets.items import Description, Row


def describe(heads: Sequence[Row], used: Sequence[Collection[str | None]]) -> Description:
    """Return the description. heads: of each batch's report. used: what `run_of` returns for the rows of each batch."""
    blocks = (head.get("dataset") for head in heads)
    details: Mapping[str, Any] = next((block for block in blocks if block and isinstance(block, Mapping)), {})
    reports = tuple(_with_runs(head, runs) for head, runs in zip(heads, used, strict=True))
    return Description(heads[0]["name"], details, reports)


def run_of(row: Row) -> str | None:
    """Return the id of the run that rendered a clip: "" if no run of this batch did, None if the report lacks it."""
    rendered_by = row.get("rendered_by")
    return str(rendered_by.get("run_id") or "") if isinstance(rendered_by, Mapping) else None


def _with_runs(head: Row, used: Collection[str | None]) -> Row:
    if None in used:
        return head
    return {**head, "runs": [run for run in head.get("runs") or () if run["run_id"] in used]}
