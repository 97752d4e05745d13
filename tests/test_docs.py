"""The documentation agrees with the code. ``REWRITE_DOCS=1`` writes docs/states.md and docs/states.svg again."""

import ast
import os
import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
import yaml

from batchrunner import cli, manifest
from batchrunner.errors import ExitStatus
from batchrunner.job import OUTCOMES, TRANSITIONS, State
from batchrunner.providers import registry
from batchrunner.settings import SETTINGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
MOST_LINES = 180  # of the README: the tables are on the site


def page_text(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def states_page() -> str:
    """Return docs/states.md, generated from the state machine's table."""
    moves = "\n".join(f"| `{old}` | `{move}` | `{new}` |" for (old, move), new in TRANSITIONS.items())
    outcomes = "\n".join(f"| `{move}` | `{outcome}` |" for move, outcome in OUTCOMES.items())
    return f"""# Job states

This page and its drawing are made from the table in `batchrunner/job.py`. A test compares them.

![The states of a job and the moves between them](states.svg)

A new job is `{State.PENDING}`. A move that is not in this table raises an error and changes nothing.

| from | move | to |
|---|---|---|
{moves}

A move also sets the `outcome` of the job's latest attempt:

| move | outcome |
|---|---|
{outcomes}
"""


def drawn_states() -> str:
    drawn = runpy.run_path(str(DOCS / "draw_states.py"))["svg"]()
    assert isinstance(drawn, str)
    return drawn


@pytest.mark.parametrize(("name", "draw"), [("states.md", states_page), ("states.svg", drawn_states)])
def test_the_states_are_documented_from_the_table(name: str, draw: Callable[[], str]) -> None:
    if os.environ.get("REWRITE_DOCS"):
        (DOCS / name).write_text(draw(), "utf-8")
    assert page_text(name) == draw()


def test_the_drawing_shows_each_state_and_each_move() -> None:
    root = ET.fromstring(page_text("states.svg"))
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("}text")]
    assert {str(state) for state in State} <= set(texts)
    drawn = sorted(move for text in texts if text not in set(State) for move in text.split(", "))
    assert drawn == sorted(str(move) for _, move in TRANSITIONS)


def rows(heading: str, page: str) -> dict[str, list[str]]:
    """Return the table whose first column has this heading, as cells by the first cell without its backticks."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page_text(page), re.MULTILINE)
    assert table, heading
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[1].splitlines()]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def pages_of(nav: list[Any]) -> list[str]:
    """Yield the pages that the site's navigation names, at any depth."""
    values = [next(iter(item.values())) for item in nav]
    return [page for value in values for page in ([value] if isinstance(value, str) else pages_of(value))]


def test_the_site_has_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(pages_of(nav)) == sorted(path.name for path in DOCS.glob("*.md"))
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", page_text("index.md"))) | {"index.md"}
    assert linked == {path.name for path in DOCS.glob("*.md")}


def test_the_settings_page_lists_every_setting() -> None:
    documented = rows("setting", "settings.md")
    assert list(documented) == [setting.name for setting in SETTINGS]
    for setting in SETTINGS:
        nothing = "`output/<name>`" if setting.name == "output" else "none"
        default = {False: "no", None: nothing}.get(setting.default, f"`{setting.default}`")  # type: ignore[arg-type]  # a table over mixed types
        assert documented[setting.name][1] == default, setting.name


def test_the_manifest_page_lists_every_job_field() -> None:
    properties = manifest.schema()["$defs"]["job"]["properties"]
    documented = rows("job field", "manifest.md")
    assert set(documented) == set(properties)
    assert (documented["priority"][1], documented["file"][1]) == ("`0`", "`{id}`")
    for name, default in registry.default_model().defaults.items():
        if default is not None:
            assert documented[name][1] == f"`{default:g}`" if isinstance(default, float) else f"`{default}`", name


def test_the_manifests_on_the_manifest_page_validate(tmp_path: Path) -> None:
    """Both examples validate unchanged if the files that they name exist."""
    media = ROOT / "manifests" / "media"
    (tmp_path / "media" / "clips").mkdir(parents=True)
    for name, content in (("walk.mp4", "bunny.mp4"), ("clips/x.mp4", "bunny.mp4"), ("hero.png", "hopper.jpg")):
        (tmp_path / "media" / name).write_bytes((media / content).read_bytes())
    for name in ("a", "b"):
        (tmp_path / "media" / f"{name}.png").write_bytes((media / "astronaut.jpg").read_bytes() + name.encode())
    (tmp_path / "clips.csv").write_text("video,image,tags.scene\nmedia/walk.mp4,media/hero.png,12a\n", "utf-8")
    bare, whole = re.findall(r"```yaml\n(.*?)```", page_text("manifest.md"), re.DOTALL)[:2]
    for text, files in (
        (bare, ["walk-hero-480p-", "run-hero-720p-"]),
        (
            whole,
            [
                "hero-walk.mp4",
                "hero-walk.t2.mp4",
                "hero-walk.t3.mp4",
                "walk-hero-720p-",
                "x-a-480p.mp4",
                "x-a-720p.mp4",
                "x-b-480p.mp4",
            ],
        ),
    ):
        (tmp_path / "night.yaml").write_text(text, "utf-8")
        batch = manifest.load(tmp_path / "night.yaml")
        assert batch.warnings == ()
        assert [entry.file[: len(file)] for entry, file in zip(batch.entries, files, strict=True)] == files


