"""What the user reads in the morning: report.json and report.html, made from what the journal holds.

Rule: `build` makes one dict from the journal's facts, and page, sentence and JSON file are made from that dict alone,
so that they cannot disagree. Deciding anything about a job does not belong here.
"""

import json
import os
from pathlib import Path
from typing import Any

from batchrunner import disk
from batchrunner.disk import Disk
from batchrunner.job import Snapshot
from batchrunner.report.build import build
from batchrunner.report.html import render
from batchrunner.report.text import headline, status_text

__all__ = ["build", "headline", "render", "status_text", "to_json", "write"]


def write(snapshot: Snapshot, run_dir: Path, version: str) -> tuple[Path, Path]:
    """Write report.json and report.html into `run_dir`, each in one step, and return their paths. Blocks.

    version: this program's. Raises LocalFault where a file cannot be written; what stood there before then stays.
    """
    report = build(snapshot, version)
    return _replace(run_dir / "report.json", to_json(report)), _replace(run_dir / "report.html", render(report))


def to_json(report: dict[str, Any]) -> str:
    """The report as report.json holds it: keys in the contract's order; lone surrogates escaped, so that it encodes."""
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _replace(path: Path, text: str) -> Path:
    files = Disk()
    # Named after the process: `report` may be asked for while a run writes its own.
    temporary = path.parent / ".batchrunner" / f"{path.name}.{os.getpid()}.new"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with files.open(temporary, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            files.flush(file)
        files.rename(temporary, path)
    except OSError as error:
        raise disk.fault(error, f"{path} could not be written") from error
    return path
