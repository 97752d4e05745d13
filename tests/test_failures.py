"""docs/failures.md has a row for every known failure of the field, and every test that a row names exists."""

import re
from pathlib import Path

from tests.conftest import ROOT

ROWS = [line.split("|")[1:-1] for line in (ROOT / "docs" / "failures.md").read_text().splitlines() if "| F" in line]
MACHINES = [line.split("|")[1:-1] for line in (ROOT / "docs" / "failures.md").read_text().splitlines() if "| M" in line]


def names_of_tests() -> set[str]:
    texts = (path.read_text() for path in Path(ROOT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_every_failure_has_its_row() -> None:
    assert [row[0].strip() for row in ROWS] == [f"F{number}" for number in range(1, 24)]
    assert [row[0].strip() for row in MACHINES] == [f"M{number}" for number in range(1, 15)]


def test_every_row_names_existing_tests_or_says_why_it_cannot_occur() -> None:
    known = names_of_tests()
    for row in [*ROWS, *MACHINES]:
        named = re.findall(r"`(test_\w+)`", row[3])
        assert named or "Cannot occur" in row[2], row[0]
        assert set(named) <= known, (row[0], set(named) - known)
