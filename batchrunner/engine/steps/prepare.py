"""The prepare step: get the inputs of the next submission ready while every slot is taken.

Nothing is stored and nothing is sent to the service. The submission does the same work again if it finds it undone, so
a failure here is not reported: the submission meets it, too.
"""

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from batchrunner.engine.ports import Inputs, ReadyInputs
from batchrunner.engine.steps.context import StepContext
from batchrunner.errors import BatchrunnerError
from batchrunner.job import Job
from batchrunner.providers.base import preparation

Work = Coroutine[Any, Any, None]


def prepare(context: StepContext, fingerprint: str) -> Work | None:
    """Return the work that can be done for a job before its submission; None if there is none."""
    inputs, job = context.deps.inputs, context.records[fingerprint].job
    if isinstance(inputs, ReadyInputs):
        work = preparation(context.deps.provider, job)
        return None if work is None else _quietly(work)
    return _quietly(_both(inputs, context, job))


async def _both(inputs: Inputs, context: StepContext, job: Job) -> None:
    await inputs.prepare(job, context.is_stopped)
    work = preparation(context.deps.provider, job)
    if work is not None:
        await work


async def _quietly(work: Work) -> None:
    with suppress(BatchrunnerError, OSError):
        await work
