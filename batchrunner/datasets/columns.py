"""The columns of a data set and the values of its rows. Pure.

Rules: the keys of all rows of all batches together are the columns. A column has one type. The type of a parameter
comes from the model's description, so it does not change with the rows. Values of several types are text, as JSON.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from batchrunner.datasets.items import CHARACTER, REFERENCE, Dtype
from batchrunner.formatting import redacted
from batchrunner.providers.models import ModelSpec

_FIRST: Mapping[str, Dtype] = {
    "id": "string",
    "ids": "strings",
    "job": "string",
    "take": "int64",
    "caption": "string",
    "model": "string",
}
_LAST: Mapping[str, Dtype] = {
    "width": "int64",
    "height": "int64",
    "duration_s": "float64",
    "bytes": "int64",
    "sha256": "string",
    "fingerprint": "string",
    "generation_id": "string",
    "completed_at": "string",
    "batch": "string",
    "provider": "string",
    "service": "string",
    "run_id": "string",
    "verdict": "string",
    "rating": "int64",
    "marks": "string",
}
# Other columns, and names that a format adds to a row. A parameter with such a name is renamed.
_TAKEN = {
    *("tags", "quality", "file_name", "character", "video", "reference", "key"),
    *("mark", "original_sha256", "synthetic_marks"),  # of `batchrunner.datasets.marking`
}
_ENDINGS = ("_sha256", "_source", "_path")
_TYPES: Mapping[str, str] = {"integer": "int64", "number": "float64", "boolean": "bool", "string": "string"}
# The keys of a report's row that become values.
ROW_KEYS = (
    *(
        "id",
        "job",
        "take",
        "request",
        "inputs",
        "tags",
        "width_px",
        "height_px",
        "duration_s",
        "bytes",
        "sha256",
        "file",
    ),
    *("fingerprint", "generation_id", "attempts", "verdict", "quality", "rendered_by"),
)
_CAPTIONS = ("caption", "prompt")


def role_of(names: Mapping[str, str]) -> dict[str, str]:
    """Return the role of each input, by its name in the manifest. names: kind by name, in the model's order."""
    roles: dict[str, str] = {}
    for name, kind in names.items():
        usual = REFERENCE if kind == "video" else CHARACTER
        roles[name] = name if usual in roles.values() else usual
    return roles


