"""From a manifest's path to a Batch, or to everything that is wrong with it.

The way of a manifest: bytes, values with places (`source`), shape (`schema`), rows (`expand`), ids (`ids`), inputs
(`inputs`), jobs (`fingerprint`). Each step notes what it finds and leaves the usable rest to the next one.
"""

import difflib
import glob
import hashlib
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrunner.errors import ManifestError, UsageError
from batchrunner.job import Entry, Job, Media
from batchrunner.manifest import expand, ids, schema, source
from batchrunner.manifest.diagnostics import Diagnostic, Findings, count, line_of
from batchrunner.manifest.fingerprint import MODEL, complete, fingerprint
from batchrunner.manifest.inputs import Inputs
from batchrunner.manifest.row import Row
from batchrunner.media import Kind, MediaProblem
from batchrunner.settings import SETTINGS

_MAX_BYTES = 256 << 20
_INPUTS: tuple[Kind, Kind] = ("video", "image")


@dataclass(frozen=True, slots=True)
class Batch:
    """A manifest that validates.

    name: as given, or the file's stem. sha256: hex digest of the manifest's bytes.
    settings: the run settings that it holds, by name, as YAML gave them (`batchrunner.settings.resolve` takes them).
    entries: in manifest order, `position` counted from 0; equal jobs share one Job object. warnings: in order of place.
    """

    name: str
    path: Path
    sha256: str
    settings: Mapping[str, object]
    entries: tuple[Entry, ...]
    warnings: tuple[Diagnostic, ...]


def load(path: Path) -> Batch:
    """Read, check and expand the manifest at `path`, local inputs included. Submits and fetches nothing.

    Raises UsageError where there is no readable file at `path`, ManifestError with every problem in it otherwise.
    """
    data = _read(path)
    findings = Findings(str(path))
    root = source.parse(data, findings)
    if root is None:
        raise _refusal(path, findings)
    base = Path(os.path.abspath(path)).parent  # noqa: PTH100 (resolve() would follow a link to the manifest)
    bad = schema.check(root, findings)
    rows = expand.expand(root, bad, lambda pattern: _glob(pattern, base), findings)
    names = ids.assign(rows, findings)
    media = _inputs(rows, Inputs(base), findings)
    if findings.errors:
        raise _refusal(path, findings)
    top: Mapping[str, Any] = root if isinstance(root, dict) else {}
    return Batch(
        name=top.get("name", path.stem),
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        settings={each.name: top[each.name] for each in SETTINGS if each.name in top},
        entries=_entries(rows, names, media, findings),
        warnings=findings.all,
    )


def _refusal(path: Path, findings: Findings) -> ManifestError:
    number = count(len(findings.errors), "error")
    return ManifestError(f"{path} does not validate: {number}", findings.all)


def _read(path: Path) -> bytes:
    """The manifest's bytes. What is not a regular file is refused before it is opened."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise UsageError(f"{path} is a directory", _manifests_in(path))
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{path} is not a regular file")
        if facts.st_size > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MiB", "is it a manifest?")
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", _similar(path)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _manifests_in(folder: Path) -> str:
    names = _names_in(folder)
    return f"name a file, such as {folder / names[0]}" if names else "name a file"


def _similar(path: Path) -> str:
    close = difflib.get_close_matches(path.name, _names_in(path.parent), n=1, cutoff=0.5)
    return f"did you mean {path.parent / close[0]}?" if close else ""


def _glob(pattern: str, base: Path) -> list[str]:
    """Paths matching `pattern`, written relative to `base` unless the pattern is absolute. At most one too many."""
    if os.path.lexists(base / pattern):
        return [pattern]  # a file whose name holds wildcards
    matches = glob.iglob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
    return list(itertools.islice(matches, expand.MAX_ROWS + 1))


def _inputs(rows: Sequence[Row], inputs: Inputs, findings: Findings) -> list[dict[Kind, Media]]:
    """The inputs of each row; those that cannot be used are noted and left out."""
    media: list[dict[Kind, Media]] = []
    for row in rows:
        found: dict[Kind, Media] = {}
        for kind in _INPUTS:
            if kind in row.fields:
                try:
                    found[kind] = inputs.get(kind, row.fields[kind])
                except MediaProblem as problem:
                    findings.error(kind, row.place(kind), problem.message, problem.hint)
        media.append(found)
    return media


def _entries(
    rows: Sequence[Row], names: Sequence[str], media: Sequence[Mapping[Kind, Media]], findings: Findings
) -> tuple[Entry, ...]:
    """The entries of a manifest without errors. Equal jobs become one, and that is told."""
    jobs: dict[str, tuple[Job, int]] = {}
    entries: list[Entry] = []
    for position, (row, name, found) in enumerate(zip(rows, names, media, strict=True)):
        params = complete(row.fields)
        key = fingerprint(MODEL, found["video"], found["image"], params)
        if key not in jobs:
            jobs[key] = (Job(key, MODEL, found["video"], found["image"], params), position)
        job, first = jobs[key]
        if first != position:
            message = f"'{name}' is the same job as '{names[first]}' on line {line_of(rows[first].mark)}"
            hint = "it is paid for once and delivered under both ids"
            findings.warn("same-job", row.mark, message, hint)
        entries.append(Entry(position, name, job, row.fields.get("tags", {})))
    return tuple(entries)
