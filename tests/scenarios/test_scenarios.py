"""Three hundred scenarios, and by name some that once found an error. More: ``python -m tests.scenarios --help``."""

import pickle

import pytest

from tests.scenarios.__main__ import outcome, replay, simulate

# A simulated process that dies leaves connections open, as a real one leaves them to the system.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")

SCENARIOS = 300
A_BLOCK = 10

# Seeds and rates that once broke a promise, by the error that they found. The scenarios have changed since, so a
# separate test covers each error; these seeds are kept because much happens in them.
REGRESSIONS = {
    "a generation that the service denied for long, and that was still running, freed its slot": 40012,
    "the clock was set between a submission in doubt and its adoption": 41506,
    "a commit that no witness counts is in the report": 31280,
    "settled charges that no witness counts are in the report": 110226,
    "a damaged copy never replaces a missing clip": 129956,
    "a submission in doubt was adopted after its slot had become free": 130133,
    "a retake was paid for again after the private folder was removed": 102244,
    "the report lacked a retake after the private folder was removed": 106023,
    "one wrong 404 lost a paid generation": 49,
    "a generation left behind kept the last slot, and the rest waited for ever": 629,
    "killed between the answer and its record": 780,
}


def _simulate(seed: int, rate: float | None = None) -> None:
    _, wrong, story = simulate(seed, rate)
    assert not wrong, "\n".join([wrong, replay(seed), *story.lines[-40:]])


def test_the_outcome_of_a_scenario_passes_between_processes() -> None:
    found = outcome(1)
    assert found == (1, "")
    assert pickle.dumps(found)


@pytest.mark.parametrize("first", range(0, SCENARIOS, A_BLOCK))
def test_scenarios_keep_every_promise(first: int) -> None:
    for seed in range(first, first + A_BLOCK):
        _simulate(seed)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_scenarios_with_every_fault_keep_every_promise(rate: float) -> None:
    for seed in range(5000, 5015):
        _simulate(seed, rate)


@pytest.mark.parametrize("seed", REGRESSIONS.values(), ids=REGRESSIONS.keys())
def test_seeds_that_once_failed_keep_every_promise(seed: int) -> None:
    _simulate(seed)


def test_a_scenario_is_repeatable() -> None:
    first, second = (simulate(17)[2] for _ in range(2))
    assert _comparable(first.lines) == _comparable(second.lines)
    assert first.ledger == second.ledger


def _comparable(lines: list[str]) -> list[str]:
    return [line.split("run_dir=")[0] for line in lines if "RunFinished" not in line]
