"""What a user did wrong in a manifest, as data. Pure.

A diagnostic is a code, a severity, a place, a message and a hint. Every room of the loader adds to one `Findings`
and goes on, so that a manifest is told all its problems at once, in order of place. CODES is the one list of codes:
docs/diagnostics.md is made from it. How diagnostics look is `batchrunner.manifest.diagnostics.render`'s business.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal

Severity = Literal["error", "warning"]

CODES: Final[dict[str, str]] = {
    # The file and its text
    "file": "There is no manifest to read at this path.",
    "encoding": "The text is not UTF-8. The message names the byte, counted from 0, or the encoding it looks like.",
    "control-character": "A control character stands in the text; YAML allows none but tabs and line ends.",
    "yaml-syntax": "The text is not YAML, for a reason that has no code of its own.",
    "yaml-tab": "A tab indents a line. YAML is indented with spaces.",
    "yaml-indent": "A line starts in a column that fits neither the list nor the mapping around it.",
    "yaml-colon": "A ': ' stands in unquoted text, or the space after a key's colon, or the colon itself, is missing.",
    "yaml-quote": "A quote is never closed, is closed on a later line by accident, or text goes on after it.",
    "yaml-bracket": "A [ or { is never closed, a ] or } was never opened, or a comma is missing between two items.",
    "yaml-start": "Unquoted text starts with a character that means something to YAML: @ ` % * & ! > [ { and others.",
    "yaml-escape": "A backslash in double quotes starts an escape that does not exist. In single quotes it is itself.",
    "yaml-comment": "An unquoted ' #' started a comment, and cut off what follows it.",
    "yaml-boolean": "YAML reads an unquoted no, yes, off or on as false or true. Where text is meant, quote it.",
    "yaml-number": "A number is written in a form that YAML's versions read in different ways: 010, 1:30, 1_000, 1e3.",
    "yaml-null": "Nothing, ~ or null stands where a value is needed.",
    "odd-space": "A space that is none to YAML, such as U+00A0, indents a line or stands at the end of a text or key.",
    "smart-quote": "Curly quotes are letters to YAML. Write straight ones.",
    "documents": "A manifest is one document; a second one starts after '---'.",
    "tag": "YAML tags such as !include mean nothing here.",
    "number": "A number is not finite, or far too large.",
    "alias": "An alias names nothing, stands inside of what it names, or aliases multiply beyond all measure.",
    "depth": "Lists and mappings are nested too deep.",
    "key": "A key is not text.",
    "duplicate-key": "A key stands twice in one mapping. YAML would keep the last one in silence.",
    "merge": "A merge key '<<' takes an alias of a mapping, or a list of such aliases.",
    # Its shape
    "empty": "The manifest, a text or a list is empty.",
    "unknown-key": "A key that does not exist, or cannot stand here. The nearest known key is the hint.",
    "missing-key": "A key that is needed is not there.",
    "wrong-type": "A value has the wrong type: text for a number, say.",
    "not-allowed": "A value is none of those that are allowed, or is not written as it must be.",
    "out-of-range": "A number is too small or too large.",
    # What it refers to
    "video": "A video cannot be used: missing, unreadable, no video, or an address that the service cannot fetch.",
    "image": "An image cannot be used: missing, unreadable, no image, or an address that the service cannot fetch.",
    "no-match": "A pattern matches no file.",
    "table": "A table of jobs cannot be read, or a row of it is not as its first line says.",
    "variable": "A variable has no value, is not written as one, or is one of the environment that may not be read.",
    "unused": "Nothing uses a variable. A warning.",
    "ignored-key": "A key that a manifest cannot set: its flag or its environment variable does. A warning.",
    "too-many": "The manifest stands for more jobs than a batch may have.",
    "id": "An id cannot be a file name everywhere.",
    "duplicate-id": "Two jobs would have the same id, and so the same file.",
    "file-name": "A result's name cannot be made from its pattern, or cannot be a file name everywhere.",
    "duplicate-file": "Two results would have the same name.",
    "same-job": "Two entries are the same job. A warning: it is paid for once and delivered under both ids.",
}

_HINT_OUTSIDE: Final = "the file lies outside the manifest's folder, so nothing of its content is shown"

# A place is one number of 64 bits, because a large manifest holds millions of them: line, column, length.
_LENGTH_BITS = 12
_COLUMN_BITS = 20
_LENGTH_MAX = (1 << _LENGTH_BITS) - 1
_COLUMN_MAX = (1 << _COLUMN_BITS) - 1

MOST_PROBLEMS = 20_000  # of one file; whoever made more of them made them with a program
_MAX_TEXT = 1000  # characters of a message or a hint: it may quote what was written
_BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what YAML 1.1 takes for the end of a line
_CUT_OFF = re.compile(r"\s*(?<=\s)#\S")
_MAYBE_CUT = {"video", "image", "no-match", "wrong-type", "not-allowed"}


def mark(line: int, column: int, length: int = 0) -> int:
    """A place packed into one number: 1-based line and column; `length` in characters, 0 where it is not known.

    Marks sort in order of place.
    """
    if length > _LENGTH_MAX:
        length = 0
    return (line << _COLUMN_BITS | min(column, _COLUMN_MAX)) << _LENGTH_BITS | length


START: Final = mark(1, 1)


def line_of(place: int) -> int:
    """The line of a mark, 1-based."""
    return place >> (_COLUMN_BITS + _LENGTH_BITS)


def column_of(place: int) -> int:
    """The column of a mark, 1-based."""
    return place >> _LENGTH_BITS & _COLUMN_MAX


def end_of(text: str) -> int:
    """The place that follows `text`, of length 1."""
    breaks = list(_BREAKS.finditer(text))
    return mark(len(breaks) + 1, len(text) - (breaks[-1].end() if breaks else 0) + 1, 1)


def split_lines(text: str) -> list[str]:
    """The lines of `text`, without their ends, as YAML counts them."""
    return _BREAKS.split(text)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem.

    code: one of CODES. line, column: 1-based, in characters; end_column: the one after the last, on the same line, or
    None where it is not known. hint: what to do about it, may be empty. source: the line of the file, if there is one.
    """

    code: str
    severity: Severity
    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    end_column: int | None = None
    source: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """What YAML makes of a text whose writer may not have meant it.

    why: what happened, in words; they stand in the hint of any problem that is found at its place, which then goes
    under the note's code. alone: how grave it is, with its `hint`, where nothing else is wrong; None: not told.
    """

    code: str
    why: str
    hint: str = ""
    alone: Severity | None = None


