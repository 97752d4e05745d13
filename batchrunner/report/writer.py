"""Write report.html, report.json, results.csv, JUnit XML and metrics.

Rules: `build` converts the journal to one dict, and all files and sentences come from that dict, so they cannot
disagree. Rows are streamed to the files. Each file is replaced in one step, and only an empty file or an earlier file
of its kind is replaced. In the run directory, another file with the name of a report is moved to
``.batchrunner/kept/``. Elsewhere (JUnit, metrics) another file is an error. A file that the batch reads is never
written. Decisions about jobs do not belong here.
"""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Snapshot
from batchrunner.report import gallery
from batchrunner.report.build import build, states
from batchrunner.report.closing import status_text
from batchrunner.report.gallery import MOST as MOST_CARDS
from batchrunner.report.rows import complete
from batchrunner.report.text import headline
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import REPORTS, RunDir

if TYPE_CHECKING:
    from batchrunner.media.posters import Pictures
    from batchrunner.report.formats import Form
    from batchrunner.report.html import PageRows

__all__ = [
    "MOST_CARDS", "build", "check_places", "foreign_verdicts", "headline", "json_pieces", "move_foreign_files",
    "on_page", "require_unread", "stamps", "status_text", "to_json", "write", "write_and_sum_up", "write_merged"
]  # fmt: skip


_HEAD_BYTES = 512
_ROWS_AT_ONCE = 64
# The beginning of a report of any version.
_OWN = {
    "report.json": re.compile(rb'\{\s*"schema_version":\s*\d+,\s*"(batchrunner_version|name)"'),
    "report.html": re.compile(
        rb"<!doctype html>\s*<html lang=\"en\">\s*<head>\s*<meta charset=\"utf-8\">\s*"
        rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-"
    ),
    "results.csv": re.compile(rb"(\xef\xbb\xbf)?id,state,file,"),
}


class _Kind(NamedTuple):
    """An additional file. what: its content. head: its beginning, which identifies an earlier one."""

    option: str
    what: str
    head: re.Pattern[bytes]


_JUNIT = _Kind("--junit", "JUnit XML", re.compile(rb"<\?xml[^>]*>\s*<testsuites?\b"))
_METRICS = _Kind("--metrics-file", "metrics of a batch", re.compile(rb"# HELP batchrunner_"))


def write(
    snapshot: Snapshot, run_dir: Path, version: str, *, junit: str | None = None, metrics_file: str | None = None
) -> tuple[Path, ...]:
    """Write report.json, report.html and results.csv into `run_dir`, each in one step, and return the paths. Blocks.

    The arguments are those of `write_and_sum_up`.
    """
    return write_and_sum_up(snapshot, run_dir, version, junit=junit, metrics_file=metrics_file)[0]


