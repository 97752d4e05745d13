"""Problems of a manifest, as data. Pure.

A diagnostic has a code, a severity, a place, a message and a hint. Each module of the loader adds to one `Findings`
and continues, so a user gets all problems at once, in order of place. CODES is the only list of codes;
docs/diagnostics.md is generated from it. `batchrunner.manifest.diagnostics.render` formats diagnostics.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Severity = Literal["error", "warning"]

CODES: Final[dict[str, str]] = {
    # The file and its text
    "file": "There is no manifest to read at this path.",
    "encoding": "The text is not UTF-8. The message names the byte, counted from 0, or the encoding it looks like.",
    "control-character": "The text contains a control character. YAML allows only tabs and line ends.",
    "yaml-syntax": "The text is not valid YAML, for a reason without a code of its own.",
    "yaml-tab": "A tab indents a line. Indent YAML with spaces.",
    "yaml-indent": "A line starts in a column that fits neither the list nor the mapping around it.",
    "yaml-colon": "Unquoted text contains ': ', or a key's colon or the space after it is missing.",
    "yaml-quote": "A quote is never closed, is closed on a later line by accident, or is followed by text.",
    "yaml-bracket": "A [ or { is never closed, a ] or } was never opened, or a comma is missing between two items.",
    "yaml-start": "Unquoted text starts with a character with a meaning in YAML: @ ` % * & ! > [ { and others.",
    "yaml-escape": "A backslash in double quotes starts an invalid escape. In single quotes it is plain text.",
    "yaml-comment": "An unquoted ' #' starts a comment and cuts off the text after it.",
    "yaml-boolean": "YAML reads an unquoted no, yes, off or on as false or true. Quote it to make it text.",
    "yaml-number": "A number is written in a form that YAML's versions read in different ways: 010, 1:30, 1_000, 1e3.",
    "yaml-null": "A required value is missing, ~ or null.",
    "odd-space": "A space that is not one in YAML, such as U+00A0, is in the indent or at an edge of a text.",
    "smart-quote": "YAML treats curly quotes as letters. Use straight quotes.",
    "documents": "A manifest is one document. '---' starts a second one.",
    "tag": "YAML tags such as !include are not supported.",
    "number": "A number is not finite or is too large.",
    "alias": "An alias is undefined, is inside the value that it names, or aliases expand to too many values.",
    "depth": "Lists and mappings are nested too deeply.",
    "key": "A key is not text.",
    "duplicate-key": "A key appears twice in one mapping. YAML would silently keep the last value.",
    "merge": "A merge key '<<' takes an alias of a mapping, or a list of such aliases.",
    # Its shape
    "empty": "The manifest, a text or a list is empty.",
    "unknown-key": "A key does not exist or is not allowed here. The hint names the nearest known key.",
    "missing-key": "A required key is missing.",
    "wrong-type": "A value has the wrong type, such as text for a number.",
    "not-allowed": "A value is not one of the allowed values or does not have the required format.",
    "out-of-range": "A number is too small or too large.",
    # What it refers to
    "video": "A video cannot be used: missing, unreadable, not a video, or an address that the service cannot fetch.",
    "image": "An image cannot be used: missing, unreadable, not an image, or an address that the service cannot fetch.",
    "no-match": "A pattern matches no file.",
    "table": "A table of jobs cannot be read, or a row does not match the header.",
    "variable": "A variable has no value, is malformed, or is an environment variable that may not be read.",
    "unused": "A variable is not used. A warning.",
    "secret": "The file contains the API key, which would be stored in the journal and the reports.",
    "ignored-key": "A manifest cannot set this key. Use its flag or its environment variable. A warning.",
    "too-many": "The manifest expands to more jobs than a batch may have.",
    "id": "An id is not a valid file name on every system.",
    "duplicate-id": "Two jobs would have the same id, and so the same file.",
    "file-name": "A result's name cannot be built from its pattern, or is not a valid file name on every system.",
    "duplicate-file": "Two results would have the same name.",
    "lock": "The manifest differs from its lock file. The hint says how to accept the difference.",
    "same-job": "Two entries are the same job. A warning: it is paid for once and delivered under both ids.",
}

_HINT_OUTSIDE: Final = "the file is outside the manifest's folder, so its content is not shown"

# A place packs line, column and length into one 64-bit number, because a large manifest has millions of places.
_LENGTH_BITS = 12
_COLUMN_BITS = 20
_LENGTH_MAX = (1 << _LENGTH_BITS) - 1
_COLUMN_MAX = (1 << _COLUMN_BITS) - 1

MOST_PROBLEMS = 20_000  # in one file; a larger number comes from a program
_MAX_TEXT = 1000  # characters of a message or a hint, which may quote the manifest
_BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # line ends in YAML 1.1
_CUT_OFF = re.compile(r"\s*(?<=\s)#\S")
_MAYBE_CUT = {"video", "image", "no-match", "wrong-type", "not-allowed"}


def mark(line: int, column: int, length: int = 0) -> int:
    """Pack a place into one number: 1-based line and column, and `length` in characters (0 if unknown).

    Marks sort in order of place.
    """
    if length > _LENGTH_MAX:
        length = 0
    return (line << _COLUMN_BITS | min(column, _COLUMN_MAX)) << _LENGTH_BITS | length


START: Final = mark(1, 1)


def line_of(place: int) -> int:
    """Return the line of a mark, 1-based."""
    return place >> (_COLUMN_BITS + _LENGTH_BITS)


def column_of(place: int) -> int:
    """Return the column of a mark, 1-based."""
    return place >> _LENGTH_BITS & _COLUMN_MAX


def end_of(text: str) -> int:
    """Return the place directly after `text`, with length 1."""
    breaks = list(_BREAKS.finditer(text))
    return mark(len(breaks) + 1, len(text) - (breaks[-1].end() if breaks else 0) + 1, 1)


def split_lines(text: str) -> list[str]:
    """Split `text` at YAML's line ends, which are removed."""
    return _BREAKS.split(text)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem.

    code: one of CODES. line, column: 1-based, in characters. end_column: the column after the last character on the
    same line, or None if unknown. hint: what to do, may be empty. source: the line of the file, if available.
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


