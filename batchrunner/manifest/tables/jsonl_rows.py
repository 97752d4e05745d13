"""Jobs from JSON Lines: one object a line.

Rule: a line is a job, whole and alone; what is wrong with one does not touch the next. A key that is ``null`` is not
set, and a key that stands twice is refused, as in YAML.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import mark
from batchrunner.manifest.row import Row
from batchrunner.manifest.schema import job_fits
from batchrunner.manifest.tables.reader import Table, checked, usable

_UNREADABLE = object()


class _Twice(Exception):
    """A key stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return made


def _no_number(word: str) -> float:
    raise ValueError(f"{word[:20]} is not finite, or far too large a number")


def _int(text: str) -> int:
    return int(text) if len(text) < 16 else int(_no_number(text))


def _float(text: str) -> float:
    value = float(text)
    return value if -1e15 < value < 1e15 else _no_number(text)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_int=_int, parse_float=_float)


def read(table: Table) -> Iterator[Row]:
    """The rows of a table of JSON Lines."""
    for line in table.lines():
        text = line.rstrip()
        if text:
            value = _value(text, table)
            if isinstance(value, dict):
                places = _KeyPlaces(text, table.line)
                yield usable(value, places, table) if job_fits(value) else checked(_flat(value), places, table)
            elif value is not _UNREADABLE:
                what = "the line holds no job"
                hint = 'one object a line: {"video": …, "image": …}'
                table.findings.error("wrong-type", mark(table.line, 1), what, hint)
        table.next_row()


def _value(text: str, table: Table) -> Any:
    """The line's value; _UNREADABLE where it cannot be read, which is noted. text: without white space at its end."""
    column, message, hint = 1, "", ""
    try:
        value = _decoded(text)
        if "\\u" in text:  # half of a character, which no file could hold
            json.dumps(value, ensure_ascii=False).encode()
        if '"tags.' in text and isinstance(value, dict):
            _refuse_two_values(value)
        return value
    except json.JSONDecodeError as error:
        column, message = error.colno, f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        if comma := _trailing_comma(text, error.pos):  # Python 3.13 has words and a place of its own for it
            column, message = comma, "not valid JSON: a comma stands before the closing bracket"
        hint = "JSON Lines: one object a line, whole on its line" if error.pos >= len(text) else ""
    except _Twice as error:
        message = f"the key '{str(error)[:60]}' stands in this line twice"
    except RecursionError:
        message = "the line is nested far too deep"
    except UnicodeEncodeError:
        message = "the line holds half of a character (a lone surrogate)"
    except ValueError as error:
        message = f"not valid JSON: {str(error)[:80]}"
    table.findings.error("table", mark(table.line, column), message, hint)
    return _UNREADABLE


def _trailing_comma(text: str, at: int) -> int:
    """The column of the comma that stands before the closing bracket, which is at `at` or follows; 0 for none."""
    before, after = text[:at].rstrip(), text[at:].lstrip()
    if after.startswith(("}", "]")) and before.endswith(","):
        return len(before)
    return at + 1 if re.match(r",\s*[}\]]", after) else 0


def _decoded(text: str) -> Any:
    """The value of a whole text."""
    if text[:1] == "{":
        value, end = _decoder.raw_decode(text)
        if end == len(text):
            return value
    return _decoder.decode(text)  # which takes longer: it looks for white space first


def _refuse_two_values(value: dict[str, Any]) -> None:
    """Of a tag that stands among the tags and as ``tags.<name>``, nobody knows which is meant."""
    tags = value.get("tags")
    for name in value:
        if isinstance(tags, dict) and name.startswith("tags.") and name[5:] in tags:
            raise _Twice(name)


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its ``tags.<name>`` keys put into its tags, and nulls left out as empty cells are."""
    if any("." in name for name in value):
        tags = value.get("tags")
        dotted = {name: value.pop(name) for name in list(value) if name.startswith("tags.") and name != "tags."}
        if dotted and (tags is None or isinstance(tags, dict)):  # else they are refused as they stand
            value["tags"] = {**(tags or {}), **{k[5:]: v for k, v in dotted.items()}}
    return {name: each for name, each in value.items() if each is not None}


class _KeyPlaces(Mapping[str, int]):
    """Where the values of an object on one line stand, by key, worked out when asked."""

    __slots__ = ("_line", "_text")

    def __init__(self, text: str, line: int) -> None:
        self._text, self._line = text, line

    def __getitem__(self, wanted: str) -> int:
        for key, place in self._all():
            if key == wanted:
                return place
        raise KeyError(wanted)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._all())

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def _all(self) -> Iterator[tuple[str, int]]:
        decode = json.JSONDecoder().raw_decode
        at = self._after_space(self._text.index("{") + 1)
        while self._text[at : at + 1] == '"':
            key, at = decode(self._text, at)
            at = self._after_space(self._after_space(at) + 1)
            yield key, mark(self._line, at + 1)
            at = self._after_space(self._after_space(decode(self._text, at)[1]) + 1)

    def _after_space(self, at: int) -> int:
        while self._text[at : at + 1].isspace():
            at += 1
        return at