def write_and_sum_up(
    snapshot: Snapshot, run_dir: Path, version: str, *, junit: str | None = None, metrics_file: str | None = None
) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Do the same, and also return the report, summed up as by `batchrunner.report.closing.summed_up`.

    version: of this program. junit, metrics_file: paths of additional files. If one file cannot be written, the others
    are still written and its old content stays. Verdicts come from review.jsonl; without it, there are none. Raises
    LocalFault for the first failure.
    """
    from batchrunner.media import posters  # imported here, because sentences do not need them
    from batchrunner.report.formats import CSV, JSON, JUNIT, metrics_text
    from batchrunner.report.html import PageRows, render

    lines, unreadable = VerdictLines(run_dir), []
    try:
        lines.refresh()
    except LocalFault as fault:
        unreadable.append(fault)
    report = build(snapshot, version, lines.by_clip)
    rundir = RunDir(run_dir)
    asked = {kind: text for kind, text in ((_JUNIT, junit), (_METRICS, metrics_file)) if text is not None}
    with ExitStack() as stack:
        own = {name: stack.enter_context(_Replacement(run_dir / name, rundir.internal_dir)) for name in REPORTS}
        places = {kind: _real(text) for kind, text in asked.items()}
        further = {kind: stack.enter_context(_Replacement(path, path.parent, kind)) for kind, path in places.items()}
        forms = [(own["report.json"], JSON), (own["results.csv"], CSV)]
        if junit is not None:
            forms.append((further[_JUNIT], JUNIT))
        shown = _with_cards(snapshot)
        found = PageRows(report, shown)
        _write_rows(report, forms, found)
        own["report.html"].put_all(render(report, posters.pictures(rundir, _chosen(snapshot, shown)), found))
        if metrics_file is not None:
            further[_METRICS].put_all([metrics_text(report)])
    faults = [file.fault for file in (*own.values(), *further.values()) if file.fault is not None] + unreadable
    if faults:
        raise faults[0]
    paths = (*(run_dir / name for name in REPORTS), *map(Path, asked.values()))
    return paths, {**report, "causes": found.causes(), "clips": found.clips}


def write_merged(report: dict[str, Any], pictures: "Pictures", folder: Path) -> tuple[Path, ...]:
    """Write a merged report as report.json, results.csv and report.html into `folder` and return the paths. Blocks.

    Each file is replaced in one step, and no file that is not a report. report.json is first, so it identifies the
    others. Raises LocalFault for the first failure.
    """
    from batchrunner.report.formats import CSV, JSON
    from batchrunner.report.html import PageRows, render

    with ExitStack() as stack:
        kinds = {name: _Kind("--merge", "a report of batchrunner", _OWN[name]) for name in REPORTS}
        own = {name: stack.enter_context(_Replacement(folder / name, folder, kinds[name])) for name in REPORTS}
        found = PageRows(report, gallery.places([job["state"] for job in report["jobs"]]))
        _write_rows(report, [(own["report.json"], JSON), (own["results.csv"], CSV)], found)
        own["report.html"].put_all(render(report, pictures, found))
    faults = [file.fault for file in own.values() if file.fault is not None]
    if faults:
        raise faults[0]
    return tuple(folder / name for name in REPORTS)


def foreign_verdicts(run_dir: Path) -> str:
    """Return a warning about lines of review.jsonl that do not count, or "". Raises LocalFault."""
    lines = VerdictLines(run_dir)
    lines.refresh()
    return lines.warning


def stamps(run_dir: Path) -> set[tuple[str, int, int]]:
    """Return the reports in `run_dir`, each with values that change when it is replaced."""
    found = set()
    for name in REPORTS:
        with suppress(OSError):
            status = (run_dir / name).lstat()
            found.add((name, status.st_ino, status.st_mtime_ns))
    return found


def move_foreign_files(rundir: RunDir) -> list[tuple[Path, Path]]:
    """Move other files with the name of a report to ``kept`` and return the old and new paths. Raises OSError."""
    moved = []
    for name in REPORTS:
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
    """Return whether a file in a run directory is neither empty nor a report."""
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

    names: files in `run_dir` that the run may write. further: paths of additional files, by option. read: the files
    that the manifest reads, both as named and with links resolved, in lower case, because some file systems ignore
    case.
    """
    hint = "Nothing was submitted. Move the file elsewhere, or name another run directory with --output."
    folder = Path(str(_real(run_dir)).casefold())
    inside = {str(path.relative_to(folder)): path for path in sorted(read) if path.is_relative_to(folder)}
    own = {name.casefold(): name for name in names if inside and name.casefold() in inside}
    for name in sorted(own):
        raise UsageError(f"the batch reads {run_dir / own[name]}, which a run would overwrite", hint)
    for option, text in further.items():
        if text is not None and Path(str(_real(text)).casefold()) in read:
            raise UsageError(f"{option}: the batch reads {text}", "Give another path. Nothing was submitted.")


def check_places(run_dir: Path, *, junit: str | None, metrics_file: str | None) -> None:
    """Refuse additional files that cannot be written or would replace another file. Raises UsageError.

    It runs before a batch starts, because an error after it would be too late. It leaves no files behind.
    """
    taken = {_real(run_dir) / name: name for name in REPORTS}
    for kind, text in ((_JUNIT, junit), (_METRICS, metrics_file)):
        if text is not None:
            path = _real(text)
            obstacle = _obstacle(path, kind, taken)
            if obstacle:
                raise UsageError(f"{kind.option}: {text} {obstacle}", "Give another path. Nothing was done.")
            taken[path] = kind.option


def _real(path: Path | str) -> Path:
    """Resolve all links, because the target of a link is replaced. A circular link is returned unchanged."""
    return Path(os.path.realpath(path))


