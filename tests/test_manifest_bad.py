"""Golden tests: every manifest in manifests_bad/ gives exactly the text beside it.

`REWRITE_GOLDEN=1 pytest tests/test_manifest_bad.py` writes the texts anew; read the difference before you keep it.
"""

import os
from pathlib import Path

import pytest

from batchrunner.errors import ManifestError
from batchrunner.manifest import Diagnostic, load, render

BAD = Path(__file__).parent / "manifests_bad"
CASES = sorted(each.stem for each in BAD.glob("*.yaml"))


def told(stem: str) -> tuple[str, tuple[Diagnostic, ...]]:
    with pytest.raises(ManifestError) as caught:
        load(Path(f"{stem}.yaml"))
    diagnostics = tuple(each for each in caught.value.diagnostics if isinstance(each, Diagnostic))
    assert len(diagnostics) == len(caught.value.diagnostics)
    return render(diagnostics) + "\n", diagnostics


@pytest.mark.parametrize("stem", CASES)
def test_every_problem_is_told_at_its_place_with_its_cure(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    text, diagnostics = told(stem)
    golden = BAD / f"{stem}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(text.replace(str(BAD), "HERE"), encoding="utf-8")
    assert text.replace(str(BAD), "HERE") == golden.read_text(encoding="utf-8")
    places = [(each.line, each.column) for each in diagnostics]
    assert places == sorted(places)
    assert all(each.line >= 1 and each.column >= 1 for each in diagnostics)
    assert any(each.severity == "error" for each in diagnostics)


def test_there_are_enough_of_them_and_none_is_left_over() -> None:
    assert len(CASES) >= 40
    assert sorted(each.stem for each in BAD.glob("*.txt")) == CASES


def test_secrets_in_urls_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    assert "secret" not in told("urls")[0]


def test_only_the_first_twenty_are_printed_and_all_are_counted() -> None:
    found = [Diagnostic("x", "error", "m.yaml", line, 1, "wrong") for line in range(1, 10_001)]
    lines = render(found).splitlines()
    assert lines[0] == "m.yaml:1:1: wrong"
    assert lines[19] == "m.yaml:20:1: wrong"
    assert lines[20:] == ["… and 9,980 more", "10,000 errors"]


def test_render_of_nothing_is_nothing() -> None:
    assert render([]) == ""
