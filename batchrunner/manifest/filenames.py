"""The file name of a job's result, from a pattern such as ``{tags.scene}/{id}-{resolution}``. Pure.

A result's name is valid on every system, like an id, and unique regardless of case and of the form of accents; ``.mp4``
is appended. A slash of the pattern makes a folder; a slash in a value does not. The name is not part of a job's
identity: a new pattern renames results, and nothing is paid again.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from batchrunner.job import named_take
from batchrunner.manifest.diagnostics.diagnostic import nearest
from batchrunner.manifest.ids import stem
from batchrunner.manifest.row import Places, Row
from batchrunner.manifest.safe_names import cleaned, cleaned_path, folded, path_fault
from batchrunner.providers import registry

_DEFAULT = "{id}"
_HOLE = re.compile(r"\{([^{}]*)\}")
_ID = "\0"  # a placeholder for the id until ids are settled; not allowed in names
_MAX_TEXT = 1000


class FileNames:
    """The results' names of one batch. Call `add` for each row in order, then `settled`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._patterned: dict[int, tuple[str, Row]] = {}
        self._number = 0

    def add(self, row: Row) -> None:
        """Add the next row."""
        pattern = row.fields.get("file", _DEFAULT)
        if pattern != _DEFAULT:
            name = _filled(pattern, row)
            if name is not None:
                bare = Row({"file": pattern}, {"file": row.place("file")}, row.mark, row.findings)
                self._patterned[self._number] = (name, bare)
        self._number += 1

    def settled(self, ids: Sequence[str], takes: Mapping[int, int]) -> dict[int, str]:
        """Return the names that differ from the id, by position, without ``.mp4``. Record invalid names.

        takes: the number of takes of a row, by position, where there are several.
        """
        names: dict[int, str] = {}
        if not self._patterned:
            return names
        taken = {folded(item): at for at, item in enumerate(ids) if at not in self._patterned}
        for position, (draft, row) in self._patterned.items():
            name = draft.replace(_ID, ids[position])
            wrong = path_fault(name)
            if wrong:
                clean = cleaned_path(name)
                row.error("file-name", "file", wrong, f"use {clean}" if clean else "add {id}")
                continue
            first = taken.setdefault(folded(name), position)
            if first != position:
                other = self._places.line(first, row.findings)
                hint = "add {id}, or a field that differs; some systems ignore case and accents' form in names"
                row.error(
                    "duplicate-file", "file", f"the file name '{name}' is already used by the job on {other}", hint
                )
            elif name != ids[position]:
                names[position] = name
        if takes:
            self._refuse_names_of_takes(taken, takes)
        return names

    def _refuse_names_of_takes(self, taken: Mapping[str, int], takes: Mapping[int, int]) -> None:
        """Record each name that another job's take has. Where both names are ids, `Ids` has recorded it."""
        for name, position in taken.items():
            first, take = named_take(name) or (name, 1)
            owner = taken.get(first, -1)
            if take == 1 or take > takes.get(owner, 1) or self._patterned.keys().isdisjoint((position, owner)):
                continue
            of_other, at, other = (False, position, owner) if position in self._patterned else (True, owner, position)
            row = self._patterned[at][1]
            line = self._places.line(other, row.findings)
            message = f"the file name '{name}' is also that of take {take} of the job on {line}"
            if of_other:
                message = f"the file name '{name}' of take {take} is already used by the job on {line}"
            row.error("duplicate-file", "file", message, "add {id}, or a field that differs")


def pattern_fault(pattern: str) -> tuple[str, str]:
    """Return message and hint for an error of a pattern that affects every job, or empty texts."""
    return _holes(pattern, _placeholders())[1:]


@registry.cached
def _placeholders() -> tuple[str, ...]:
    return ("id", *registry.input_names(), *registry.parameter_names())


@lru_cache(maxsize=4096)
def _holes(pattern: str, known: tuple[str, ...]) -> tuple[tuple[str, ...], str, str]:
    """Return the placeholders of a pattern, and message and hint of its error, or empty texts. known: all names."""
    names = tuple(_HOLE.findall(pattern))
    if any(item in _HOLE.sub("", pattern) for item in "{}\0"):
        return names, "the file name contains an unmatched brace", "write placeholders as {id}"
    for name in names:
        if name not in known and not (name.startswith("tags.") and name != "tags."):
            guess = nearest(name, (*known, "tags.…"))
            hint = f"did you mean {{{guess}}}?" if guess else "known: " + ", ".join((*known, "tags.<name>"))
            if name in ("index", "n", "number", "position", "row"):
                hint = "a row's position changes when rows are added: use {id}"
            return names, f"there is no placeholder {{{name[:40]}}}", hint
    return names, "", ""


def _filled(pattern: str, row: Row) -> str | None:
    """Fill in the pattern except for the id. Record an error and return None if that is not possible."""
    names, message, hint = _holes(pattern, _placeholders())
    if message:
        row.error("file-name", "file", message, hint)
        return None
    values = {}
    for name in names:
        value = _ID if name == "id" else _value(name, row.fields)
        if not value:
            hint = "every job with this file name must set it" if value is None else "use {id}"
            what = "is not set for this job" if value is None else "has no character that a file name may contain"
            row.error("file-name", "file", f"{{{name[:40]}}} {what}", hint)
            return None
        values[name] = value
    return _HOLE.sub(lambda hole: values[hole[1]], pattern)


def _value(name: str, fields: Mapping[str, Any]) -> str | None:
    """Return a placeholder's value; None if the job does not set it, empty if no character is allowed in a name."""
    if name in registry.input_names():
        return cleaned(stem(str(fields[name]))) if name in fields else None
    if name.startswith("tags."):
        text = fields.get("tags", {}).get(name.removeprefix("tags."))
        return None if text is None else cleaned(text[:_MAX_TEXT])
    value = registry.spec_of(fields).complete(fields).get(name)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else value if value is None else str(value)