def _obstacle(path: Path, kind: _Kind, taken: Mapping[Path, str]) -> str:
    """Return why an additional file cannot be written at `path`, or "". taken: paths and names of the other files."""
    names_in_path = Path(str(path).casefold()).parts  # some file systems ignore case
    if ".batchrunner" in names_in_path:
        return "is in .batchrunner, which only the program uses"
    if names_in_path[-1].endswith(".mp4"):
        return "has the name of a clip"
    for other, name in taken.items():
        if path in (other, *other.parents) or other in path.parents:
            return f"is also the path of {name}"
    try:
        _require_replaceable(path, kind)
        _require_writable(path)
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return ""


def _require_replaceable(path: Path, kind: _Kind) -> None:
    """Raise OSError if a file of this kind must not replace the file at `path`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):  # a directory, a device, a pipe
        raise OSError(errno.EINVAL, "it is not a regular file")
    if _is_own_output(status):
        raise OSError(errno.EINVAL, "this command's own output goes there")
    with durable_files.open_plain(path) as file:
        head = file.read(_HEAD_BYTES)
    if head and not kind.head.match(head):
        raise OSError(errno.EEXIST, f"the existing file is not {kind.what} and is not replaced")


def _is_own_output(status: os.stat_result) -> bool:
    for descriptor in (1, 2):
        with suppress(OSError):  # the descriptor may be closed
            if os.path.samestat(status, os.fstat(descriptor)):
                return True
    return False


def _require_writable(path: Path) -> None:
    """Create a temporary file next to `path` and remove it. Raises OSError."""
    folder = next(item for item in path.parents if item.is_dir())
    temporary = _temporary(path, folder)
    try:
        Disk().open(temporary, "wb").close()
        temporary.unlink()
    except OSError as error:
        raise OSError(error.errno, f"no file can be created in {folder}: {error.strerror}") from error


def _temporary(path: Path, folder: Path) -> Path:
    # The process id is in the name because `report` may run at the same time as a run. The suffix is not `.prom`,
    # because a metrics collector would read it.
    return folder / f".{path.name}.{os.getpid()}.new"


def on_page(snapshot: Snapshot) -> Snapshot:
    """Return the part of `snapshot` with cards on the page. Only these jobs need posters."""
    return _chosen(snapshot, _with_cards(snapshot))


def _chosen(snapshot: Snapshot, shown: Sequence[int]) -> Snapshot:
    return replace(snapshot, entries=tuple([snapshot.entries[place] for place in shown]))


def _with_cards(snapshot: Snapshot) -> Sequence[int]:
    """Return the indexes of the entries with a card."""
    count = len(snapshot.entries)
    return range(count) if count <= gallery.MOST else gallery.places(states(snapshot))


def to_json(report: Mapping[str, Any]) -> str:
    """Return the report as JSON, with keys in the contract's order.

    Lone surrogates are escaped, because UTF-8 lacks them.
    """
    return "".join(json_pieces(report))


def json_pieces(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report as JSON in pieces, because a large report does not fit in memory."""
    from batchrunner.report.formats import JSON, pieces

    for piece in pieces(JSON, dict(report)):
        yield piece.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_rows(report: dict[str, Any], files: Sequence[tuple["_Replacement", "Form"]], page: "PageRows") -> None:
    """Write all files with a line per job, and collect what the page needs, in one pass over the rows."""
    for file, form in files:
        file.put(form.first(report))
    jobs, number = iter(report["jobs"]), 0
    while rows := [complete(job) for job in islice(jobs, _ROWS_AT_ONCE)]:
        page.add(number, rows)
        for file, form in files:
            text = form.between.join([form.line(report, row) for row in rows])
            file.put(f"{form.between if number else ''}{text}")
        number += len(rows)
    for file, form in files:
        file.put_all(form.last(report))


class _Replacement:
    """A file that replaces the one at `path` when it is complete. Use as a context manager.

    folder: a directory on the same file system for the temporary file. kind: of an additional file. fault: the first
    failure; after it nothing more is written, and the file at `path` stays.
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
        """Append text."""
        if self._file is not None:
            try:
                self._file.write(text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                self._fail(error)

    def put_all(self, texts: Iterable[str]) -> None:
        """Append the last texts and replace the file."""
        for text in texts:
            self.put(text)
        if self._file is not None:
            try:
                Disk().flush(self._file)
                if self._kind is not None:
                    _require_replaceable(self._path, self._kind)  # another file may exist since `check_places`
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
        """Close and remove the temporary file."""
        file, self._file = self._file, None
        with suppress(OSError):  # a full disk was reported by the write that failed
            if file is not None:
                file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
