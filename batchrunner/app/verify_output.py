"""The command ``verify``: find out what a path is, check it, and print what was found, as text or as JSON.

A run directory with a journal is checked against the journal, and its clips are always decoded. report.json, a data set
and SHA256SUMS need no journal; their clips are decoded on request (``--deep``).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

from batchrunner.app import verify, verify_files
from batchrunner.app.verify_copies import check_copy
from batchrunner.app.verify_files import EXTRA, Finding
from batchrunner.datasets import sums
from batchrunner.errors import ExitStatus, UsageError
from batchrunner.formatting import count_text, printable
from batchrunner.report import reader
from batchrunner.storage import durable_files
from batchrunner.storage.objects.blocking import ObjectReader
from batchrunner.storage.run_directory import RunDir
from batchrunner.workers.engines import Workers

RUN_DIR, REPORT, DATASET, LIST = "run directory", "report", "data set", "SHA256SUMS"
BUCKET = "place in a bucket"
_HEAD_BYTES = 1 << 16
_REPORT = "report.json"
_CLEAR_LINE = "\r\x1b[2K"


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked. kind: RUN_DIR, REPORT, DATASET, LIST or BUCKET.

    path: the run directory, the list's file, or the address of the place in a bucket.
    """

    kind: str
    path: Path | str


def recognize(path: Path) -> Target | None:
    """Return what a path names, or None for another file, which may be a manifest. Raises UsageError."""
    try:
        if not path.is_dir():
            return _recognize_file(path)
        if RunDir(path).journal.exists():
            return Target(RUN_DIR, path)
        for name, kind in ((sums.SUMS, DATASET), (_REPORT, REPORT)):
            if (path / name).exists():
                return Target(kind, path / name)
    except OSError:
        return None
    from batchrunner.app import shards  # here, as most commands need no manifest's modules

    hint = (
        shards.where_else(path)
        or "Name a run directory, a report.json, a folder that batchrunner export has finished, or a SHA256SUMS."
    )
    raise UsageError(f"{path} has no journal, no {sums.SUMS} and no {_REPORT}: there is nothing to check against", hint)


def _recognize_file(path: Path) -> Target | None:
    with durable_files.open_plain(path, follow=True) as file:
        head = file.read(_HEAD_BYTES)
    if reader.is_report(head):
        return Target(REPORT, path)
    is_list = any(sums.is_entry(line + b"\n") for line in islice(head.split(b"\n"), 100))
    return Target(LIST, path) if is_list or path.name == sums.SUMS else None


def check(target: Target, workers: Workers, *, deep: bool, objects: ObjectReader | None = None) -> Iterator[Finding]:
    """Check a target. objects: reads the copies of clips in a bucket. Raises BatchrunnerError."""
    try:
        if isinstance(target.path, str):
            from batchrunner.app.verify_bucket import verify_bucket

            assert objects is not None
            yield from verify_bucket(target.path, workers, objects, deep=deep)
        elif target.kind == RUN_DIR:
            from batchrunner.app.status import read_snapshot

            rundir = RunDir(target.path)
            yield from verify.verify(rundir, read_snapshot(rundir), workers, objects)
        elif target.kind == REPORT:
            copies = partial(check_copy, objects, workers.local if deep else None) if objects else None
            yield from verify_files.verify_report(target.path, workers, deep=deep, check_copy=copies)
        else:
            yield from verify_files.verify_sums(target.path, workers, deep=deep, whole_folder=target.kind == DATASET)
    except ValueError as error:
        raise UsageError(f"{target.path} cannot be used as a report: {error}", "Name another file.") from error
    except OSError as error:
        raise UsageError(f"{target.path} cannot be read: {error.strerror or error}") from error


class Progress:
    """A line on the terminal that counts files. stream: None, or a terminal."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def show(self, files: int, bad: int) -> None:
        """Show the counts."""
        if self._stream is not None:
            self._stream.write(f"{_CLEAR_LINE}{_counts(files, bad)}")
            self._stream.flush()

    def hide(self) -> None:
        """Clear the line, before other text is written."""
        if self._stream is not None:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()


class Tally:
    """Counts findings. Only counts are kept, not findings."""

    def __init__(self) -> None:
        self.files = self.clips = self.unopened = 0
        self.kinds: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        self.files += finding.kind != EXTRA
        self.clips += finding.clips
        self.unopened += finding.name.lower().endswith(".parquet") and not finding.kind
        if finding.kind:
            self.kinds[finding.kind] += 1

    @property
    def bad(self) -> int:
        """The number of problems."""
        return self.kinds.total()


def run(target: Target, findings: Iterator[Finding], echo: Callable[[str], None], progress: Progress) -> Tally:
    """Print each problem and return the counts."""
    tally = Tally()
    for finding in findings:
        tally.add(finding)
        if finding.kind:
            progress.hide()
            echo(printable(f"{finding.name}: {finding.message}"))
        progress.show(tally.files, tally.bad)
    progress.hide()
    _require_entries(target, tally)
    return tally


def run_json(target: Target, findings: Iterator[Finding], out: Callable[[str], None], progress: Progress) -> Tally:
    """Write one JSON document with all problems, a problem at a time. Return the counts."""
    tally, separator = Tally(), ""
    # The first finding comes before the first output: a target that cannot be read gives no half document.
    first = next(findings, None)
    if first is None:
        _require_entries(target, tally)
    out(f'{{"target": {json.dumps(str(target.path))}, "kind": "{target.kind}", "problems": [')
    while first is not None:
        tally.add(first)
        if first.kind:
            out(f"{separator}\n {json.dumps({'file': first.name, 'kind': first.kind, 'message': first.message})}")
            separator = ","
        progress.show(tally.files, tally.bad)
        first = next(findings, None)
    progress.hide()
    out(f'\n], "files": {tally.files}, "clips_decoded": {tally.clips}, "bad": {tally.bad}}}\n')
    return tally


def _require_entries(target: Target, tally: Tally) -> None:
    """Refuse a list without entries: it proves nothing."""
    if target.kind in {LIST, DATASET, BUCKET} and not tally.files:
        raise UsageError(f"{target.path} names no files: there is nothing to check against")


def summary(target: Target, tally: Tally, *, deep: bool) -> str:
    """Return the last line."""
    checked = f"{tally.files} results" if target.kind == RUN_DIR else count_text(tally.files, "file")
    text = f"{checked} checked, {tally.bad} bad"
    if tally.kinds:
        text += ": " + ", ".join(f"{count} {kind}" for kind, count in tally.kinds.items())
    if target.kind == RUN_DIR:
        return text
    if not deep:
        return f"{text}. With --deep, the clips are decoded too."
    text += f". {count_text(tally.clips, 'clip')} decoded."
    if tally.unopened and target.kind != REPORT:
        text += f" Clips inside {count_text(tally.unopened, 'parquet file')} were not decoded."
    return text


def _counts(files: int, bad: int) -> str:
    return f"{count_text(files, 'file')} checked, {bad} bad"


def exit_status(tally: Tally) -> int:
    """Return 0 without problems, 1 otherwise."""
    return ExitStatus.FAILED if tally.bad else ExitStatus.OK
