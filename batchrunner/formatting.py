"""Text for people: make text safe to show, shorten names, format times, sizes and durations, parse durations. Pure.

Text from outside must pass `printable` before it reaches a terminal or a page. The sentences themselves are written
where they are used (`batchrunner.progress`, `batchrunner.report`).
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import NamedTuple

# A URL in running text: scheme, user and password, host and path, query and fragment.
_URL = re.compile(
    r"""([a-z][a-z0-9+.-]{0,20}://)([^\s/?#"'<>\\]*@)?([^\s?#"'<>\\]*)([?#][^\s"'<>\\]*)?""", re.IGNORECASE
)
_UNITS = ("kB", "MB", "GB", "TB")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
# Bytes that stand for themselves between $' and '.
_ESCAPES = {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in "'\\"}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(b|kb|mb|gb|tb|kib|mib|gib)|0", re.IGNORECASE | re.ASCII)
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_COMPONENT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def printable(text: str, most: int | None = None) -> str:
    r"""Return `text` as one line that cannot control a terminal or a page.

    Control characters (including line ends and terminal escapes), bidirectional marks, lone surrogates and all other
    invisible characters are escaped, as in ``\x1b`` and ``\u202e``. Text longer than `most` characters is truncated.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_json(text: str) -> str:
    """Escape the same characters as `printable`, as JSON escapes, in a JSON text. Line ends are kept."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def redacted(text: str) -> str:
    """Remove the parts of URLs in `text` that may be secret: user and password, query, fragment."""
    return _URL.sub(lambda url: f"{url[1]}{'…@' if url[2] else ''}{url[3]}{'?…' if url[4] else ''}", text)


def shell_line(arguments: Iterable[str]) -> str:
    """Return a command line that can be pasted into a shell: each argument quoted, all characters printable."""
    return " ".join(map(shell_quoted, arguments))


def shell_quoted(argument: str) -> str:
    r"""Quote one argument for a shell. Characters that cannot be shown are written as bytes, as in ``$'a\x0ab'``."""
    if argument.isprintable():
        return shlex.quote(argument)
    data = argument.encode("utf-8", "surrogateescape" if _is_encodable(argument) else "surrogatepass")
    return "$'" + "".join(_ESCAPES.get(byte) or f"\\x{byte:02x}" for byte in data) + "'"


def _is_encodable(argument: str) -> bool:
    try:
        argument.encode("utf-8", "surrogateescape")
    except UnicodeError:
        return False
    return True


def is_utf8(name: str) -> bool:
    """Return whether a name has no lone surrogates, which stand for the bytes of a file name that are not UTF-8."""
    try:
        name.encode()
    except UnicodeError:
        return False
    return True


def shell_path(path: str) -> str:
    """Return `path` so that no program reads it as an option: a name that begins with ``-`` gets ``./``."""
    return f"./{path}" if path.startswith("-") else path


class Marks(NamedTuple):
    """The characters that show a state without colour. cut: stands for characters that were left out."""

    succeeded: str
    failed: str
    in_doubt: str
    in_flight: str
    pending: str
    warning: str
    cut: str


UNICODE_MARKS = Marks("✓", "✗", "?", "»", "·", "!", "…")
ASCII_MARKS = Marks("+", "x", "?", ">", "-", "!", "~")


def short_names(names: Iterable[str], most: int, cut: str = UNICODE_MARKS.cut) -> Mapping[str, str]:
    """Return a form of at most `most` characters for each longer name: beginning and end, with `cut` between them.

    Names that would then look equal show the place where they differ, too. If they still look equal, or like a name
    that is not shortened, they are not shortened.
    """
    whole = dict.fromkeys(names)
    groups: dict[str, list[str]] = {}
    for name in whole:
        if len(name) > most:
            groups.setdefault(_middle_cut(name, most, cut), []).append(name)
    found: dict[str, str] = {}
    for short, group in groups.items():
        found |= {group[0]: short} if len(group) == 1 else _with_difference(group, most, cut)
    taken: dict[str, list[str]] = {}
    for name, short in found.items():
        taken.setdefault(short, []).append(name)
    return {name: short for name, short in found.items() if len(taken[short]) == 1 and short not in whole}


def _middle_cut(name: str, most: int, cut: str) -> str:
    left = max(1, most - len(cut))
    tail = left // 2
    return name[: left - tail] + cut + (name[-tail:] if tail else "")


def _with_difference(group: list[str], most: int, cut: str) -> dict[str, str]:
    """Shorten names with equal ends: show the characters from the first difference on, between beginning and end."""
    first, last = min(group), max(group)
    start = next(place for place in range(len(last)) if first[place : place + 1] != last[place])
    third = max(1, (most - 2 * len(cut)) // 3)
    return {name: name[:third] + cut + name[start : start + third] + cut + name[-third:] for name in group}


def rfc3339(at: float) -> str:
    """Format `at` (seconds since the epoch) as RFC 3339 in UTC with milliseconds: ``2026-11-22T21:55:00.123Z``."""
    whole = floor(at)
    millis = round((at - whole) * 1_000_000) // 1000  # a float rarely equals a millisecond exactly
    return f"{_second(whole)}.{millis:03d}Z" if millis < 1000 else f"{_second(whole + 1)}.000Z"


@lru_cache(4096)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().removesuffix("+00:00")


def size_text(size_bytes: int) -> str:
    """Format a size in decimal units: ``812 bytes``, ``1.2 MB``."""
    if size_bytes < 1000:
        return count_text(size_bytes, "byte")
    size = float(size_bytes)
    for unit in _UNITS:
        size /= 1000
        if size < 999.95 or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}"


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``0``, ``500kB``, ``8MB``, ``1.5GB`` or ``64MiB``. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError("a size is a number with a unit, such as 500kB, 8MB or 1GB")
    return round(float(found[1]) * _SIZES[found[2].lower()]) if found[1] else 0


def length_text(seconds: float) -> str:
    """Format a duration in its two largest units: ``2.4 s``, ``12 s``, ``3 min 5 s``, ``7 h 12 min``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``200ms``, ``15s``, ``30m``, ``7h`` or ``1h30m``. Raises ValueError."""
    compact = text.strip()
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"{text!r} is not a duration")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _COMPONENT.findall(compact))


def count_text(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 job``, ``2 jobs``, ``2,000 jobs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
