"""Format diagnostics: text with the source line and a caret, JSON, and workflow annotations. Pure.

The quoted text may come from a stranger, so it never reaches a terminal unchanged. Control characters are escaped. Text
that may be secret (a URL's user name, password and query, the value of a key whose name suggests a secret) is replaced
by stars, character by character, which keeps the caret in the right column.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from batchrunner.formatting import printable
from batchrunner.manifest.diagnostics.diagnostic import Diagnostic, count

LIMIT: Final = 20  # problems shown by default
_WIDTH = 100  # columns of a source line that are shown
_BEFORE = 40  # of these, columns before the caret in a truncated line

_TOKEN = re.compile(r"[^\s\"']+")
_SECRET = re.compile(r"(?i)((?:api_?key|token|secret|password|authorization)[\"']?\s*[:=]\s*)([^,}]*)")
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "bold": "\x1b[1m", "dim": "\x1b[2m", "hint": "\x1b[36m"}

Paint = Callable[[str, str], str]


def render(diagnostics: Sequence[Diagnostic], limit: int | None = LIMIT, *, colour: bool = False) -> str:
    """Format the first `limit` diagnostics (None: all) as text with line, caret and hint, and count the others.

    ``file:line:column: error: message [code]`` is a line that editors and CI know how to read.
    """
    paint = _paint if colour else _plain
    printed_hints = set[str]()
    blocks = list[str]()
    for item in diagnostics[:limit]:
        blocks.append(block(item, paint, hint=item.hint not in printed_hints))
        if len(item.hint) > _WIDTH:  # print a long list of keys only once
            printed_hints.add(item.hint)
    left = len(diagnostics) - len(blocks)
    if left:
        blocks.append(f"… and {left:,} more: batchrunner validate --max-problems 0 prints all")
    return "\n".join(blocks)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """Return a text such as ``2 errors, 1 warning``; empty if there are no diagnostics."""
    severities = [item.severity for item in diagnostics]
    counts = ((severities.count("error"), "error"), (severities.count("warning"), "warning"))
    return ", ".join(count(number, name) for number, name in counts if number)


def block(diagnostic: Diagnostic, paint: Paint, *, hint: bool = True) -> str:
    """Format one diagnostic: its line, the source line with a caret and, if `hint`, its hint."""
    place = paint("bold", f"{printable(diagnostic.file)}:{diagnostic.line}:{diagnostic.column}:")
    severity = diagnostic.severity
    lines = [f"{place} {paint(severity, severity + ':')} {printable(diagnostic.message)} [{diagnostic.code}]"]
    if diagnostic.source is not None and diagnostic.source.strip():
        shown, indent, width = excerpt(diagnostic.source, diagnostic.column, diagnostic.end_column)
        number = str(diagnostic.line)
        gutter = paint("dim", f"  {number} |"), paint("dim", f"  {' ' * len(number)} |")
        lines.append(f"{gutter[0]} {shown}".rstrip())
        lines.append(f"{gutter[1]} {' ' * indent}{paint(severity, '^' * width)}")
    if diagnostic.hint and hint:
        lines.append(f"  {paint('hint', 'hint:')} {printable(diagnostic.hint)}")
    return "\n".join(lines)


def _paint(style: str, text: str) -> str:
    return f"{_COLOURS[style]}{text}\x1b[0m"


def _plain(_: str, text: str) -> str:
    return text


def excerpt(line: str, column: int, end_column: int | None) -> tuple[str, int, int]:
    """Return `line` truncated around `column`, the terminal columns before the caret, and the caret's width."""
    start = min(column - 1, len(line))
    end = max(start + 1, (end_column or column + 1) - 1)
    line = _starred(line)
    first = 0 if start <= _WIDTH - _BEFORE or len(line) <= _WIDTH else start - _BEFORE
    before = ["…"] * bool(first) + _cells(line[first:start])
    columns_left = max(_WIDTH - _wide(before), _BEFORE)
    after = list[str]()
    for cell in _cells(line[start : start + _WIDTH]):
        columns_left -= _wide([cell])
        if columns_left < 0:
            break
        after.append(cell)
    more = "…" * (start + len(after) < len(line))
    return "".join((*before, *after, more)), _wide(before), max(1, _wide(after[: end - start]))


def _cells(text: str) -> list[str]:
    """Return the terminal text of each character. A tab becomes four spaces; invisible characters are escaped."""
    return ["    " if item == "\t" else printable(item) for item in text]


def _wide(cells: Iterable[str]) -> int:
    """Return the columns that `cells` take: two for East Asian wide characters, none for combining ones."""
    return sum(_columns(char) for cell in cells for char in cell)


@lru_cache(maxsize=4096)
def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


@lru_cache(maxsize=8)
def _starred(line: str) -> str:
    """Replace each character of `line` that may be secret by a star."""
    line = _SECRET.sub(lambda found: found[1] + re.sub(r"[^\s\"']", "*", found[2]), line)
    return _TOKEN.sub(lambda found: _star_url(found.group()), line) if "://" in line else line


def _star_url(token: str) -> str:
    """Replace user name, password, query and fragment of a URL by stars."""
    scheme, mark, remainder = token.partition("://")
    if not mark:
        return token
    user, at, remainder = remainder.rpartition("@")
    path, asked, query = remainder.partition("?")
    return f"{scheme}://{'*' * len(user)}{at}{path}{asked}{'*' * len(query)}"


def as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return one diagnostic for JSON. The keys are stable. `end_column` may be null, and `hint` may be empty."""
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "file": diagnostic.file,
        "line": diagnostic.line,
        "column": diagnostic.column,
        "end_column": diagnostic.end_column,
        "message": diagnostic.message,
        "hint": diagnostic.hint,
    }


def github(diagnostics: Sequence[Diagnostic], limit: int | None = LIMIT) -> str:
    """Format the first `limit` diagnostics as workflow commands that annotate a pull request, and count the others.

    The form and its escapes: GitHub's documentation, "Workflow commands for GitHub Actions".
    """
    lines = [_annotation(item) for item in diagnostics[:limit]]
    if len(diagnostics) > len(lines):
        lines.append(f"… and {len(diagnostics) - len(lines):,} more; {summary(diagnostics)}")
    return "\n".join(lines)


def _annotation(diagnostic: Diagnostic) -> str:
    properties = {
        "file": diagnostic.file,
        "line": diagnostic.line,
        "col": diagnostic.column,
        "endColumn": diagnostic.end_column,
    }
    shown = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items() if value is not None)
    text = diagnostic.message + (f"\nhint: {diagnostic.hint}" if diagnostic.hint else "")
    lines = "%0A".join(_data(item) for item in text.split("\n"))
    return f"::{diagnostic.severity} {shown},title={_property(diagnostic.code)}::{lines}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
