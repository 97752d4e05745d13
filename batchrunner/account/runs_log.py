"""``runs.jsonl`` beside the index: the run directories that the index is made again from, one JSON object a line.

A line is appended and flushed before a run submits anything. A torn or foreign line is passed over. A line that says
"forgotten" removes its batch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batchrunner.storage.durable_files import Disk
from batchrunner.storage.line_file import append_line

NAME = "runs.jsonl"
_FORGOTTEN = "forgotten"


class Line(NamedTuple):
    """A run directory of an account. account: its key (`names.Account.key`)."""

    batch_id: str
    account: str
    directory: str
    name: str
    service: str


def read(state: Path) -> list[Line]:
    """Return the lines, the latest of each batch last and once. Raises OSError; a missing file is empty."""
    try:
        content = (state / NAME).read_bytes()
    except FileNotFoundError:
        return []
    found: dict[str, Line] = {}
    for text in content.split(b"\n"):
        line, forgotten = _line(text)
        if line is not None:
            found.pop(line.batch_id, None)
            if not forgotten:
                found[line.batch_id] = line
    return list(found.values())


def append(state: Path, lines: Iterable[Line]) -> None:
    """Append the lines that the file does not have yet. Durable on return. Raises OSError."""
    known = read(state)
    _write(state, [line._asdict() for line in lines if line not in known])


def forget(state: Path, lines: Iterable[Line]) -> None:
    """Remove the batches of these lines. Durable on return. Raises OSError."""
    _write(state, [line._asdict() | {_FORGOTTEN: True} for line in lines])


def _write(state: Path, rows: Sequence[Mapping[str, object]]) -> None:
    if not rows:
        return
    path = state / NAME
    is_new = not path.exists()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    append_line(path, text.encode(), 0o600)
    if is_new:
        Disk().flush_folder(state)


def _line(text: bytes) -> tuple[Line | None, bool]:
    """Return a line, None if it is none, and whether it removes its batch."""
    try:
        stored = json.loads(text)
        line = Line(**{name: stored[name] for name in Line._fields})
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, False
    is_whole = all(isinstance(value, str) for value in line)
    return line if is_whole else None, stored.get(_FORGOTTEN) is True
