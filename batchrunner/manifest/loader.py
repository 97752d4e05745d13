"""Load a manifest from its path into a Batch, or report all its problems.

The steps: bytes, values with places (`yaml_source`), variables (`variables`), validation (`schema`), one row per job
(`expand`, `tables`), then each row's id, inputs and fingerprint (`assemble`). Each step records its problems and passes
the usable values to the next step.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from batchrunner.errors import ManifestError, UsageError
from batchrunner.gc_pause import gc_paused
from batchrunner.job import Entry
from batchrunner.manifest import expand, filenames, schema, variables
from batchrunner.manifest.assemble import Assembly, Check, Packed
from batchrunner.manifest.diagnostics.diagnostic import (
    START,
    Diagnostic,
    Findings,
    TooManyProblems,
    count,
    nearest,
    split_lines,
)
from batchrunner.manifest.inputs import Inputs, Objects
from batchrunner.manifest.row import Row
from batchrunner.manifest.tables import formats, reader
from batchrunner.manifest.trace import Content, Trace
from batchrunner.manifest.yaml_source import files
from batchrunner.manifest.yaml_source.values import YamlMapping, plain
from batchrunner.redaction import api_keys
from batchrunner.settings import PREFIX, SETTINGS
from batchrunner.storage.objects.address import is_address
from batchrunner.storage.paths import expanded

STDIN = Path("-")
_NOT_OF_A_MANIFEST = {"env", *(item.name for item in SETTINGS if item.by_user)}
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Batch:
    """A valid manifest.

    name: as given, or the file's stem. sha256: hex digest of the manifest's bytes.
    settings: the run settings in the manifest, by name, with YAML values (for `batchrunner.settings.resolve`).
    entries: in manifest order, with 0-based `position`; equal jobs share one Job object, unless packed.
    warnings: in order of place.
    prices: the manifest's own prices, in credits per video second by resolution. read: names of the environment
    variables whose values are in the manifest. files: the manifest and its tables. digests: name and hex SHA-256 of
    the manifest and of every table that it reads, in order. dataset: the manifest's `dataset` block, or None.
    unmatched: the patterns without a match, if the manifest was loaded without its input files; otherwise None.
    count: the number of entries, also where they were not kept (`LoadOptions.only_check`).
    """

    name: str
    path: Path
    sha256: str
    settings: Mapping[str, object]
    entries: Sequence[Entry]
    warnings: tuple[Diagnostic, ...]
    prices: Mapping[str, float] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    dataset: Mapping[str, Any] | None = None
    unmatched: int | None = None
    count: int = 0


class LoadOptions(NamedTuple):
    """What a load does besides.

    trace: filled with places. contents: read no local inputs and no buckets; take the contents of inputs from here, by
    name as written. A pattern then also matches these names. None: read the inputs. only_check: count the entries, and
    return a batch without them, for which a tenth of the memory is enough. packs: keep the entries packed
    (`batchrunner.manifest.packed`), unless there is a trace.
    """

    trace: Trace | None = None
    contents: Mapping[str, Content] | None = None
    only_check: bool = False
    packs: bool = False


_PLAIN = LoadOptions()


def load(
    path: Path,
    assignments: Mapping[str, str] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
    allowed: Iterable[str] = (),
    objects: Objects | None = None,
    options: LoadOptions = _PLAIN,
) -> Batch:
    """Read, check and expand the manifest at `path`, including its local inputs. Submits nothing, fetches no URL.

    path: a YAML file, a table of jobs, or ``-`` for YAML on standard input. assignments: variables from the command
    line. environment: the process's, for the other variables. allowed: names of the environment variables that the
    manifest may read (`variables.read_allowed`). objects: reads the inputs in buckets; None to refuse them. Raises
    UsageError if there is no readable file at `path` or if a variable of the command line is not used. Raises
    ManifestError with all problems otherwise.
    """
    known = variables.Variables(assignments, environment, allowed)
    loading = _Loading(path, known, api_keys(environment), objects, options)
    with gc_paused():
        try:
            return loading.batch()
        except TooManyProblems:
            raise loading.refusal(" or more; reading stopped") from None


class _Loading:
    """The load of one manifest. Each file has its own findings, in the order in which the files are read."""

    def __init__(
        self,
        path: Path,
        known: variables.Variables,
        keys: tuple[str, ...],
        objects: Objects | None,
        options: LoadOptions,
    ) -> None:
        self._path = path
        self._objects = objects
        self._trace = options.trace
        self._contents = options.contents
        self._only_check = options.only_check
        self._packs = options.packs and options.trace is None
        self._unmatched = 0
        self._known = known
        self._keys = keys
        self._base = Path.cwd() if path == STDIN else Path(os.path.abspath(path)).parent  # noqa: PTH100 (keep links)
        self._findings = Findings("<stdin>" if path == STDIN else str(path), secrets=keys)
        self._tables: list[tuple[Findings, Path]] = []
        self._digests: list[tuple[str, str]] = []  # of the tables

    def batch(self) -> Batch:
        """Return the batch. Raises ManifestError, UsageError."""
        root, refused, sha256 = self._root()
        if root is None:
            raise self.refusal()
        bad = schema.check(root, self._findings, refused)
        self._check_default_name(root, bad)
        assembly = self._assembly(Inputs(self._base, self._objects, self._contents))
        has_files = self._contents is None
        for row in expand.expand(root, bad, self._glob, self._rows, self._findings, has_files=has_files):
            assembly.add(row)
        assembly.settle()
        if any(item.errors for item in self._all_findings()):
            raise self.refusal()
        self._require_use()
        self._fill_trace()
        top: Mapping[str, Any] = root if isinstance(root, dict) else {}
        entries = assembly.entries()
        return Batch(
            name=top.get("name", "stdin" if self._path == STDIN else self._path.stem),
            path=self._path,
            sha256=sha256,
            settings={item.name: top[item.name] for item in SETTINGS if item.name in top and not item.by_user},
            entries=entries,
            warnings=self._diagnostics(),
            prices=top.get("prices", {}),
            read=tuple(sorted(self._known.read)),
            digests=tuple(dict.fromkeys(((str(self._path), sha256), *self._digests))),
            dataset=plain(top["dataset"]) if "dataset" in top else None,
            files=(*([] if self._path == STDIN else [self._path]), *(path for _, path in self._tables)),
            unmatched=None if has_files else self._unmatched,
            count=assembly.jobs,
        )

    def _assembly(self, inputs: Inputs) -> Assembly:
        if self._only_check:
            return Check(inputs)
        return Packed(inputs) if self._packs else Assembly(inputs, self._trace)

    def _glob(self, pattern: str) -> list[str]:
        """Return what matches a pattern. Raises MediaProblem for a bucket that cannot be listed."""
        is_object = self._objects is not None and is_address(pattern)
        if self._contents is None:
            return self._objects.glob(pattern) if self._objects and is_object else files.glob(pattern, self._base)
        here = [] if is_object else files.glob(pattern, self._base)
        found = list({*here, *files.matching(pattern, self._contents)})
        self._unmatched += not found
        return found

    def _fill_trace(self) -> None:
        if self._trace is not None:
            self._trace.findings = self._findings
            self._trace.variables = {name: tuple(sorted(values)) for name, values in self._known.inserted.items()}
            self._trace.variable_marks = self._known.places

    def _root(self) -> tuple[Any, schema.BadPlaces, str]:
        """Return the manifest's values with variables inserted, the places where that failed, and its digest.

        A table is handled as a manifest whose only content is `jobs_from` with its own name.
        """
        if formats.is_table(self._path.name):
            whole = YamlMapping(START)
            whole.put("jobs_from", self._path.name, START, START)
            return whole, set(), files.sha256(self._path)
        data = files.read_stream(sys.stdin.buffer) if self._path == STDIN else files.read(self._path)
        from batchrunner.manifest.yaml_source import parser  # here, as tables need no YAML

        root = parser.parse(data, self._findings)
        refused: schema.BadPlaces = set()
        if isinstance(root, YamlMapping):
            self._ignore(root)
        if root is not None:
            text = data.decode("utf-8-sig")
            if any(key in text for key in self._keys):
                for number, line in enumerate(split_lines(text), 1):
                    self._findings.search(line, number)
            refused = variables.insert(root, text, self._known, self._findings)
        return root, refused, hashlib.sha256(data).hexdigest()

    def _ignore(self, root: YamlMapping) -> None:
        """Remove the keys that a manifest cannot set, because it may come from a stranger."""
        for name in sorted(_NOT_OF_A_MANIFEST & root.keys()):
            flag, variable = "--" + name.replace("_", "-"), f"{PREFIX}{name.upper()}"
            message = f"'{name}' is ignored in a manifest: use {flag} or {variable}"
            self._findings.warn("ignored-key", root.key_marks[name], message)
            root.drop(name)

    def _check_default_name(self, root: Any, bad: schema.BadPlaces) -> None:
        """Report an invalid file name in the defaults once instead of for each job."""
        defaults = root.get("defaults") if isinstance(root, YamlMapping) else None
        if isinstance(defaults, YamlMapping) and "file" in defaults and ("defaults", "file") not in bad:
            message, hint = filenames.pattern_fault(defaults["file"])
            if message:
                self._findings.error("file-name", defaults.value_marks["file"], message, hint)
                bad.add(("defaults", "file"))

    def _rows(self, name: str, place: int, allow_empty: bool) -> Iterator[Row]:
        """Yield the rows of the table `name`, which the manifest names at `place`."""
        if not formats.is_table(name):
            hint = f"a table has the extension {formats.endings()}"
            self._findings.error("table", place, f"{name[:100]} is not a table of jobs", hint)
            return
        written, name = name, expanded(name)
        path = self._base / name
        try:
            file = files.open_table(path, name)
        except UsageError as error:
            self._findings.error("table", place, error.message, error.hint)
            return
        shown = self._path if formats.is_table(self._path.name) else files.beside(self._path, name)
        findings = Findings(str(shown), quotes=files.is_inside(path, self._base), secrets=self._keys)
        self._tables.append((findings, path))
        empty = True
        with file:
            hashed = files.HashedFile(file)
            table = reader.Table(hashed, files.folder_of(name, self._base), findings)
            for row in formats.rows(table, name):
                empty = False
                yield row
            digest = hashed.sha256()
            self._digests.append((str(shown), digest))
        if self._trace is not None:
            self._trace.tables.setdefault(written, (self._findings, place))
            self._trace.contents[written] = Content(digest, hashed.size_bytes)
        if empty and not allow_empty and not findings.errors:
            hint = "'allow_empty: true' at the top of the manifest allows this"
            self._findings.error("no-match", place, f"the table {name} contains no jobs", hint)

    def _require_use(self) -> None:
        """Raise UsageError for an unused variable of the command line: a typo would silently use the default."""
        for name in self._known.unknown():
            near = nearest(name, sorted(self._known.used))
            message = f"--set {name}: nothing in {self._findings.file} uses ${{{name}}}"
            raise UsageError(message, f"did you mean {near}?" if near else "")

    def _all_findings(self) -> list[Findings]:
        return [self._findings, *(findings for findings, _ in self._tables)]

    def _diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return all diagnostics: the manifest's, then those of each table, each in order of place."""
        for findings, path in self._tables:
            if findings.quotes and not findings.text and findings.all:
                findings.text = files.for_quoting(path)
        return tuple(item for findings in self._all_findings() for item in findings.all)

    def refusal(self, more: str = "") -> ManifestError:
        """Return an error with all problems. more: text after their number."""
        number = count(sum(len(item.errors) for item in self._all_findings()), "error")
        return ManifestError(f"{self._findings.file} does not validate: {number}{more}", self._diagnostics())
