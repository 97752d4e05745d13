"""The providers and models. No other module names a provider's package. Pure except for `connect`.

`connect` imports a provider's client when it is called, because its libraries take time to load. What is derived from
the models is computed once (`cached`); `with_models` adds models for a while and empties these caches.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

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
ANNOTATIONS = frozenset({"title", "description", "examples", "default"})  # keys of a schema without effect on values
_P = ParamSpec("_P")
_T = TypeVar("_T")
_added: dict[str, ModelSpec] = {}
_caches: list[Callable[[], None]] = []


class Connect(Protocol):
    """Makes the provider for an endpoint. A run takes it from `batchrunner.app.environment.Environment`."""

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


def cached(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Cache a function of hashable arguments that depends on the models and on nothing else."""
    remembering = cache(function)
    _caches.append(remembering.cache_clear)
    return cast("Callable[_P, _T]", remembering)


@contextmanager
def with_models(*specs: ModelSpec) -> Iterator[None]:
    """Offer further models within the block, as if their files were in a provider's folder. Not for several threads.

    Raises ValueError if a model of this name exists.
    """
    known = models()
    if taken := [spec.name for spec in specs if spec.name in known]:
        raise ValueError(f"there is a model of this name already: {', '.join(taken)}")
    _change(lambda: _added.update({spec.name: spec for spec in specs}))
    try:
        yield
    finally:
        _change(lambda: [_added.pop(spec.name) for spec in specs])


def _change(change: Callable[[], object]) -> None:
    change()
    for clear in _caches:
        clear()


@cached
def models() -> Mapping[str, ModelSpec]:
    """Return every model by its name, the default one first."""
    return {**_packaged(), **_added}


@cache
def _packaged() -> Mapping[str, ModelSpec]:
    here = Path(__file__).parent
    specs = [read_spec(path) for folder in _FOLDERS for path in sorted((here / folder / "models").glob("*.json"))]
    specs.sort(key=lambda spec: spec.name != DEFAULT_MODEL)
    return {spec.name: spec for spec in specs}


def default_model() -> ModelSpec:
    """Return the model of a batch that names none."""
    return models()[DEFAULT_MODEL]


def spec_of(fields: Mapping[str, Any]) -> ModelSpec:
    """Return the model of a job by its fields in a manifest."""
    return models()[fields.get("model", DEFAULT_MODEL)]


@cached
def field_names() -> frozenset[str]:
    """Return the fields of all models."""
    return frozenset(name for spec in models().values() for name in spec.fields)


@cached
def input_names() -> tuple[str, ...]:
    """Return the names of the inputs of all models, without duplicates."""
    return tuple(dict.fromkeys(name for spec in models().values() for name, _ in spec.kinds))


@cached
def parameter_names() -> tuple[str, ...]:
    """Return the names of the parameters of all models, without duplicates."""
    return tuple(dict.fromkeys(name for spec in models().values() for name in spec.parameters))


@cached
def foreign_fields(model: str) -> frozenset[str]:
    """Return the fields that other models have and this one lacks."""
    return field_names() - models()[model].fields.keys()


@cached
def differing_fields(model: str) -> Mapping[str, Mapping[str, Any]]:
    """Return this model's schemas of the fields for which another model accepts other values."""
    others = [spec.fields for spec in models().values()]
    return {
        name: own
        for name, own in models()[model].fields.items()
        if any(_values(fields[name]) != _values(own) for fields in others if name in fields)
    }


def _values(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema without its annotations for people."""
    return {key: value for key, value in schema.items() if key not in ANNOTATIONS}


@cached
def fields_differ() -> bool:
    """Return whether models differ in their fields, or in the values that a field accepts."""
    return any(foreign_fields(name) or differing_fields(name) for name in models())
