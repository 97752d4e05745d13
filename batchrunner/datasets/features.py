"""The types of columns as Hugging Face `datasets` names them: as JSON (in a file), or as YAML (in a card). Pure.

Stated types are not inferred from the first rows, where a value can be missing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from batchrunner.datasets.items import CHARACTER, Dataset, Dtype

VIDEO, IMAGE = "video", "image"
_IMAGE_SUFFIXES = {".jpg", ".png", ".webp", ".bmp"}


def kind_of_suffix(suffix: str) -> str:
    """Return VIDEO or IMAGE."""
    return IMAGE if suffix in _IMAGE_SUFFIXES else VIDEO


def suffixes_of_roles(dataset: Dataset) -> dict[str, set[str]]:
    """Return the suffixes of each role's files."""
    found: dict[str, set[str]] = {role: set() for role in dataset.roles}
    for split in dataset.splits:
        for item in dataset.items(split):
            for role, media in item.inputs.items():
                found[role].add(media.suffix)
    return found


def kind_of_role(role: str, suffixes: Iterable[str]) -> str:
    """Return VIDEO or IMAGE. A role without a file has the kind that it usually has."""
    kinds = {kind_of_suffix(suffix) for suffix in suffixes}
    return min(kinds) if kinds else IMAGE if role == CHARACTER else VIDEO


def as_json(kind: Dtype) -> dict[str, Any]:
    """Return a type as the metadata of an Arrow or Parquet schema has it."""
    if isinstance(kind, Mapping):
        return {name: as_json(item) for name, item in kind.items()}
    if kind == "strings":
        return {"feature": as_json("string"), "_type": "List"}
    if kind in {VIDEO, IMAGE}:
        return {"_type": kind.capitalize()}
    return {"dtype": kind, "_type": "Value"}


def as_yaml(columns: Mapping[str, Dtype]) -> list[dict[str, Any]]:
    """Return columns as `dataset_info` in a card has them."""
    return [{"name": name, **_yaml_type(kind)} for name, kind in columns.items()]


def _yaml_type(kind: Dtype) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        return {"struct": as_yaml(kind)}
    return {"list": "string"} if kind == "strings" else {"dtype": kind}
