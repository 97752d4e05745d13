"""Helpers for manifest tests: write a manifest, load it, or collect its problems."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import ManifestError
from batchrunner.job import Entry
from batchrunner.manifest import Batch, Diagnostic, load

VIDEO = "https://example.com/walk.mp4"
IMAGE = "https://example.com/hero.png"
NONE: Mapping[str, str] = {}


def job(**fields: Any) -> dict[str, Any]:
    return {"video": VIDEO, "image": IMAGE, **fields}


def loaded(
    folder: Path,
    manifest: object,
    assignments: Mapping[str, str] = NONE,
    environment: Mapping[str, str] = NONE,
    allowed: Sequence[str] = (),
) -> Batch:
    path = folder / "batch.yaml"
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    return load(path, assignments, environment, allowed)


def refused(folder: Path, manifest: object, **more: Any) -> list[Diagnostic]:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, manifest, **more)
    return [item for item in caught.value.diagnostics if isinstance(item, Diagnostic)]


def error_places(diagnostics: list[Diagnostic]) -> list[tuple[str, str, int, int]]:
    """Return code, file name, line and column of each error."""
    errors = [item for item in diagnostics if item.severity == "error"]
    return [(item.code, Path(item.file).name, item.line, item.column) for item in errors]


def params(entries: Sequence[Entry], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(entry.job.params[name] for name in names) for entry in entries]
