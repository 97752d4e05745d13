"""Durations of generations in earlier batches: one small file in the user's cache, for the poll schedule.

Nothing depends on it. A file that is missing, broken, too large or not writable is ignored without a message. It has
host names, model names and seconds; it keeps the latest kinds, and the latest durations of each.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from batchrunner.engine.polling.duration_model import KEPT, DurationKey, Durations
from batchrunner.plan.duration_estimate import Kind
from batchrunner.storage.durable_files import open_plain

_VERSION = 1
_MOST_KINDS = 64
_MOST_BYTES = 1_000_000
_MOST_WORK = 1e9
_NONE: Mapping[Kind, Sequence[float | None]] = MappingProxyType({})


def place(environment: Mapping[str, str]) -> Path | None:
    """Return the file's path, below ``$XDG_CACHE_HOME`` or ``~/.cache``; None if the environment names neither."""
    cache, home = environment.get("XDG_CACHE_HOME", ""), environment.get("HOME", "")
    if home and (cache == "~" or cache.startswith("~/")):
        cache = home + cache[1:]
    folder = Path(cache) if cache else Path(home, ".cache") if home else None
    return folder / "batchrunner" / "durations.json" if folder and folder.is_absolute() else None


def load(path: Path | None, service: str) -> dict[DurationKey, Durations]:
    """Return the known durations of this service's generations."""
    found: dict[DurationKey, Durations] = {}
    for row in _rows(path):
        with suppress(KeyError, TypeError, ValueError):
            if row["service"] == service:
                key = ((str(row["model"]), str(row["resolution"])), row["queued"] is True)
                spans = [(float(after_s), float(by_s)) for after_s, by_s in row["spans"][-KEPT:]]
                found[key] = Durations(spans, _works(row.get("works"), len(spans)))
    return found


def with_journal(
    known: dict[DurationKey, Durations],
    seen: Mapping[Kind, Sequence[float]],
    interval_s: float,
    works: Mapping[Kind, Sequence[float | None]] = _NONE,
) -> dict[DurationKey, Durations]:
    """Return `known` with the durations in this batch's own journal added, in seconds. works: of their jobs.

    The journal does not record when they were last seen unfinished: at most one interval before.
    """
    for kind, durations_s in seen.items():
        for took_s, work in zip_longest(durations_s, works.get(kind, ())):
            known.setdefault((kind, False), Durations()).learn(max(0.0, took_s - interval_s), took_s, work)
    return known


def save(path: Path | None, service: str, durations: Mapping[DurationKey, Durations]) -> None:
    """Store these durations beside those of other services and kinds."""
    if path is None or not durations:
        return
    rows = [
        {
            "service": service,
            "model": model,
            "resolution": resolution,
            "queued": queued,
            "spans": [[round(after_s, 3), round(by_s, 3)] for after_s, by_s in known.spans],
            **({"works": [work and round(work, 3) for work in known.works]} if any(known.works) else {}),
        }
        for ((model, resolution), queued), known in durations.items()
    ]
    mine = {_name(row) for row in rows}
    others = [row for row in _rows(path) if _name(row) not in mine]
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, json.dumps({"version": _VERSION, "kinds": (others + rows)[-_MOST_KINDS:]}))


def _rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the file's rows if this program wrote it."""
    if path is None:
        return []
    try:
        with open_plain(path) as file:
            content = json.loads(file.read(_MOST_BYTES + 1)[: _MOST_BYTES + 1])
        rows = content["kinds"] if content["version"] == _VERSION else []
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _works(stored: object, count: int) -> list[float | None]:
    """Return the stored works of so many durations; none if an earlier version stored the durations."""
    if not isinstance(stored, list) or len(stored) < count:
        return []
    numbers = [work if isinstance(work, int | float) and 0 < work < _MOST_WORK else None for work in stored]
    return numbers[len(numbers) - count :]


def _name(row: Mapping[str, Any]) -> str:
    return repr([row.get(key) for key in ("service", "model", "resolution", "queued")])


def _replace(path: Path, text: str) -> None:
    """Replace the file atomically: a concurrent reader, or one after a power cut, gets the old content or the new."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
