"""What the engine and its steps need of the other rooms, as small Protocols, and the bounds they work within.

Rule: nothing here does anything. A test, or a simulation, gives its own parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batchrunner.clock import Clock
from batchrunner.engine.backoff import Rng
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.engine.run_deadline import REACHED
from batchrunner.events import Listener
from batchrunner.job import Job, Record, TimelineEvent
from batchrunner.providers.base import Provider

if TYPE_CHECKING:
    from batchrunner.transfer.downloader import Fetched


class Journal(Protocol):
    """Durable records (`batchrunner.journal`)."""

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        """Store it with so many of its latest attempts; durable on return. Raises LocalFault."""
        ...

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Store what befell the batch; durable on return. Raises LocalFault."""
        ...


class Clips(Protocol):
    """Downloads (`batchrunner.transfer.downloader`)."""

    async def fetch(self, url: str, key: str, told: Callable[[int, int | None], None]) -> "Fetched":
        """Download and check; `told` is called with bytes received and in all. Raises CallError."""
        ...


class Store(Protocol):
    """Final names (`batchrunner.transfer.delivery`)."""

    async def deliver(self, job: Job, fetched: "Fetched") -> None:
        """Give the clip its names. Raises LocalFault."""
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the engine drives.

    ids: the manifest ids of a fingerprint, for announcements. durations: what is known of them; it is added to.
    lacks_room: why so many more clips may find no room on the disk, in words; "" where they will.
    timeline: events of earlier runs, oldest first.
    lost: why nothing can be stored any more, in words; "" where it can.
    """

    provider: Provider
    journal: Journal
    clips: Clips
    store: Store
    clock: Clock
    rng: Rng
    announce: Listener
    ids: Callable[[str], tuple[str, ...]]
    durations: dict[DurationKey, Durations] = field(default_factory=dict)
    lacks_space: Callable[[int], str] = lambda _: ""
    lost: Callable[[], str] = lambda: ""
    timeline: Sequence[TimelineEvent] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Bounds and waits, in seconds where named so.

    concurrency: generations in flight. submissions, polls, downloads: calls of each kind at once.
    calls_per_s: most calls to the service a second, or None.
    deadline_at: wall time at which the run closes, or None. deadline: what is said then. max_runtime_s: the same, from
        its start.
    account_wait_s, outage_wait_s: how long a gate may stay closed, for the account's sake or for any other.
    most_failures: jobs that may fail by their own fault before no more are submitted, or None.
    generation_retries: new generations for one that the service failed to make.
    not_found_grace_s: how long the service may deny a generation (404), counted from the first time in a row, before
        it is believed: a new one may not be visible yet, and one wrong answer must not lose a paid clip.
    confirm_s: wait between two polls that have to say the same before a terminal status is believed.
    linkless_looks: how often a completed generation without a link is looked at again before it counts as failed.
    in_doubt: what may free a submission in doubt: nothing (``hold``), the log's ``evidence``, or the user, who asked to
        ``resubmit`` those of earlier runs.
    review_s: wait between the first two searches for a submission in doubt; it doubles up to review_cap_s.
    settle_s: how old a submission in doubt is before a search counts that does not find it.
    doubt_s: how long a submission in doubt keeps its slot at most: it may be in flight.
    closing_grace_s: how long downloads may go on after the first signal.
    record_retry_s: how long storing a generation id is tried again on a disk that refuses.
    """

    concurrency: int
    poll_interval_s: float
    job_timeout_s: float = 3600.0
    calls_per_s: float | None = None
    deadline_at: float | None = None
    deadline: str = REACHED
    max_runtime_s: float | None = None
    account_wait_s: float = 1800.0
    outage_wait_s: float = 14_400.0
    most_failures: int | None = None
    generation_retries: int = 1
    submissions: int = 8
    polls: int = 16
    downloads: int = 4
    not_found_grace_s: float = 600.0
    confirm_s: float = 2.0
    linkless_polls: int = 5
    in_doubt: str = "hold"
    reconcile_s: float = 15.0
    reconcile_cap_s: float = 600.0
    settle_s: float = 10.0
    doubt_s: float = 1800.0
    closing_grace_s: float = 30.0
    record_retry_s: float = 60.0
