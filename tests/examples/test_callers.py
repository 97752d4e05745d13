"""The examples for Airflow, Prefect and Dagster: which exit statuses are tried again, and which are for a person.

The frameworks are large, so stand-ins replace them here. The stand-ins only have the names that the examples import.
"""

import runpy
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from batchrunner.errors import ExitStatus
from tests.conftest import ROOT

ACTIONS = {
    ExitStatus.OK: "ok",
    ExitStatus.FAILED: "alert",
    ExitStatus.USAGE: "alert",
    ExitStatus.STOPPED: "retry",
    ExitStatus.LOCKED: "retry",
    ExitStatus.NEEDS_ACTION: "alert",
    ExitStatus.SIGINT: "retry",
    ExitStatus.SIGTERM: "retry",
    137: "retry",  # SIGKILL, as a shell reports it
    -9: "retry",  # and as Python does
    127: "alert",  # there is no such command
}


class Raised(Exception):
    """An exception of a framework."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values)
        self.options = options


class RetryRequested(Raised):
    """Of Dagster: another try."""


class AirflowException(Raised):
    """Of Airflow: another try, if there are any left."""


class AirflowFailException(AirflowException):
    """Of Airflow: no other try."""


def decorator(*plain: Any, **options: Any) -> Any:
    """Stand for a decorator with or without options. The function keeps its options."""

    def decorate(function: Any) -> Any:
        function.options = options
        function.expand = function.map = lambda *_, **__: None
        return function

    return decorate(plain[0]) if plain else decorate


def module(**names: Any) -> ModuleType:
    stand_in = ModuleType("stand-in")
    vars(stand_in).update(names)
    return stand_in


FRAMEWORKS = {
    "airflow/batchrunner_dag.py": {
        "airflow": module(),
        "airflow.sdk": module(dag=decorator, task=decorator),
        "airflow.sdk.exceptions": module(AirflowException=AirflowException, AirflowFailException=AirflowFailException),
    },
    "prefect/batchrunner_flow.py": {"prefect": module(flow=decorator, task=decorator)},
    "dagster/batchrunner_asset.py": {
        "dagster": module(
            **dict.fromkeys(("AssetExecutionContext", "RunFailureSensorContext"), object),
            **dict.fromkeys(("Definitions", "StaticPartitionsDefinition"), lambda *_, **__: None),
            **dict.fromkeys(("asset", "run_failure_sensor"), decorator),
            Failure=Raised,
            RetryRequested=RetryRequested,
        )
    },
}


@pytest.fixture(params=FRAMEWORKS)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that an example defines."""
    for name, stand_in in FRAMEWORKS[request.param].items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    return runpy.run_path(str(ROOT / "examples" / request.param), run_name="example")


def test_the_table_has_every_exit_status() -> None:
    assert set(ExitStatus) <= set(ACTIONS)


def test_each_status_is_tried_again_or_is_for_a_person(example: dict[str, Any]) -> None:
    assert {status: example["action_of"](int(status)) for status in ACTIONS} == ACTIONS


def outcome_of(example: dict[str, Any]) -> str:
    """Run shard 3 as the framework does, and return what the framework does after it."""
    expected = (Raised, example.get("StatusError", Raised))
    try:
        if "shard" in example:
            example["shard"](3)
        else:
            example["clips"](SimpleNamespace(partition_key="3"))
    except expected as error:
        return after(example, error)
    return "ok"


def after(example: dict[str, Any], error: Exception) -> str:
    """Return what the framework does after this exception."""
    if "may_retry" in example:
        state = SimpleNamespace(result=lambda **_: error)
        return "retry" if example["may_retry"](None, None, state) else "alert"
    is_final = isinstance(error, AirflowFailException) or vars(error)["options"] == {"allow_retries": False}
    return "alert" if is_final else "retry"


def test_the_framework_does_what_the_table_says(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=int(status))

    monkeypatch.setattr(subprocess, "run", run)
    for status, action in ACTIONS.items():
        assert outcome_of(example) == action, status
    assert commands[0] == ["batchrunner", "run", "batch.yaml", "--shard", "3/4", "--quiet"]
