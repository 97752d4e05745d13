"""What the user reads in the morning, and other programs too: report.html, report.json, results.csv, JUnit, metrics.

Rules: `build` makes one dict from the journal's facts, and every file and sentence is made from that dict alone, so
that they cannot disagree. Rows go from it to the files one by one. Each file is replaced in one step. Deciding anything
about a job does not belong here.
"""

import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from batchrunner import disk
from batchrunner.disk import Disk
from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Snapshot
from batchrunner.report.build import build, states
from batchrunner.report.cards import MOST as MOST_CARDS
from batchrunner.report.cards import places
from batchrunner.report.text import headline, status_text
from batchrunner.rundir import RunDir

if TYPE_CHECKING:
    from batchrunner.report.tables import Form

__all__ = [
    "MOST_CARDS", "build", "check_places", "headline", "json_pieces", "on_page", "status_text", "to_json", "write"
]  # fmt: skip


NAMES = ("report.json", "report.html", "results.csv")


def write(
    snapshot: Snapshot, run_dir: Path, version: str, *, junit: str | None = None, metrics_file: str | None = None
) -> tuple[Path, ...]:
    """Write report.json, report.html and results.csv into `run_dir`, each in one step, and return the paths. Blocks.

    version: this program's. junit, metrics_file: further files to write, where given. One that cannot be written does
    not keep the others from being written; what stood there before then stays. Raises LocalFault for the first.
    """
    from batchrunner import posters  # here and below, as sentences are made without these
    from batchrunner.report.html import render
    from batchrunner.report.tables import CSV, JSON, JUNIT, metrics_text

    report = build(snapshot, version)
    rundir = RunDir(run_dir)
    paths = [run_dir / name for name in NAMES] + [Path(path) for path in (junit, metrics_file) if path is not None]
    with ExitStack() as stack:
        files = {
            path: stack.enter_context(_Replacement(path, rundir.room if path.parent == run_dir else path.parent))
            for path in paths
        }
        forms = {run_dir / "report.json": JSON, run_dir / "results.csv": CSV}
        if junit is not None:
            forms[Path(junit)] = JUNIT
        _write_rows(report, [(files[path], form) for path, form in forms.items()])
        files[run_dir / "report.html"].finish(render(report, posters.pictures(rundir, on_page(snapshot))))
        if metrics_file is not None:
            files[Path(metrics_file)].finish(metrics_text(report))
    faults = [file.fault for file in files.values() if file.fault is not None]
    if faults:
        raise faults[0]
    return tuple(paths)


def check_places(run_dir: Path, *, junit: str | None, metrics_file: str | None) -> None:
    """Refuse further files where they could not be written, or would take another's place. Raises UsageError.

    For before a run: in the morning it would be late to hear of it.
    """
    taken = {(run_dir / name).absolute(): name for name in NAMES}
    for option, text in (("--junit", junit), ("--metrics-file", metrics_file)):
        if text is None:
            continue
        path = Path(text).absolute()
        folder = next(each for each in path.parents if each.exists())
        complaint = ""
        if path in taken:
            complaint = f"is the place of {taken[path]}"
        elif _is_other_than_a_file(path):
            complaint = "is not a plain file"
        elif not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            complaint = f"cannot be written: {folder} is no folder that this user may write to"
        if complaint:
            raise UsageError(f"{option}: {text} {complaint}", "Give another path. Nothing was submitted.")
        taken[path] = option


def _is_other_than_a_file(path: Path) -> bool:
    """A folder, a device, a pipe: nothing that a file may take the place of."""
    return path.exists() and not path.is_file()


def on_page(snapshot: Snapshot) -> Snapshot:
    """The part of `snapshot` that has cards on the page, and so a use for posters."""
    chosen = places(states(snapshot))
    return replace(snapshot, entries=tuple(snapshot.entries[place] for place in chosen))


def to_json(report: Mapping[str, Any]) -> str:
    """The report as report.json holds it: keys in the contract's order; lone surrogates escaped, so that it encodes."""
    return "".join(json_pieces(report))


def json_pieces(report: Mapping[str, Any]) -> Iterator[str]:
    """The same, piece by piece: a large report is never held whole."""
    from batchrunner.report.tables import JSON, pieces

    for piece in pieces(JSON, dict(report)):
        yield piece.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_rows(report: dict[str, Any], files: Sequence[tuple["_Replacement", "Form"]]) -> None:
    """Every file that has a line for each job, in one way through the rows."""
    for file, form in files:
        file.put(form.first(report))
    for number, job in enumerate(report["jobs"]):
        row = dict(job)
        for file, form in files:
            file.put(f"{form.between if number else ''}{form.line(report, row)}")
    for file, form in files:
        for text in form.last(report):
            file.put(text)
        file.finish()


class _Replacement:
    """A file that takes the place of the one at `path` when it is whole. Use as a context manager.

    room: a folder on the same file system, in which it is written. fault: what kept it from being written; from then on
    nothing more is done, and what stood at `path` stays.
    """

    def __init__(self, path: Path, room: Path) -> None:
        self.fault: LocalFault | None = None
        self._path = path
        # Named after the process: `report` may be asked for while a run writes its own. No `.prom` at the end, which a
        # collector of metrics would read.
        self._temporary = room / f".{path.name}.{os.getpid()}.new"
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if _is_other_than_a_file(self._path):
            self._fail(OSError(errno.EINVAL, "not a plain file"))
            return self
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.BufferedWriter(Disk().open(self._temporary, "wb"), 64 * 1024)
        except OSError as error:
            self._fail(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def put(self, text: str) -> None:
        """Add to its content."""
        if self._file is not None:
            try:
                self._file.write(text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                self._fail(error)

    def finish(self, text: str = "") -> None:
        """Let it take the place. text: the last of its content."""
        self.put(text)
        if self._file is not None:
            try:
                Disk().flush(self._file)
                Disk().rename(self._temporary, self._path)
            except OSError as error:
                self._fail(error)
            self._drop()

    def _fail(self, error: OSError) -> None:
        self.fault = disk.fault(error, f"{self._path} could not be written")
        self._drop()

    def _drop(self) -> None:
        """What has its name is no longer found under the temporary one."""
        file, self._file = self._file, None
        with suppress(OSError):  # a full disk is told of again when what was not written yet is to be
            if file is not None:
                file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
