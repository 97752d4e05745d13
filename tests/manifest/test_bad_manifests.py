"""Golden tests: every manifest in manifests_bad/ gives exactly the text beside it.

`REWRITE_GOLDEN=1 pytest tests/manifest/test_bad_manifests.py` writes the texts anew; read the difference before you
keep it. What is only warned of is named warn-….
"""

import ast
import os
from functools import cache
from pathlib import Path

import pytest

from batchrunner.manifest import CODES, Diagnostic, render
from batchrunner.manifest.validate import check

BAD = Path(__file__).parents[1] / "manifests_bad"
CASES = sorted(each.stem for each in BAD.glob("*.yaml"))
ROOMS = Path(__file__).parents[2] / "batchrunner" / "manifest"


@cache
def told(stem: str) -> tuple[Diagnostic, ...]:
    here = Path.cwd()
    os.chdir(BAD)
    try:
        return check(Path(f"{stem}.yaml"), {}, {}).diagnostics
    finally:
        os.chdir(here)


@pytest.mark.parametrize("stem", CASES)
def test_every_problem_is_told_at_its_place_with_its_cure(stem: str) -> None:
    diagnostics = told(stem)
    text = render(diagnostics).replace(str(BAD), "HERE").replace(f"looked in {Path.home()}", "looked in HOME") + "\n"
    golden = BAD / f"{stem}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    files = list(dict.fromkeys(each.file for each in diagnostics))
    places = [(files.index(each.file), each.line, each.column) for each in diagnostics]
    assert places == sorted(places)
    assert all(each.line >= 1 and each.column >= 1 for each in diagnostics)
    assert any(each.severity == "error" for each in diagnostics) != stem.startswith("warn-")


def test_there_are_enough_of_them_and_none_is_left_over() -> None:
    assert len(CASES) >= 60
    assert sorted(each.stem for each in BAD.glob("*.txt")) == CASES


def test_every_code_has_a_golden_and_every_golden_a_code() -> None:
    seen = {each.code for stem in CASES for each in told(stem)}
    assert {"golden missing": set(CODES) - seen, "table misses": seen - set(CODES)} == {
        "golden missing": set(),
        "table misses": set(),
    }


def test_every_code_that_is_written_in_the_rooms_is_in_the_table() -> None:
    written = {
        (node.args[0].value, path.name)
        for path in ROOMS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("error", "warn", "_stop", "Told", "Note")
    }
    assert len(written) > 20
    assert {(code, name) for code, name in written if code not in CODES} == set()


@pytest.mark.parametrize(("stem", "word"), [("urls", "secret"), ("trap-secret-in-key", "hunter2")])
def test_secrets_are_not_repeated(stem: str, word: str) -> None:
    assert word not in render(told(stem))
    assert word in (BAD / f"{stem}.yaml").read_text("utf-8")
