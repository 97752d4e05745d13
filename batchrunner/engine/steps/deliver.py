"""The download step: download a clip, check it, and deliver it under its final names."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from batchrunner.engine.outcomes import (
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
from batchrunner.job import Move, Result, State
from batchrunner.transfer.expectations import expectation_warnings

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
    await context.deps.store.deliver(record.job, fetched)
    await delivered(context, fingerprint, fetched.result)
    return Finish()


async def settle(context: StepContext, found: Mapping[str, Result | None]) -> None:
    """Take in what the run directory shows: a result for each clip that is there, None for one that is missing."""
    for fingerprint, result in found.items():
        state = context.records[fingerprint].state
        if state is State.IN_FLIGHT and result is not None:
            await delivered(context, fingerprint, result)
        elif state is State.SUCCEEDED:
            await context.records.move(fingerprint, Move.FILE_MISSING)


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


async def delivered(context: StepContext, fingerprint: str, result: Result) -> None:
    """Store that a clip stands under its final names."""
    context.polls.forget(fingerprint)
    record = context.records[fingerprint]
    result = replace(result, warnings=(*result.warnings, *expectation_warnings(record.job, result)))
    context.records.update(replace(record, result=result))
    await context.records.move(fingerprint, Move.DELIVER, ended_at=context.deps.clock.now())
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