class TooManyProblems(Exception):
    """There is no use in looking further: the loader catches it, and tells what was found so far."""


@dataclass(slots=True)
class Findings:
    """Collects the diagnostics of one file. The same problem at the same place is told once.

    text: what the file holds, for diagnostics to quote their lines from; bytes are decoded when that is needed.
    quotes: whether diagnostics may show what the file holds. Of one that does not, each tells its place and its code's
    meaning.
    """

    file: str
    text: str | bytes = field(default="", repr=False)
    quotes: bool = True
    _found: dict[tuple[int, str, Severity, str, str], None] = field(default_factory=dict)
    _notes: dict[int, Note] = field(default_factory=dict)
    _told: tuple[Diagnostic, ...] | None = None  # all of them, quoting from `_quoted`
    _quoted: str | bytes = field(default="", repr=False)

    def error(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Note a problem that keeps the manifest from running."""
        self._add(code, "error", place, message, hint)

    def warn(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Note something that a person should know, and that stops nothing."""
        self._add(code, "warning", place, message, hint)

    def remark(self, place: int, note: Note) -> None:
        """Keep `note` for the problem that may be found at `place`."""
        self._notes[place] = note
        self._told = None

    def _add(self, code: str, severity: Severity, place: int, message: str, hint: str) -> None:
        self._found.setdefault((place, code, severity, message, hint))
        self._told = None
        if len(self._found) >= MOST_PROBLEMS:
            raise TooManyProblems

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors alone, in order of place."""
        return tuple(each for each in self.all if each.severity == "error")

    @property
    def all(self) -> tuple[Diagnostic, ...]:
        """Everything found, in order of place."""
        if self._told is None or self._quoted is not self.text:
            places = {place for place, *_ in self._found}
            alone = (
                (place, note.code, note.alone, note.why, note.hint)
                for place, note in self._notes.items()
                if note.alone and place not in places
            )
            found = sorted((*self._found, *alone), key=lambda each: each[0] >> _LENGTH_BITS)
            lines = self._lines() if found else []
            self._quoted = self.text
            self._told = tuple(self._diagnostic(lines, *each) for each in found)
        return self._told

    def _lines(self) -> list[str]:
        text = self.text
        return split_lines(text if isinstance(text, str) else text.decode("utf-8-sig", "replace")) if text else []

    def _diagnostic(
        self, lines: list[str], place: int, code: str, severity: Severity, message: str, hint: str
    ) -> Diagnostic:
        line, column, length = line_of(place), column_of(place), place & _LENGTH_MAX
        source = lines[line - 1] if line <= len(lines) else None
        end = column + length if length else None
        if not self.quotes:
            return Diagnostic(code, severity, self.file, line, column, CODES[code], _HINT_OUTSIDE)
        message, hint = (text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…" for text in (message, hint))
        told = Diagnostic(code, severity, self.file, line, column, message, hint, end, source)
        note = self._notes.get(place)
        if told.code in _MAYBE_CUT and (cut := _with_comment(told)) is not told:
            return cut
        if note is None or message == note.why:
            return told
        return replace(told, code=note.code, hint=_joined(hint, note.why))


def _with_comment(told: Diagnostic) -> Diagnostic:
    """`told`, or what it is in truth: unquoted text, or a whole value, that a '#' cut off."""
    if told.source is None or told.source[told.column - 1 : told.column] in ("'", '"'):
        return told
    if not _CUT_OFF.match(told.source, (told.end_column or told.column) - 1):
        return told
    hint = "an unquoted ' #' starts a comment: quote text that holds it"
    return replace(told, code="yaml-comment", hint=_joined(told.hint, hint))


def _joined(hint: str, why: str) -> str:
    """Both in one line."""
    return f"{hint}{' ' if hint.endswith('?') else '; '}{why}" if hint else why


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, or None. Case does not count."""
    return _nearest(str(word)[:100].lower(), tuple(known))


@lru_cache(maxsize=1024)
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word, by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def count(number: int, thing: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
