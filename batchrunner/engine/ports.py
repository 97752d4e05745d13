"""What the engine and its steps need from other packages, as small Protocols.

Rule: nothing here does anything. Tests and simulations pass their own implementations.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from batchrunner.account.base import AccountSession, Clip, NoAccount
from batchrunner.clock import Clock
from batchrunner.engine.backoff import Rng
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.events import Listener
from batchrunner.job import Job, Record, Result, TimelineEvent
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.providers.base import Provider

if TYPE_CHECKING:
    from batchrunner.transfer.downloader import Fetched


class Journal(Protocol):
    """Durable records (`batchrunner.journal`)."""

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        """Store it with so many of its latest attempts; durable on return. Raises LocalFault."""
        ...

    async def save_attempts(self, records: Iterable[Record]) -> None:
        """Store only their attempts, in one commit; durable on return. Raises LocalFault."""
        ...

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Store an event of the whole batch; durable on return. Raises LocalFault."""
        ...


class Clips(Protocol):
    """Downloads (`batchrunner.transfer.downloader`)."""

    async def fetch(self, url: str, key: str, on_progress: Callable[[int, int | None], None]) -> "Fetched":
        """Download and check a clip. on_progress: called with the bytes received and in total. Raises CallError."""
        ...


class Store(Protocol):
    """Final names (`batchrunner.transfer.delivery`)."""

    async def deliver(self, job: Job, fetched: "Fetched", record: Record) -> None:
        """Publish the clip under its final names, then store its job's record. Raises LocalFault."""
        ...


class Bucket(Protocol):
    """The bucket to which clips are delivered (`batchrunner.transfer.bucket_delivery`)."""

    async def publish(self, job: Job, result: Result) -> Result | None:
        """Copy a clip from the run directory, and return its result with the confirmed objects.

        None if no copy of the clip is left. Raises CallError: NetworkFault while the bucket cannot be reached.
        """
        ...

    async def release(self, record: Record) -> None:
        """Free the file of a clip whose delivery is stored, if the user wants that. Raises LocalFault."""
        ...


class Copies(Protocol):
    """Copies of clips that other batches delivered (`batchrunner.transfer.clip_copies`)."""

    async def copy(self, key: str, clips: Sequence[Clip]) -> "Fetched | None":
        """Copy the first clip that still has its recorded content; None if none has. key: names the copy."""
        ...


class Inputs(Protocol):
    """Inputs that have to be in place before a submission begins (`batchrunner.storage.objects.staging`)."""

    async def prepare(self, job: Job, is_stopped: Callable[[], bool]) -> None:
        """Put the inputs of a job in place. It may take long, but ends soon once `is_stopped`. Raises CallError."""
        ...


class CallPace(Protocol):
    """The pace that all processes of an account share (`batchrunner.account.pace`). Moments are monotonic, in s."""

    def next_at(self, now: float) -> float:
        """Return when the next call may be made: `now`, or a later moment."""
        ...

    def take(self, now: float) -> None:
        """Count a call that is made at `now`."""
        ...


InThread = Callable[..., Awaitable[Any]]


async def at_once(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in the thread of the event loop, for a simulation."""
    return function(*arguments)


class NoCopies:
    """No copies: every generation is polled."""

    async def copy(self, key: str, clips: Sequence[Clip]) -> "Fetched | None":
        """Copy nothing."""
        return None


class ReadyInputs:
    """Inputs that need no preparation."""

    async def prepare(self, job: Job, is_stopped: Callable[[], bool]) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the engine needs from outside.

    announce: publishes an event. ids: the manifest's ids of a job, by fingerprint.
    durations: of generations, as far as they are known; the engine adds to them.
    lacks_space: why the disk lacks space for so many more clips; NO_REASON if it does not.
    timeline: events of earlier runs, oldest first.
    lost: why nothing can be stored any more; NO_REASON if it can. confirm: raises LocalFault if another run may have
    taken over the batch; called before each submission is sent.
    account: what all batches of the account share. copies: of clips that other batches delivered. pace: the account's,
    or None. inputs: prepared before each submission. bucket: where clips are copied after their delivery, or None.
    in_thread: calls a function in a thread, for what only reads and takes long with many jobs.
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
    lacks_space: Callable[[int], StopReason] = lambda _: NO_REASON
    lost: Callable[[], StopReason] = lambda: NO_REASON
    confirm: Callable[[], None] = lambda: None
    timeline: Sequence[TimelineEvent] = ()
    account: AccountSession = field(default_factory=NoAccount)
    copies: Copies = field(default_factory=NoCopies)
    pace: CallPace | None = None
    inputs: Inputs = field(default_factory=ReadyInputs)
    bucket: Bucket | None = None
    in_thread: InThread = at_once