def test_the_data_set_of_the_readme_validates(tmp_path: Path) -> None:
    media = ROOT / "manifests" / "media"
    (tmp_path / "clips").mkdir()
    for name, content in {
        "walk.mp4": "bunny",
        "run.mp4": "bunny",
        "astronaut.jpg": "astronaut",
        "admiral.jpg": "hopper",
    }.items():
        original = (media / content).with_suffix(Path(name).suffix).read_bytes()
        (tmp_path / "clips" / name).write_bytes(original + name.encode())
    story = README[README.index("## A data set") :]
    for name, pattern in (("walks.csv", r"```\n(id,.*?)```"), ("walks.yaml", r"```yaml\n(.*?)```")):
        found = re.search(pattern, story, re.DOTALL)
        assert found, name
        (tmp_path / name).write_text(found[1], "utf-8")
    batch = manifest.load(tmp_path / "walks.yaml")
    assert batch.warnings == ()
    assert [entry.file for entry in batch.entries] == ["train-walk-a.mp4", "train-walk-b.mp4", "test-run-b.mp4"]
    assert batch.entries[0].tags == {"actor": "astronaut", "release": "v1", "split": "train"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
    if page.parent == DOCS:
        assert [link for link in links if "/" in link] == [], "a page of the site links to nothing outside of docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_point_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        text = ((page.parent / target) if target else page).read_text("utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_the_architecture_page_names_every_package_and_only_paths_that_exist() -> None:
    page = page_text("architecture.md")
    package = ROOT / "batchrunner"
    folders = {str(path.parent.relative_to(package)) for path in package.rglob("__init__.py")} - {"."}
    assert set(rows("package", "architecture.md")) == {f"{folder}/" for folder in folders}
    paths = re.findall(r"`([\w/.]+(?:/|\.(?:py|json|j2)))`", page)
    assert len(paths) > 40
    assert [path for path in paths if not (package / path).exists() and not (ROOT / path).exists()] == []


def test_the_glossary_defines_each_term_once_and_in_order() -> None:
    entries = re.findall(r"^\| \*\*(.+?)\*\* \| \S.*\. \|$", page_text("glossary.md"), re.MULTILINE)
    assert len(entries) == page_text("glossary.md").count("\n| **")
    assert entries == sorted(set(entries))
    kept = {"batch", "manifest", "entry", "job", "attempt", "generation", "journal", "ledger", "fingerprint"}
    assert kept | {"run directory", "in doubt", "in flight"} <= set(entries)


def test_the_dockerfile_copies_every_file_that_the_build_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"}
    assert {path for path in needed if not path.startswith("batchrunner/")} <= set(paths)


def test_the_changelog_has_the_sections_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[[\d.]+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    for release in text.split("\n## ")[1:]:
        sections = re.findall(r"^### (.+)$", release, re.MULTILINE)
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert sections == [section for section in known if section in sections]


def kinds_in_the_code() -> set[str]:
    """Yield the error kinds in the client's code: the first argument of a fault or problem, the third of a status."""
    kinds = set[str]()
    for path in (ROOT / "batchrunner").rglob("*.py"):
        if {"sandbox", "progress"} & set(path.parts):  # terms of the service, and screen output
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            at = 2 if name == "_Status" else 0 if name.endswith("Fault") or name in {"Problem", "NoDecoder"} else None
            if at is not None and len(node.args) > at:
                value = node.args[at]
                kinds |= {value.value} if isinstance(value, ast.Constant) and isinstance(value.value, str) else set()
    return kinds


def test_every_error_kind_is_documented() -> None:
    found = kinds_in_the_code()
    assert len(found) > 25
    assert found <= set(rows("kind", "troubleshooting.md"))


def test_the_recorded_terminal_is_small_and_runs_no_script() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_bytes()
    assert len(picture) < 400_000
    assert ET.fromstring(picture).tag.endswith("svg")
    assert not re.search(rb"<script|<foreignObject|href=\"(?!#)|url\(", picture)


def test_the_commands_page_lists_every_exit_status() -> None:
    documented = " ".join(rows("status", "commands.md")).replace(",", "").split()
    assert [int(number) for number in documented] == [int(status) for status in ExitStatus]


def test_the_commands_page_lists_every_command() -> None:
    documented = [row.removeprefix("batchrunner ").split()[0] for row in rows("command", "commands.md")]
    assert documented == cli.cli.list_commands(click.Context(cli.cli))


def test_every_run_setting_has_a_flag() -> None:
    flags = {option for parameter in cli.run.params for option in parameter.opts}
    assert {"--" + setting.name.replace("_", "-") for setting in SETTINGS} <= flags


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: str(path.name))
def test_examples_validate_and_name_their_schema(path: Path) -> None:
    assert "# yaml-language-server: $schema=../batchrunner/manifest/schema.json" in path.read_text("utf-8")
    assert manifest.load(path).entries


def test_the_tests_that_the_guarantees_name_exist() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 30
    missing = []
    for name, test in named:
        path = ROOT / name
        if not path.exists() or not re.search(
            rf"^(async )?def {test or 'test_'}", path.read_text("utf-8"), re.MULTILINE
        ):
            missing.append(f"{name}::{test}")
    assert missing == []
    modules = set(re.findall(r"python -m tests\.(\w+)", page))
    assert modules == {"scenarios", "powercut", "soak"}
    assert [name for name in sorted(modules) if not (ROOT / "tests" / name / "__main__.py").exists()] == []
    assert re.findall(r"^### (\d)\. ", page, re.MULTILINE) == list("1234567"), "each promise of the contract"
