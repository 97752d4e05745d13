"""The state of a run: figures are the same whether they are read after each event or at the end."""

from collections.abc import Callable
from typing import Any

import pytest

from batchrunner.errors import Problem
from batchrunner.events import Fetching, JobMoved, RunStarted
from batchrunner.job import Move, Record, State, advance
from batchrunner.progress.model import Model
from tests.conftest import NOW, make_job
from tests.progress.test_screen import SimulatedRun

Read = Callable[[SimulatedRun], object]


def figures(run: SimulatedRun) -> list[object]:
    """Return everything that is updated late."""
    model = run.model
    return [model.spend, model.expected_credits, model.unpriced, model.left_s(), list(model.rows.items())]


def played(jobs: int, read: Read) -> SimulatedRun:
    """Play a run in which jobs are in all phases at its end. read: called after each step."""
    run = SimulatedRun(jobs)
    for number in range(jobs - 3):
        name = f"job{number}"
        run.submit(name)
        read(run)
        run.wait(1)
        if number % 5:
            run.generate(name)
            read(run)
            run.notify(Fetching(run.at, (name,), run.records[name].job.fingerprint, 1, 2))
        if number % 3:
            run.deliver(name)
            read(run)
    return run


@pytest.mark.parametrize("jobs", [20, 900])
def test_figures_do_not_depend_on_when_they_are_read(jobs: int) -> None:
    late, early = played(jobs, lambda _: None), played(jobs, figures)
    assert figures(late) == figures(early)
    assert len(late.model.rows) == len([number for number in range(jobs - 3) if number % 3 == 0])
    assert late.model.expected_credits == 1_000_000.0 * jobs


@pytest.mark.parametrize("read", ["spend", "expected_credits", "unpriced", "rows", "is_too_small_to_estimate"])
def test_a_figure_is_current_even_if_no_other_one_was_read(read: str) -> None:
    late, early = played(9, lambda _: None), played(9, figures)
    assert getattr(late.model, read) == getattr(early.model, read)


def test_several_moves_of_one_job_between_two_reads_count_once() -> None:
    model, record = Model(), Record(make_job())
    states = {State.PENDING: 2}
    model.take(RunStarted(NOW, "night", "aimlapi", "out", 4, states, records={record.job.fingerprint: record}))
    moves: list[tuple[Move, dict[str, Any]]] = [
        (Move.BEGIN_SUBMIT, {"request_id": "r", "submitted_at": NOW}),
        (Move.ACCEPT, {"generation_id": "g", "accepted_at": NOW}),
        (Move.FAIL, {"error": Problem("face", "no face")}),
        (Move.RETRY, {}),
        (Move.BEGIN_SUBMIT, {"request_id": "r2", "submitted_at": NOW}),
    ]
    for move, changes in moves:
        record = advance(record, move, **changes)
        model.take(JobMoved(NOW, ("hero",), move, record))
    assert +model.states == {State.PENDING: 1, State.SUBMITTING: 1}
    assert [incident.problem.message for incident in model.problems] == ["no face"]
    assert model.phases() == {"uploading": 1}


def test_a_refused_job_is_expected_to_cost_as_much_as_before_its_submission() -> None:
    model, record = Model(), Record(make_job())
    name, states = record.job.fingerprint, {State.PENDING: 1}
    known: dict[str, Any] = {"records": {name: record}, "expected": {name: 400.0}, "ids": {name: ("hero",)}}
    model.take(RunStarted(NOW, "night", "aimlapi", "out", 4, states, **known))
    costs = [model.expected_credits]
    for move, changes in (
        (Move.BEGIN_SUBMIT, {"request_id": "r", "submitted_at": NOW, "estimate": 400.0}),
        (Move.REFUSE, {"error": Problem("busy", "too many requests")}),
    ):
        record = advance(record, move, **changes)
        model.take(JobMoved(NOW, ("hero",), move, record))
        costs.append(model.expected_credits)
    assert (costs, model.unpriced) == ([400.0] * 3, 0)
    assert model.started is not None
    assert len(model.started.records) == len(model.started.expected) == 0, "values of each job take much memory"