class Columns:
    """Collects the columns of rows, and makes values that fit them. specs: descriptions of models, by name."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = specs
        self._parameters: dict[str, set[str]] = {}
        self._roles: set[str] = set()
        self._tags: set[str] = set()
        self._measures: dict[str, str] = {}
        self._roles_of_model: dict[tuple[str, ...], dict[str, str]] = {}
        self._types: dict[str, Dtype] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the keys of a report's row."""
        self._types = {}
        for name, value in self._parameters_of(row).items():
            self._parameters.setdefault(name, set()).add(self._type_of(row["request"]["model"], name, value))
        self._roles.update(self.roles(row).values())
        self._tags.update(row["tags"])
        for name, value in _measures(row).items():
            if value is not None:
                self._measures[name] = "string" if isinstance(value, str) else self._measures.get(name, "float64")

    def roles(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the role of each input of a row, by its name in the manifest."""
        return self.roles_of(row["request"]["model"], tuple(row["inputs"]))

    def roles_of(self, model: str, names: tuple[str, ...]) -> dict[str, str]:
        """Return the role of each input of a job. names: of its inputs, in the model's order."""
        if (model, *names) not in self._roles_of_model:
            spec = self._specs.get(model)
            kinds = dict(spec.kinds) if spec else {}
            guessed = {name: kinds.get(name) or ("video" if "video" in name else "image") for name in names}
            self._roles_of_model[model, *names] = role_of(guessed)
        return self._roles_of_model[model, *names]

    def types(self) -> dict[str, Dtype]:
        """Return the columns, in the order of the rows."""
        self._types = self._types or self._make_types()
        return self._types

    def _make_types(self) -> dict[str, Dtype]:
        parameters: dict[str, Dtype] = {_column(name): self._parameter_type(name) for name in sorted(self._parameters)}
        inputs: dict[str, Dtype] = {
            f"{role}_{value}": "string" for role in sorted(self._roles) for value in ("sha256", "source")
        }
        nested: dict[str, Dtype] = {}
        if self._measures:
            nested["quality"] = dict(sorted(self._measures.items()))
        if self._tags:
            nested["tags"] = dict.fromkeys(sorted(self._tags), "string")
        return {**_FIRST, **parameters, **_LAST, **inputs, **nested}

    def values(self, row: Mapping[str, Any], ids: Iterable[str], head: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row. head: of its report."""
        verdict, rendered_by = row["verdict"] or {}, row.get("rendered_by") or {}
        found: dict[str, Any] = {
            "id": row["id"],
            "ids": list(ids),
            "job": row["job"],
            "take": row["take"],
            "caption": _caption(row),
            "model": row["request"]["model"],
            "width": row["width_px"],
            "height": row["height_px"],
            "duration_s": _float(row["duration_s"]),
            "bytes": row["bytes"],
            "sha256": row["sha256"],
            "fingerprint": row["fingerprint"],
            "generation_id": row["generation_id"],
            "completed_at": row["attempts"][-1].get("completed_at") if row["attempts"] else None,
            "batch": head["name"],
            "provider": head["provider"],
            "service": rendered_by.get("service") or head.get("service"),
            "run_id": rendered_by.get("run_id"),
            "verdict": verdict.get("verdict"),
            "rating": verdict.get("rating"),
            "marks": "; ".join(mark["kind"] for mark in (row["quality"] or {}).get("marks") or ()),
        }
        parameters = self._parameters_of(row)
        found |= {_column(name): _fit(parameters.get(name), self._parameter_type(name)) for name in self._parameters}
        for name, role in self.roles(row).items():
            item = row["inputs"][name]
            found |= {f"{role}_sha256": item["sha256"], f"{role}_source": public_source(item["source"])}
        measures = _measures(row)
        found["quality"] = {name: _fit(measures.get(name), kind) for name, kind in self._measures.items()}
        found["tags"] = {name: _text(row["tags"].get(name)) for name in self._tags}
        return {name: _ordered(found.get(name), kind) for name, kind in self.types().items()}

    def _parameters_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row["request"].items() if name != "model" and name not in row["inputs"]}

    def _type_of(self, model: str, name: str, value: Any) -> str:
        """Return the type of a parameter by the model's description, or by its value."""
        spec = self._specs.get(model)
        schema = spec.parameters.get(name, {}) if spec else {}
        kinds = {_TYPES.get(schema["type"], "string")} if isinstance(schema.get("type"), str) else set()
        kinds |= {_kind_of(item) for item in (*schema.get("enum", ()), value) if item is not None}
        return _common(kinds) if kinds else ""

    def _parameter_type(self, name: str) -> str:
        return _common(self._parameters[name])


def _kind_of(value: Any) -> str:
    if type(value) is int and abs(value) >= 1 << 63:
        return "string"
    return {bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")


def _common(kinds: set[str]) -> str:
    """Return the type that has all values of these types."""
    kinds = kinds - {""}  # of missing values
    if kinds == {"int64", "float64"}:
        return "float64"
    return next(iter(kinds)) if len(kinds) == 1 else "string"


def public_source(source: str) -> str:
    """Return an input's source for publication: a URL without query, a file's name without its folders."""
    if source.lower().startswith("data:"):
        return "data:"
    if "://" in source:
        address = urlsplit(redacted(source).removesuffix("?…"))
        return urlunsplit((address.scheme, address.netloc.rpartition("@")[2], address.path, "", ""))
    return source.replace("\\", "/").rpartition("/")[2]


def _column(name: str) -> str:
    """Return the column of a parameter. A loader would open a column ``…file_name`` as a file."""
    if name.endswith(("file_name", "file_names")):
        return f"parameter_{name}_"
    is_taken = name in _FIRST or name in _LAST or name in _TAKEN or name.endswith(_ENDINGS)
    return f"parameter_{name}" if is_taken else name


def _caption(row: Mapping[str, Any]) -> str | None:
    """Return the tag or the parameter `caption` or `prompt`. No text is made up."""
    values = [place.get(name) for place in (row["tags"], row["request"]) for name in _CAPTIONS]
    return next((_text(value) for value in values if value is not None and value != ""), None)


def _measures(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return (row["quality"] or {}).get("measures") or {}


def _fit(value: Any, kind: str) -> Any:
    """Return a value as its column's type."""
    if value is None:
        return None
    if kind == "float64":
        return _float(value)
    return value if kind in {"int64", "bool"} else _text(value)


def _float(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _ordered(value: Any, kind: Dtype) -> Any:
    """Return nested values in the order of their column."""
    return value if isinstance(kind, str) or value is None else {name: value[name] for name in kind}
