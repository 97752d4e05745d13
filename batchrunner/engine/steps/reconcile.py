"""The reconcile step: search the service's log for submissions in doubt, and settle what it shows.

A submission that the log lists is adopted. So is a later attempt of a failed job of a recovered journal
(`batchrunner.plan.resume.may_have_later`). One that is not listed stays in doubt, because it is not known whether the
log lists unfinished generations, and how late. It is freed only if the provider states that its log lists what it
accepts, or by the user's choice (`Policy.in_doubt`).
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from batchrunner.engine.evidence import LOG_LACKS_IT, NOT_ACCEPTED, SEARCHED, Evidence, plausible_s
from batchrunner.engine.in_doubt import InDoubtJobs
from batchrunner.engine.steps.context import StepContext, forget_generation
from batchrunner.errors import CallError, LocalFault
from batchrunner.job import Move, Record, TimelineEvent
from batchrunner.plan.resume import LATER_LOST, hold_later, lost_request_id, may_have_later, may_lack_attempts
from batchrunner.providers.base import Submissions

_DAY_S = 86_400.0
_NOT_OFFERED = {403, 404}


class Settled(NamedTuple):
    """Submissions that are no longer in doubt, by fingerprint.

    adopted: found in the log. freed: to be submitted again in spite of the doubt. disproved: not accepted, by the log.
    searched: whether the log was read to its end.
    """

    adopted: Sequence[str] = ()
    freed: Sequence[str] = ()
    disproved: Sequence[str] = ()
    searched: bool = False


class Reconciler:
    """Searches the log of one service. log_offered: whether the service offers its log, as far as is known.

    A service that does not offer its log is asked once a run. A provider that cannot search is never asked.
    """

    def __init__(self, context: StepContext) -> None:
        self._context = context
        self._records = context.records
        self._provider = context.deps.provider
        self._evidence = Evidence(context.deps.timeline)
        self.log_offered = self._provider.capabilities.find_submissions

    async def reconcile(self, in_doubt: InDoubtJobs) -> Settled:
        """Search for all submissions in doubt, and store what the search settles. Raises LocalFault."""
        names, now = sorted(in_doubt), self._context.deps.clock.monotonic()
        can_search = self._provider.capabilities.find_submissions
        failed = [name for name, record in self._records.view.items() if may_have_later(record)] if can_search else []
        if not (names or failed) or (can_search and not self.log_offered):
            return Settled()
        in_time = frozenset(name for name in names if in_doubt.is_settled(name, now))
        asked = self._to_resubmit(names, in_doubt)
        if not can_search:
            return await self._release(asked)
        try:
            listed = await self._provider.find_submissions(self._search_since([*names, *failed]))
        except CallError as error:
            self.log_offered = error.status not in {*_NOT_OFFERED, 405}
            return await self._release(asked if error.status in _NOT_OFFERED else [])
        adopted = [name for name in names if self._request_id(name) in listed.ids]
        for name in adopted:
            await self._adopt(name, listed.ids[self._request_id(name)])
        adopted += [name for name in failed if await self._adopt_later(name, listed)]
        lacking = [name for name in names if self._request_id(name) not in listed.requests]
        await self._note_search(lacking, listed, in_doubt, now)
        return Settled(adopted, *await self._free(lacking, listed, in_time, asked), searched=listed.ended)

    def _request_id(self, fingerprint: str) -> str:
        return self._records[fingerprint].last.request_id

    def _to_resubmit(self, names: Sequence[str], in_doubt: InDoubtJobs) -> list[str]:
        """Return the jobs that the user asked to submit again: those of earlier runs that the manifest still names."""
        if self._context.policy.in_doubt != "resubmit":
            return []
        return [name for name in names if in_doubt.is_earlier(name) and self._records.ids(name)]

    def _search_since(self, names: Sequence[str]) -> float:
        """Return from when on the log is read (wall time, s).

        A row counts as missing only if the log was read from well before its submission, because clocks differ.
        """
        earliest = min(self._records[name].last.submitted_at for name in names)
        may_free = self._provider.capabilities.lists_on_acceptance or self._context.policy.in_doubt != "hold"
        return earliest - (_DAY_S if may_free else 0.0)

    async def _adopt(self, fingerprint: str, generation_id: str) -> None:
        retry_for_s = self._context.policy.record_retry_s
        await self._records.accept(fingerprint, Move.ADOPT, generation_id, None, retry_for_s=retry_for_s)

    async def _adopt_later(self, fingerprint: str, listed: Submissions) -> bool:
        """Adopt a later attempt of a failed job. Return False if the log lists none that the journal lacks."""
        record, context = self._records[fingerprint], self._context
        generation_id = listed.ids.get(lost_request_id(record))
        if generation_id is None:
            return False
        forget_generation(context, fingerprint)
        doubtful = hold_later(record, context.run_id, context.deps.clock.now(), context.price(record.job))
        await self._records.store(Move.DOUBT, doubtful)
        await self._adopt(fingerprint, generation_id)
        return True

    async def _release(self, names: Sequence[str]) -> Settled:
        """Free submissions that the user asked to submit again, where no list can show what became of them."""
        for name in names:
            await self._records.move(name, Move.RELEASE)
        return Settled(freed=names)

    async def _free(
        self, lacking: Sequence[str], listed: Submissions, in_time: Collection[str], asked: Collection[str]
    ) -> tuple[list[str], list[str]]:
        """Free what the log lacks, as far as is allowed. Return the freed ones and the disproved ones."""
        freed, disproved = [], []
        self._evidence.finished(listed)
        for name in lacking:
            record = self._records[name]
            if not self._records.ids(name):
                continue  # the manifest no longer names this job
            resubmit = name in asked and listed.ended
            if record.error is not None and record.error.kind == LATER_LOST and not resubmit:
                continue  # its known attempts failed: only the user may ask for another generation
            if listed.complete and name in in_time and self._provider.capabilities.lists_on_acceptance:
                await self._records.move(name, Move.CLEAR, error=NOT_ACCEPTED)
                disproved.append(name)
            elif resubmit:
                await self._records.move(name, Move.RELEASE)
                freed.append(name)
            elif self._is_disproved(record, listed):
                await self._records.move(name, Move.RELEASE, error=LOG_LACKS_IT)
                freed.append(name)
        return freed, disproved

    async def _note_search(
        self, lacking: Sequence[str], listed: Submissions, in_doubt: InDoubtJobs, now: float
    ) -> None:
        """Store when the service's clock first showed that the log lacks a submission, for later runs too."""
        settle_s, deps = self._context.policy.settle_s, self._context.deps
        for name in lacking:
            request_id = self._request_id(name)
            window = self._evidence.searched(request_id, in_doubt.age_s(name, now), settle_s, listed)
            if window is not None:
                with suppress(LocalFault):  # the next run searches again
                    await deps.journal.note(TimelineEvent(deps.clock.now(), SEARCHED, request_id, *window))

    def _is_disproved(self, record: Record, listed: Submissions) -> bool:
        policy, times = self._context.policy, self._context.times
        if policy.in_doubt != "evidence" or not listed.complete or may_lack_attempts(record.error):
            return False  # it is not known when a lost attempt was submitted, so nothing disproves it
        seen_s = [*times.known_s(record.job), *times.all_batches_s(record.job)]
        attempts = (attempt for other in self._records.view.values() for attempt in other.attempts)
        return self._evidence.disproves(record.last, attempts, listed, plausible_s(seen_s, policy.doubt_s))
