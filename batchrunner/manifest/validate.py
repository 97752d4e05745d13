"""What `batchrunner validate` finds and how it tells it: text, one JSON document, or annotations.

Rule: a manifest that cannot even be read is a finding like any other, so that every form tells of it. Nothing is
printed here.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from batchrunner.errors import ManifestError, UsageError
from batchrunner.formatting import count_text, printable, printable_json
from batchrunner.manifest.diagnostics.diagnostic import Diagnostic
from batchrunner.manifest.diagnostics.render import LIMIT, as_json, github, render, summary
from batchrunner.manifest.loader import load

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Checked:
    """One manifest after its check. jobs: how many entries it has, None where it is not valid. refusal: in one line."""

    path: Path
    diagnostics: tuple[Diagnostic, ...]
    jobs: int | None = None
    refusal: str = ""

    @property
    def valid(self) -> bool:
        """True if the manifest would run."""
        return self.jobs is not None


def check(
    path: Path,
    given: Mapping[str, str] = _NONE,
    environment: Mapping[str, str] = _NONE,
    allowed: Iterable[str] = (),
) -> Checked:
    """Look at the manifest at `path`, local inputs included. The other arguments are those of `load`."""
    try:
        batch = load(path, given, environment, allowed)
    except ManifestError as error:
        return Checked(path, tuple(error.diagnostics), refusal=error.message)
    except UsageError as error:
        told = Diagnostic("file", "error", str(path), 1, 1, error.message, error.hint)
        return Checked(path, (told,), refusal=error.message)
    return Checked(path, batch.warnings, len(batch.entries))


def shown(
    checked: Sequence[Checked], form: str, most: int | None, *, colour: bool = False
) -> Iterator[tuple[str, bool]]:
    """What to print, piece by piece: the text, and whether it tells of a problem (that is for standard error).

    form: ``text``, ``json`` or ``github``. most: how many problems of each manifest, 0 for all, None for as many as
    the form shows unasked.
    """
    if form == "json":
        yield _document(checked, most or None), False
        return
    limit = None if most == 0 else most or LIMIT
    for each in checked:
        if each.diagnostics and form == "github":
            yield github(each.diagnostics, limit), False
        elif each.diagnostics:
            yield render(each.diagnostics, limit, colour=colour), True
        if each.valid:
            found = summary(each.diagnostics) or "no problems"
            yield f"{printable(str(each.path))}: {count_text(each.jobs or 0, 'job')}, {found}", False
        elif form == "text" and each.diagnostics[0].code != "file":
            yield f"{printable(each.refusal)}; nothing was submitted", True


def _document(checked: Sequence[Checked], limit: int | None) -> str:
    """The JSON document; its keys are stable. The README describes it."""
    files = [
        {
            "file": str(each.path),
            "valid": each.valid,
            "jobs": each.jobs,
            "errors": _number(each, "error"),
            "warnings": _number(each, "warning"),
            "diagnostics": [as_json(told) for told in each.diagnostics[:limit]],
        }
        for each in checked
    ]
    document = {"schema_version": 1, "valid": all(each.valid for each in checked), "files": files}
    return printable_json(json.dumps(document, indent=1))


def _number(checked: Checked, severity: str) -> int:
    return sum(each.severity == severity for each in checked.diagnostics)
