"""Ids of jobs: check explicit ids, and derive the others. Pure.

An id is a valid file name on every system, and ids are unique regardless of case. A derived id depends only on its own
row, so it is stable when rows are added, removed or moved. Only rows that are equal in every field get numbers.
"""

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from batchrunner.manifest.row import Places, Row
from batchrunner.providers import registry
from batchrunner.providers.models import ModelSpec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{4,99}")  # too long for a device name, and without a dot
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
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
        self._taken: dict[str, int] = {}  # by lower-case id: the row with it

    def add(self, row: Row) -> None:
        """Add the next row: check and reserve its id, or derive one."""
        position = len(self._names)
        name = row.fields.get("id")
        if name is None:
            self._derived.append(position)
            self._names.append(derive(row.fields))
            return
        self._names.append(name)
        wrong = fault(name)
        if wrong:
            clean = cleaned(name)
            row.error("id", "id", wrong, f"write {clean}" if clean else "leave it out to get a derived id")
        first = self._taken.setdefault(name.lower(), position)
        if first != position:
            self._refuse(name, first, row)

    def _refuse(self, name: str, first: int, row: Row) -> None:
        """Record that an earlier row has the id. Some systems ignore case in file names."""
        holder, line = self._names[first], self._places.line(first, row.findings)
        if holder == name:
            message = f"the id '{name[:100]}' is already used on {line}"
        else:
            message = f"the id '{name[:100]}' differs from '{holder[:100]}' on {line} only in case"
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
        return self._names


def fault(name: str, what: str = "id") -> str:
    """Return the error of an explicit id or file name, or an empty text."""
    return "" if _PLAIN_ID.fullmatch(name) else _fault(name, what)


def _fault(name: str, what: str) -> str:
    if len(name) > 100:
        return f"the {what} is {len(name)} characters long, at most 100 are allowed"
    if not _ID.fullmatch(name):
        return (
            f"the {what} '{name}' may contain only letters, digits, '.', '_' and '-', and must start with a letter or "
            "digit"
        )
    if name.endswith("."):
        return f"the {what} '{name}' ends with a dot"
    if name.lower().endswith(".mp4"):
        return f"the {what} '{name}' ends with .mp4, which is appended anyway"
    if _DEVICE.fullmatch(name):
        return f"the {what} '{name}' is the name of a device on Windows"
    return ""


def cleaned(name: str) -> str:
    """Return the nearest allowed id, or an empty text if there is none."""
    plain = unicodedata.normalize("NFKD", name[:200]).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    plain = re.sub(r"(\.mp4)+$", "", plain, flags=re.IGNORECASE).lstrip("._-")[:100].rstrip("._-")
    if _DEVICE.fullmatch(plain):
        plain = f"job-{plain}"
    return plain if plain and not fault(plain) else ""


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
