r"""SHA256SUMS: lists of files and their SHA-256 in the format of GNU coreutils. Pure.

A line is the hash in hex, a space, a space (text) or ``*`` (binary), and the name. A line that begins with a backslash
has an escaped name: ``\\`` for a backslash, ``\n`` and ``\r`` for line ends. Source: the manual of coreutils, chapter
"md5sum invocation". Rule: the list is untrusted, and a name that leads out of its folder is refused.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SUMS = "SHA256SUMS"
LONGEST_LINE = 16_384  # bytes; a path has at most 4096, and an escaped one twice as many
_LINE = re.compile(rb"(\\?)([0-9A-Fa-f]{64}) [ *](.+)", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the list. sha256: in lower-case hex. problem: why the line cannot be used, or ""."""

    name: str
    sha256: str
    problem: str = ""


def read(lines: Iterable[bytes]) -> Iterator[Listed]:
    """Yield the entries of a list. Comments and empty lines are skipped. A line without an entry has a problem."""
    for number, line in enumerate(lines, 1):
        content = line.removeprefix(_BOM) if number == 1 else line
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        if content.strip() and not content.startswith(b"#"):
            yield _entry(content) or Listed(f"line {number}", "", "it is not a SHA-256 and a name")


def is_entry(line: bytes) -> bool:
    """Return whether a line is an entry of such a list."""
    return _LINE.fullmatch(line.removeprefix(_BOM).removesuffix(b"\n").removesuffix(b"\r")) is not None


def entry_line(name: str, sha256: str) -> bytes:
    """Return the line of a file, as ``sha256sum --binary`` writes it."""
    raw = os.fsencode(name)
    escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != raw else b"") + sha256.encode("ascii") + b" *" + escaped + b"\n"


def outside(name: str) -> str:
    """Return why a name may not be read: it leads out of the folder, or names no file. "" if it may be."""
    if name.startswith("/"):
        return "its path is absolute"
    if "\0" in name:
        return "its path has a zero byte"
    steps = components(name)
    if ".." in steps:
        return "its path has '..'"
    return "" if steps else "it names no file"


def components(name: str) -> list[str]:
    """Return the names of the folders and of the file, without empty ones and ``.``."""
    return [step for step in name.split("/") if step not in {"", "."}]


def _entry(content: bytes) -> Listed | None:
    found = _LINE.fullmatch(content) if len(content) <= LONGEST_LINE else None
    if found is None:
        return None
    backslash, digest, raw = found.groups()
    if backslash:
        if any(escape not in _ESCAPED for escape in _ESCAPE.findall(raw)):
            return None
        raw = _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], raw)
    return Listed(os.fsdecode(raw), digest.decode("ascii").lower())
