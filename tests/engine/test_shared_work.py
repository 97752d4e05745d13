"""When a generation of another batch, which no process polls, counts as ended."""

import pytest

from batchrunner.engine.shared_work import SharedWork
from batchrunner.providers.base import GenerationStatus, Phase

GENERATING = GenerationStatus(Phase.GENERATING, "generating")
DONE = GenerationStatus(Phase.COMPLETED, "completed", result_url="https://e.com/a.mp4")
LINKLESS = GenerationStatus(Phase.COMPLETED, "completed")
FAILED = GenerationStatus(Phase.FAILED, "error")
UNNAMED = GenerationStatus(Phase.FAILED, "error", named=False)


@pytest.mark.parametrize(
    ("replies", "ended"),
    [
        ([GENERATING, DONE], [False, True]),
        ([LINKLESS, LINKLESS], [False, True]),
        ([FAILED, GENERATING, FAILED, FAILED], [False, False, False, True]),
        ([UNNAMED] * 3, [False, False, True]),
    ],
)
def test_it_has_ended_when_its_terminal_status_is_confirmed(replies: list[GenerationStatus], ended: list[bool]) -> None:
    shared = SharedWork()
    assert [shared.ended("gen", reply) for reply in replies] == ended


def test_it_has_ended_when_the_service_denies_it_three_times_in_a_row() -> None:
    shared = SharedWork()
    assert [shared.denied("gen") for _ in range(2)] == [False, False]
    shared.ended("gen", GENERATING)
    assert [shared.denied("gen") for _ in range(3)] == [False, False, True]


def test_generations_of_other_batches_are_polled_only_while_a_claim_waits_for_their_slots() -> None:
    shared = SharedWork()
    shared.block("all slots are taken", 1.0, orphans=("gen",))
    assert shared.start_orphans(0.0, 5.0) == ("gen",)
    assert shared.start_orphans(4.0, 5.0) == ()
    shared.unblock()
    assert shared.start_orphans(10.0, 5.0) == ()


def test_a_reason_to_wait_is_announced_once_in_a_run() -> None:
    shared = SharedWork()
    reasons = ("no slot", "no slot", "throttled", "no slot")
    assert [shared.block(why, 1.0) for why in reasons] == [True, False, True, False]
