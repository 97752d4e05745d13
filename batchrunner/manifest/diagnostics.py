"""What a user did wrong in a manifest, as data. Pure.

A diagnostic is a code, a severity, a place, a message and a hint. Every room of the loader adds to one `Findings`
and goes on, so that a manifest is told all its problems at once, in order of place. They become text here and only
here, at the edge: `render` also defuses control characters, since messages quote what a stranger may have written.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]

# A place in the text is one small number, because a large manifest holds millions of them.
_COLUMN_BITS = 20
_COLUMN_MAX = (1 << _COLUMN_BITS) - 1
START = (1 << _COLUMN_BITS) | 1


def mark(line: int, column: int) -> int:
    """A place packed into one number; 1-based line and column. Marks sort in order of place."""
    return (line << _COLUMN_BITS) | min(column, _COLUMN_MAX)


def line_of(place: int) -> int:
    """The line of a mark, 1-based."""
    return place >> _COLUMN_BITS


def column_of(place: int) -> int:
    """The column of a mark, 1-based."""
    return place & _COLUMN_MAX


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem. `code` is a stable slug; `line` and `column` are 1-based; `hint` may be empty."""

    code: str
    severity: Severity
    file: str
    line: int
    column: int
    message: str
    hint: str = ""


@dataclass(slots=True)
class Findings:
    """Collects the diagnostics of one file. The same problem at the same place is told once."""

    file: str
    _found: dict[Diagnostic, None] = field(default_factory=dict)

    def error(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Note a problem that keeps the manifest from running."""
        self._add(code, "error", place, message, hint)

    def warn(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Note something that a person should know, and that stops nothing."""
        self._add(code, "warning", place, message, hint)

    def _add(self, code: str, severity: Severity, place: int, message: str, hint: str) -> None:
        found = Diagnostic(code, severity, self.file, line_of(place), column_of(place), message, hint)
        self._found.setdefault(found)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors alone, in order of place."""
        return tuple(each for each in self.all if each.severity == "error")

    @property
    def all(self) -> tuple[Diagnostic, ...]:
        """Everything found, in order of place."""
        return tuple(sorted(self._found, key=lambda each: (each.line, each.column)))


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, or None. Case does not count."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(word)[:100].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def count(number: int, thing: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def render(diagnostics: Sequence[Diagnostic], limit: int = 20) -> str:
    """The diagnostics as lines ``file:line:column: message`` with indented hints: the first `limit`, and a count."""
    lines: list[str] = []
    for each in diagnostics[:limit]:
        severity = "warning: " if each.severity == "warning" else ""
        lines.append(f"{each.file}:{each.line}:{each.column}: {severity}{each.message}")
        if each.hint:
            lines.append(f"  hint: {each.hint}")
    if len(diagnostics) > limit:
        lines.append(f"… and {len(diagnostics) - limit:,} more")
    errors = sum(each.severity == "error" for each in diagnostics)
    counts = ((errors, "error"), (len(diagnostics) - errors, "warning"))
    summary = ", ".join(count(number, thing) for number, thing in counts if number)
    return "\n".join(_printable(line) for line in (*lines, *([summary] if summary else [])))


def _printable(line: str) -> str:
    """`line` without anything that a terminal would obey or a stream could not encode."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
