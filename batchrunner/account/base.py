"""The engine's interface to the account: `AccountSession` and its answers, in neutral terms. Pure.

The engine claims a job before it begins a submission, and reports each move of a job after the journal has it. All
times are wall time, seconds since the epoch, because several processes share them. Amounts are credits.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from batchrunner.errors import Problem
from batchrunner.job import Record
from batchrunner.plan.settlement import Totals
from batchrunner.providers.base import Charge

HELD_BY_BATCH = "held_by_batch"  # kind of the problem of a job that another batch has in flight
HELD_IN_DOUBT = "held_in_doubt_elsewhere"  # kind of the problem of a job that another batch has in doubt
HELD_KINDS = frozenset({HELD_BY_BATCH, HELD_IN_DOUBT})


class Source(NamedTuple):
    """A batch of the account: its id, its name and its run directory."""

    batch_id: str
    name: str
    directory: str


class Clip(NamedTuple):
    """A file that another batch delivered, as it recorded it. result_json: the result's facts."""

    path: Path
    size_bytes: int
    sha256: str
    source: Source
    result_json: str = "{}"


class Granted(NamedTuple):
    """The job may be submitted: the claim and its slot are in the index."""


class Wait(NamedTuple):
    """Not now. until: when to ask again (wall time), or None: soon. why: for people.

    orphans: generations that hold slots of the account and that no process polls.
    """

    why: str
    until: float | None = None
    orphans: tuple[str, ...] = ()


class OverBudget(NamedTuple):
    """A budget of the account does not allow the submission.

    kind: a key of `batchrunner.plan.endings`. why: names the limit, for people.
    """

    kind: str
    why: str


class Hold(NamedTuple):
    """Another batch has the job in flight or in doubt, and only that batch or a person can settle it."""

    source: Source
    problem: Problem


class Reuse(NamedTuple):
    """The account has paid for the job: take its clip, or poll its generation. Both are free.

    clips: files to copy, the best first; none if the generation is polled. in_flight: the generation has not ended
    as far as known.
    """

    generation_id: str
    source: Source
    clips: tuple[Clip, ...] = ()
    in_flight: bool = False

    @property
    def how(self) -> str:
        """A text for plan and log."""
        if self.clips:
            return f"reused from {self.clips[0].source.directory}"
        if self.in_flight:
            return f"in flight in {self.source.directory}, which no process runs; will be polled and downloaded here"
        return f"paid for in {self.source.directory}, where the clip is missing; will be fetched again at no charge"


Claim = Granted | Wait | OverBudget | Hold | Reuse


class AccountSession(Protocol):
    """The part of one running batch in its account."""

    async def claim(self, record: Record, request_id: str, estimate: float | None) -> Claim:
        """Claim the job of `record` for a submission. Durable on return where granted. Raises LocalFault.

        estimate: the expected charge in credits, or None.
        """
        ...

    async def survey(self, records: Iterable[Record]) -> "dict[str, Reuse | Hold]":
        """Return what other batches have for these jobs, by fingerprint. Claims nothing. Raises LocalFault."""
        ...

    def moved(self, record: Record) -> None:
        """Take over a record that the journal has stored. Does not wait."""
        ...

    async def keep_up(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Store records within a second, where no limit needs them at once. Runs until it is cancelled.

        sleep: takes seconds.
        """
        ...

    def slot_freed(self, record: Record) -> None:
        """The job's generation has ended, or its doubt no longer takes a slot. Does not wait."""
        ...

    async def known_charges(self) -> Totals:
        """Return the settled charges of this batch's generations that the account knows. Raises LocalFault."""
        ...

    def settled(self, charges: Sequence[Charge]) -> None:
        """Take over charges of any batch of the account that the service lists. Does not wait."""
        ...

    def generation_ended(self, generation_id: str) -> None:
        """A generation of a batch that no process runs has ended. Does not wait."""
        ...

    def throttled(self, until: float, why: str) -> None:
        """Tell all batches of the account to make no submission before `until`; 0 ends such a time. Does not wait."""
        ...


class NoAccount:
    """The session of a run without an account: every claim is granted. For the embedded sandbox."""

    async def claim(self, record: Record, request_id: str, estimate: float | None) -> Claim:
        """Grant it."""
        return Granted()

    async def survey(self, records: Iterable[Record]) -> "dict[str, Reuse | Hold]":
        """Return nothing: there are no other batches."""
        return {}

    def moved(self, record: Record) -> None:
        """Do nothing."""

    async def known_charges(self) -> Totals:
        """Return nothing: the journal has all that is known."""
        return {}

    def settled(self, charges: Sequence[Charge]) -> None:
        """Do nothing."""

    def generation_ended(self, generation_id: str) -> None:
        """Do nothing."""

    async def keep_up(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Do nothing."""

    def slot_freed(self, record: Record) -> None:
        """Do nothing."""

    def throttled(self, until: float, why: str) -> None:
        """Do nothing."""
