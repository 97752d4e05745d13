"""Diagnostics for those who read them: text with the source line and a caret, JSON, workflow annotations. Pure.

Rule: a stranger may have written what is quoted here, so nothing reaches a terminal as it is: control characters are
written out, and what may be a secret (a URL's user name, password and query, the value of a key that sounds like
one) is starred, character by character, which keeps the caret true.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from batchrunner.formatting import printable
from batchrunner.manifest.diagnostics.diagnostic import Diagnostic, count

LIMIT: Final = 20  # problems that are shown unless more are asked for
_WIDTH = 100  # columns of a source line that are shown
_BEFORE = 40  # of them before the caret, where the line is cut

_TOKEN = re.compile(r"[^\s\"']+")
_SECRET = re.compile(r"(?i)((?:api_?key|token|secret|password|authorization)[\"']?\s*[:=]\s*)([^,}]*)")
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "bold": "\x1b[1m", "dim": "\x1b[2m", "hint": "\x1b[36m"}

Paint = Callable[[str, str], str]


def render(diagnostics: Sequence[Diagnostic], limit: int | None = LIMIT, *, colour: bool = False) -> str:
    """The diagnostics as text: the first `limit` (None: all) with line, caret and hint, and how many are left.

    ``file:line:column: error: message [code]`` is a line that editors and CI know how to read.
    """
    paint = _paint if colour else _plain
    told = set[str]()
    blocks = list[str]()
    for each in diagnostics[:limit]:
        blocks.append(block(each, paint, hint=each.hint not in told))
        if len(each.hint) > _WIDTH:  # a list of all keys is worth reading once
            told.add(each.hint)
    left = len(diagnostics) - len(blocks)
    if left:
        blocks.append(f"… and {left:,} more: batchrunner validate --max-problems 0 prints all")
    return "\n".join(blocks)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 warning``; empty where there is nothing."""
    severities = [each.severity for each in diagnostics]
    counts = ((severities.count("error"), "error"), (severities.count("warning"), "warning"))
    return ", ".join(count(number, word) for number, word in counts if number)


def block(told: Diagnostic, paint: Paint, *, hint: bool = True) -> str:
    """One diagnostic: its line, the source line with a caret, its hint if that is wanted."""
    place = paint("bold", f"{printable(told.file)}:{told.line}:{told.column}:")
    lines = [f"{place} {paint(told.severity, told.severity + ':')} {printable(told.message)} [{told.code}]"]
    if told.source is not None and told.source.strip():
        shown, indent, width = excerpt(told.source, told.column, told.end_column)
        number = str(told.line)
        gutter = paint("dim", f"  {number} |"), paint("dim", f"  {' ' * len(number)} |")
        lines.append(f"{gutter[0]} {shown}".rstrip())
        lines.append(f"{gutter[1]} {' ' * indent}{paint(told.severity, '^' * width)}")
    if told.hint and hint:
        lines.append(f"  {paint('hint', 'hint:')} {printable(told.hint)}")
    return "\n".join(lines)


def _paint(style: str, text: str) -> str:
    return f"{_COLOURS[style]}{text}\x1b[0m"


def _plain(_: str, text: str) -> str:
    return text


def excerpt(line: str, column: int, end_column: int | None) -> tuple[str, int, int]:
    """`line` as it is shown, cut around `column`; the columns of the terminal before the caret; the caret's width."""
    start = min(column - 1, len(line))
    end = max(start + 1, (end_column or column + 1) - 1)
    line = _starred(line)
    first = 0 if start <= _WIDTH - _BEFORE or len(line) <= _WIDTH else start - _BEFORE
    before = ["…"] * bool(first) + _cells(line[first:start])
    room = max(_WIDTH - _wide(before), _BEFORE)
    after = list[str]()
    for cell in _cells(line[start : start + _WIDTH]):
        room -= _wide([cell])
        if room < 0:
            break
        after.append(cell)
    more = "…" * (start + len(after) < len(line))
    return "".join((*before, *after, more)), _wide(before), max(1, _wide(after[: end - start]))


def _cells(text: str) -> list[str]:
    """What stands on the terminal for each character: a tab is four spaces, what is invisible is written out."""
    return ["    " if each == "\t" else printable(each) for each in text]


def _wide(cells: Iterable[str]) -> int:
    """The columns that `cells` take: two for East Asian wide characters, none for combining ones."""
    return sum(_columns(char) for cell in cells for char in cell)


@lru_cache(maxsize=4096)
def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


@lru_cache(maxsize=8)
def _starred(line: str) -> str:
    """`line` with what may be secret starred, each character by one."""
    line = _SECRET.sub(lambda found: found[1] + re.sub(r"[^\s\"']", "*", found[2]), line)
    return _TOKEN.sub(lambda found: _star_url(found.group()), line) if "://" in line else line


def _star_url(token: str) -> str:
    """A URL with user name, password, query and fragment starred."""
    scheme, mark, rest = token.partition("://")
    if not mark:
        return token
    user, at, rest = rest.rpartition("@")
    path, asked, query = rest.partition("?")
    return f"{scheme}://{'*' * len(user)}{at}{path}{asked}{'*' * len(query)}"


def as_json(told: Diagnostic) -> dict[str, Any]:
    """One diagnostic for scripts. The keys are stable; `end_column` may be null, `hint` empty."""
    return {
        "code": told.code,
        "severity": told.severity,
        "file": told.file,
        "line": told.line,
        "column": told.column,
        "end_column": told.end_column,
        "message": told.message,
        "hint": told.hint,
    }


def github(diagnostics: Sequence[Diagnostic], limit: int | None = LIMIT) -> str:
    """The diagnostics as workflow commands that annotate lines of a pull request: the first `limit`, and a count.

    The form and its escapes: GitHub's documentation, "Workflow commands for GitHub Actions".
    """
    lines = [_annotation(each) for each in diagnostics[:limit]]
    if len(diagnostics) > len(lines):
        lines.append(f"… and {len(diagnostics) - len(lines):,} more; {summary(diagnostics)}")
    return "\n".join(lines)


def _annotation(told: Diagnostic) -> str:
    facts = {"file": told.file, "line": told.line, "col": told.column, "endColumn": told.end_column}
    shown = ",".join(f"{key}={_property(str(value))}" for key, value in facts.items() if value is not None)
    text = told.message + (f"\nhint: {told.hint}" if told.hint else "")
    lines = "%0A".join(_data(each) for each in text.split("\n"))
    return f"::{told.severity} {shown},title={_property(told.code)}::{lines}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
