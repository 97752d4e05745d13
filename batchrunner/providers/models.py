"""The description of a model as data: `ModelSpec`, read from a JSON file. Pure.

A new model with video or image inputs is one file in its provider's ``models`` folder. Schema, fingerprint, ids, prices
and report read the fields from here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

# The fields of every job, and keys of a stored job. No model may use these names.
COMMON = frozenset(
    {"id", "model", "tags", "priority", "file", "take", "takes", "params", "v", "exclude", "allow_empty"}
)
Kind = Literal["video", "image"]
KINDS = frozenset({"video", "image"})
_KEYS = frozenset({"name", "aliases", "inputs", "parameters", "ids", "price", "result", "steps"})  # of a model's file
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
_NUMBERS: Mapping[str, type] = {"integer": int, "number": float}


class Params(dict[str, Any]):
    """Parameters as they are sent, with their canonical JSON."""

    __slots__ = ("json",)

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self.json = _canonical(parameters)


class ModelInput(NamedTuple):
    """One input of a model.

    name: in manifest, journal and report. field: in the service's request. kind: ``video`` or ``image``.
    label: for people. schema: the JSON Schema of its value in a manifest.
    """

    name: str
    field: str
    kind: Kind
    required: bool
    label: str
    schema: Mapping[str, Any]


class PriceBasis(NamedTuple):
    """The price of a second of video, in credits by the value of the parameter `by`.

    input: the input whose length counts. frames_per_second: frames that count as one second. as_of: date.
    source: how the figures are known.
    """

    input: str
    frames_per_second: float
    by: str
    credits: Mapping[str, float]
    as_of: str
    source: str


class ResultShape(NamedTuple):
    """The expected result. length_of: the input that it is as long as; "" for none.

    short_side: the parameter that gives its short side, as ``480p``; "" for none. multiple_px: sizes are multiples of
    it. source_type: IPTC's digital source type of the clips (`batchrunner.datasets.marking`).
    """

    length_of: str = ""
    short_side: str = ""
    multiple_px: int = 1
    source_type: str = "trainedAlgorithmicMedia"


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """A model: its inputs, its parameters (JSON Schema by name, in documented order), its price and its result.

    A parameter without a default is not sent unless the user sets it. aliases: other names that the service takes.
    steps: the parameter that is the number of sampling steps; "" for none.
    id_word: stands for the model in derived ids; "" for the default model. id_words: how each parameter is written
    there.
    """

    name: str
    inputs: Sequence[ModelInput]
    parameters: Mapping[str, Mapping[str, Any]]
    aliases: Sequence[str] = ()
    price: PriceBasis | None = None
    result: ResultShape = field(default_factory=ResultShape)
    steps: str = ""
    id_word: str = ""
    id_words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The documented default of each parameter, or None."""
        return {name: _typed(schema, schema.get("default")) for name, schema in self.parameters.items()}

    @cached_property
    def kinds(self) -> tuple[tuple[str, Kind], ...]:
        """Name and kind of each input."""
        return tuple((item.name, item.kind) for item in self.inputs)

    @cached_property
    def required(self) -> frozenset[str]:
        """The names of the inputs that a job must have."""
        return frozenset(item.name for item in self.inputs if item.required)

    @cached_property
    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        """The JSON Schema of every field that a manifest may set, inputs first."""
        return {**{item.name: item.schema for item in self.inputs}, **self.parameters}

    @cached_property
    def _default_values(self) -> tuple[Any, ...]:
        return tuple(self.defaults.values())

    @cached_property
    def _default_parameters(self) -> Params:
        return _completed(self, *self._default_values)

    @cached_property
    def _default_items(self) -> tuple[tuple[str, Any], ...]:
        return tuple(self.defaults.items())

    @cached_property
    def _parameter_names(self) -> frozenset[str]:
        return frozenset(self.parameters)

    def values(self, fields: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of the parameters in documented order, with defaults for those that `fields` lacks."""
        if self._parameter_names.isdisjoint(fields):
            return self._default_values
        get = fields.get
        return tuple([get(name, default) for name, default in self._default_items])

    def complete(self, fields: Mapping[str, Any]) -> Params:
        """Return the parameters that are sent: those in `fields`, and the documented defaults of the others.

        The same object for the same parameters: do not change it.
        """
        if self._parameter_names.isdisjoint(fields):
            return self._default_parameters
        return _completed(self, *self.values(fields))

    def ordered(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `inputs` in the order of the model. Other names come last."""
        known = {name: inputs[name] for name, _ in self.kinds if name in inputs}
        return known if len(known) == len(inputs) else {**known, **inputs}


@lru_cache(maxsize=1024, typed=True)  # typed: True, 1 and 1.0 are not the same
def _completed(spec: ModelSpec, *values: Any) -> Params:
    named = zip(spec.parameters.items(), values, strict=True)
    return Params({name: _typed(schema, value) for (name, schema), value in named if value is not None})


def _typed(schema: Mapping[str, Any], value: Any) -> Any:
    """Convert a number to the schema's type: 20.0 to an integer, 5 to a float."""
    convert = _NUMBERS.get(str(schema.get("type")))
    return value if convert is None or value is None else convert(value)


def read_spec(path: Path) -> ModelSpec:
    """Read the model in a JSON file of the package. Raises ValueError with the file's name if it is invalid."""
    try:
        spec = parse_spec(json.loads(path.read_text("utf-8")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error
    return spec


def parse_spec(data: Mapping[str, Any]) -> ModelSpec:
    """Return the model in JSON data. Raises ValueError, KeyError, TypeError or AttributeError if it is invalid."""
    if unknown := data.keys() - _KEYS:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    ids = data.get("ids", {})
    price = data.get("price")
    spec = ModelSpec(
        name=data["name"],
        inputs=tuple(ModelInput(**item) for item in data["inputs"]),
        parameters=data["parameters"],
        aliases=tuple(data.get("aliases", ())),
        price=None if price is None else PriceBasis(**price),
        result=ResultShape(**data.get("result", {})),
        steps=data.get("steps", ""),
        id_word=ids.get("model", ""),
        id_words=ids.get("parameters", {}),
    )
    for name in spec.fields:
        if not _NAME.fullmatch(name) or name in COMMON:
            raise ValueError(f"{name!r} cannot be the name of a field")
    names = [item.name for item in spec.inputs]
    if len(spec.fields) != len(names) + len(spec.parameters) or not {item.kind for item in spec.inputs} <= KINDS:
        raise ValueError("a field stands twice, or an input is of an unknown kind")
    lengths = {spec.result.length_of, *([spec.price.input] if spec.price else [])} - {""}
    values = {spec.result.short_side, *([spec.price.by] if spec.price else [])} - {""}
    if not lengths <= set(names) or not values <= spec.parameters.keys():
        raise ValueError("price or result name a field that the model has not")
    return spec
