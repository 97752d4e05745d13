"""The name of a job's result, from a pattern such as ``{id}-{resolution}``. Pure.

Rule: a result's name is safe everywhere, as an id is, and no two differ only in case; ``.mp4`` follows. A name never
counts for what a job is: a new pattern gives the results other names, and nothing is paid again.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import nearest
from batchrunner.manifest.fingerprint import PARAMETERS, complete
from batchrunner.manifest.ids import cleaned, fault, stem
from batchrunner.manifest.row import Places, Row

_DEFAULT = "{id}"
_HOLE = re.compile(r"\{([^{}]*)\}")
_ID = "\0"  # stands for the id until ids are settled; no name may hold it
_KNOWN = ("id", "video", "image", *PARAMETERS)
_MAX_TEXT = 1000


class FileNames:
    """The results' names of one batch: `add` each row in order, then `settled`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._patterned: dict[int, tuple[str, Row]] = {}
        self._number = 0

    def add(self, row: Row) -> None:
        """Take the next row."""
        pattern = row.fields.get("file", _DEFAULT)
        if pattern != _DEFAULT:
            name = _filled(pattern, row)
            if name is not None:
                bare = Row({"file": pattern}, {"file": row.place("file")}, row.mark, row.findings)
                self._patterned[self._number] = (name, bare)
        self._number += 1

    def settled(self, ids: Sequence[str]) -> dict[int, str]:
        """The names that are not the id, by position, without ``.mp4``. Names that cannot be are noted."""
        names: dict[int, str] = {}
        if not self._patterned:
            return names
        taken = {each.lower(): at for at, each in enumerate(ids) if at not in self._patterned}
        for position, (draft, row) in self._patterned.items():
            name = draft.replace(_ID, ids[position])
            wrong = fault(name, "file name")
            if wrong:
                clean = cleaned(name)
                row.error("file-name", "file", wrong, f"{clean} would do" if clean else "add {id}")
                continue
            first = taken.setdefault(name.lower(), position)
            if first != position:
                other = self._places.line(first, row.findings)
                hint = "add {id}, or what tells these jobs apart; case does not tell files apart everywhere"
                row.error("duplicate-file", "file", f"the file name '{name}' is taken by the job on {other}", hint)
            elif name != ids[position]:
                names[position] = name
        return names


def pattern_fault(pattern: str) -> tuple[str, str]:
    """Message and hint of what is wrong with a pattern for every job; empty where nothing is."""
    return _holes(pattern)[1:]


@lru_cache(maxsize=4096)
def _holes(pattern: str) -> tuple[tuple[str, ...], str, str]:
    """The placeholders of a pattern; message and hint of what is wrong with it, or nothing."""
    names = tuple(_HOLE.findall(pattern))
    if any(each in _HOLE.sub("", pattern) for each in "{}\0"):
        return names, "the file name holds a brace without its partner", "placeholders are written {id}"
    for name in names:
        if name not in _KNOWN and not (name.startswith("tags.") and name != "tags."):
            guess = nearest(name, (*_KNOWN, "tags.…"))
            hint = f"did you mean {{{guess}}}?" if guess else "known: " + ", ".join((*_KNOWN, "tags.<name>"))
            if name in ("index", "n", "number", "position", "row"):
                hint = "a place changes when rows are added: use {id}"
            return names, f"there is no placeholder {{{name[:40]}}}", hint
    return names, "", ""


def _filled(pattern: str, row: Row) -> str | None:
    """The pattern with all but the id put in; None where that cannot be, which is noted."""
    names, message, hint = _holes(pattern)
    if message:
        row.error("file-name", "file", message, hint)
        return None
    values = {}
    for name in names:
        value = _ID if name == "id" else _value(name, row.fields)
        if not value:
            hint = "every job that this stands for must set it" if value is None else "use {id}"
            what = "is not set for this job" if value is None else "leaves no letter that a file name may hold"
            row.error("file-name", "file", f"{{{name[:40]}}} {what}", hint)
            return None
        values[name] = value
    return _HOLE.sub(lambda hole: values[hole[1]], pattern)


def _value(name: str, fields: Mapping[str, Any]) -> str | None:
    """What stands for a placeholder; None where the job does not say, empty where nothing of it is fit for a name."""
    if name in ("video", "image"):
        return cleaned(stem(str(fields[name]))) if name in fields else None
    if name.startswith("tags."):
        text = fields.get("tags", {}).get(name.removeprefix("tags."))
        return None if text is None else cleaned(text[:_MAX_TEXT])
    value = complete(fields).get(name)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else value if value is None else str(value)
