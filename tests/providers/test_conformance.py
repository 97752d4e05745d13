"""Every provider follows the declarations of `batchrunner.providers.base.Provider`.

The providers are in `tests.providers.conformance`.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from batchrunner.errors import AccountFault, CallError, JobFault, NetworkFault, ServiceFault
from batchrunner.job import Job
from batchrunner.providers.base import Accepted, GenerationStatus, OptionalCalls, Phase
from tests.conftest import MEDIA
from tests.providers.conformance import PROVIDERS, TAKES_S, Case, Open
from tests.scenarios.world import EPOCH, Loop, in_virtual_time

pytestmark = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS.keys())
Check = Callable[[Case], Awaitable[None]]


def run(provider: Open, folder: Path, check: Check, fault: str = "") -> None:
    async def main(_: Loop) -> None:
        async with provider(folder, fault) as case:
            await check(case)

    in_virtual_time(main)


async def ended(case: Case, generation_id: str) -> GenerationStatus:
    """Poll to the end."""
    phases = []
    for _ in range(20):
        status = await case.provider.status(generation_id)
        phases.append(status.phase)
        if status.phase in {Phase.COMPLETED, Phase.FAILED}:
            assert phases == sorted(phases, key=list(Phase).index), "a status never goes back"
            return status
        assert status.result_url is None
        assert status.known
        await asyncio.sleep(TAKES_S / 5)
    raise AssertionError("it does not end")


async def submit(case: Case, job: Job) -> Accepted:
    return await case.provider.submit(job, request_id(job))


def request_id(job: Job) -> str:
    """As a run creates it."""
    return f"run.{job.key}.1"


async def failure(case: Case, job: Job | None = None) -> CallError:
    with pytest.raises(CallError) as caught:
        await submit(case, job or case.job())
    error = caught.value
    assert error.kind
    assert error.message
    assert "secret" not in f"{error.message} {error.hint} {error.__cause__}"
    return error


def test_an_accepted_job_has_a_handle_that_leads_to_its_clip(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        job = case.job()
        accepted = await submit(case, job)
        assert accepted.generation_id.strip()
        assert case.accepted() == [(request_id(job), accepted.generation_id)]
        status = await ended(case, accepted.generation_id)
        assert status.phase is Phase.COMPLETED
        assert status.error is None
        assert status.result_url is not None
        assert status.result_url.startswith("http")
        assert status.result_url not in job.input_urls
        assert status.named

    run(provider, tmp_path, check)


def test_two_submissions_have_two_handles(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        first = await submit(case, case.job("a"))
        second = await submit(case, case.job("b"))
        assert first.generation_id != second.generation_id

    run(provider, tmp_path, check)


@pytest.mark.parametrize(("fault", "accepted"), [("cut", 0), ("lost", 1)])
def test_a_broken_connection_leaves_a_submission_in_doubt_and_is_not_repeated(
    provider: Open, tmp_path: Path, fault: str, accepted: int
) -> None:
    async def check(case: Case) -> None:
        error = await failure(case)
        assert isinstance(error, NetworkFault | ServiceFault)
        assert error.in_doubt
        assert len(case.accepted()) == accepted

    run(provider, tmp_path, check, fault)


def test_a_busy_service_is_a_service_fault_and_nothing_is_in_doubt(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        error = await failure(case)
        assert isinstance(error, ServiceFault)
        assert not error.in_doubt
        assert case.accepted() == []

    run(provider, tmp_path, check, "busy")


def test_a_refused_key_is_an_account_fault(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        error = await failure(case)
        assert isinstance(error, AccountFault)
        assert not error.in_doubt
        assert case.accepted() == []

    run(provider, tmp_path, check, "key")


def test_a_rejected_request_is_a_job_fault(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        error = await failure(case, case.refused_job)
        assert isinstance(error, JobFault)
        assert not error.in_doubt
        assert case.accepted() == []

    run(provider, tmp_path, check)


def test_without_a_listener_nothing_is_in_doubt(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        async with case.unreachable as client:
            for call in (client.submit(case.job(), request_id(case.job())), client.status("1"), client.ping()):
                with pytest.raises(NetworkFault) as caught:
                    await call
                assert caught.value.kind == "no_connection"
                assert not caught.value.in_doubt

    run(provider, tmp_path, check)


def test_an_unknown_handle_is_reported_as_unknown(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        with pytest.raises(ServiceFault) as caught:
            await case.provider.status("12345")
        assert caught.value.kind == "unknown_generation"

    run(provider, tmp_path, check)


def test_a_failed_generation_has_a_reason_and_a_hint(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        accepted = await submit(case, case.job())
        status = await ended(case, accepted.generation_id)
        assert status.phase is Phase.FAILED
        assert status.result_url is None
        assert status.error is not None
        assert status.error.message
        assert status.error.fault in {"job", "service"}

    run(provider, tmp_path, check, "broken")


def test_a_ping_costs_nothing(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        await case.provider.ping()
        assert case.accepted() == []

    run(provider, tmp_path, check)


def test_a_local_file_is_sent_completely(provider: Open, tmp_path: Path) -> None:
    async def check(case: Case) -> None:
        path = MEDIA / "hopper.jpg"
        await submit(case, case.job(path=path))
        assert case.image_sha256() == hashlib.sha256(path.read_bytes()).hexdigest()

    run(provider, tmp_path, check)


@pytest.mark.parametrize("fault", ["", "lost"])
def test_submissions_are_found_by_their_request_ids_if_the_capabilities_say_so(
    provider: Open, tmp_path: Path, fault: str
) -> None:
    async def check(case: Case) -> None:
        capabilities = case.provider.capabilities
        if not capabilities.find_submissions:
            with pytest.raises(NotImplementedError):
                await case.provider.find_submissions(EPOCH)
            return
        try:
            await submit(case, case.job("a"))
        except CallError:
            assert fault == "lost"
        await submit(case, case.job("b"))
        listed = await case.provider.find_submissions(EPOCH)
        assert dict(listed.ids) == dict(case.accepted())
        assert listed.requests == {request_id(case.job("a")), request_id(case.job("b"))}
        assert listed.ended
        assert not listed.finished
        for generation_id in listed.ids.values():
            assert (await ended(case, generation_id)).phase is Phase.COMPLETED
        assert (await case.provider.find_submissions(EPOCH)).finished == listed.requests

    run(provider, tmp_path, check, fault)


@pytest.mark.parametrize("name", ["balance", "charges", "prices"])
def test_optional_calls_exist_if_the_capabilities_say_so(provider: Open, tmp_path: Path, name: str) -> None:
    async def check(case: Case) -> None:
        call = getattr(case.provider, name)
        arguments = (EPOCH,) if name == "charges" else ()
        if getattr(case.provider.capabilities, name):
            await call(*arguments)
        else:
            assert isinstance(case.provider, OptionalCalls)
            with pytest.raises(NotImplementedError):
                await call(*arguments)

    run(provider, tmp_path, check)
