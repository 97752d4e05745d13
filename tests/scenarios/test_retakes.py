"""Rejected takes get the next one: one generation for one rejection, whatever interrupts the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.errors import UsageError
from batchrunner.events import Noticed
from batchrunner.journal import journal
from batchrunner.manifest.takes import with_takes
from batchrunner.review.verdicts import Verdict, VerdictLog
from tests.scenarios.__main__ import simulate
from tests.scenarios.scenario import Scenario
from tests.scenarios.test_recovery import LOSSES
from tests.scenarios.test_stories import Simulation, entries, play

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")


def give_verdict(sim: Simulation, name: str, verdict: str = "reject") -> None:
    """Write a verdict on the present clip of an entry."""
    row = next(row for row in sim.report["jobs"] if row["id"] == name)
    with VerdictLog(sim.path("")) as log:
        log.append(Verdict(name, row["take"], row["fingerprint"], row["sha256"], verdict, by="ann"))


def paid(sim: Simulation) -> int:
    return sim.accepted().total()


def notices(sim: Simulation) -> list[str]:
    return [event.message for event in sim.events if isinstance(event, Noticed)]


def test_a_rejected_take_gets_one_more_generation_and_no_second_one(tmp_path: Path) -> None:
    named = entries("a", "b")

    async def story(sim: Simulation) -> None:
        assert await sim.run(named) == 0
        give_verdict(sim, "a")
        assert await sim.run(named, retake=["rejected"]) == 0
        assert paid(sim) == 3
        assert [(row["id"], row["job"], row["take"], row["file"]) for row in sim.report["jobs"]] == [
            ("a", "a", 1, "a.mp4"),
            ("a.t2", "a", 2, "a.t2.mp4"),
            ("b", "b", 1, "b.mp4"),
        ]
        assert set(sim.states().values()) == {"succeeded"}
        assert sim.path("a.t2.mp4").exists()
        assert await sim.run(named, retake=["rejected"]) == 0
        assert paid(sim) == 3, "the take that answers the rejection has no verdict yet"
        assert "--retake rejected: no job's latest take is rejected" in notices(sim)
        assert await sim.run(named) == 0
        assert list(sim.states()) == ["a", "a.t2", "b"], "a retake stays part of the batch in plain runs"
        give_verdict(sim, "a.t2")
        give_verdict(sim, "b", "accept")
        assert await sim.run(named, retake=["rejected"]) == 0
        assert paid(sim) == 4
        assert list(sim.states()) == ["a", "a.t2", "a.t3", "b"]

    play(tmp_path, story)


def test_takes_of_one_job_are_paid_for_once_each_and_are_different_clips(tmp_path: Path) -> None:
    named = with_takes(entries("a", "b"), {0: 3})

    async def story(sim: Simulation) -> None:
        assert await sim.run(named, interrupt_at_s=30.0) == 130
        assert await sim.run(named) == 0
        assert sorted(sim.accepted().values()) == [1, 3]
        rows = sim.report["jobs"]
        assert [row["id"] for row in rows] == ["a", "a.t2", "a.t3", "b"]
        assert len({row["generation_id"] for row in rows}) == len({row["sha256"] for row in rows}) == 4
        assert await sim.run(named) == 0
        assert paid(sim) == 4

    play(tmp_path, story)


def test_a_verdict_on_an_earlier_clip_or_an_accepted_one_asks_for_nothing(tmp_path: Path) -> None:
    named = entries("a", "b")

    async def story(sim: Simulation) -> None:
        await sim.run(named)
        with VerdictLog(sim.path("")) as log:
            log.append(Verdict("a", 1, "", "ab" * 32, "reject"))
        give_verdict(sim, "b")
        give_verdict(sim, "b", "none")
        assert await sim.run(named, retake=["rejected"]) == 0
        assert paid(sim) == 2

    play(tmp_path, story)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_a_kill_at_any_moment_neither_doubles_nor_loses_a_retake(first: int) -> None:
    """The oracle compares the takes with the rejections, and the generations with the takes."""
    for seed in range(first, first + 5):

        def many_deaths(scenario: Scenario) -> None:
            scenario.rejections, scenario.several_takes, scenario.deaths = 2, True, 8

        _, wrong, story = simulate(seed, 0.05, change=many_deaths)
        assert not wrong, "\n".join([wrong, *story.lines[-40:]])


def test_a_retake_is_stored_before_it_is_submitted(tmp_path: Path) -> None:
    named = entries("a")

    async def story(sim: Simulation) -> None:
        await sim.run(named)
        give_verdict(sim, "a")
        assert await sim.run(named, retake=["rejected"], max_generations=1) == 3, "the budget covers retakes"
        assert paid(sim) == 1
        assert sim.states() == {"a": "succeeded", "a.t2": "pending"}
        assert await sim.run(named, retake=["rejected", "a"], max_generations=1) == 3
        assert list(sim.states()) == ["a", "a.t2"]
        assert "--retake a: no take was added: its latest take a.t2 was not submitted" in notices(sim)
        snapshot = journal.read(sim.path(".batchrunner/journal.db"))
        assert snapshot is not None
        assert [(item.fingerprint, item.take) for item in snapshot.retakes] == [(named[0].job.fingerprint, 2)]
        assert snapshot.retakes[0].run_id == snapshot.runs[1].run_id
        assert await sim.run(named) == 0, "a plain run makes it"
        assert paid(sim) == 2

    play(tmp_path, story)


def test_a_retake_of_a_renamed_job_stays_with_its_content(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        await sim.run(entries("a"))
        assert await sim.run(entries("a"), retake=["a"]) == 0
        assert await sim.run(entries("renamed=a", "b")) == 0
        assert list(sim.states()) == ["renamed", "renamed.t2", "b"]
        assert paid(sim) == 3
        taken = replace(entries("b=c")[0], id="renamed.t2")
        with pytest.raises(UsageError, match=r"the id renamed\.t2 of take 2 .* is already used by the job renamed\.t2"):
            await sim.run((*entries("renamed=a"), taken))

    play(tmp_path, story)


def test_only_a_take_is_submitted_if_only_it_is_named(tmp_path: Path) -> None:
    named = with_takes(entries("a", "b"), {0: 2, 1: 2})

    async def story(sim: Simulation) -> None:
        await sim.run(named, only=["a.t2"])
        assert [name for name, state in sim.states().items() if state == "succeeded"] == ["a.t2"]
        await sim.run(named, only=["b"])
        assert [name for name, state in sim.states().items() if state == "pending"] == ["a"]
        assert {row["id"]: row["error"]["kind"] for row in sim.report["jobs"] if row["error"]} == {"a": "not_selected"}

    play(tmp_path, story)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_recovered_journal_keeps_the_retakes_that_were_paid_for(tmp_path: Path, loss: str) -> None:
    named = entries("a", "b")

    async def story(sim: Simulation) -> None:
        await sim.run(named)
        sim.path("old.db").write_bytes(sim.path(".batchrunner/journal.db").read_bytes())
        await sim.run(named, retake=["a"], interrupt_at_s=5.0)
        assert sim.states()["a.t2"] == "in_flight"
        LOSSES[loss](sim)
        await sim.run(named, recover=True)
        await sim.run(named)
        assert paid(sim) == 3
        assert sim.states()["a.t2"] == "succeeded"

    play(tmp_path, story)
