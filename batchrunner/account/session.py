"""One running batch in its account: claims its jobs, and keeps the index in step with its journal.

Records go to the index after the journal has them, without waiting: a kill loses nothing, because the index is brought
in line with the journal of a killed run. Only a claim is awaited. It is in the index before the journal begins the
submission, so two processes never pay for the same job.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batchrunner.account import journals, transactions
from batchrunner.account.base import Claim, Granted, Hold, Reuse, Wait
from batchrunner.account.claiming import Outside, Request, claim_all
from batchrunner.account.index import Index, Replaced, Transaction
from batchrunner.account.limits import Limits
from batchrunner.account.lookup import exists, survey, useless_of
from batchrunner.account.reuse import Decision, Unsettled
from batchrunner.account.rows import CLAIMED, BatchRow, JobRow, rows_of
from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Record, State
from batchrunner.plan.settlement import Totals
from batchrunner.providers.base import Charge
from batchrunner.storage.batching import Batcher

_STORE_EVERY_S = 1.0  # records that change nothing for other batches may wait that long
_SETTLE_TRIES = 4


@dataclass(slots=True)
class _Item:
    """One piece of work for a transaction, and its result: a claim, or other work, or nothing besides what has changed.

    now: of a claim, wall time, s.
    """

    work: Transaction | None = None
    request: Request | None = None
    now: float = 0.0
    result: Any = None


class Session:
    """The session of a run (`base.AccountSession`). Its batch is registered and shown as running.

    index: open; used in the one thread of `executor`. now: wall time. file_of: the name of a job's result by its
    fingerprint. reuse: whether the paid work of other batches counts.
    """

    def __init__(
        self,
        index: Index,
        executor: Executor,
        batch: BatchRow,
        limits: Limits,
        now: Callable[[], float],
        file_of: Callable[[str], str | None],
        *,
        reuse: bool = True,
    ) -> None:
        self.batch = batch
        self.limits = limits
        self._index = index
        self._executor = executor
        self._now = now
        self._file_of = file_of
        self._reuse = reuse
        self._outside = Outside(index.is_running, exists)
        self._changed: dict[str, Record] = {}  # not in the index yet; the loop adds, the index's thread takes
        self._freed: dict[str, str | None] = {}  # fingerprints and generations that take no slot any more
        self._throttle: tuple[float, str] | None = None
        self._granted: dict[str, Request] = {}  # claims that no stored record has followed yet
        self._is_behind = asyncio.Event()  # records wait for `keep_up`
        self._batcher: Batcher[_Item] = Batcher(executor, self._write)

    async def claim(self, record: Record, request_id: str, estimate: float | None) -> Claim:
        """See `base.AccountSession`."""
        job = record.job
        request = Request(self.batch, job.fingerprint, request_id, job.model, estimate, useless_of(record), self._reuse)
        for _ in range(_SETTLE_TRIES):
            item = _Item(request=request, now=self._now())
            await self._batcher.do([item])
            answer: Claim | Unsettled = item.result
            if not isinstance(answer, Unsettled):
                return answer
            await self._call(self._index.settle_ended, answer.batch_ids)
        return Wait("the batches of the account change too fast")

    async def survey(self, records: Iterable[Record]) -> dict[str, Reuse | Hold]:
        """Return what other batches have for these jobs, by fingerprint. Claims nothing. Raises LocalFault."""
        wanted = list(records) if self._reuse else []
        for _ in range(_SETTLE_TRIES):
            found: dict[str, Decision] = await self._call(self._survey, wanted)
            unsettled = [item.batch_ids for item in found.values() if isinstance(item, Unsettled)]
            if not unsettled:
                break
            await self._call(self._index.settle_ended, sorted({name for names in unsettled for name in names}))
        return {name: item for name, item in found.items() if isinstance(item, Reuse | Hold)}

    def moved(self, record: Record) -> None:
        """See `base.AccountSession`."""
        name, is_begun = record.job.fingerprint, record.state is State.SUBMITTING
        if is_begun and self.limits.any and name in self._granted and name not in self._changed:
            return  # the claim says as much
        self._changed[name] = record
        if self.limits.concurrency is not None:
            self._batcher.post([_Item()])
        else:
            self._is_behind.set()

    async def keep_up(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """See `base.AccountSession`."""
        while True:
            await self._is_behind.wait()
            await sleep(_STORE_EVERY_S)
            self._is_behind.clear()
            self._batcher.post([_Item()])

    def slot_freed(self, record: Record) -> None:
        """See `base.AccountSession`."""
        # The slot of a reused generation is that of the batch that submitted it.
        self._freed[record.job.fingerprint] = record.generation_id if record.last.is_reused else None
        if self.limits.concurrency is not None:
            self._batcher.post([_Item()])

    async def known_charges(self) -> Totals:
        """See `base.AccountSession`."""
        charges: Totals = await self._call(
            self._index.read, partial(transactions.charges_of, batch_id=self.batch.batch_id)
        )
        return charges

    def settled(self, charges: Sequence[Charge]) -> None:
        """See `base.AccountSession`."""
        settling = partial(transactions.settle_charges, account=self.batch.account, charges=charges)
        self._batcher.post([_Item(settling)])

    def generation_ended(self, generation_id: str) -> None:
        """See `base.AccountSession`."""
        ended = partial(transactions.end_generation, account=self.batch.account, generation_id=generation_id)
        self._batcher.post([_Item(ended)])

    def throttled(self, until: float, why: str) -> None:
        """See `base.AccountSession`."""
        self._throttle = (until, why)
        self._batcher.post([_Item()])

    async def register(self, records: Sequence[Record], sequence: int | None) -> None:
        """Store the batch and, unless the index has this commit of its journal, its rows. Raises LocalFault.

        sequence: of the journal. For a journal that lacks later work, that of the index, so that its rows are kept.
        """
        await self._batcher.do([_Item(partial(self._register, records=records, sequence=sequence))])

    async def close(self, sequence: int | None) -> None:
        """Store the remaining items. sequence: the journal's last commit, or None if it may lack records of this run.

        Raises LocalFault; the next run then brings the index in line with the journal.
        """
        ended = self.batch._replace(sequence=sequence, waits_until=0.0)
        await self._batcher.do([_Item(partial(transactions.put_batch, batch=ended))])

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call in the index's thread. A replaced index is opened again."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        except Replaced:
            await self._batcher.do([_Item()])  # opens the file that stands there now
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # In the index's thread

    def _survey(self, records: Sequence[Record]) -> Mapping[str, Decision]:
        found: Mapping[str, Decision] = self._index.read(
            partial(survey, batch=self.batch, records=records, outside=self._outside)
        )
        return found

    def _write(self, items: list[_Item]) -> LocalFault | None:
        try:
            try:
                self._commit(items)
            except Replaced:
                self._index.reopen()
                self._register_again()
                self._commit(items)
        except LocalFault as fault:
            return fault
        except Replaced:
            return LocalFault("account_index", f"the account's index {self._index.path} is replaced again and again")
        except UsageError as error:
            return LocalFault("account_index", error.message, error.hint)
        return None

    def _commit(self, items: Sequence[_Item]) -> None:
        """Store what has changed and do the work of all items, in one transaction.

        It must be on the disk, but for claims and changed records: the journal has these after a power cut.
        """
        (changed, freed), throttle = self._due(items), self._throttle
        others = [item for item in items if item.work is not None]
        work: list[Transaction] = [partial(self._store, changed=changed, freed=freed)]
        work += [item.work for item in others if item.work is not None]
        if throttle is not None:
            work.append(partial(transactions.throttle, account=self.batch.account, until=throttle[0], why=throttle[1]))
        asked = [(item, item.request) for item in items if item.request is not None]
        if asked:
            requests, now = [request for _, request in asked], asked[-1][0].now
            work.append(partial(claim_all, requests=requests, limits=self.limits, outside=self._outside, now=now))
        results = self._index.write(work, durable=bool(others))
        self._stored(changed, freed, throttle)
        for item, result in zip(others, results[1:], strict=False):
            item.result = result
        for (item, request), result in zip(asked, results[-1] if asked else (), strict=True):
            item.result = result
            if isinstance(result, Granted):
                self._granted[request.fingerprint] = request

    def _due(self, items: Sequence[_Item]) -> tuple[dict[str, Record], dict[str, str | None]]:
        """Return the changed records and the freed slots to store now.

        Without limits they change nothing for claims of other jobs, so these do not store them: most records change
        again soon.
        """
        changed, freed = dict(self._changed), dict(self._freed)
        asked = {item.request.fingerprint for item in items if item.request is not None}
        if len(asked) < len(items) or self.limits.any:
            return changed, freed
        return {name: changed[name] for name in asked if name in changed}, {}

    def _stored(
        self, changed: Mapping[str, Record], freed: Mapping[str, str | None], throttle: tuple[float, str] | None
    ) -> None:
        """Forget what the index has now. The loop may have added newer records meanwhile."""
        for name, record in changed.items():
            if self._changed.get(name) is record:
                del self._changed[name]
            self._granted.pop(name, None)
        for name in freed:
            self._freed.pop(name, None)
        if self._throttle is throttle:
            self._throttle = None

    def _store(self, connection: Any, changed: Mapping[str, Record], freed: Mapping[str, str | None]) -> None:
        if not changed and not freed:
            return
        jobs, submissions = rows_of(self.batch, changed.values(), self._file_of)
        transactions.remove(connection, self.batch, changed.keys() - {row.fingerprint for row in jobs})
        transactions.store(connection, jobs, submissions)
        taken = freed.keys() - {row.fingerprint for row in jobs if not row.takes_slot}
        transactions.free_slots(connection, self.batch, taken)
        for generation_id in filter(None, freed.values()):
            transactions.end_generation(connection, self.batch.account, generation_id)

    def _register(self, connection: Any, records: Sequence[Record], sequence: int | None) -> None:
        before = transactions.batch_row(connection, self.batch.batch_id)
        self.batch = self.batch._replace(sequence=None, epoch=before.epoch + 1 if before else 1, is_current=True)
        known = before is not None and before.sequence == sequence and before.is_current
        if known and before is not None and before.account == self.batch.account:
            transactions.put_batch(connection, self.batch)
            return
        transactions.import_rows(connection, self.batch, *rows_of(self.batch, records, self._file_of))

    def _register_again(self) -> None:
        """Register in an index that another process has made again, with the claims that the journal lacks yet."""
        stored = journals.read(Path(self.batch.directory))
        records = list(stored.snapshot.records.values()) if stored and stored.snapshot else []
        self._index.write([partial(self._register, records=records, sequence=-2)], durable=True)
        begun = {record.last.request_id for record in records if record.attempts}
        missing = [_claim_row(request) for request in self._granted.values() if request.request_id not in begun]
        self._index.write([partial(transactions.store, jobs=missing, submissions=())], durable=True)


def _claim_row(request: Request) -> JobRow:
    batch = request.batch
    return JobRow(batch.account, request.fingerprint, batch.batch_id, CLAIMED, request.request_id, takes_slot=True)
