"""The records of all jobs in a run. `JobRecords` is their only owner: nothing else changes a record.

A move is stored in the journal first; then the record changes here and in the ledger; then the move is announced. So
everything that a listener, a report or the next step sees is durable. What is learned between two moves (the number of
polls, a charge) changes here at once and is stored with the next move, or by `flush`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from batchrunner.engine.chunks import in_chunks
from batchrunner.engine.ports import Dependencies
from batchrunner.errors import LocalFault
from batchrunner.events import JobMoved, JobSeen, Noticed
from batchrunner.job import Move, Record, State, advance
from batchrunner.plan.endings import LEASE_LOST
from batchrunner.plan.ledger import Ledger

Save = Callable[[Record], Awaitable[None]]

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0


class JobRecords:
    """Each job's record by fingerprint, and their moves.

    records: at the start of the run. The mapping is kept and updated, so views of its values stay current: the
    provider that searches for lost attempts reads one. ledger: it is updated.
    matches_journal: False after a save failed: the journal may have stored the record all the same.
    """

    def __init__(self, records: dict[str, Record], deps: Dependencies, ledger: Ledger) -> None:
        self._records = records
        self._deps = deps
        self._ledger = ledger
        self._notices: set[str] = set()
        self.matches_journal = True

    def __getitem__(self, fingerprint: str) -> Record:
        return self._records[fingerprint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def view(self) -> Mapping[str, Record]:
        """All records by fingerprint: a live view that cannot be changed."""
        return MappingProxyType(self._records)

    def ids(self, fingerprint: str) -> tuple[str, ...]:
        """Return the manifest's ids of a job; none for a job that the manifest no longer names."""
        return self._deps.ids(fingerprint)

    def move(self, fingerprint: str, move: Move, **changes: Any) -> Coroutine[Any, Any, Record]:
        """Make a move and return the new record. changes: as for `batchrunner.job.advance`. Raises LocalFault."""
        return self.store(move, advance(self._records[fingerprint], move, **changes))

    async def store(self, move: Move, record: Record, *, attempts: int = 1, save: Save | None = None) -> Record:
        """Store a record whose last move was `move`. Raises LocalFault.

        attempts: how many of its latest changed. save: stores the record with something else, instead of alone.
        """
        deps = self._deps
        await self._saved(deps.journal.save(record, attempts=attempts) if save is None else save(record))
        self.update(record)
        deps.account.moved(record)
        deps.announce(JobMoved(deps.clock.now(), deps.ids(record.job.fingerprint), move, record))
        return record

    async def begin_submit(self, fingerprint: str, request_id: str, estimate: float | None) -> Record:
        """Store the intent to submit a job. estimate: its price in credits.

        On a LocalFault the intent is taken back before the fault is raised. The journal may have stored it all the
        same, and the next run would then hold the job in doubt. The same happens if another run may have taken over
        the batch meanwhile: the submission must not be sent. That run has the job then, so the account keeps its claim.
        """
        before, clock = self._records[fingerprint], self._deps.clock
        intent: dict[str, Any] = {"request_id": request_id, "submitted_at": clock.now(), "estimate": estimate}
        try:
            record = await self.move(fingerprint, Move.BEGIN_SUBMIT, **intent)
            self._deps.confirm()
        except LocalFault as fault:
            record = advance(before, Move.BEGIN_SUBMIT, **intent)
            record = advance(record, Move.REFUSE, error=fault.problem, ended_at=clock.now())
            with suppress(LocalFault):
                await self._saved(self._deps.journal.save(record))
            self.update(record)
            if fault.kind != LEASE_LOST:
                self._deps.account.moved(record)
            raise
        return record

    async def accept(
        self, fingerprint: str, move: Move, generation_id: str, credits_: float | None, *, retry_for_s: float
    ) -> None:
        """Store the id of an accepted generation. It is paid for, and without its id the clip is lost.

        While the disk refuses, storing is repeated for `retry_for_s` seconds. Raises LocalFault after that, and at once
        if another run has the batch.
        """
        clock, wait_s = self._deps.clock, _FIRST_RETRY_S
        refused_at: float | None = None  # monotonic, s
        changes = {"generation_id": generation_id, "accepted_at": clock.now(), "credits": credits_}
        while True:
            try:
                await self.move(fingerprint, move, **changes)
                return
            except LocalFault as fault:
                message = f"{fault.message}; generation {generation_id} was accepted and is not recorded yet"
                message = f"{message}: note it down"
                self.notice(fingerprint, message)
                now = clock.monotonic()
                refused_at = now if refused_at is None else refused_at
                if fault.kind == LEASE_LOST or now - refused_at > retry_for_s:
                    raise LocalFault(fault.kind, message, fault.hint) from fault
                await clock.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_RETRY_S)

    async def generating(self, record: Record) -> None:
        """Store and announce that the service was seen working on a job for the first time. Raises LocalFault."""
        self.update(record)
        await self._saved(self._deps.journal.save(record))
        self._deps.announce(JobSeen(self._deps.clock.now(), self._deps.ids(record.job.fingerprint), record))

    async def annotate(self, record: Record, save: Save | None = None) -> None:
        """Store a record whose error or result has changed and whose state has not. save: as for `store`.

        Raises LocalFault.
        """
        await self._saved((save or self._deps.journal.save)(record))
        self.update(record)

    async def _saved(self, saving: Awaitable[None]) -> None:
        """Wait for a save, and take in that it failed."""
        try:
            await saving
        except LocalFault:
            self.matches_journal = False
            raise

    def update(self, record: Record) -> None:
        """Replace a job's record without storing it: its state has not changed, or it is stored already."""
        self._records[record.job.fingerprint] = record
        self._ledger.update(record)

    async def settle(self, changed: Sequence[Record]) -> None:
        """Store records whose charges were settled, in one commit. Raises LocalFault."""
        if changed:
            await self._saved(self._deps.journal.save_attempts(changed))
        async for chunk in in_chunks(changed):
            for record in chunk:
                self.update(record)
                self._deps.account.moved(record)

    async def flush(self) -> None:
        """Store what was learned of the generations in flight since their last moves. Raises LocalFault."""
        for record in [record for record in self._records.values() if record.state is State.IN_FLIGHT]:
            await self._saved(self._deps.journal.save(record))

    def notice(self, fingerprint: str, message: str, *, once: bool = False) -> None:
        """Announce a notice about a job. once: only if the same message was not announced before, for any job."""
        if not once or message not in self._notices:
            self._notices.add(message)
            self._deps.announce(Noticed(self._deps.clock.now(), self._deps.ids(fingerprint), message))
