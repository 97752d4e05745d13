"""The download step: download a clip, check it, and deliver it under its final names. Copy it to the bucket, if any.

A clip that has its final names is safe: nothing that the bucket does makes it fail, or be paid for again.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchrunner.engine.backoff import DELIVERIES
from batchrunner.engine.job_records import Save
from batchrunner.engine.outcomes import (
    CopyToBucket,
    Finish,
    LeaveInFlight,
    NextStep,
    PollAgain,
    after_last_download,
    download_backoff,
)
from batchrunner.engine.steps.context import StepContext, fail_generation, retry_wait_s
from batchrunner.errors import CallError, LocalFault
from batchrunner.events import Fetching
from batchrunner.job import Move, Result, State, advance
from batchrunner.transfer.expectations import expectation_warnings

if TYPE_CHECKING:
    from batchrunner.transfer.downloader import Fetched

_ANNOUNCE_EVERY_S = 0.5


async def download(context: StepContext, fingerprint: str, url: str, breaker_generation: int) -> NextStep:
    """Download and deliver a clip. Raises LocalFault if the disk refuses."""
    record = context.records[fingerprint]
    try:
        reply = context.deps.clips.fetch(url, record.job.key, progress_of(context, fingerprint))
        fetched = await context.calls.call("download", fingerprint, breaker_generation, reply)
    except LocalFault:
        raise
    except CallError as error:
        return await _failed_download(context, fingerprint, error)
    return await keep(context, fingerprint, fetched)


async def keep(context: StepContext, fingerprint: str, fetched: "Fetched") -> NextStep:
    """Give a checked clip its final names. With a bucket, the job is in flight until its copy there is confirmed."""
    save = partial(context.deps.store.deliver, context.records[fingerprint].job, fetched)
    if context.deps.bucket is None:
        await delivered(context, fingerprint, fetched.result, save)
        return Finish()
    await _note_result(context, fingerprint, fetched.result, save)
    return CopyToBucket()


async def copy_to_bucket(context: StepContext, fingerprint: str, breaker_generation: int) -> NextStep:
    """Copy a clip from the run directory to the bucket. Raises LocalFault if the bucket refuses."""
    bucket, record = context.deps.bucket, context.records[fingerprint]
    if bucket is None or record.result is None:
        return PollAgain(0.0, over=True)
    try:
        reply = bucket.publish(record.job, record.result)
        result = await context.calls.call("deliver", fingerprint, breaker_generation, reply)
    except LocalFault as fault:
        message = f"{fault.message}; the clip is in the run directory, and is not paid for again"
        raise LocalFault(fault.kind, message, fault.hint) from None
    except CallError as error:
        wait_s = retry_wait_s(context, "deliver", fingerprint, error, DELIVERIES)
        if wait_s is None:
            return LeaveInFlight(f"{error.message}; the clip is in the run directory, and the next run copies it")
        return CopyToBucket(wait_s)
    if result is None:
        return PollAgain(0.0, over=True)
    await delivered(context, fingerprint, result)
    await bucket.release(context.records[fingerprint])
    return Finish()


async def settle(context: StepContext, found: Mapping[str, Result | None]) -> list[str]:
    """Take in what the store shows: a result for each clip that is there, None for one that is missing.

    Return the jobs whose clips are in the run directory and have to be copied to the bucket.
    """
    waiting = []
    for fingerprint, result in found.items():
        state = context.records[fingerprint].state
        if state is State.SUCCEEDED:
            await context.records.move(fingerprint, Move.FILE_MISSING)
        if state not in {State.SUCCEEDED, State.IN_FLIGHT} or result is None:
            continue
        if context.deps.bucket is None:
            await delivered(context, fingerprint, result)
        else:
            await _note_result(context, fingerprint, result)
            waiting.append(fingerprint)
    return waiting


async def _note_result(context: StepContext, fingerprint: str, result: Result, save: Save | None = None) -> None:
    """Store the result of a clip that is in the run directory, so that the next run need not check it again."""
    record = context.records[fingerprint]
    objects = result.objects or (record.result.objects if record.result else None)
    await context.records.annotate(record.with_result(replace(result, objects=objects)), save)


def progress_of(context: StepContext, fingerprint: str) -> Callable[[int, int | None], None]:
    """Return a callback for the bytes of a download. It announces them at most twice a second."""
    deps = context.deps
    announced_at = deps.clock.monotonic()

    def on_progress(received_bytes: int, total_bytes: int | None) -> None:
        nonlocal announced_at
        now = deps.clock.monotonic()
        if now - announced_at >= _ANNOUNCE_EVERY_S:
            announced_at = now
            ids = context.records.ids(fingerprint)
            deps.announce(Fetching(deps.clock.now(), ids, fingerprint, received_bytes, total_bytes))

    return on_progress


async def delivered(context: StepContext, fingerprint: str, result: Result, save: Save | None = None) -> None:
    """Store that a clip stands under its final names. save: gives it these first (`JobRecords.store`)."""
    record = context.records[fingerprint]
    warnings = dict.fromkeys((*result.warnings, *expectation_warnings(record.job, result)))
    if tuple(warnings) != result.warnings:
        result = replace(result, warnings=tuple(warnings))
    record = advance(record.with_result(result), Move.DELIVER, ended_at=context.deps.clock.now())
    await context.records.store(Move.DELIVER, record, save=save)
    context.polls.forget(fingerprint)
    for warning in result.warnings:
        context.records.notice(fingerprint, warning)


async def _failed_download(context: StepContext, fingerprint: str, error: CallError) -> NextStep:
    """Poll the generation again, which gives a fresh link and costs nothing, or give this clip up."""
    backoff = download_backoff(error)
    wait_s = None if backoff is None else retry_wait_s(context, "download", fingerprint, error, backoff)
    if wait_s is not None:
        return PollAgain(wait_s, over=True)
    decision = after_last_download(error)
    if isinstance(decision, LeaveInFlight):
        return decision
    return await fail_generation(context, fingerprint, decision)
