"""The models that the sandbox offers: names, input fields and parameters, from the files that describe them. Pure.

The client reads the same files (``providers/aimlapi/models``) with code of its own. Tests compare the files with the
service's documented requests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / "providers" / "aimlapi" / "models"


@dataclass(frozen=True, slots=True)
class MediaField:
    """A field of a request that takes a video or an image. name: in the ledger. kind: ``video`` or ``image``."""

    name: str
    field: str
    kind: str
    required: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model. names: every name that a request may use, the main one first. parameters: JSON Schema by name."""

    names: tuple[str, ...]
    media: tuple[MediaField, ...]
    parameters: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def field_of(self, kind: str) -> str | None:
        """Return the request's field for the first input of a kind, or None."""
        return next((item.field for item in self.media if item.kind == kind), None)

    def name_of(self, kind: str) -> str | None:
        """Return the ledger's name for the first input of a kind, or None."""
        return next((item.name for item in self.media if item.kind == kind), None)


def read(data: Mapping[str, Any]) -> Model:
    """Read a model from the JSON of its file."""
    media = tuple(MediaField(item["name"], item["field"], item["kind"], item["required"]) for item in data["inputs"])
    defaults = {name: schema["default"] for name, schema in data["parameters"].items() if "default" in schema}
    return Model((data["name"], *data.get("aliases", ())), media, data["parameters"], defaults)


MODELS: tuple[Model, ...] = tuple(read(json.loads(path.read_text("utf-8"))) for path in sorted(_FOLDER.glob("*.json")))
BY_NAME: Mapping[str, Model] = {name: model for model in MODELS for name in model.names}
RESOLUTIONS: tuple[str, ...] = tuple(
    dict.fromkeys(choice for model in MODELS for choice in model.parameters.get("resolution", {}).get("enum", ()))
)
