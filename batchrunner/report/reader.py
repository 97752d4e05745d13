"""Read report.json piece by piece: its keys in order, and one row of a list at a time. Pure.

A report of 100,000 jobs has hundreds of megabytes as JSON. Rule: the file is untrusted, and every fault in it is a
ValueError.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from batchrunner.formatting import printable

NEWEST_VERSION = 2  # the schema_version that this program writes
_CHUNK_CHARS = 1 << 16
_MOST_CHARS = 16 << 20  # of one value
_SPACE = re.compile(r"[ \t\n\r]*")
_IN_NUMBERS = frozenset("0123456789.eE+-")
_HEAD = re.compile(rb'\s*\{.*"(schema_version|batchrunner_version)"\s*:', re.DOTALL)


def is_report(head: bytes) -> bool:
    """Return whether a file that starts with `head` is a report.json."""
    return _HEAD.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def require_known(key: str, value: Any) -> None:
    """Raise ValueError if a piece shows that this program does not know the report's version."""
    if key != "schema_version":
        return
    if type(value) is not int or value < 1:
        raise ValueError("its schema_version is not a whole number from 1")
    if value > NEWEST_VERSION:
        raise ValueError(f"a newer version of batchrunner wrote it (schema_version {printable(str(value), 20)})")


def pieces(file: TextIO) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value. A key with a list is yielded with each item of the list instead.

    Raises ValueError if the file is not a JSON object, OSError if it cannot be read.
    """
    text = _Text(file)
    try:
        text.expect("{")
        if text.skip("}"):
            return
        while True:
            key = text.value()
            if not isinstance(key, str):
                raise ValueError("a key is not text")  # noqa: TRY004 (the content of a file)
            text.expect(":")
            if text.skip("["):
                yield from ((key, item) for item in _items(text))
            else:
                yield key, text.value()
            if text.skip("}"):
                return
            text.expect(",")
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _items(text: "_Text") -> Iterator[Any]:
    if text.skip("]"):
        return
    while True:
        yield text.value()
        if text.skip("]"):
            return
        text.expect(",")


class _Text:
    """The text of a file, of which only the value that is read is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._at = 0
        self._is_complete = False

    def skip(self, sign: str) -> bool:
        """Read `sign` if it is next. Return whether it was."""
        self._to_next()
        if self._buffer.startswith(sign, self._at):
            self._at += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        """Read `sign`. Raises ValueError if another one is next."""
        if not self.skip(sign):
            raise ValueError(f"there is no '{sign}' where JSON needs one")

    def value(self) -> Any:
        """Read a value."""
        self._to_next()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError:
                if self._is_complete:
                    raise
            else:
                if self._is_complete or self._ends(value, end):
                    self._at = end
                    return value
            self._read_more()

    def _ends(self, value: Any, end: int) -> bool:
        """Return whether a value that ends at `end` is complete: a number may go on."""
        if isinstance(value, int | float):
            return end < len(self._buffer) and self._buffer[end] not in _IN_NUMBERS
        return True

    def _to_next(self) -> None:
        """Go to the next character that is not white space."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer) or self._is_complete:
                return
            self._read_more()

    def _read_more(self) -> None:
        """Read as much again as is there: the time for a long value stays proportional to its length."""
        self._buffer = self._buffer[self._at :]
        self._at = 0
        if len(self._buffer) > _MOST_CHARS:
            raise ValueError("one of its values is too long")
        chunk = self._file.read(max(_CHUNK_CHARS, len(self._buffer)))
        self._buffer += chunk
        self._is_complete = not chunk
