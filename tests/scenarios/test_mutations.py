"""The scenarios must be able to fail: each promise is broken on purpose, and some scenario has to detect it.

A mutation is patched in, scenarios are simulated until one breaks a promise, and the test fails if none does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batchrunner.app import opening, recovery
from batchrunner.engine import confirmation
from batchrunner.engine.confirmation import Confirmation
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.outcomes import Finish, HoldInDoubt, NextStep, PollAgain
from batchrunner.engine.steps import submit as submit_step
from batchrunner.engine.steps.context import StepContext
from batchrunner.errors import CallError, JournalError, LocalFault
from batchrunner.job import Entry, Move, Record, advance
from batchrunner.journal.witness import Witness
from batchrunner.media import decoder
from batchrunner.plan import resume
from batchrunner.providers.aimlapi import responses
from batchrunner.providers.base import GenerationStatus, Phase
from tests.scenarios.__main__ import simulate
from tests.scenarios.world import EPOCH, SimDisk

MOST_SCENARIOS = 300
# A simulated process that dies leaves connections open, as a real one leaves them to the system.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")

Patch = Callable[[pytest.MonkeyPatch], None]


def intent_after_the_post(patch: pytest.MonkeyPatch) -> None:
    """The intent is journalled after the reply."""

    async def submit(context: StepContext, fingerprint: str, price: float | None, breaker_generation: int) -> NextStep:
        records, record = context.records, context.records[fingerprint]
        request_id = f"{context.run_id}.{record.job.key}.{len(record.attempts) + 1}"
        try:
            reply = context.deps.provider.submit(record.job, request_id)
            accepted = await context.calls.call("submit", fingerprint, breaker_generation, reply)
        except CallError as error:
            await records.begin_submit(fingerprint, request_id, price)
            return await submit_step.not_accepted(context, fingerprint, error)
        await records.begin_submit(fingerprint, request_id, price)
        await records.accept(fingerprint, Move.ACCEPT, accepted.generation_id, accepted.credits, retry_for_s=60.0)
        return PollAgain()

    patch.setattr(submit_step, "submit", submit)


def post_again_after_a_cut(patch: pytest.MonkeyPatch) -> None:
    """A submission without a reply is treated as refused."""
    decide = submit_step.not_accepted

    async def not_accepted(context: StepContext, fingerprint: str, error: CallError) -> NextStep:
        error.in_doubt = False
        return await decide(context, fingerprint, error)

    patch.setattr(submit_step, "not_accepted", not_accepted)


def died_means_refused(patch: pytest.MonkeyPatch) -> None:
    """A submission that was active when the process died is pending again."""

    def take_up(known: Any, entries: Any, **options: Any) -> Any:
        return resume.take_up(known, entries, **{**options, "resubmit_in_doubt": True})

    patch.setattr(opening, "take_up", take_up)


def name_before_flush(patch: pytest.MonkeyPatch) -> None:
    """A clip gets its final name before its content is on the disk."""
    patch.setattr(SimDisk, "flush_all", lambda self, paths: None)


def key_by_position(patch: pytest.MonkeyPatch) -> None:
    """A job's record is found by its position in the manifest."""
    places: dict[str, list[str]] = {}

    def take_up(known: Any, entries: list[Entry], **options: Any) -> Any:
        before = places.get("order", [])
        records: dict[str, Record] = dict(known)
        for entry in entries:
            old = records.get(before[entry.position]) if entry.position < len(before) else None
            records[entry.job.fingerprint] = replace(old, job=entry.job) if old else Record(entry.job)
        places["order"] = [entry.job.fingerprint for entry in entries]
        return records, list(records.values())

    patch.setattr(opening, "take_up", take_up)


def id_only_in_memory(patch: pytest.MonkeyPatch) -> None:
    """The generation id is stored with the result, not when it is known."""

    async def accept(
        self: JobRecords, fingerprint: str, move: Move, generation_id: str, credits_: float | None, **_: float
    ) -> None:
        self.update(advance(self[fingerprint], move, generation_id=generation_id, accepted_at=EPOCH, credits=credits_))

    patch.setattr(JobRecords, "accept", accept)


def slot_free_in_doubt(patch: pytest.MonkeyPatch) -> None:
    """A submission in doubt releases its slot at once."""
    decide = submit_step.not_accepted

    async def not_accepted(context: StepContext, fingerprint: str, error: CallError) -> NextStep:
        following = await decide(context, fingerprint, error)
        return Finish() if isinstance(following, HoldInDoubt) else following

    patch.setattr(submit_step, "not_accepted", not_accepted)


