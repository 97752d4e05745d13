"""Which providers and models exist: the one place that names the providers' packages. Pure but for `connect`.

A provider's client is imported when it is asked for: its libraries take time to load.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from batchrunner.providers.models import ModelSpec, read_spec

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager

    from batchrunner.clock import Clock
    from batchrunner.net.proxies import Proxies
    from batchrunner.providers.base import Provider
    from batchrunner.providers.endpoint import Endpoint

DEFAULT_MODEL = "alibaba/wan2.2-14b-animate-replace"
_FOLDERS = ("aimlapi",)  # the sandbox offers the models of aimlapi


class Connect(Protocol):
    """Makes the provider for an endpoint."""

    def __call__(
        self, endpoint: "Endpoint", clock: "Clock", executor: "Executor", proxies: "Proxies | None" = None
    ) -> "AbstractAsyncContextManager[Provider]":
        """Entering the result opens the connections. executor: where local inputs are read, off the loop."""
        ...


def connect(
    endpoint: "Endpoint", clock: "Clock", executor: "Executor", proxies: "Proxies | None" = None
) -> "AbstractAsyncContextManager[Provider]":
    """Make the provider for an endpoint. The embedded sandbox speaks the protocol of aimlapi."""
    from batchrunner.providers.aimlapi.client import ApiClient

    return ApiClient(endpoint, clock, executor, proxies=proxies)


@cache
def models() -> Mapping[str, ModelSpec]:
    """Every model by its name, the default one first."""
    here = Path(__file__).parent
    specs = [read_spec(path) for folder in _FOLDERS for path in sorted((here / folder / "models").glob("*.json"))]
    specs.sort(key=lambda spec: spec.name != DEFAULT_MODEL)
    return {spec.name: spec for spec in specs}


def default_model() -> ModelSpec:
    """The model of a batch that names none."""
    return models()[DEFAULT_MODEL]


def spec_of(fields: Mapping[str, Any]) -> ModelSpec:
    """The model of a job by its fields in a manifest."""
    return models()[fields.get("model", DEFAULT_MODEL)]


@cache
def field_names() -> frozenset[str]:
    """The fields of all models."""
    return frozenset(name for spec in models().values() for name in spec.fields)


@cache
def input_names() -> tuple[str, ...]:
    """The inputs of all models, each once."""
    return tuple(dict.fromkeys(name for spec in models().values() for name, _ in spec.kinds))


@cache
def parameter_names() -> tuple[str, ...]:
    """The parameters of all models, each once."""
    return tuple(dict.fromkeys(name for spec in models().values() for name in spec.parameters))


@cache
def foreign_fields(model: str) -> frozenset[str]:
    """Fields that other models have and this one has not."""
    return field_names() - models()[model].fields.keys()


@cache
def narrower_fields(model: str) -> Mapping[str, tuple[Any, ...]]:
    """The choices of this model's fields where other models have more choices for the same field."""
    own = {name: tuple(schema["enum"]) for name, schema in models()[model].fields.items() if "enum" in schema}
    others = [spec.fields for spec in models().values()]
    return {
        name: choices
        for name, choices in own.items()
        if any(set(fields[name].get("enum", choices)) - set(choices) for fields in others if name in fields)
    }


@cache
def fields_differ() -> bool:
    """Whether a field that one model takes, or a choice of it, is refused by another one."""
    return any(foreign_fields(name) or narrower_fields(name) for name in models())
