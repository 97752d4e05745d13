"""What is written for people is in step with the code. ``REWRITE_DOCS=1`` writes docs/states.md anew."""

import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import pytest

from batchrunner import cli, manifest
from batchrunner.errors import ExitStatus
from batchrunner.job import OUTCOMES, TRANSITIONS, State
from batchrunner.manifest.fingerprint import PARAMETERS
from batchrunner.settings import SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def states_page() -> str:
    """docs/states.md, from the one table of the state machine."""
    arrows = "\n".join(f"    {old} --> {new}: {move}" for (old, move), new in TRANSITIONS.items())
    outcomes = "\n".join(f"| `{move}` | `{word}` |" for move, word in OUTCOMES.items())
    return f"""# The life of a job

Made from the table in `batchrunner/job.py`; a test keeps it so.

```mermaid
stateDiagram-v2
    [*] --> {State.PENDING}
{arrows}
```

What an attempt's `outcome` says after a move:

| move | outcome |
|---|---|
{outcomes}
"""


def test_the_diagram_is_the_table() -> None:
    page = ROOT / "docs" / "states.md"
    if os.environ.get("REWRITE_DOCS"):
        page.write_text(states_page(), "utf-8")
    assert page.read_text("utf-8") == states_page()


def rows(heading: str) -> dict[str, list[str]]:
    """The README's table whose first column is headed so: cells by the first one, without its backticks."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert table, heading
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[1].splitlines()]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


def test_readme_settings() -> None:
    told = rows("setting")
    assert list(told) == [setting.name for setting in SETTINGS]
    for setting in SETTINGS:
        nothing = "`output/<name>`" if setting.name == "output" else "none"
        default = {False: "no", None: nothing}.get(setting.default, f"`{setting.default}`")  # type: ignore[arg-type]  # a table over mixed types
        assert told[setting.name][1] == default, setting.name


def test_readme_job_fields() -> None:
    properties = manifest.schema()["$defs"]["job"]["properties"]
    told = rows("job field")
    assert set(told) == set(properties)
    assert (told["priority"][1], told["file"][1]) == ("`0`", "`{id}`")
    for name, default in PARAMETERS.items():
        if default is not None:
            assert told[name][1] == f"`{default:g}`" if isinstance(default, float) else f"`{default}`", name


def test_readme_manifests_mean_what_they_say(tmp_path: Path) -> None:
    """Both examples validate as they stand, given the files that they name."""
    media = ROOT / "manifests" / "media"
    (tmp_path / "media" / "clips").mkdir(parents=True)
    for name, content in (("walk.mp4", "bunny.mp4"), ("clips/x.mp4", "bunny.mp4"), ("hero.png", "hopper.jpg")):
        (tmp_path / "media" / name).write_bytes((media / content).read_bytes())
    for name in ("a", "b"):
        (tmp_path / "media" / f"{name}.png").write_bytes((media / "astronaut.jpg").read_bytes() + name.encode())
    (tmp_path / "clips.csv").write_text("video,image,tags.scene\nmedia/walk.mp4,media/hero.png,12a\n", "utf-8")
    bare, whole = re.findall(r"```yaml\n(.*?)```", README[README.index("## The manifest") :], re.DOTALL)[:2]
    for text, files in (
        (bare, ["walk-hero-480p-", "run-hero-720p-"]),
        (whole, ["hero-walk.mp4", "walk-hero-720p-", "x-a-480p.mp4", "x-a-720p.mp4", "x-b-480p.mp4"]),
    ):
        (tmp_path / "night.yaml").write_text(text, "utf-8")
        batch = manifest.load(tmp_path / "night.yaml")
        assert batch.warnings == ()
        assert [entry.file[: len(file)] for entry, file in zip(batch.entries, files, strict=True)] == files


def test_readme_data_set_means_what_it_says(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_recorded_terminal_is_light_and_runs_no_script() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_bytes()
    assert len(picture) < 400_000
    assert ET.fromstring(picture).tag.endswith("svg")
    assert not re.search(rb"<script|<foreignObject|href=\"(?!#)|url\(", picture)


def test_readme_exit_statuses() -> None:
    told = " ".join(rows("status")).replace(",", "").split()
    assert [int(number) for number in told] == [int(status) for status in ExitStatus]


def test_readme_commands() -> None:
    told = [row.removeprefix("batchrunner ").split()[0] for row in rows("command")]
    assert told == cli.cli.list_commands(click.Context(cli.cli))


def test_every_run_setting_has_a_flag() -> None:
    flags = {option for parameter in cli.run.params for option in parameter.opts}
    assert {"--" + setting.name.replace("_", "-") for setting in SETTINGS} <= flags


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: str(path.name))
def test_examples_validate_and_name_their_schema(path: Path) -> None:
    assert "# yaml-language-server: $schema=../batchrunner/manifest/schema.json" in path.read_text("utf-8")
    assert manifest.load(path).entries


def test_the_tests_that_show_the_guarantees_exist() -> None:
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
