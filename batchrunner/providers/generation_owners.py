"""Ensure that a generation belongs to one job: a provider that rejects the ids of other jobs.

An id that already belongs to another job is rejected. A cache, a replayed reply or a fault of the service may return
it, and then one clip would be delivered as the result of two jobs. The submission that got such a reply may have been
accepted under an unknown id, so it is in doubt and is searched for in the log.
"""

from collections.abc import Collection, Mapping

from batchrunner.errors import ServiceFault
from batchrunner.job import Job, Record, State, key_of
from batchrunner.plan.resume import lost_request_id, may_have_later, may_lack_attempts
from batchrunner.providers.base import Accepted, Provider, Submissions
from batchrunner.providers.forwarding import ForwardingProvider


class GenerationOwners(ForwardingProvider):
    """A provider that never assigns one generation to two jobs. It passes its calls on to another provider.

    records: a live view of the records, which is read at each search.
    """

    def __init__(self, provider: Provider, records: Collection[Record]) -> None:
        super().__init__(provider)
        self._records = records
        self._suffix = provider.capabilities.optional_suffix
        # A job's fingerprint, or its key if only that is known. Keys of 100,000 jobs would take 6 MB.
        self._owners: dict[str, str] = {}  # by generation id
        self._without_model: dict[str, str] = {}  # by generation id without its suffix, of ids with one
        for record in records:
            for attempt in record.attempts:
                if attempt.generation_id is not None:
                    self._owner(attempt.generation_id, record.job.fingerprint)

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit once. Raises CallError; ServiceFault `id_reused`, in doubt, if the reply has another job's id."""
        accepted = await self._provider.submit(job, request_id)
        owner = self._owner(accepted.generation_id, job.fingerprint)
        if owner != job.fingerprint and _key(owner) != job.key:
            raise ServiceFault(
                "id_reused",
                f"the service answered with generation {accepted.generation_id}, which already belongs to job "
                f"{_key(owner)}",
                in_doubt=True,
            )
        return accepted

    async def find_submissions(self, since: float) -> Submissions:
        """List the submissions, without generation ids that belong to another job. Raises CallError.

        Request ids are ``<run>.<job key>.<attempt>`` (`batchrunner.engine.steps`).
        """
        lost = {record.job.key: lost_request_id(record) for record in self._records if _is_lost(record)}
        found = await self._provider.find_submissions(0.0 if lost else since)
        ours = {
            request_id: generation_id
            for request_id, generation_id in found.ids.items()
            if _key(self._owner(generation_id, key := _job_key(request_id))) == key
        }
        sent = {attempt.request_id for record in self._records for attempt in record.attempts} if lost else set()
        ids = {**self._unrecorded(ours, lost, sent), **ours}
        # A submission that is listed without a usable id was accepted too: its job must not be submitted again.
        unclear = {lost[key] for name in found.requests - ours.keys() - sent if (key := _job_key(name)) in lost}
        return found._replace(ids=ids, requests=found.requests | ids.keys() | unclear)

    def _unrecorded(self, found: Mapping[str, str], lost: Mapping[str, str], sent: Collection[str]) -> dict[str, str]:
        """Return generations of jobs whose latest request id was lost with the journal, by the substitute for that id.

        Of several, the newest one that no record contains. A record of an earlier adoption has only the generation id.
        """
        if not lost:
            return {}
        attempts = (attempt for record in self._records for attempt in record.attempts)
        known = {attempt.generation_id for attempt in attempts if attempt.generation_id}
        starts = {self._start(generation_id) for generation_id in known}
        others = (
            request_id
            for request_id, generation_id in found.items()
            if _job_key(request_id) in lost
            and request_id not in sent
            and generation_id not in known | starts
            and self._start(generation_id) not in known
        )
        return {lost[_job_key(request_id)]: found[request_id] for request_id in sorted(others, key=_number)}

    def _start(self, generation_id: str) -> str:
        """Return the id without its optional suffix."""
        return generation_id.partition(self._suffix)[0] if self._suffix else generation_id

    def _owner(self, generation_id: str, job: str) -> str:
        """Return the job that owns the id. An id without an owner gets `job` as its owner.

        An id with its suffix and the same id without it are one id (`Capabilities.optional_suffix`).
        """
        start, _, model = generation_id.partition(self._suffix) if self._suffix else (generation_id, "", "")
        known = self._owners.get(generation_id) or self._owners.get(start)
        if not model:
            known = known or self._without_model.get(start)
        if known is not None:
            return known
        self._owners[generation_id] = job
        if start != generation_id:
            self._without_model.setdefault(start, job)
        return job


def _job_key(request_id: str) -> str:
    return request_id.split(".")[1] if request_id.count(".") == 2 else request_id


def _key(owner: str) -> str:
    return key_of(owner) if owner.startswith("sha256:") else owner


def _number(request_id: str) -> int:
    text = request_id.rpartition(".")[2]
    return int(text) if text.isdecimal() else 0


def _is_lost(record: Record) -> bool:
    return may_have_later(record) or (record.state is State.IN_DOUBT and may_lack_attempts(record.error))
