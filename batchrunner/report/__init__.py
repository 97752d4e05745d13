"""What the user reads in the morning, and other programs too: report.html, report.json, results.csv, JUnit, metrics.

Rule: `build` makes one dict from the journal's facts, and every file and sentence is made from that dict alone, so that
they cannot disagree. Each file is replaced in one step. Deciding anything about a job does not belong here.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchrunner import disk, posters
from batchrunner.disk import Disk
from batchrunner.errors import LocalFault
from batchrunner.job import Snapshot
from batchrunner.report.build import build
from batchrunner.report.html import render
from batchrunner.report.tables import junit_xml, metrics_text, results_csv
from batchrunner.report.text import headline, status_text
from batchrunner.rundir import RunDir

__all__ = ["build", "headline", "render", "status_text", "to_json", "write"]


def write(
    snapshot: Snapshot, run_dir: Path, version: str, *, junit: str | None = None, metrics_file: str | None = None
) -> tuple[Path, ...]:
    """Write report.json, report.html and results.csv into `run_dir`, each in one step, and return the paths. Blocks.

    version: this program's. junit, metrics_file: further files to write, where given. One that cannot be written does
    not keep the others from being written; what stood there before then stays. Raises LocalFault for the first.
    """
    report = build(snapshot, version)
    rundir = RunDir(run_dir)
    wanted: list[tuple[Path, Callable[[], str]]] = [
        (run_dir / "report.json", lambda: to_json(report)),
        (run_dir / "report.html", lambda: render(report, posters.pictures(rundir, snapshot))),
        (run_dir / "results.csv", lambda: results_csv(report)),
    ]
    if junit is not None:
        wanted.append((Path(junit), lambda: junit_xml(report)))
    if metrics_file is not None:
        wanted.append((Path(metrics_file), lambda: metrics_text(report)))
    faults: list[LocalFault] = []
    for path, text in wanted:
        try:
            _replace(path, text(), rundir.room if path.parent == run_dir else path.parent)
        except LocalFault as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    return tuple(path for path, _ in wanted)


def to_json(report: dict[str, Any]) -> str:
    """The report as report.json holds it: keys in the contract's order; lone surrogates escaped, so that it encodes."""
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _replace(path: Path, text: str, room: Path) -> None:
    """Give `path` this content, by way of a file in `room`, which is on the same file system."""
    files = Disk()
    # Named after the process: `report` may be asked for while a run writes its own. No `.prom` at the end, which a
    # collector of metrics would read.
    temporary = room / f".{path.name}.{os.getpid()}.new"
    try:
        room.mkdir(parents=True, exist_ok=True)
        try:
            with files.open(temporary, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                files.flush(file)
            files.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise disk.fault(error, f"{path} could not be written") from error
