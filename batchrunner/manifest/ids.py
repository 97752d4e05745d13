"""Names for jobs: checks those that people give, derives the others. Pure.

Rule: an id is a safe file name everywhere, and no two differ only in case. A derived id depends on its own row
alone, so that it stays when rows are added, removed or moved; only rows that are equal in every field get numbers.
"""

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from batchrunner.manifest.fingerprint import PARAMETERS, complete, values
from batchrunner.manifest.row import Places, Row

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{4,99}")  # too long for a device's name, and without any dot
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_STEM_MAX = 32
# Inputs of one name in a hundred thousand folders get one hash twice in 200 batches; then the later row is numbered.
_HASH_DIGITS = 10


class Ids:
    """The ids of one batch: `add` each row in order, then `settled`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._names: list[str] = []
        self._derived: list[int] = []
        self._taken: dict[str, int] = {}  # by lower-case name: the row that has it

    def add(self, row: Row) -> None:
        """Take the next row: check and claim the id that it gives, or derive one."""
        position = len(self._names)
        given = row.fields.get("id")
        if given is None:
            self._derived.append(position)
            self._names.append(derive(row.fields))
            return
        self._names.append(given)
        wrong = fault(given)
        if wrong:
            clean = cleaned(given)
            row.error("id", "id", wrong, f"write {clean}" if clean else "leave it out to have one derived")
        first = self._taken.setdefault(given.lower(), position)
        if first != position:
            self._refuse(given, first, row)

    def _refuse(self, given: str, first: int, row: Row) -> None:
        """Note that an earlier row has the id. Case does not tell files apart everywhere."""
        holder, line = self._names[first], self._places.line(first, row.findings)
        if holder == given:
            message = f"the id '{given[:100]}' is taken: {line} has it"
        else:
            message = f"the id '{given[:100]}' differs from '{holder[:100]}' on {line} only in case"
        row.error("duplicate-id", "id", message, "both would be the same file; rename one")

    def settled(self) -> list[str]:
        """An id for each row, in order. Derived ones give way to given ones; equal ones are numbered from 2."""
        numbers: dict[str, int] = {}
        for position in self._derived:
            derived = candidate = self._names[position]
            while self._taken.setdefault(candidate, position) != position:
                numbers[derived] = numbers.get(derived, 1) + 1
                candidate = f"{derived}-{numbers[derived]}"
            self._names[position] = candidate
        return self._names


def fault(given: str, what: str = "id") -> str:
    """What is wrong with a given id, or file name, or nothing."""
    return "" if _PLAIN_ID.fullmatch(given) else _fault(given, what)


def _fault(given: str, what: str) -> str:
    if len(given) > 100:
        return f"the {what} is {len(given)} characters long, at most 100 are allowed"
    if not _ID.fullmatch(given):
        return (
            f"the {what} '{given}' may hold only letters, digits, '.', '_' and '-', and starts with a letter or digit"
        )
    if given.endswith("."):
        return f"the {what} '{given}' ends with a dot"
    if given.lower().endswith(".mp4"):
        return f"the {what} '{given}' ends with .mp4, which its file gets anyway"
    if _DEVICE.fullmatch(given):
        return f"the {what} '{given}' is the name of a device on Windows"
    return ""


def cleaned(given: str) -> str:
    """The nearest id that is allowed, or nothing where none is near."""
    plain = unicodedata.normalize("NFKD", given[:200]).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    plain = re.sub(r"(\.mp4)+$", "", plain, flags=re.IGNORECASE).lstrip("._-")[:100].rstrip("._-")
    if _DEVICE.fullmatch(plain):
        plain = f"job-{plain}"
    return plain if plain and not fault(plain) else ""


def derive(fields: Mapping[str, Any]) -> str:
    """A readable id from a row's fields: stems of the inputs, parameters that are not the default, a short hash."""
    video, image = str(fields.get("video", "")), str(fields.get("image", ""))
    whole = "\0".join(_written(each) for each in (video, image))
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
    words = _words(*values(fields))
    return f"{_plain_stem(video) or 'video'}-{_plain_stem(image) or 'image'}-{words}-{digest[:_HASH_DIGITS]}"


@lru_cache(maxsize=1024, typed=True)
def _words(*given: Any) -> str:
    """The parameters in a derived id."""
    params = complete(dict(zip(PARAMETERS, given, strict=True)))
    others = (name for name in params if name != "resolution" and params[name] != PARAMETERS[name])
    return "-".join((params["resolution"], *(_word(name, params[name]) for name in others)))


def _word(name: str, value: Any) -> str:
    """One parameter in a derived id."""
    if name == "num_inference_steps":
        return f"steps{value}"
    if name == "shift":
        return "shift" + repr(float(value)).removesuffix(".0").replace("+", "")
    if name == "enable_safety_checker":
        return "safety" if value else "nosafety"
    return f"q-{value}" if name == "video_quality" else str(value)


def _is_path(text: str) -> bool:
    return "://" not in text and text[:5].lower() != "data:"


def _written(text: str) -> str:
    """An input as it counts for the hash: a path without detours, anything else as it stands."""
    return posixpath.normpath(text) if _is_path(text) else text


def stem(text: str) -> str:
    """The name of an input without its ending: of a path or a URL. A data URI is ``inline``."""
    if text[:5].lower() == "data:":
        return "inline"
    if not _is_path(text):
        text = text.partition("://")[2].partition("#")[0].partition("?")[0]
        text = unquote(text.partition("/")[2])
    return posixpath.splitext(posixpath.basename(text.rstrip("/")))[0]


def _plain_stem(text: str) -> str:
    """The input's name in lower-case letters, digits and dashes; empty where nothing is left of it."""
    return _reduced(stem(text))


@lru_cache(maxsize=1024)
def _reduced(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_STEM_MAX].strip("-")
