"""Explain YAML syntax errors: a message, a hint, and the place where the user can fix the error. Pure.

Only this file matches the parser's (libyaml's) own messages. A message that is not known here is shown unchanged. The
explanations use only the text around the place, and do not interpret the text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from batchrunner.manifest.diagnostics.diagnostic import mark
from batchrunner.manifest.yaml_source.pitfalls import ODD, odd_name

_ODD_INDENT = re.compile(rf"[ \t-]*(?::[ \t]*)?([{ODD}])")
_TAB_INDENT = re.compile(r" *(\t+)")
_ODD_AFTER_COLON = re.compile(rf":([{ODD}])")
_GLUED_LINE = re.compile(r"\s*(?:- +)*([A-Za-z_]\w*):(?=[^\s/\\])(.*)")
_KEYED = re.compile(r"(\s*(?:- +)*)([^\s:#\"'{\[-][^:]*):\s+(?=\S)")
_KEYED_INSIDE = re.compile(r"[\[{,]\s*([^\s,:\[\]{}]+):\s+(?=[^,\[\]{}]*$)")
_KEY_AT = re.compile(r"\s*(?:- +)*(?=\S)")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_OPENING = re.compile(r"[\[{]")
_CLOSERS = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Mishap:
    """Where and why the parser stopped. Lines and columns are 0-based.

    problem: libyaml's message. since: where the unreadable construct starts, if the parser says so. bracket: where the
    innermost open [ or { is. quoted: start and end of the quoted text that was read last, if it spans lines.
    """

    problem: str
    lines: Sequence[str]
    line: int
    column: int
    since: tuple[int, int] | None = None
    bracket: tuple[int, int] | None = None
    quoted: tuple[tuple[int, int], tuple[int, int]] | None = None

    def row(self, number: int) -> str:
        """Return the line with this number, empty if there is none."""
        return self.lines[number] if 0 <= number < len(self.lines) else ""

    @property
    def text(self) -> str:
        """Return the line at which the parser stopped."""
        return self.row(self.line)

    @property
    def above(self) -> int:
        """Return the number of the last line above that is not blank or a comment, or -1."""
        at = self.line - 1
        while at >= 0 and (not self.lines[at].strip() or self.lines[at].lstrip().startswith("#")):
            at -= 1
        return at


@dataclass(frozen=True, slots=True)
class Explanation:
    """An explained mishap. `at`: 0-based line and column, if they differ from where the parser stopped."""

    code: str
    message: str
    hint: str = ""
    at: tuple[int, int] | None = None
    length: int = 1


def explain(mishap: Mishap) -> tuple[str, int, str, str]:
    """Return code, place (a mark), message and hint for a syntax error."""
    explanation = _space(mishap)
    for pattern, explainer in _KNOWN:
        if explanation is not None:
            break
        if pattern in mishap.problem:
            explanation = explainer(mishap)
    if explanation is None:
        explanation = Explanation(
            "yaml-syntax", f"not valid YAML: {mishap.problem}", at=mishap.since if not mishap.text else None
        )
    line, column = explanation.at or (mishap.line, mishap.column)
    return explanation.code, mark(line + 1, column + 1, explanation.length), explanation.message, explanation.hint


def _space(mishap: Mishap) -> Explanation | None:
    """Explain a tab or an unusual space in a place where only plain spaces count."""
    for number in (mishap.line, mishap.above):
        for pattern in (_ODD_INDENT.match, _ODD_AFTER_COLON.search):
            if found := pattern(mishap.row(number)):
                return Explanation(
                    "odd-space", f"this is {odd_name(found[1])}", "write a plain space", (number, found.start(1))
                )
    if mishap.bracket is None and mishap.text.strip() and (found := _TAB_INDENT.match(mishap.text)):
        at = (mishap.line, found.start(1))
        return Explanation("yaml-tab", "a tab indents this line", "indent YAML with spaces", at, len(found[1]))
    return None


def _colon(mishap: Mishap) -> Explanation:
    head, above = mishap.text[: mishap.column], mishap.row(mishap.above)
    if keyed := _KEYED.match(head + " x" if head.endswith(":") else head):
        return _second_colon(keyed[2], mishap.text[keyed.end() :].strip())
    if glued := _GLUED_LINE.match(above):
        return _glued(glued, mishap.above)
    if above and ":" not in above and not above.startswith(("---", "%")):
        at = _KEY_AT.match(above)
        column = at.end() if at else 0
        place = (mishap.above, column)
        length = max(1, len(above.rstrip()) - column)
        return Explanation("yaml-colon", "a key without ':'", "write 'key: value'", place, length)
    own, other = (_column_of_key(line) for line in (mishap.text, above))
    if own > other:
        hint = f"keys of one mapping start in one column: that of line {mishap.above + 1} is {other + 1}"
        message = "this line is indented deeper than the key above it, so it continues that key's text"
        return Explanation("yaml-indent", message, hint, (mishap.line, own), max(1, mishap.column - own))
    return Explanation("yaml-colon", "a ':' where no value can follow", "quote text that contains ': '")


def _second_colon(key: str, text: str) -> Explanation:
    key = key.strip()[:40]
    return Explanation(
        "yaml-colon", f"the text after '{key}:' contains another ': '", f"quote the text: {key}: {_quoted(text)}"
    )


def _glued(found: "re.Match[str]", line: int) -> Explanation:
    key, value = found[1], found[2].strip()
    at = (line, found.start(1))
    return Explanation("yaml-colon", f"no space after '{key}:'", f"write '{key}: {value[:60]}'", at, len(key) + 1)


def _column_of_key(line: str) -> int:
    found = _KEY_AT.match(line)
    return found.end() if found else 0


def _quoted(text: str) -> str:
    """Return `text` in quotes, truncated if it is long."""
    return "'" + (text if len(text) <= 60 else text[:59] + "…").replace("'", "''") + "'"


def _value_from(mishap: Mishap, column: int) -> str:
    """Return the unquoted text that starts at `column` of the line."""
    text = re.split(r"\s#", mishap.text[column:], maxsplit=1)[0].strip()
    head = mishap.text[:column]
    inside = mishap.bracket or sum(map(head.count, "[{")) > sum(map(head.count, "]}"))
    return re.split(r"[,\]}]", text, maxsplit=1)[0] if inside else text


def _start(mishap: Mishap) -> Explanation:
    """Explain unquoted text whose first character has a meaning in YAML."""
    line, column = mishap.since if mishap.since and mishap.since[0] == mishap.line else (mishap.line, mishap.column)
    if mishap.text[column : column + 1] == "\t":
        return Explanation("yaml-tab", "a tab where YAML accepts only spaces", "write a space", (line, column))
    text = _value_from(mishap, column)
    hint = f"quote it: {_quoted(text)}" if len(text) > 1 else "quote it"
    return Explanation(
        "yaml-start", f"unquoted text cannot start with {text[:1]}", hint, (line, column), max(1, len(text))
    )


def _bracket(mishap: Mishap) -> Explanation:
    """Explain a [ or { that is not closed, or a missing comma between its items."""
    head = mishap.text[: mishap.column]
    if mishap.text[mishap.column : mishap.column + 1] == ":" and (keyed := _KEYED_INSIDE.search(head)):
        text = re.split(r"[,\]}]", mishap.text[keyed.end() :], maxsplit=1)[0].strip()
        return _second_colon(keyed[1], text)
    if mishap.bracket is None:
        char = mishap.text[mishap.column : mishap.column + 1]
        if char in ("]", "}"):
            return Explanation("yaml-bracket", f"this {char} closes nothing", "remove it, or quote the text")
        return Explanation("yaml-syntax", "not valid YAML: a value is missing here", "")
    line, column = mishap.bracket
    sign = _OPENING.search(mishap.row(line), column)  # an anchor or a tag may precede it
    if sign is None:
        return Explanation(
            "yaml-bracket", "a [ or { is not closed, or a comma is missing", f"it starts on line {line + 1}"
        )
    opening, column = sign.group(), sign.start()
    closer = _CLOSERS[opening]
    if _is_closed(mishap.lines, line, column):
        message = f"a comma or a {closer} is missing before this"
        return Explanation("yaml-bracket", message, f"the {opening} is on line {line + 1}")
    return Explanation("yaml-bracket", f"this {opening} is never closed", f"close it with {closer}", (line, column))


_MARKS = re.compile(
    r"""(?<![^\s\[{,:])"(?:[^"\\]|\\.)*+(?:"|\Z)|(?<![^\s\[{,:])'(?:[^']|'')*+(?:'|\Z)|(?<!\S)\#[^\n]*|[\[\]{}]""",
    re.DOTALL,
)


def _is_closed(lines: Sequence[str], line: int, column: int) -> bool:
    """Return True if the bracket at this place is closed later. Quotes and comments are skipped."""
    text = "\n".join((lines[line][column:], *lines[line + 1 : line + 1000]))[:100_000]
    awaited = list[str]()
    for found in _MARKS.finditer(text):
        char = found.group()
        if char in _CLOSERS:
            awaited.append(_CLOSERS[char])
        elif char in ("]", "}"):
            if not awaited or awaited.pop() != char:
                return False
            if not awaited:
                return True
    return False


def _unclosed_quote(mishap: Mishap) -> Explanation:
    return Explanation("yaml-quote", "this quote is never closed", "close it", mishap.since)


def _misfit(mishap: Mishap) -> Explanation:
    """Explain a line, or the remainder of one, that does not fit its context."""
    before = mishap.text[: mishap.column].rstrip()
    if mishap.quoted and before[-1:] in ("'", '"') and mishap.quoted[1] == (mishap.line, len(before)):
        if mishap.quoted[0][0] < mishap.line:
            message = f"this quote is closed only on line {mishap.line + 1}, and text follows it"
            return Explanation("yaml-quote", message, "close it on its own line", mishap.quoted[0])
        start = mishap.quoted[0][1]
        hint = f"quote all of it: {_quoted(mishap.text[start:].strip())}"
        return Explanation("yaml-quote", "text follows the closing quote", hint)
    if before[-1:] in ("]", "}"):
        keyed = _KEYED.match(mishap.text)
        column = keyed.end() if keyed else _column_of_key(mishap.text)
        if mishap.text[column : column + 1] in _CLOSERS:
            text = mishap.text[column:].strip()
            message = f"unquoted text cannot start with {text[0]}"
            return Explanation("yaml-start", message, f"quote it: {_quoted(text)}", (mishap.line, column), len(text))
    container, items = ("list", "items of one list") if "'-'" in mishap.problem else ("mapping", "keys of one mapping")
    hint = f"{items} start in one column"
    if mishap.since:
        hint += f": that of line {mishap.since[0] + 1} is {mishap.since[1] + 1}"
    return Explanation("yaml-indent", f"this does not fit the {container} around it", hint)


def _keyless(mishap: Mishap) -> Explanation:
    line, column = mishap.since or (mishap.line, mishap.column)
    text = mishap.row(line)
    if glued := _GLUED_LINE.match(text):
        return _glued(glued, line)
    length = max(1, len(text.rstrip()) - column)
    return Explanation("yaml-colon", "a key without ':'", "write 'key: value'", (line, column), length)


def _escape(mishap: Mishap) -> Explanation:
    at = mishap.text.rfind("\\", 0, mishap.column + 1)
    place = (mishap.line, at if at >= 0 else mishap.column)
    if _SURROGATE.match(mishap.text, place[1]):
        hint = "write the character itself, and save the file as UTF-8"
        return Explanation("yaml-escape", "an escape for half of a character", hint, place, 6)
    shown = mishap.text[place[1] : place[1] + 2]
    hint = "put the text in single quotes, or double the backslash"
    return Explanation("yaml-escape", f"{shown} is not a valid escape in double quotes", hint, place, 2)


def _nested_list(_: Mishap) -> Explanation:
    hint = "start it on the next line, write [a, b], or quote text that starts with '- '"
    return Explanation("yaml-indent", "a list cannot start on the line of its key", hint)


def _after_the_end(mishap: Mishap) -> Explanation:
    if mishap.text[mishap.column : mishap.column + 1] in ("]", "}"):
        return _bracket(mishap)
    return Explanation("yaml-syntax", "text follows the end of the manifest's value", "")


def _directive(mishap: Mishap) -> Explanation:
    column = len(mishap.text) - len(mishap.text.lstrip())
    return Explanation("yaml-start", "a line cannot start with %", "quote it", (mishap.line, column))


def _version(_: Mishap) -> Explanation:
    return Explanation("yaml-syntax", "the YAML version cannot be read", "remove the %YAML line")


_KNOWN: Final[tuple[tuple[str, Callable[[Mishap], Explanation]], ...]] = (
    ("mapping values are not allowed", _colon),
    ("cannot start any token", _start),
    ("alphabetic or numeric character", _start),
    ("expected comment or line break", _start),
    ("the expected '>'", _start),
    ("expected tag URI", _start),
    ("block sequence entries are not allowed", _nested_list),
    ("expected ',' or", _bracket),
    ("expected node content", _bracket),
    ("end of stream", _unclosed_quote),
    ("unexpected document indicator", _unclosed_quote),
    ("did not find expected key", _misfit),
    ("did not find expected '-'", _misfit),
    ("could not find expected ':'", _keyless),
    ("escape c", _escape),
    ("decimal number", _escape),
    ("expected <document start>", _after_the_end),
    ("directive", _directive),
    ("incompatible YAML document", _version),
)
