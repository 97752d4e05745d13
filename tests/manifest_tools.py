"""What the tests of manifests share: write one, load it, or hear what is wrong with it."""

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
    given: Mapping[str, str] = NONE,
    environment: Mapping[str, str] = NONE,
    allowed: Sequence[str] = (),
) -> Batch:
    path = folder / "batch.yaml"
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    return load(path, given, environment, allowed)


def refused(folder: Path, manifest: object, **more: Any) -> list[Diagnostic]:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, manifest, **more)
    return [each for each in caught.value.diagnostics if isinstance(each, Diagnostic)]


def told(diagnostics: list[Diagnostic]) -> list[tuple[str, str, int, int]]:
    """Code, file's name, line and column of the errors."""
    errors = [each for each in diagnostics if each.severity == "error"]
    return [(each.code, Path(each.file).name, each.line, each.column) for each in errors]


def params(entries: tuple[Entry, ...], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(entry.job.params[name] for name in names) for entry in entries]
