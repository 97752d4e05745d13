"""Ids of jobs: check explicit ids, and derive the others. Pure.

An id is a valid file name on every system, and ids are unique regardless of case and of the form of accents. A derived
id depends only on its own row, so it is stable when rows are added, removed or moved. Only rows that are equal in every
field get numbers. An id must not be the name of another job's take.
"""

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from batchrunner.job import named_take
from batchrunner.manifest.row import Places, Row
from batchrunner.manifest.safe_names import cleaned, fault, folded, is_plain
from batchrunner.providers import registry
from batchrunner.providers.models import ModelSpec

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_STEM_MAX = 32
# With 100,000 folders of equal input names, two of them have equal hashes in 1 of 200 batches; then one is numbered.
_HASH_DIGITS = 10


class Ids:
    """The ids of one batch. Call `add` for each row in order, then `settled`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._names: list[str] = []
        self._derived: list[int] = []
        self._taken: dict[str, int] = {}  # by folded id: the row with it
        self._like_takes: list[tuple[str, int, Row]] = []  # explicit ids such as ``a.t2``: first take, number, row
        self.takes: dict[int, int] = {}  # by position: the number of takes, if there are several

    def add(self, row: Row) -> None:
        """Add the next row: check and reserve its id, or derive one."""
        position = len(self._names)
        if (takes := row.fields.get("takes", 1)) > 1:
            self.takes[position] = int(takes)
        name = row.fields.get("id")
        if name is None:
            self._derived.append(position)
            self._names.append(derive(row.fields))
            return
        self._names.append(name)
        key = folded(name)
        if not is_plain(name):
            self._check(name, key, row)
        first = self._taken.setdefault(key, position)
        if first != position:
            self._refuse(name, first, row)

    def _check(self, name: str, key: str, row: Row) -> None:
        """Record an id that is no valid name, and keep one that is like the name of a take. key: the folded id."""
        wrong = fault(name)
        if wrong:
            clean = cleaned(name)
            row.error("id", "id", wrong, f"write {clean}" if clean else "leave it out to get a derived id")
        if take := named_take(key):
            bare = Row({"id": name}, {"id": row.place("id")}, row.mark, row.findings)
            self._like_takes.append((*take, bare))

    def _refuse(self, name: str, first: int, row: Row) -> None:
        """Record that an earlier row has the id. Some systems ignore case and the form of accents in file names."""
        holder, line = self._names[first], self._places.line(first, row.findings)
        if holder == name:
            message = f"the id '{name[:100]}' is already used on {line}"
        else:
            differ = "in case" if holder.lower() == name.lower() else "in case or in the form of accents"
            message = f"the id '{name[:100]}' differs from '{holder[:100]}' on {line} only {differ}"
        row.error("duplicate-id", "id", message, "both would be the same file; rename one")

    def settled(self) -> list[str]:
        """Return the id of each row in order. Explicit ids take precedence; equal derived ids are numbered from 2."""
        numbers: dict[str, int] = {}
        for position in self._derived:
            derived = candidate = self._names[position]
            while self._taken.setdefault(candidate, position) != position:
                numbers[derived] = numbers.get(derived, 1) + 1
                candidate = f"{derived}-{numbers[derived]}"
            self._names[position] = candidate
        for first, take, row in self._like_takes:
            position = self._taken.get(first, -1)
            if take <= self.takes.get(position, 1):
                self._refuse_take(take, position, row)
        return self._names

    def _refuse_take(self, take: int, position: int, row: Row) -> None:
        name, line = self._names[position][:100], self._places.line(position, row.findings)
        message = f"the id '{row.fields['id'][:100]}' is the name of take {take} of '{name}' on {line}"
        row.error("duplicate-id", "id", message, "both would be the same file; rename one")


def derive(fields: Mapping[str, Any]) -> str:
    """Return a readable id for a row: stems of the inputs, non-default parameters, a short hash."""
    spec = registry.spec_of(fields)
    stems, written = "", []
    for name, _ in spec.kinds:
        text = str(fields.get(name, ""))
        if text or name in spec.required:
            written.append(_written(text))
            stems += f"{_plain_stem(text) or name}-"
    digest = hashlib.sha256("\0".join(written).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stems}{_parameters(spec, *spec.values(fields))}{digest[:_HASH_DIGITS]}"


@lru_cache(maxsize=1024, typed=True)
def _parameters(spec: ModelSpec, *values: Any) -> str:
    """Return a non-default model and the parameters for a derived id, each followed by a dash."""
    params = spec.complete(dict(zip(spec.parameters, values, strict=True)))
    labels = [spec.id_word]
    for name, value in params.items():
        style = spec.id_words.get(name, {"prefix": name})
        if style.get("always") or value != spec.defaults[name]:
            labels.append(_parameter(style, value))
    return "".join(f"{label}-" for label in labels if label)


def _parameter(style: Mapping[str, Any], value: Any) -> str:
    """Return one parameter for a derived id. style: from the model's spec (`ModelSpec.id_words`)."""
    if isinstance(value, bool):
        text = str(value).lower()
        return str(style.get(text, f"{style.get('prefix', '')}{text}"))
    text = repr(value).removesuffix(".0").replace("+", "") if isinstance(value, float) else str(value)
    return _UNSAFE.sub("-", f"{style.get('prefix', '')}{text}")


def _is_path(text: str) -> bool:
    return "://" not in text and text[:5].lower() != "data:"


def _written(text: str) -> str:
    """Return an input for the hash: a normalized path, or any other text unchanged."""
    return posixpath.normpath(text) if _is_path(text) else text


def stem(text: str) -> str:
    """Return the name of a path or URL without its extension; ``inline`` for a data URI."""
    if text[:5].lower() == "data:":
        return "inline"
    if not _is_path(text):
        text = text.partition("://")[2].partition("#")[0].partition("?")[0]
        text = unquote(text.partition("/")[2])
    return posixpath.splitext(posixpath.basename(text.rstrip("/")))[0]


def _plain_stem(text: str) -> str:
    """Return the input's name in lower-case letters, digits and dashes; may be empty."""
    return _reduced(stem(text))


@lru_cache(maxsize=1024)
def _reduced(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_STEM_MAX].strip("-")
