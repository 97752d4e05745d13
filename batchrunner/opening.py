"""How a batch stands when it is opened, as the event that a run begins with. Pure.

The run announces it, and `batchrunner status` makes the same of a journal, so that both show the same figures.
"""

from collections.abc import Iterable, Mapping

from batchrunner.events import RunStarted
from batchrunner.job import Entry, Record, Run, State, count_states
from batchrunner.prices import Prices


def opened(
    run: Run, run_dir: str, entries: Iterable[Entry], records: Mapping[str, Record], prices: Prices
) -> RunStarted:
    """The event. records: by fingerprint; those that no entry names are left out."""
    ids: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        ids[entry.job.fingerprint] = (*ids.get(entry.job.fingerprint, ()), entry.id)
    named = {fingerprint: records[fingerprint] for fingerprint in ids}
    waiting = {fingerprint: record for fingerprint, record in named.items() if record.state is State.PENDING}
    estimates = {fingerprint: prices.estimate(record.job) for fingerprint, record in waiting.items()}
    return RunStarted(
        at=run.started_at,
        name=run.name,
        provider=run.provider,
        run_dir=run_dir,
        concurrency=run.concurrency,
        states=count_states(named.values()),
        records=named,
        expected={fingerprint: estimate.credits for fingerprint, estimate in estimates.items()},
        bases=tuple(sorted({estimate.basis for estimate in estimates.values() if estimate.credits is not None})),
        ids=ids,
    )
