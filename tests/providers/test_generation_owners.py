"""One generation belongs to one job."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from batchrunner.errors import Problem, ServiceFault
from batchrunner.job import Job, Record, State
from batchrunner.plan.resume import ROLLED_BACK, hold_later, lost_request_id
from batchrunner.providers.base import (
    Accepted,
    Balance,
    Capabilities,
    Charges,
    GenerationStatus,
    Phase,
    PriceList,
    Submissions,
)
from batchrunner.providers.generation_owners import GenerationOwners
from tests.conftest import NOW, make_job, make_record


class Service:
    """Answers each submission with the next of `ids`; its log is `log`."""

    capabilities = Capabilities(find_submissions=True, optional_suffix=":")

    def __init__(self, *ids: str, log: Mapping[str, str] | None = None, idless: Collection[str] = ()) -> None:
        self.ids, self.log, self.idless = list(ids), log or {}, frozenset(idless)
        self.asked = 0

    async def submit(self, job: Job, request_id: str) -> Accepted:
        return Accepted(self.ids.pop(0), None)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        return GenerationStatus(Phase.QUEUED, generation_id)

    async def ping(self) -> None:
        self.asked += 1

    async def find_submissions(self, since: float) -> Submissions:
        return Submissions(self.log, frozenset(self.log) | self.idless)

    async def balance(self) -> Balance | None:
        return Balance(4.0, NOW)

    async def charges(self, since: float) -> Charges | None:
        return Charges((), complete=since == NOW)

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        return known


def submit(owners: GenerationOwners, name: str) -> str:
    return asyncio.run(owners.submit(make_job(name), "r.k.1")).generation_id


def test_an_id_that_belongs_to_another_job_leaves_the_submission_in_doubt() -> None:
    owners = GenerationOwners(Service("g", "g", "h"), ())
    assert submit(owners, "a") == "g"
    with pytest.raises(ServiceFault) as caught:
        submit(owners, "b")
    assert (caught.value.kind, caught.value.in_doubt) == ("id_reused", True)
    assert make_job("a").key in caught.value.message
    assert submit(owners, "b") == "h"


def test_an_id_of_an_earlier_run_leaves_the_submission_in_doubt() -> None:
    old = make_record("a", State.SUCCEEDED)
    assert old.generation_id is not None
    spoiled = replace(old.with_attempt(outcome="failed"), state=State.FAILED)
    for record in (old, spoiled):
        owners = GenerationOwners(Service(old.generation_id, old.generation_id), [record])
        with pytest.raises(ServiceFault):
            submit(owners, "b")
        assert submit(owners, "a") == old.generation_id, "its own job may receive it again"


@pytest.mark.parametrize(("first", "second"), [("uuid:model", "uuid"), ("uuid", "uuid:model"), ("uuid", "uuid")])
def test_an_id_with_and_without_its_model_is_the_same_id(first: str, second: str) -> None:
    owners = GenerationOwners(Service(first, second, second), ())
    submit(owners, "a")
    with pytest.raises(ServiceFault, match=make_job("a").key):
        submit(owners, "b")
    assert submit(owners, "a") == second


def test_ids_that_differ_after_the_colon_are_different() -> None:
    owners = GenerationOwners(Service("gen:a/1", "gen:b/1"), ())
    assert [submit(owners, "a"), submit(owners, "b")] == ["gen:a/1", "gen:b/1"]


def test_the_log_adopts_no_id_of_another_job_and_each_id_once() -> None:
    a, b, c = (make_job(name).key for name in "abc")
    old = make_record("a", State.IN_FLIGHT)
    assert old.generation_id is not None
    log = {f"r.{a}.2": old.generation_id, f"r.{b}.1": old.generation_id, f"r.{c}.1": "x", f"r.{b}.2": "x", "odd": "y"}
    owners = GenerationOwners(Service(log=log), [old])
    for _ in range(2):
        found = asyncio.run(owners.find_submissions(0.0))
        assert found.requests == set(log), "a listed submission is not free to be submitted again"
        assert found.ids == {f"r.{a}.2": old.generation_id, f"r.{c}.1": "x", "odd": "y"}


def test_an_id_that_the_log_gives_to_a_job_belongs_to_this_job() -> None:
    a = make_job("a")
    owners = GenerationOwners(Service("g", "g", log={f"r.{a.key}.1": "g"}), ())
    asyncio.run(owners.find_submissions(0.0))
    with pytest.raises(ServiceFault, match=f"belongs to job {a.key}$"):
        submit(owners, "b")
    assert submit(owners, "a") == "g"


def held_after(*generation_ids: str) -> Record:
    """A job in doubt after these generations failed. Its journal was recovered."""
    record = make_record("a", State.IN_FLIGHT, attempts=len(generation_ids))
    attempts = tuple(
        attempt._replace(generation_id=generation_id, outcome="failed")
        for attempt, generation_id in zip(record.attempts, generation_ids, strict=True)
    )
    failed = replace(record, state=State.FAILED, attempts=attempts, error=Problem("face_detection_error", "no face"))
    return hold_later(failed, "new", NOW, None)


def test_the_newest_attempt_that_no_record_knows_is_adopted() -> None:
    record = held_after("x:model")
    key = record.job.key
    log = {f"run.{key}.1": "x:model", f"old.{key}.3": "z:model", f"old.{key}.2": "y:model"}
    found = asyncio.run(GenerationOwners(Service(log=log), [record]).find_submissions(0.0))
    assert found.ids[record.last.request_id] == "z:model"


@pytest.mark.parametrize("spelled", ["z:model", "z"])
def test_an_adopted_generation_that_failed_is_not_adopted_again(spelled: str) -> None:
    """Its request id is in no record."""
    record = held_after("x:model", "z:model")
    key = record.job.key
    log = {f"old.{key}.2": "y:model", f"old.{key}.3": spelled}
    found = asyncio.run(GenerationOwners(Service(log=log), [record]).find_submissions(0.0))
    assert found.ids[record.last.request_id] == "y:model", "the one before it is polled"
    del log[f"old.{key}.2"]
    found = asyncio.run(GenerationOwners(Service(log=log), [record]).find_submissions(0.0))
    assert record.last.request_id not in found.ids


def test_a_later_attempt_that_is_listed_without_an_id_is_not_missing() -> None:
    record = held_after("x:model")
    found = asyncio.run(GenerationOwners(Service(idless=[f"old.{record.job.key}.2"]), [record]).find_submissions(0.0))
    assert record.last.request_id in found.requests
    found = asyncio.run(GenerationOwners(Service(idless=[f"run.{record.job.key}.1"]), [record]).find_submissions(0.0))
    assert record.last.request_id not in found.requests, "that is the known attempt"


@pytest.mark.parametrize("marked", [True, False])
def test_a_later_attempt_of_a_failed_job_is_found_if_the_journal_may_lack_it(marked: bool) -> None:
    failure = Problem("unknown_generation", "404")
    record = make_record("a", State.FAILED, error=failure)
    record = record.with_attempt(generation_id="x:model", error=ROLLED_BACK if marked else failure)
    key = record.job.key
    log = {record.last.request_id: "x:model", f"old.{key}.2": "y:model"}
    found = asyncio.run(GenerationOwners(Service(log=log), [record]).find_submissions(0.0))
    assert found.ids.get(lost_request_id(record)) == ("y:model" if marked else None)
    assert found.ids[record.last.request_id] == "x:model"


def test_other_calls_are_passed_to_the_provider() -> None:
    service = Service()
    owners = GenerationOwners(service, ())
    assert asyncio.run(owners.status("g")).status_text == "g"
    asyncio.run(owners.ping())
    assert service.asked == 1


def test_balance_and_charges_are_passed_to_the_provider() -> None:
    owners, known = GenerationOwners(Service(), ()), PriceList({}, NOW, "example.com")
    assert asyncio.run(owners.balance()) == Balance(4.0, NOW)
    assert asyncio.run(owners.charges(NOW)) == Charges((), complete=True)
    assert asyncio.run(owners.prices(known)) is known
