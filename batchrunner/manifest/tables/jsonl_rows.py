"""Read jobs from JSON Lines: one object per line.

Each line is a complete job, so a bad line does not affect the next one. A key with the value ``null`` is not set. A
duplicate key is an error, as in YAML.
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
    """A key appears twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:20]} is not finite or is too large")


def _int(text: str) -> int:
    return int(text) if len(text) < 16 else int(_no_number(text))


def _float(text: str) -> float:
    value = float(text)
    return value if -1e15 < value < 1e15 else _no_number(text)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_int=_int, parse_float=_float)


def read(table: Table) -> Iterator[Row]:
    """Yield the rows of a JSON Lines table."""
    for line in table.lines():
        text = line.rstrip()
        if text:
            value = _value(text, table)
            if isinstance(value, dict):
                places = _KeyPlaces(text, table.line)
                yield usable(value, places, table) if job_fits(value) else checked(_flat(value), places, table)
            elif value is not _UNREADABLE:
                what = "the line is not a job"
                hint = 'one object per line: {"video": …, "image": …}'
                table.findings.error("wrong-type", mark(table.line, 1), what, hint)
        table.next_row()


def _value(text: str, table: Table) -> Any:
    """Return the line's value, or record a finding and return _UNREADABLE. text: without trailing white space."""
    column, message, hint = 1, "", ""
    try:
        value = _decoded(text)
        if "\\u" in text:  # a lone surrogate cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
        if '"tags.' in text and isinstance(value, dict):
            _refuse_two_values(value)
        return value
    except json.JSONDecodeError as error:
        column, message = error.colno, f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        if comma := _trailing_comma(text, error.pos):  # Python 3.13 has another message and another position
            column, message = comma, "not valid JSON: there is a comma before the closing bracket"
        hint = "JSON Lines: one complete object per line" if error.pos >= len(text) else ""
    except _Twice as error:
        message = f"the key '{str(error)[:60]}' appears twice in this line"
    except RecursionError:
        message = "the line is nested too deeply"
    except UnicodeEncodeError:
        message = "the line contains a lone surrogate (half of a character)"
    except ValueError as error:
        message = f"not valid JSON: {str(error)[:80]}"
    table.findings.error("table", mark(table.line, column), message, hint)
    return _UNREADABLE


def _trailing_comma(text: str, at: int) -> int:
    """Return the column of a trailing comma before the closing bracket at or after `at`, or 0."""
    before, after = text[:at].rstrip(), text[at:].lstrip()
    if after.startswith(("}", "]")) and before.endswith(","):
        return len(before)
    return at + 1 if re.match(r",\s*[}\]]", after) else 0


def _decoded(text: str) -> Any:
    """Decode a complete JSON text."""
    if text[:1] == "{":
        value, end = _decoder.raw_decode(text)
        if end == len(text):
            return value
    return _decoder.decode(text)  # slower: it searches for white space first


def _refuse_two_values(value: dict[str, Any]) -> None:
    """Raise _Twice if a tag is set both in ``tags`` and as ``tags.<name>``."""
    tags = value.get("tags")
    for name in value:
        if isinstance(tags, dict) and name.startswith("tags.") and name[5:] in tags:
            raise _Twice(name)


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its ``tags.<name>`` keys moved into its tags and without nulls, like empty cells."""
    if any("." in name for name in value):
        tags = value.get("tags")
        dotted = {name: value.pop(name) for name in list(value) if name.startswith("tags.") and name != "tags."}
        if dotted and (tags is None or isinstance(tags, dict)):  # otherwise the schema rejects them
            value["tags"] = {**(tags or {}), **{k[5:]: v for k, v in dotted.items()}}
    return {name: item for name, item in value.items() if item is not None}


class _KeyPlaces(Mapping[str, int]):
    """The places of the values of a one-line object, by key, computed on access."""

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
