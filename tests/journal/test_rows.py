"""Rows: checksums that journals on disk have."""

from math import inf, nan
from typing import Any

import pytest

from batchrunner.job import State
from batchrunner.journal.rows import checksum


@pytest.mark.parametrize(
    ("table", "values", "stored"),
    [
        ("attempts", ("sha256:ab", 1, "run.ab.1", 1700000000.25, None), 3096233583),
        ("files", ("clip é\udcff.mp4", "%s", 0, -0.0, nan), 1578731305),
        ("mark", (True, False, 2**53 + 1, 1e-300, inf), 421712846),
        ("standing", (State.FAILED, "failed"), 2477494158),
    ],
)
def test_a_checksum_is_the_one_that_existing_journals_have(table: str, values: tuple[Any, ...], stored: int) -> None:
    assert checksum(table, values) == stored


def test_values_that_sqlite_stores_as_one_value_have_one_checksum() -> None:
    assert checksum("files", (0, 1, None)) == checksum("files", (-0.0, True, nan))
