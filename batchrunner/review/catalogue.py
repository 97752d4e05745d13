"""What the review page shows of a batch: a row for each take of a job, and the files that may be served.

Rules: rows are ready for JSON and small, because a page loads all rows of a large batch. Text from outside is made
printable. A file gets an address only if the journal names it: results of delivered jobs, and local inputs. Nothing
here reads a file.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from batchrunner.formatting import printable, redacted
from batchrunner.job import Job, Media, Snapshot
from batchrunner.media.posters import key_of
from batchrunner.quality.marks import suspicion
from batchrunner.report import build
from batchrunner.review.clips import Source

_MOST_NAME = 120
_MOST_MESSAGE = 300
_STATES = ("succeeded", "failed", "in_doubt", "in_flight", "pending")

PageRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A batch as the page shows it. head: facts about the batch. rows: by id, in manifest order.

    sources: the files that may be served, by their key in addresses. posters: keys of small pictures.
    """

    head: Mapping[str, Any]
    rows: Mapping[str, PageRow]
    sources: Mapping[str, Source]
    posters: frozenset[str]


def catalogue(snapshot: Snapshot, root: Path, version: str) -> Catalogue:
    """Return the catalogue of a batch. root: its run directory. version: of this program."""
    report = build.build(snapshot, version)
    rows: dict[str, PageRow] = {}
    sources: dict[str, Source] = {}
    posters: set[str] = set()
    for row in report["jobs"]:
        rows[row["id"]] = _page_row(row, row.job)
        if row["file"] is None:
            continue
        digest = row["sha256"]
        address = (row["object"] or {}).get("address", "")
        sources[f"clip-{digest}"] = Source(root / row["file"], digest, row["bytes"], root, address)
        posters.add(f"strip-{digest}")
        for item in row.job.inputs.values():
            if key := key_of(item):
                assert item.path is not None
                sources[key] = Source(item.path, item.sha256 or "", item.size_bytes)
                posters.add(key)
    return Catalogue(_head(report), rows, sources, frozenset(posters))


def _head(report: Mapping[str, Any]) -> dict[str, Any]:
    totals = report["totals"]
    return {
        "name": printable(report["name"], _MOST_NAME),
        "manifest": printable(report["manifest"]["path"]),
        "is_sandbox": report["provider"] == "sandbox",
        "counts": {state: totals[state] for state in _STATES if totals[state]},
    }


def _page_row(row: Mapping[str, Any], job: Job) -> PageRow:
    """Return the values of a take. A take without a clip has only its names and its state."""
    known = {"id": row["id"], "job": row["job"], "take": row["take"], "state": row["state"]}
    if row["file"] is None:
        return known
    quality = row["quality"] or {"measures": {}, "marks": [], "verdict": None}
    return {
        **known,
        "name": printable(row["id"], _MOST_NAME),
        "label": _label(job.inputs.values()),
        "file": printable(row["file"]),
        "fingerprint": row["fingerprint"],
        "sha256": row["sha256"],
        "bytes": row["bytes"],
        "width": row["width_px"],
        "height": row["height_px"],
        "duration_s": row["duration_s"],
        "fps": quality["measures"].get("fps") or quality["measures"].get("reference_fps"),
        "tags": {printable(key): printable(str(value), _MOST_NAME) for key, value in row["tags"].items()},
        "marks": [{"kind": mark["kind"], "message": printable(mark["message"])} for mark in quality["marks"]],
        "suspicion": round(suspicion(row) + len(row["warnings"]), 3),
        "is_refused": quality["verdict"] == "reject",
        "warnings": [printable(text, _MOST_MESSAGE) for text in row["warnings"]],
        "request": {key: printable(str(value), _MOST_NAME) for key, value in sorted(job.params.items())},
        "inputs": list(map(_input, job.inputs.values())),
    }


def _input(item: Media) -> dict[str, Any]:
    """Return an input. key: its address, None for one that is not on this machine."""
    return {
        "kind": item.kind,
        "name": name_of(item),
        "source": printable(redacted(item.source), _MOST_MESSAGE),
        "key": key_of(item),
        "width": item.width_px,
        "height": item.height_px,
    }


def name_of(item: Media) -> str:
    """Return a short name of an input for people: its file's name without folders and suffix."""
    path = str(item.path) if item.path is not None else unquote(urlsplit(redacted(item.source)).path)
    return printable(PurePosixPath(path).stem or item.source, _MOST_NAME)


def _label(inputs: Iterable[Media]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(name_of, inputs))


def clips_of(rows: Iterable[PageRow]) -> Iterator[PageRow]:
    """Yield the rows that have a clip."""
    return (row for row in rows if row.get("sha256"))
