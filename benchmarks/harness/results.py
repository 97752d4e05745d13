"""benchmarks/RESULTS.md: one page, a section a benchmark, each written by its own command and only by it."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness.page import machine

PAGE = Path(__file__).parent.parent / "RESULTS.md"
_HEAD = "# Results\n\nEach section is written by the command that it names. Do not edit.\n"


def put(name: str, text: str) -> None:
    """Put a section in place of its last version, or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = PAGE.read_text() if PAGE.exists() else _HEAD
    section = f"{begin}\n{text.strip()}\n{end}\n"
    if begin in page and end in page:
        before, _, rest = page.partition(begin)
        page = before + section + rest.partition(end)[2].removeprefix("\n")
    else:
        page = f"{page.rstrip()}\n\n{section}"
    PAGE.write_text(page)


def setting() -> str:
    """Date, command, machine and commit, as a list."""
    shown = [Path(word).name if word.startswith("/") else word for word in sys.argv]
    command = " ".join([Path(sys.executable).name, *shown])
    asked = ["git", "-C", str(PAGE.parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "?"
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"- Date: {datetime.now(UTC):%Y-%m-%d}; commit {commit}\n- Command: `{command}`\n"
        f"- Machine: {machine()}; load at the end {load}\n"
    )
