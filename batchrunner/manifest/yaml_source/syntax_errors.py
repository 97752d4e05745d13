"""What YAML's parser stumbles over, in words for the one who wrote it, at the place where the cure is. Pure.

Rule: the parser's own words (libyaml's) are matched in this file and nowhere else; what it says that is not known here
is told as it is. Everything is read off the text around the place, nothing decides what the text means.
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
    """Where and why the parser gave up. Lines and columns count from 0.

    problem: libyaml's words. since: where the thing began that could not be read, if the parser says so.
    bracket: where the innermost [ or { stands that is open. quoted: start and end of the text in quotes that was read
    last, if that spans lines.
    """

    problem: str
    lines: Sequence[str]
    line: int
    column: int
    since: tuple[int, int] | None = None
    bracket: tuple[int, int] | None = None
    quoted: tuple[tuple[int, int], tuple[int, int]] | None = None

    def row(self, number: int) -> str:
        """The line of this number, empty where there is none."""
        return self.lines[number] if 0 <= number < len(self.lines) else ""

    @property
    def text(self) -> str:
        """The line at which the parser gave up."""
        return self.row(self.line)

    @property
    def above(self) -> int:
        """The number of the last line above that says something; -1 where there is none."""
        at = self.line - 1
        while at >= 0 and (not self.lines[at].strip() or self.lines[at].lstrip().startswith("#")):
            at -= 1
        return at


@dataclass(frozen=True, slots=True)
class Explanation:
    """A mishap in words. `at`: line and column from 0, where that is not the place at which the parser gave up."""

    code: str
    message: str
    hint: str = ""
    at: tuple[int, int] | None = None
    length: int = 1


def explain(mishap: Mishap) -> tuple[str, int, str, str]:
    """Code, place (a mark), message and hint for what the parser stumbled over."""
    told = _space(mishap)
    for pattern, words in _KNOWN:
        if told is not None:
            break
        if pattern in mishap.problem:
            told = words(mishap)
    if told is None:
        told = Explanation(
            "yaml-syntax", f"not valid YAML: {mishap.problem}", at=mishap.since if not mishap.text else None
        )
    line, column = told.at or (mishap.line, mishap.column)
    return told.code, mark(line + 1, column + 1, told.length), told.message, told.hint


def _space(mishap: Mishap) -> Explanation | None:
    """A tab or an odd space where only plain spaces count."""
    for number in (mishap.line, mishap.above):
        for pattern in (_ODD_INDENT.match, _ODD_AFTER_COLON.search):
            if found := pattern(mishap.row(number)):
                return Explanation(
                    "odd-space", f"this is {odd_name(found[1])}", "write a plain space", (number, found.start(1))
                )
    if mishap.bracket is None and mishap.text.strip() and (found := _TAB_INDENT.match(mishap.text)):
        at = (mishap.line, found.start(1))
        return Explanation("yaml-tab", "a tab indents this line", "YAML is indented with spaces", at, len(found[1]))
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
        message = "this line is deeper than the key above it, and so goes on with that key's text"
        return Explanation("yaml-indent", message, hint, (mishap.line, own), max(1, mishap.column - own))
    return Explanation("yaml-colon", "a ':' stands where no value can follow", "quote text that holds ': '")


def _second_colon(key: str, text: str) -> Explanation:
    key = key.strip()[:40]
    return Explanation(
        "yaml-colon", f"the text after '{key}:' holds another ': '", f"quote the text: {key}: {_quoted(text)}"
    )


def _glued(found: "re.Match[str]", line: int) -> Explanation:
    key, rest = found[1], found[2].strip()
    at = (line, found.start(1))
    return Explanation("yaml-colon", f"no space after '{key}:'", f"write '{key}: {rest[:60]}'", at, len(key) + 1)


def _column_of_key(line: str) -> int:
    found = _KEY_AT.match(line)
    return found.end() if found else 0


def _quoted(text: str) -> str:
    """`text` as it would stand in quotes, cut where it is long."""
    return "'" + (text if len(text) <= 60 else text[:59] + "…").replace("'", "''") + "'"


def _value_from(mishap: Mishap, column: int) -> str:
    """The unquoted text that starts at `column` of the line."""
    text = re.split(r"\s#", mishap.text[column:], maxsplit=1)[0].strip()
    head = mishap.text[:column]
    inside = mishap.bracket or sum(map(head.count, "[{")) > sum(map(head.count, "]}"))
    return re.split(r"[,\]}]", text, maxsplit=1)[0] if inside else text


def _start(mishap: Mishap) -> Explanation:
    """Unquoted text whose first character means something to YAML."""
    line, column = mishap.since if mishap.since and mishap.since[0] == mishap.line else (mishap.line, mishap.column)
    if mishap.text[column : column + 1] == "\t":
        return Explanation("yaml-tab", "a tab stands where YAML takes only spaces", "write a space", (line, column))
    text = _value_from(mishap, column)
    hint = f"quote it: {_quoted(text)}" if len(text) > 1 else "quote it"
    return Explanation(
        "yaml-start", f"unquoted text cannot start with {text[:1]}", hint, (line, column), max(1, len(text))
    )


def _bracket(mishap: Mishap) -> Explanation:
    """A [ or { that is not closed, or a comma that is missing between its items."""
    head = mishap.text[: mishap.column]
    if mishap.text[mishap.column : mishap.column + 1] == ":" and (keyed := _KEYED_INSIDE.search(head)):
        text = re.split(r"[,\]}]", mishap.text[keyed.end() :], maxsplit=1)[0].strip()
        return _second_colon(keyed[1], text)
    if mishap.bracket is None:
        char = mishap.text[mishap.column : mishap.column + 1]
        if char in ("]", "}"):
            return Explanation("yaml-bracket", f"a {char} that closes nothing", "remove it, or quote the text")
        return Explanation("yaml-syntax", "not valid YAML: a value is missing here", "")
    line, column = mishap.bracket
    sign = _OPENING.search(mishap.row(line), column)  # an anchor or a tag may stand before it
    if sign is None:
        return Explanation(
            "yaml-bracket", "a [ or { is not closed, or a comma is missing", f"it starts on line {line + 1}"
        )
    opening, column = sign.group(), sign.start()
    closer = _CLOSERS[opening]
    if _is_closed(mishap.lines, line, column):
        message = f"a comma is missing before this, or the {closer} before it"
        return Explanation("yaml-bracket", message, f"the {opening} stands on line {line + 1}")
    return Explanation("yaml-bracket", f"this {opening} is never closed", f"close it with {closer}", (line, column))


_MARKS = re.compile(
    r"""(?<![^\s\[{,:])"(?:[^"\\]|\\.)*+(?:"|\Z)|(?<![^\s\[{,:])'(?:[^']|'')*+(?:'|\Z)|(?<!\S)\#[^\n]*|[\[\]{}]""",
    re.DOTALL,
)


def _is_closed(lines: Sequence[str], line: int, column: int) -> bool:
    """True if the bracket there has its partner further down; quotes and comments are passed over."""
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
    """A line, or the rest of one, that does not belong where it stands."""
    before = mishap.text[: mishap.column].rstrip()
    if mishap.quoted and before[-1:] in ("'", '"') and mishap.quoted[1] == (mishap.line, len(before)):
        if mishap.quoted[0][0] < mishap.line:
            message = f"this quote is closed only on line {mishap.line + 1}, where text goes on after it"
            return Explanation("yaml-quote", message, "close it on its own line", mishap.quoted[0])
        start = mishap.quoted[0][1]
        hint = f"quote the whole: {_quoted(mishap.text[start:].strip())}"
        return Explanation("yaml-quote", "text goes on after its closing quote", hint)
    if before[-1:] in ("]", "}"):
        keyed = _KEYED.match(mishap.text)
        column = keyed.end() if keyed else _column_of_key(mishap.text)
        if mishap.text[column : column + 1] in _CLOSERS:
            text = mishap.text[column:].strip()
            message = f"unquoted text cannot start with {text[0]}"
            return Explanation("yaml-start", message, f"quote it: {_quoted(text)}", (mishap.line, column), len(text))
    word, items = ("list", "items of one list") if "'-'" in mishap.problem else ("mapping", "keys of one mapping")
    hint = f"{items} start in one column"
    if mishap.since:
        hint += f": that of line {mishap.since[0] + 1} is {mishap.since[1] + 1}"
    return Explanation("yaml-indent", f"this does not fit the {word} around it", hint)


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
    return Explanation("yaml-escape", f"{shown} is no escape that double quotes know", hint, place, 2)


def _nested_list(_: Mishap) -> Explanation:
    hint = "start it on the next line, write [a, b], or quote text that starts with '- '"
    return Explanation("yaml-indent", "a list cannot start on the line of its key", hint)


def _after_the_end(mishap: Mishap) -> Explanation:
    if mishap.text[mishap.column : mishap.column + 1] in ("]", "}"):
        return _bracket(mishap)
    return Explanation("yaml-syntax", "text goes on after the end of the manifest's value", "")


def _directive(mishap: Mishap) -> Explanation:
    column = len(mishap.text) - len(mishap.text.lstrip())
    return Explanation("yaml-start", "a line cannot start with %", "quote it", (mishap.line, column))


def _version(_: Mishap) -> Explanation:
    return Explanation("yaml-syntax", "a YAML version that cannot be read", "remove the %YAML line")


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
