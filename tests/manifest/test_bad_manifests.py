"""Golden tests: each manifest in manifests_bad/ gives exactly the text in the .txt file next to it.

`REWRITE_GOLDEN=1 pytest tests/manifest/test_bad_manifests.py` rewrites the texts; review the difference before you
keep it. Manifests that only give warnings are named warn-…. A manifest with a lock file beside it is compared with it.
"""

import ast
import os
from functools import cache, partial
from pathlib import Path

import pytest

from batchrunner.app import lock
from batchrunner.manifest import CODES, Diagnostic, render
from batchrunner.manifest.validate import check

BAD = Path(__file__).parents[1] / "manifests_bad"
CASES = sorted(item.stem for item in BAD.glob("*.yaml"))
KEY = "golden-key-0123456789"  # in api-key.yaml
SOURCE = Path(__file__).parents[2] / "batchrunner" / "manifest"


@cache
def diagnostics_of(stem: str) -> tuple[Diagnostic, ...]:
    here = Path.cwd()
    os.chdir(BAD)
    try:
        read = partial(lock.load_to_check, locked=Path(f"{stem}.yaml.lock").exists())
        return check(Path(f"{stem}.yaml"), {}, {"AIMLAPI_KEY": KEY}, read=read).diagnostics
    finally:
        os.chdir(here)


@pytest.mark.parametrize("stem", CASES)
def test_each_problem_is_reported_at_its_place_with_a_hint(stem: str) -> None:
    diagnostics = diagnostics_of(stem)
    text = render(diagnostics).replace(str(BAD), "HERE").replace(f"looked in {Path.home()}", "looked in HOME") + "\n"
    golden = BAD / f"{stem}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    files = list(dict.fromkeys(item.file for item in diagnostics))
    places = [(files.index(item.file), item.line, item.column) for item in diagnostics]
    assert places == sorted(places)
    assert all(item.line >= 1 and item.column >= 1 for item in diagnostics)
    assert any(item.severity == "error" for item in diagnostics) != stem.startswith("warn-")


def test_there_are_enough_goldens_and_each_has_a_manifest() -> None:
    assert len(CASES) >= 60
    assert sorted(item.stem for item in BAD.glob("*.txt")) == CASES


def test_codes_and_goldens_match() -> None:
    seen = {item.code for stem in CASES for item in diagnostics_of(stem)}
    assert {"golden missing": set(CODES) - seen, "table misses": seen - set(CODES)} == {
        "golden missing": set(),
        "table misses": set(),
    }


def test_each_code_in_the_source_is_in_the_table() -> None:
    written = {
        (node.args[0].value, path.name)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("error", "warn", "_stop", "Explanation", "Note")
    }
    assert len(written) > 20
    assert {(code, name) for code, name in written if code not in CODES} == set()


def test_a_table_with_the_api_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    media = Path(__file__).parents[2] / "manifests" / "media"
    (tmp_path / "jobs.csv").write_text(f"video,image,tags.k\n{media}/bunny.mp4,{media}/hopper.jpg,<{KEY}>\n")
    [found] = check(tmp_path / "jobs.csv", {}, {"AIMLAPI_KEY": f" {KEY}\n"}).diagnostics
    assert (found.code, found.severity, found.line) == ("secret", "error", 2)
    assert KEY[:6] not in render([found])
    assert check(tmp_path / "jobs.csv", {}, {"AIMLAPI_KEY": "hopper"}).diagnostics == ()  # too short to be searched for


@pytest.mark.parametrize(("stem", "secret"), [("urls", "secret"), ("trap-secret-in-key", "hunter2")])
def test_secrets_are_not_printed(stem: str, secret: str) -> None:
    assert secret not in render(diagnostics_of(stem))
    assert secret in (BAD / f"{stem}.yaml").read_text("utf-8")
