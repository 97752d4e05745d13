"""A forwarding provider passes on every call of the Provider protocol, with its arguments and its result."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest

from batchrunner.providers.base import Capabilities, Provider
from batchrunner.providers.forwarding import ForwardingProvider
from tests.conftest import make_job

CALLS: dict[str, tuple[Any, ...]] = {
    "submit": ("a job", "a request id"),
    "status": ("an id", ("https://e.com/a.mp4",)),
    "ping": (),
    "find_submissions": (7.0,),
    "balance": (),
    "charges": (7.0,),
    "prices": ("a list",),
}


class Recorder:
    """Records each call, and answers with a value of its own."""

    capabilities = "what it can do"

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> str:
            self.calls.append((name, arguments))
            return f"the answer of {name}"

        return call


def test_every_call_of_the_protocol_is_listed_here() -> None:
    assert {name for name in vars(Provider) if not name.startswith("_")} == {*CALLS, "capabilities"}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_passed_on(name: str) -> None:
    wrapped: Any = Recorder()
    answer = asyncio.run(getattr(ForwardingProvider(wrapped), name)(*CALLS[name]))
    assert wrapped.calls == [(name, CALLS[name])]
    assert answer == (None if name == "ping" else f"the answer of {name}")


def test_the_capabilities_are_those_of_the_wrapped_provider() -> None:
    wrapped: Any = Recorder()
    assert ForwardingProvider(wrapped).capabilities == "what it can do"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("prepares", [True, False])
def test_a_preparation_is_passed_on_to_a_provider_that_has_one(*, prepares: bool) -> None:
    wrapped: Any = Mock(capabilities=Capabilities(prepares=prepares), prepare=Mock(return_value="work"))
    work: Any = ForwardingProvider(wrapped).prepare(make_job())
    assert work == ("work" if prepares else None)
    assert wrapped.prepare.call_count == prepares