class Note(NamedTuple):
    """An explanation of how YAML reads a text, for text that is easily misread.

    why: the explanation. A problem at the same place gets it in its hint, and gets the note's code. alone: the severity
    with which the note is reported, with `hint`, if there is no other problem at its place; None: not reported.
    """

    code: str
    why: str
    hint: str = ""
    alone: Severity | None = None


class TooManyProblems(Exception):
    """The limit of problems is reached. The loader catches this and reports the problems found so far."""


@dataclass(slots=True)
class Findings:
    """Collects the diagnostics of one file. A problem is reported once per place.

    text: the file's content, from which diagnostics quote lines; bytes are decoded on demand. quotes: whether
    diagnostics may show the file's content. If not, each reports only its place and the meaning of its code. secrets:
    texts that no diagnostic shows, and that the file must not contain (`search`).
    """

    file: str
    text: str | bytes = field(default="", repr=False)
    quotes: bool = True
    secrets: tuple[str, ...] = field(default=(), repr=False)
    _found: dict[tuple[int, str, Severity, str, str], None] = field(default_factory=dict)
    _notes: dict[int, Note] = field(default_factory=dict)
    _sorted: tuple[Diagnostic, ...] | None = None  # the cache of `all`, quoting from `_quoted`
    _quoted: str | bytes = field(default="", repr=False)
    _split_text: str | bytes | None = field(default=None, repr=False)
    _split_lines: list[str] = field(default_factory=list, repr=False)  # of `_split_text`

    def error(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Record a problem that prevents a run."""
        self._add(code, "error", place, message, hint)

    def warn(self, code: str, place: int, message: str, hint: str = "") -> None:
        """Record a problem that does not prevent a run."""
        self._add(code, "warning", place, message, hint)

    def search(self, line: str, number: int) -> None:
        """Record each secret in `line`, which has this 1-based `number`."""
        for secret in self.secrets:
            if (found := line.find(secret)) >= 0:
                hint = "remove it here, and replace it at the service if others can read the file"
                self.error("secret", mark(number, found + 1, len(secret)), "the text contains the API key", hint)

    def _masked(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "*" * len(secret))
        return text

    def remark(self, place: int, note: Note) -> None:
        """Keep `note` for a problem that may be found at `place` later."""
        self._notes[place] = note
        self._sorted = None

    def _add(self, code: str, severity: Severity, place: int, message: str, hint: str) -> None:
        self._found.setdefault((place, code, severity, message, hint))
        self._sorted = None
        if len(self._found) >= MOST_PROBLEMS:
            raise TooManyProblems

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """Only the errors, in order of place."""
        return tuple(item for item in self.all if item.severity == "error")

    @property
    def all(self) -> tuple[Diagnostic, ...]:
        """All diagnostics, in order of place."""
        if self._sorted is None or self._quoted is not self.text:
            places = {place for place, *_ in self._found}
            alone = (
                (place, note.code, note.alone, note.why, note.hint)
                for place, note in self._notes.items()
                if note.alone and place not in places
            )
            found = sorted((*self._found, *alone), key=lambda item: item[0] >> _LENGTH_BITS)
            lines = self._lines() if found else []
            self._quoted = self.text
            self._sorted = tuple(self._diagnostic(lines, *item) for item in found)
        return self._sorted

    def diagnostic(self, code: str, place: int, message: str, hint: str = "") -> Diagnostic:
        """Return an error that is not recorded here. The message must not quote a file that may not be shown."""
        if not self.quotes:
            return Diagnostic(code, "error", self.file, line_of(place), column_of(place), self._masked(message), hint)
        if self._split_text is not self.text:
            self._split_text, self._split_lines = self.text, self._lines()
        return self._diagnostic(self._split_lines, place, code, "error", message, hint)

    def _lines(self) -> list[str]:
        text = self.text
        return split_lines(text if isinstance(text, str) else text.decode("utf-8-sig", "replace")) if text else []

    def _diagnostic(
        self, lines: list[str], place: int, code: str, severity: Severity, message: str, hint: str
    ) -> Diagnostic:
        line, column, length = line_of(place), column_of(place), place & _LENGTH_MAX
        source = self._masked(lines[line - 1]) if line <= len(lines) else None
        end = column + length if length else None
        if not self.quotes:
            return Diagnostic(code, severity, self.file, line, column, CODES[code], _HINT_OUTSIDE)
        message, hint = map(self._masked, (message, hint))
        message, hint = (text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…" for text in (message, hint))
        diagnostic = Diagnostic(code, severity, self.file, line, column, message, hint, end, source)
        note = self._notes.get(place)
        if diagnostic.code in _MAYBE_CUT and (cut := _with_comment(diagnostic)) is not diagnostic:
            return cut
        if note is None or message == note.why:
            return diagnostic
        return replace(diagnostic, code=note.code, hint=_joined(hint, note.why))


def _with_comment(diagnostic: Diagnostic) -> Diagnostic:
    """Return `diagnostic`, or one with the code yaml-comment if a '#' cut off the value at its place."""
    if diagnostic.source is None or diagnostic.source[diagnostic.column - 1 : diagnostic.column] in ("'", '"'):
        return diagnostic
    if not _CUT_OFF.match(diagnostic.source, (diagnostic.end_column or diagnostic.column) - 1):
        return diagnostic
    hint = "an unquoted ' #' starts a comment: quote text that contains it"
    return replace(diagnostic, code="yaml-comment", hint=_joined(diagnostic.hint, hint))


def _joined(hint: str, why: str) -> str:
    """Join a hint and an explanation in one line."""
    return f"{hint}{' ' if hint.endswith('?') else '; '}{why}" if hint else why


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None. Case is ignored."""
    return _nearest(str(name)[:100].lower(), tuple(known))


@lru_cache(maxsize=1024)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    by_lower = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name, by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def count(number: int, thing: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
