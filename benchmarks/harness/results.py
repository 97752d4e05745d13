"""benchmarks/RESULTS.md: a head and one section per benchmark. The command of a benchmark writes only its section.

A command passes the text of its section and its targets with their results. The targets are stored in results.json, so
the table in the head always contains measured figures.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.page import machine

FOLDER = Path(__file__).parent.parent
PAGE, KEPT = FOLDER / "RESULTS.md", FOLDER / "results.json"
# The order of the sections; others come after these.
ORDER = (
    "overhead",
    "calls",
    "polling",
    "makespan",
    "downloads",
    "slow_links",
    "scale",
    "start",
    "exports",
    "uploads",
    "workers",
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A target, as a row of the table in the head. measured: the figures as text."""

    asked: str
    measured: str
    met: bool


def put(name: str, text: str, bars: Sequence[Bar] = ()) -> None:
    """Replace a section and its targets."""
    sections, kept = _sections(), _kept()
    sections[name] = text.strip()
    kept["bars"][name] = [asdict(bar) for bar in bars]
    _write(sections, kept)


def begin(text: str) -> None:
    """Replace the head of the page: the setup of all benchmarks. It contains the start time."""
    kept = _kept()
    kept["suite"] = text.strip()
    _write(_sections(), kept)


def setting() -> str:
    """Return date, command, machine and commit as a list."""
    command = " ".join([Path(sys.executable).name, *map(_shown, sys.argv)])
    load = " ".join(f"{item:.1f}" for item in os.getloadavg())
    return (
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; commit {commit()}\n- Command: `{command}`\n"
        f"- Machine: {machine()}; load {load}\n"
    )


def commit() -> str:
    """Return the commit of the package, and whether files have changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(FOLDER.parent), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "batchrunner")
    return (git("rev-parse", "--short", "HEAD") or "?") + (" with changes" if changed else "")


def _shown(argument: str) -> str:
    """Return an argument of a command line: a path relative to the repository, or its last component."""
    path, root = Path(argument), FOLDER.parent
    if not path.is_absolute():
        return argument
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _kept() -> dict[str, Any]:
    return {"suite": "", "bars": {}} | (json.loads(KEPT.read_text()) if KEPT.exists() else {})


def _sections() -> dict[str, str]:
    page = PAGE.read_text() if PAGE.exists() else ""
    return {
        name: text.strip() for name, text in re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end of \1 -->", page, re.DOTALL)
    }


def _write(sections: dict[str, str], kept: dict[str, Any]) -> None:
    names = sorted(sections, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    summary = [f"<!-- {name} -->\n{sections[name]}\n<!-- end of {name} -->\n" for name in names]
    PAGE.write_text("\n".join([_head(kept["suite"], _bars(sections, names, kept["bars"])), *summary]))
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _head(suite: str, bars: str) -> str:
    lines = [
        "# Results",
        "",
        "Written by the commands it names: do not edit. A section tells its own date and command.",
    ]
    return "\n".join([*lines, *(["", suite] if suite else []), "", bars.strip(), ""])


def _bars(sections: dict[str, str], names: Sequence[str], bars: dict[str, list[dict[str, Any]]]) -> str:
    rows = [
        f"| {bar['asked']} | {bar['measured']} | {'met' if bar['met'] else '**not met**'} | {_link(sections[name])} |"
        for name in names
        for bar in bars.get(name, [])
    ]
    heads = ["## The bars", "", "| target | measured | | section |", "| --- | --- | --- | --- |"]
    return "\n".join([*heads, *rows]) if rows else ""


def _link(section: str) -> str:
    title = next(line for line in section.splitlines() if line.startswith("## ")).removeprefix("## ")
    return f"[{title}](#{re.sub(r'[^a-z0-9 -]', '', title.lower()).replace(' ', '-')})"
