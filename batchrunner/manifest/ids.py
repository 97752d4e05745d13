"""Names for jobs: checks those that people give, derives the others. Pure.

Rule: an id is a safe file name everywhere, and no two differ only in case. A derived id depends on its own row
alone, so that it stays when rows are added, removed or moved; only rows that are equal in every field get numbers.
"""

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from batchrunner.manifest.diagnostics import Findings, line_of
from batchrunner.manifest.fingerprint import PARAMETERS, complete
from batchrunner.manifest.row import Row

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_STEM_MAX = 32
_HASH_DIGITS = 8


def assign(rows: Sequence[Row], findings: Findings) -> list[str]:
    """An id for each row, in order: the given one where there is one, otherwise a derived one."""
    ids = [_given(row, findings) for row in rows]
    taken: dict[str, tuple[str, int]] = {}
    for row, given in zip(rows, ids, strict=True):
        if given is not None:
            _claim(given, row.place("id"), taken, findings)
    for index, row in enumerate(rows):
        if ids[index] is None:
            derived = _free(derive(row.fields), taken)
            taken[derived] = (derived, row.mark)
            ids[index] = derived
    return [each or "" for each in ids]


def _given(row: Row, findings: Findings) -> str | None:
    given = row.fields.get("id")
    if given is None:
        return None
    fault = _fault(given)
    if fault:
        clean = cleaned(given)
        findings.error("id", row.place("id"), fault, f"write {clean}" if clean else "leave it out to have one derived")
    return str(given)


def _fault(given: str) -> str:
    """What is wrong with a given id, or nothing."""
    if len(given) > 100:
        return f"the id is {len(given)} characters long, at most 100 are allowed"
    if not _ID.fullmatch(given):
        return f"the id '{given}' may hold only letters, digits, '.', '_' and '-', and starts with a letter or digit"
    if given.endswith("."):
        return f"the id '{given}' ends with a dot"
    if given.lower().endswith(".mp4"):
        return f"the id '{given}' ends with .mp4, which its file gets anyway"
    if _DEVICE.fullmatch(given):
        return f"the id '{given}' is the name of a device on Windows"
    return ""


def cleaned(given: str) -> str:
    """The nearest id that is allowed, or nothing where none is near."""
    plain = unicodedata.normalize("NFKD", given[:200]).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    plain = re.sub(r"(\.mp4)+$", "", plain, flags=re.IGNORECASE).lstrip("._-")[:100].rstrip("._-")
    if _DEVICE.fullmatch(plain):
        plain = f"job-{plain}"
    return plain if plain and not _fault(plain) else ""


def _claim(given: str, place: int, taken: dict[str, tuple[str, int]], findings: Findings) -> None:
    """Take a given id, or note who has it. Case does not tell files apart everywhere."""
    if given.lower() not in taken:
        taken[given.lower()] = (given, place)
        return
    first, first_place = taken[given.lower()]
    if first == given:
        message = f"the id '{given[:100]}' is taken: line {line_of(first_place)} has it"
    else:
        message = f"the id '{given[:100]}' differs from '{first[:100]}' on line {line_of(first_place)} only in case"
    findings.error("duplicate-id", place, message, "both would be the same file; rename one")


def _free(derived: str, taken: Mapping[str, object]) -> str:
    """`derived`, numbered from 2 where equal rows, or a given id, have it already."""
    candidate, number = derived, 1
    while candidate in taken:
        number += 1
        candidate = f"{derived}-{number}"
    return candidate


def derive(fields: Mapping[str, Any]) -> str:
    """A readable id from a row's fields: stems of the inputs, parameters that are not the default, a short hash."""
    video, image = str(fields.get("video", "")), str(fields.get("image", ""))
    params = complete(fields)
    words = [_stem(video) or "video", _stem(image) or "image", params["resolution"]]
    words += [
        _word(name, value) for name, value in params.items() if name != "resolution" and value != PARAMETERS[name]
    ]
    whole = "\0".join(_written(each) for each in (video, image))
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
    return "-".join((*words, digest[:_HASH_DIGITS]))


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


def _stem(text: str) -> str:
    """The input's name in letters, digits and dashes; empty where nothing is left of it."""
    if text[:5].lower() == "data:":
        return "inline"
    if not _is_path(text):
        try:
            text = unquote(urlsplit(text).path)
        except ValueError:
            return ""
    name = posixpath.splitext(posixpath.basename(text.rstrip("/")))[0]
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_STEM_MAX].strip("-")
