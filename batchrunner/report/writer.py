"""What the user reads in the morning, and other programs too: report.html, report.json, results.csv, JUnit, metrics.

Rules: `build` makes one dict from the journal's facts, and every file and sentence is made from that dict alone, so
that they cannot disagree. Rows go from it to the files one by one. Each file is replaced in one step, and replaces
nothing but an empty file or an earlier one of its kind. In the run directory the reports' names are the program's: what
else stands there is moved to ``.batchrunner/kept/``. A further file (JUnit, metrics) goes where the user says, and is
refused where something else stands. No file that a batch reads is written. Deciding anything about
a job does not belong here.
"""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Snapshot
from batchrunner.report.build import build, states
from batchrunner.report.gallery import MOST as MOST_CARDS
from batchrunner.report.gallery import places
from batchrunner.report.text import headline, status_text
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir

if TYPE_CHECKING:
    from batchrunner.report.formats import Form

__all__ = [
    "MOST_CARDS", "build", "check_places", "headline", "json_pieces", "move_foreign_files", "on_page", "require_unread",
    "stamps", "status_text", "to_json", "write"
]  # fmt: skip


NAMES = ("report.json", "report.html", "results.csv")
_HEAD_BYTES = 512
# How a report of any version begins.
_OWN = {
    "report.json": re.compile(rb'\{\s*"schema_version":\s*\d+,\s*"(batchrunner_version|name)"'),
    "report.html": re.compile(
        rb"<!doctype html>\s*<html lang=\"en\">\s*<head>\s*<meta charset=\"utf-8\">\s*"
        rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-"
    ),
    "results.csv": re.compile(rb"(\xef\xbb\xbf)?id,state,file,"),
}


class _Kind(NamedTuple):
    """A further file. what: it holds. head: how one begins, by which an earlier one is known again."""

    option: str
    what: str
    head: re.Pattern[bytes]


_JUNIT = _Kind("--junit", "JUnit XML", re.compile(rb"<\?xml[^>]*>\s*<testsuites?\b"))
_METRICS = _Kind("--metrics-file", "metrics of a batch", re.compile(rb"# HELP batchrunner_"))


def write(
    snapshot: Snapshot, run_dir: Path, version: str, *, junit: str | None = None, metrics_file: str | None = None
) -> tuple[Path, ...]:
    """Write report.json, report.html and results.csv into `run_dir`, each in one step, and return the paths. Blocks.

    version: this program's. junit, metrics_file: further files to write, where given. One that cannot be written does
    not keep the others from being written; what stood there before then stays. Raises LocalFault for the first.
    """
    from batchrunner.media import posters  # here and below, as sentences are made without these
    from batchrunner.report.formats import CSV, JSON, JUNIT, metrics_text
    from batchrunner.report.html import render

    report = build(snapshot, version)
    rundir = RunDir(run_dir)
    asked = {kind: text for kind, text in ((_JUNIT, junit), (_METRICS, metrics_file)) if text is not None}
    with ExitStack() as stack:
        own = {name: stack.enter_context(_Replacement(run_dir / name, rundir.internal_dir)) for name in NAMES}
        places = {kind: _real(text) for kind, text in asked.items()}
        further = {kind: stack.enter_context(_Replacement(path, path.parent, kind)) for kind, path in places.items()}
        forms = [(own["report.json"], JSON), (own["results.csv"], CSV)]
        if junit is not None:
            forms.append((further[_JUNIT], JUNIT))
        _write_rows(report, forms)
        own["report.html"].finish(render(report, posters.pictures(rundir, on_page(snapshot))))
        if metrics_file is not None:
            further[_METRICS].finish(metrics_text(report))
    faults = [file.fault for file in (*own.values(), *further.values()) if file.fault is not None]
    if faults:
        raise faults[0]
    return (*(run_dir / name for name in NAMES), *map(Path, asked.values()))


def stamps(run_dir: Path) -> set[tuple[str, int, int]]:
    """The reports that stand in `run_dir`, each with what changes when it is replaced."""
    found = set()
    for name in NAMES:
        with suppress(OSError):
            status = (run_dir / name).lstat()
            found.add((name, status.st_ino, status.st_mtime_ns))
    return found


def move_foreign_files(rundir: RunDir) -> list[tuple[Path, Path]]:
    """Move what stands under a report's name and is none to ``kept``; return old and new paths. Raises OSError."""
    moved = []
    for name in NAMES:
        path = rundir.path / name
        if not _is_foreign(path):
            continue
        rundir.kept.mkdir(parents=True, exist_ok=True)
        number = 1
        while os.path.lexists(target := rundir.kept / f"{path.stem}.{number}{path.suffix}"):
            number += 1
        Disk().rename(path, target)
        moved.append((path, target))
    return moved


