"""``run --retake`` adds one take to a job whose latest take has a clip, and one only."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from batchrunner.errors import UsageError
from batchrunner.job import Entry, Retake, State
from batchrunner.plan.retakes import REJECTED, Known, next_takes
from tests.conftest import make_entries, make_job, make_record, make_run

A, B = make_entries("a", "b")
A2 = Entry(1, "a.t2", replace(make_job("a2"), take=2))
ENDED = replace(make_run(), finished_at=1.0, exit_status=0)


def known(
    *entries: Entry,
    state: State = State.SUCCEEDED,
    rejected: Sequence[str] = (),
    accepted: Sequence[str] = (),
    exit_status: int | None = 0,
) -> Known:
    """Return a batch in which every job has succeeded, but for the last one, which is in `state`."""
    records = {entry.job.fingerprint: make_record(state=State.SUCCEEDED, job=entry.job) for entry in entries}
    records[entries[-1].job.fingerprint] = make_record(state=state, job=entries[-1].job)
    retakes = (Retake(A.job.fingerprint, 2, ENDED.run_id),)
    return Known(entries, records, retakes, rejected, accepted, replace(ENDED, exit_status=exit_status))


def added(batch: Known, *names: str) -> list[int]:
    retakes, _ = next_takes(batch, names)
    assert {retake.fingerprint for retake in retakes} <= {A.job.fingerprint}
    return [retake.take for retake in retakes]


def test_each_job_whose_latest_take_is_rejected_gets_its_next_take() -> None:
    assert added(known(A, B, rejected=["a"]), REJECTED) == [2]
    assert added(known(A, A2, rejected=["a.t2"]), REJECTED) == [3]
    assert added(known(A2, B, A, rejected=["a.t2"]), REJECTED) == [3], "in any order"


def test_a_rejected_earlier_take_asks_for_nothing() -> None:
    retakes, notices = next_takes(known(A, A2, rejected=["a"]), [REJECTED])
    assert (retakes, notices) == ((), ("--retake rejected: no job's latest take is rejected",))


def test_a_job_with_an_accepted_take_gets_another_one_only_by_its_id() -> None:
    batch = known(A, A2, rejected=["a.t2"], accepted=["a"])
    retakes, (notice,) = next_takes(batch, [REJECTED])
    assert retakes == ()
    assert "no take was added to a, because an earlier take is accepted; --retake a adds one" in notice
    assert added(batch, "a") == [3]


@pytest.mark.parametrize("names", [("a",), ("a.t2",), ("a", "a.t2"), ("a.t2", REJECTED)])
def test_an_id_of_a_job_or_of_a_take_asks_for_one_take(names: tuple[str, ...]) -> None:
    assert added(known(A, A2, rejected=["a.t2"] if REJECTED in names else []), *names) == [3]


@pytest.mark.parametrize("state", [state for state in State if state is not State.SUCCEEDED])
def test_an_unfinished_take_is_the_answer_to_a_repeated_request(state: State) -> None:
    retakes, (notice,) = next_takes(known(A, A2, state=state), ["a"])
    assert retakes == ()
    assert notice.startswith("--retake a: no take was added: its latest take a.t2 ")


def test_a_job_without_a_record_gets_no_take() -> None:
    retakes, (notice,) = next_takes(Known((A,)), ["a"])
    assert (retakes, notice) == ((), "--retake a: no take was added: its latest take a was not submitted")


@pytest.mark.parametrize(("exit_status", "wanted"), [(None, []), (3, []), (130, []), (0, [3]), (1, [3])])
def test_the_same_command_after_an_early_stop_continues_its_request(exit_status: int | None, wanted: list[int]) -> None:
    assert added(known(A, A2, exit_status=exit_status), "a") == wanted
    assert added(known(A, A2, exit_status=exit_status, rejected=["a.t2"]), "a") == [3], "a verdict is a new request"
    later = known(A, A2, exit_status=exit_status)._replace(latest_run=replace(ENDED, run_id="later", exit_status=None))
    assert added(later, "a") == [3], "another run added the latest take"


def test_an_unknown_id_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"--retake a\.t3: no job of the manifest has this id; did you mean a\.t2\?"):
        next_takes(known(A, A2), ["a.t3"])


def test_equal_jobs_get_one_take_together() -> None:
    twin = replace(A, position=1, id="twin")
    assert added(known(A, twin, rejected=["a", "twin"]), REJECTED, "twin") == [2]