def no_check_of_the_file(patch: pytest.MonkeyPatch) -> None:
    """Every download is treated as a clip."""

    patch.setattr(decoder, "inspect", lambda *_, **__: decoder.Decoded(1, 1, None, None))


def a_believer_of_replies_for_others(patch: pytest.MonkeyPatch) -> None:
    """A reply to a poll is accepted for any generation that it names."""
    patch.setattr(responses, "_names", lambda *_: True)


def a_believer_of_the_first_reply_without_an_id(patch: pytest.MonkeyPatch) -> None:
    """A reply that names no generation is accepted at once."""
    patch.setattr(confirmation, "POLLS_WITHOUT_ID", 1)


def a_failure_is_seen_once(patch: pytest.MonkeyPatch) -> None:
    """The first reply that says failed pays for another generation."""
    patch.setattr(confirmation, "POLLS_WITHOUT_CLIP", 1)


def a_completion_without_a_link_is_seen_once(patch: pytest.MonkeyPatch) -> None:
    """The first reply that says completed frees the slot, with or without a link."""
    confirms = Confirmation.confirms

    def confirm(self: Confirmation, status: GenerationStatus) -> bool:
        return confirms(self, status) or (status.phase is Phase.COMPLETED and status.named)

    patch.setattr(Confirmation, "confirms", confirm)


def every_answer_without_success_is_a_refusal(patch: pytest.MonkeyPatch) -> None:
    """A 5xx, 408 or 425 to a submission is treated as a refusal."""
    refusal = responses._refusal

    def certain(*arguments: Any, **more: Any) -> CallError:
        return refusal(*arguments, **{**more, "in_doubt": False})

    patch.setattr(responses, "_refusal", certain)


def a_witness_that_is_not_written(patch: pytest.MonkeyPatch) -> None:
    """The witness stays at the journal's first commit."""
    patch.setattr(Witness, "write", lambda *_: None)


def a_journal_that_is_gone_is_made_anew(patch: pytest.MonkeyPatch) -> None:
    """A run directory without its journal is treated as a new one."""
    patch.setattr(recovery, "require_no_signs", lambda *_, **__: None)
    patch.setattr(Witness, "read", lambda _: None)


def recovering_holds_nothing(patch: pytest.MonkeyPatch) -> None:
    """With --recover, a job that is not in the journal is submitted."""
    patch.setattr(opening, "held_in_doubt", lambda known, *_: known)


# And cheap scenarios that detected it when this was written. They are tried first; any other counts as well. A
# test that takes seconds needs new ones: most scenarios cannot detect its mutation.
MUTATIONS: list[tuple[Patch, tuple[int, ...]]] = [
    (intent_after_the_post, (13, 39)),
    (post_again_after_a_cut, (3,)),
    (died_means_refused, (3,)),
    (name_before_flush, (34, 30)),
    (key_by_position, (8,)),
    (slot_free_in_doubt, (18,)),
    (no_check_of_the_file, (22,)),
    (id_only_in_memory, (166, 296)),
    (a_believer_of_replies_for_others, (13, 30)),
    (a_believer_of_the_first_reply_without_an_id, (32, 33)),
    (a_failure_is_seen_once, (32, 30)),
    (a_completion_without_a_link_is_seen_once, (21,)),
    (every_answer_without_success_is_a_refusal, (3,)),
    (a_witness_that_is_not_written, (165, 379)),
    (a_journal_that_is_gone_is_made_anew, (0,)),
    (recovering_holds_nothing, (22, 165)),
]


@pytest.mark.parametrize(("mutation", "noticed"), MUTATIONS, ids=[mutation.__name__ for mutation, _ in MUTATIONS])
def test_some_scenario_detects_the_mutation(
    mutation: Patch, noticed: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (*noticed, *range(MOST_SCENARIOS)):
        with monkeypatch.context() as patch:
            mutation(patch)
            try:
                _, wrong, _ = simulate(seed)
            except (LocalFault, JournalError):  # the journal refuses impossible values, on writing or on reading
                return
        if wrong:
            return
    pytest.fail(f"{MOST_SCENARIOS} scenarios kept every promise with: {mutation.__doc__}")
