"""Check manifests for `batchrunner validate` and format the result as text, one JSON document, or annotations.

An unreadable manifest is a diagnostic like any other, and every format reports it. This module prints nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from batchrunner.errors import ManifestError, UsageError
from batchrunner.formatting import count_text, printable, printable_json
from batchrunner.manifest.diagnostics.diagnostic import Diagnostic
from batchrunner.manifest.diagnostics.render import LIMIT, as_json, github, render, summary
from batchrunner.manifest.inputs import Objects
from batchrunner.manifest.loader import Batch, load

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one manifest. jobs: number of entries, None if not valid. refusal: the error in one line.

    unmatched: the patterns without a match, if the inputs were not read; otherwise None.
    """

    path: Path
    diagnostics: tuple[Diagnostic, ...]
    jobs: int | None = None
    refusal: str = ""
    unmatched: int | None = None

    @property
    def valid(self) -> bool:
        """True if the manifest is valid."""
        return self.jobs is not None


def check(
    path: Path,
    assignments: Mapping[str, str] = _NONE,
    environment: Mapping[str, str] = _NONE,
    allowed: Iterable[str] = (),
    objects: Objects | None = None,
    read: Callable[[Path, Mapping[str, str], Mapping[str, str], Iterable[str], Objects | None], Batch] = load,
) -> Checked:
    """Check the manifest at `path`, including its local inputs. The other arguments are those of `load`.

    read: loads the manifest; `batchrunner.app.lock.load_to_check` also compares it with its lock file.
    """
    try:
        batch = read(path, assignments, environment, allowed, objects)
    except ManifestError as error:
        return Checked(path, tuple(error.diagnostics), refusal=error.message)
    except UsageError as error:
        diagnostic = Diagnostic("file", "error", str(path), 1, 1, error.message, error.hint)
        return Checked(path, (diagnostic,), refusal=error.message)
    return Checked(path, batch.warnings, batch.count, unmatched=batch.unmatched)


def shown(
    checked: Sequence[Checked], form: str, most: int | None, *, colour: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yield the output piece by piece: the text, and whether it reports a problem (which goes to standard error).

    form: ``text``, ``json`` or ``github``. most: how many problems of each manifest; 0 for all, None for the default of
    the format.
    """
    if form == "json":
        yield _document(checked, most or None), False
        return
    limit = None if most == 0 else most or LIMIT
    for item in checked:
        if item.diagnostics and form == "github":
            yield github(item.diagnostics, limit), False
        elif item.diagnostics:
            yield render(item.diagnostics, limit, colour=colour), True
        if item.valid:
            found = summary(item.diagnostics) or "no problems"
            yield f"{printable(str(item.path))}: {count_text(item.jobs or 0, 'job')}, {found}{_unread(item)}", False
        elif form == "text" and item.diagnostics[0].code != "file":
            yield f"{printable(item.refusal)}; nothing was submitted", True


def _unread(item: Checked) -> str:
    """Return what was not checked, as the end of a sentence."""
    if item.unmatched is None:
        return ""
    missing = f"; {count_text(item.unmatched, 'pattern')} without a file, so without jobs" if item.unmatched else ""
    return f"; inputs were not read{missing}"


def _document(checked: Sequence[Checked], limit: int | None) -> str:
    """Return the JSON document. Its keys are stable. docs/diagnostics.md describes it."""
    files = [
        {
            "file": str(item.path),
            "valid": item.valid,
            "jobs": item.jobs,
            "inputs_read": item.unmatched is None,
            "unmatched_patterns": item.unmatched or 0,
            "errors": _number(item, "error"),
            "warnings": _number(item, "warning"),
            "diagnostics": [as_json(diagnostic) for diagnostic in item.diagnostics[:limit]],
        }
        for item in checked
    ]
    document = {"schema_version": 1, "valid": all(item.valid for item in checked), "files": files}
    return printable_json(json.dumps(document, indent=1))


def _number(checked: Checked, severity: str) -> int:
    return sum(item.severity == severity for item in checked.diagnostics)