def _is_foreign(path: Path) -> bool:
    """Whether something stands at this place in a run directory that is neither empty nor a report."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        return True
    with durable_files.open_plain(path) as file:
        head = file.read(_HEAD_BYTES)
    return bool(head) and not _OWN[path.name].match(head)


def require_unread(run_dir: Path, names: Collection[str], further: Mapping[str, str | None], read: set[Path]) -> None:
    """Refuse to write a file that the batch reads. Raises UsageError.

    names: of files in `run_dir` that the run may write. further: paths of other files, by option. read: what the
    manifest reads, as it names it and behind all links, in small letters: there are disks that take no notice of case.
    """
    hint = "Nothing was submitted. Move the file elsewhere, or name another run directory with --output."
    folder = Path(str(_real(run_dir)).casefold())
    own = {folder / name.casefold(): name for name in names}
    for path in sorted(own.keys() & read):
        raise UsageError(f"the batch reads {run_dir / own[path]}, and a run would write that file", hint)
    for option, text in further.items():
        if text is not None and Path(str(_real(text)).casefold()) in read:
            raise UsageError(f"{option}: the batch reads {text}", "Give another path. Nothing was submitted.")


def check_places(run_dir: Path, *, junit: str | None, metrics_file: str | None) -> None:
    """Refuse further files where they could not be written, or would take another's place. Raises UsageError.

    For before a run: in the morning it would be late to hear of it. Leaves nothing behind.
    """
    taken = {_real(run_dir) / name: name for name in NAMES}
    for kind, text in ((_JUNIT, junit), (_METRICS, metrics_file)):
        if text is not None:
            path = _real(text)
            complaint = _complaint(path, kind, taken)
            if complaint:
                raise UsageError(f"{kind.option}: {text} {complaint}", "Give another path. Nothing was done.")
            taken[path] = kind.option


def _real(path: Path | str) -> Path:
    """Behind all links, so that it is a link's target that is replaced. A circle of links is left as it is."""
    return Path(os.path.realpath(path))


def _complaint(path: Path, kind: _Kind, taken: Mapping[Path, str]) -> str:
    """What speaks against a further file there; "" where nothing does. taken: other files' places and names."""
    names_in_path = Path(str(path).casefold()).parts  # there are disks that take no notice of case
    if ".batchrunner" in names_in_path:
        return "lies in .batchrunner, the program's own room"
    if names_in_path[-1].endswith(".mp4"):
        return "has the name of a clip"
    for other, name in taken.items():
        if path in (other, *other.parents) or other in path.parents:
            return f"is in the way of {name}"
    try:
        _require_replaceable(path, kind)
        _try(path)
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return ""


def _require_replaceable(path: Path, kind: _Kind) -> None:
    """Raise OSError where something stands at `path` that a file of this kind may not replace."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):  # a folder, a device, a pipe
        raise OSError(errno.EINVAL, "what stands there is not a plain file")
    if _is_own_output(status):
        raise OSError(errno.EINVAL, "this command's own output goes there")
    with durable_files.open_plain(path) as file:
        head = file.read(_HEAD_BYTES)
    if head and not kind.head.match(head):
        raise OSError(errno.EEXIST, f"what stands there is not {kind.what}, and stays")


def _is_own_output(status: os.stat_result) -> bool:
    for descriptor in (1, 2):
        with suppress(OSError):  # it may be closed
            if os.path.samestat(status, os.fstat(descriptor)):
                return True
    return False


def _try(path: Path) -> None:
    """Begin a file as one at `path` will be begun, and remove it. Raises OSError."""
    folder = next(item for item in path.parents if item.is_dir())
    temporary = _temporary(path, folder)
    try:
        Disk().open(temporary, "wb").close()
        temporary.unlink()
    except OSError as error:
        raise OSError(error.errno, f"no file can be made in {folder}: {error.strerror}") from error


def _temporary(path: Path, folder: Path) -> Path:
    # Named after the process: `report` may be asked for while a run writes its own. No `.prom` at the end, which a
    # collector of metrics would read.
    return folder / f".{path.name}.{os.getpid()}.new"


def on_page(snapshot: Snapshot) -> Snapshot:
    """The part of `snapshot` that has cards on the page, and so a use for posters."""
    chosen = places(states(snapshot))
    return replace(snapshot, entries=tuple(snapshot.entries[place] for place in chosen))


def to_json(report: Mapping[str, Any]) -> str:
    """The report as report.json holds it: keys in the contract's order; lone surrogates escaped, so that it encodes."""
    return "".join(json_pieces(report))


def json_pieces(report: Mapping[str, Any]) -> Iterator[str]:
    """The same, piece by piece: a large report is never held whole."""
    from batchrunner.report.formats import JSON, pieces

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

    folder: one on the same file system, in which it is written. kind: of a further file. fault: what kept it from
    being written; from then on nothing more is done, and what stood at `path` stays.
    """

    def __init__(self, path: Path, folder: Path, kind: _Kind | None = None) -> None:
        self.fault: LocalFault | None = None
        self._path = path
        self._kind = kind
        self._temporary = _temporary(path, folder)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._file = Disk().open(self._temporary, "wb")
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
                if self._kind is not None:
                    _require_replaceable(self._path, self._kind)  # it may have come since `check_places`
                else:
                    move_foreign_files(RunDir(self._path.parent))
                Disk().rename(self._temporary, self._path)
            except OSError as error:
                self._fail(error)
            self._drop()

    def _fail(self, error: OSError) -> None:
        self.fault = durable_files.fault(error, f"{self._path} could not be written")
        self._drop()

    def _drop(self) -> None:
        """What has its name is no longer found under the temporary one."""
        file, self._file = self._file, None
        with suppress(OSError):  # a full disk is told of again when what was not written yet is to be
            if file is not None:
                file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
