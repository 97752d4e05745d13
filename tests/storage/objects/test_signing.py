"""A submission contains a fresh link, and the job, the errors and the redactor's output contain none."""

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import CallError, LocalFault, NetworkFault, UsageError
from batchrunner.job import Job, Media
from batchrunner.providers.base import Accepted, Capabilities, GenerationStatus, Phase
from batchrunner.redaction import MARK, Redactor
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.credentials import Credentials
from batchrunner.storage.objects.signing import Links, SignedInputs, with_signed_inputs
from batchrunner.storage.objects.store import Access, ObjectState
from tests.conftest import NOW, make_job

CLIP = Media("video", "s3://clips/in/a.mp4", uri="s3://clips/in/a.mp4", etag="e1", size_bytes=10)
KEYS = Credentials("AKIATESTKEY0000", "secret-0123456789")
HOST = "https://store.example"  # no request is sent to it
DAY_S = 86_400.0


class Bucket:
    """A bucket with one object. Each link is another one."""

    def __init__(
        self, state: ObjectState | CallError | None, keys: Credentials | None = KEYS, host: str = HOST
    ) -> None:
        self.state, self.keys, self.host = state, keys, host
        self.lifetimes: list[float] = []

    def credentials(self) -> Credentials | None:
        return self.keys

    async def head(self, key: str) -> ObjectState | None:
        if isinstance(self.state, CallError):
            raise self.state
        return self.state

    async def sign(self, key: str, lifetime: float) -> str:
        self.lifetimes.append(lifetime)
        return f"{self.host}/clips/{key}?X-Amz-Credential=AKIATESTKEY0000&X-Amz-Signature=5167{len(self.lifetimes)}"


class Service:
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.inputs: list[str] = []

    async def submit(self, job: Job, request_id: str) -> Accepted:
        self.jobs.append(job)
        return Accepted("gen", None)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        self.inputs = list(inputs)
        return GenerationStatus(Phase.QUEUED, generation_id)


class Batch:
    def __init__(self, bucket: Bucket, lifetime_s: float = DAY_S, allowed: str = "clips") -> None:
        self.service, self.bucket = Service(), bucket
        self.warnings: list[str] = []
        self.now = NOW
        self.redactor = Redactor(["the-key-of-the-service"])
        self.job = make_job(video=CLIP)
        access = Access(AllowedBuckets.of([allowed]), {}, Path("/nonexistent"))
        links = Links(lambda: access, lifetime_s, self.redactor, self.warnings.append, lambda: self.now, self._open)
        service: Any = self.service
        self.provider = SignedInputs(service, links, [self.job])

    def _open(self, address: ObjectAddress, access: Access) -> Any:
        access.allowed.check(address)
        return self.bucket

    def submit(self) -> str:
        """Submit the job, and return the link that the service got."""
        asyncio.run(self.provider.submit(self.job, "run.a.1"))
        return self.service.jobs[-1].inputs["video"].uri or ""


def test_each_submission_has_a_link_of_its_own_and_the_job_keeps_its_address() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')))
    links = [batch.submit(), batch.submit()]
    assert all(link.startswith(f"{HOST}/clips/in/a.mp4?") for link in links)
    assert links[0] != links[1]
    assert batch.job.inputs["video"] == CLIP
    assert batch.service.jobs[-1].inputs["image"] is batch.job.inputs["image"]
    assert batch.service.jobs[-1].fingerprint == batch.job.fingerprint
    assert "X-Amz" not in repr(batch.provider)
    assert batch.bucket.lifetimes[-2:] == [DAY_S, DAY_S]
    assert batch.warnings == []


def test_a_job_without_addresses_is_passed_on_unchanged() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')))
    job = make_job("plain")
    asyncio.run(batch.provider.submit(job, "run.a.1"))
    assert batch.service.jobs == [job]
    assert batch.service.jobs[0] is job


@pytest.mark.parametrize("state", [None, ObjectState(10, '"e2"')], ids=["missing", "changed"])
def test_an_object_that_changed_concerns_its_job_alone(state: ObjectState | None) -> None:
    batch = Batch(Bucket(state))
    with pytest.raises(LocalFault) as caught:
        batch.submit()
    assert (caught.value.kind, caught.value.in_doubt) == ("input_changed", False)
    assert batch.service.jobs == []


def test_a_version_identifies_an_object_without_an_etag() -> None:
    assert Batch(Bucket(ObjectState(10, None, "e1"))).submit()


def test_a_bucket_that_cannot_be_reached_leaves_nothing_in_doubt() -> None:
    fault = NetworkFault("bucket_unreachable", "down", "wait")
    batch = Batch(Bucket(fault))
    with pytest.raises(NetworkFault) as caught:
        batch.submit()
    assert not caught.value.in_doubt
    assert batch.service.jobs == []


def test_a_bucket_that_is_not_allowed_is_refused_before_the_submission() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')), allowed="other")
    with pytest.raises(LocalFault, match="not allowed") as caught:
        batch.submit()
    assert "--allow-bucket s3://clips" in caught.value.hint
    assert batch.service.jobs == []


def test_a_link_that_the_service_cannot_fetch_is_not_submitted() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"'), host="http://store.example"))
    with pytest.raises(LocalFault, match="only https") as caught:
        batch.submit()
    assert "AWS_ENDPOINT_URL" in caught.value.hint
    assert batch.service.jobs == []
    assert Batch(Bucket(ObjectState(10, '"e1"'), host="http://127.0.0.1:1")).submit()


@pytest.mark.parametrize(
    ("expires_in_s", "token", "lifetime_s", "expected_s", "warning"),
    [
        (None, None, DAY_S, DAY_S, ""),
        (None, "token-0123456789", DAY_S, DAY_S, "temporary"),
        (3600.0, "token-0123456789", DAY_S, 3600.0, "valid for 1 h"),
        (3600.0, "token-0123456789", 1800.0, 1800.0, ""),
    ],
)
def test_a_link_is_valid_no_longer_than_the_credentials(
    expires_in_s: float | None, token: str | None, lifetime_s: float, expected_s: float, warning: str
) -> None:
    expires = NOW + expires_in_s if expires_in_s else None
    batch = Batch(Bucket(ObjectState(10, '"e1"'), Credentials("AKIA", "secret", token, expires)), lifetime_s)
    batch.submit()
    batch.submit()
    assert batch.bucket.lifetimes[-1] == expected_s
    assert len(batch.warnings) == bool(warning), "once a run"
    assert warning in "".join(batch.warnings)


def test_credentials_that_have_expired_end_the_run_with_the_next_step() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"'), Credentials("AKIA", "secret", "token", NOW + 5)))
    with pytest.raises(LocalFault, match="expired") as caught:
        batch.submit()
    assert caught.value.kind == "bucket_credentials"
    assert "Log in" in caught.value.hint


def test_a_poll_names_the_links_of_the_inputs_without_their_signatures() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')))
    asyncio.run(batch.provider.status("gen", ["s3://clips/in/a.mp4", "https://example.com/b.png"]))
    assert batch.service.inputs == [f"{HOST}/clips/in/a.mp4", "https://example.com/b.png"]


def test_without_credentials_a_poll_still_works() -> None:
    class Locked(Bucket):
        async def sign(self, key: str, lifetime: float) -> str:
            raise LocalFault("bucket_credentials", "none")

    batch = Batch(Locked(None))
    asyncio.run(batch.provider.status("gen", ["s3://clips/in/a.mp4"]))
    assert batch.service.inputs == ["s3://clips/in/a.mp4"]


def test_no_reply_of_the_service_can_repeat_a_link(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    batch = Batch(Bucket(ObjectState(10, '"e1"')))
    link = batch.submit()
    for text in (
        f"cannot fetch {link}: 403",
        link.replace("&", "\\u0026"),
        link.replace("5167", "9999"),  # of an earlier run
        f"https://log.example/?url={link.replace('&', '%26').replace('?', '%3F')}",
    ):
        clean = batch.redactor.text(text)
        assert MARK in clean
        assert "X-Amz-Signature" not in clean
        assert "5167" not in clean
        assert "9999" not in clean
    body = batch.redactor.reply(f'{{"video": {{"url": "{link}"}}, "error": "{link}"}}'.encode())
    assert b"X-Amz" not in body
    assert batch.redactor.text(f"the key {KEYS.secret}") == f"the key {MARK}"
    result = "https://results.example/clips/out.mp4?X-Amz-Signature=1234"
    assert batch.redactor.text(result) == result, "the link to the result is needed"


def test_a_link_of_an_earlier_run_is_known_before_the_first_poll() -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')))
    asyncio.run(batch.provider.status("gen"))
    assert MARK in batch.redactor.text(f"{HOST}/clips/in/deeper/b.mp4?X-Amz-Signature=1")


def test_links_to_staged_inputs_of_an_earlier_run_are_known_before_the_first_poll() -> None:
    batch = Batch(Bucket(None))
    access = Access(AllowedBuckets.of(["clips"]), {}, Path("/nonexistent"))
    links = Links(lambda: access, DAY_S, batch.redactor, batch.warnings.append, lambda: NOW, batch._open)
    service: Any = batch.service
    local = make_job()
    provider = SignedInputs(service, links, [local], ["s3://clips/staged/x"])
    asyncio.run(provider.status("gen"))
    assert "5167" not in batch.redactor.text(f"cannot fetch {HOST}/clips/staged/y.mp4?X-Amz-Signature=51671")


def test_a_batch_without_inputs_in_buckets_needs_no_signing() -> None:
    batch = Batch(Bucket(None))
    service: Any = batch.service
    links = Links(lambda: Access(AllowedBuckets.of([]), {}, Path("/")), DAY_S, batch.redactor, batch.warnings.append)
    assert with_signed_inputs(service, links, [make_job()]) is service
    assert isinstance(with_signed_inputs(service, links, [make_job(), batch.job]), SignedInputs)
    assert isinstance(with_signed_inputs(service, links, [], ["s3://clips/staged/x"]), SignedInputs)


def test_config_that_cannot_be_read_is_a_local_fault() -> None:
    def access() -> Access:
        raise UsageError("config.yaml cannot be read", "Make it readable.")

    batch = Batch(Bucket(None))
    links = Links(access, DAY_S, batch.redactor, batch.warnings.append)
    service: Any = batch.service
    with pytest.raises(LocalFault, match=r"config\.yaml"):
        asyncio.run(SignedInputs(service, links, []).submit(batch.job, "run.a.1"))


# Links that are made before the submission


def prepared(batch: Batch) -> None:
    assert batch.provider.capabilities.prepares
    work = batch.provider.prepare(batch.job)
    assert work is not None
    asyncio.run(work)


@pytest.mark.parametrize(("lifetime_s", "late_s"), [(DAY_S, 299.0), (600.0, 59.0)])
def test_a_prepared_link_is_submitted_while_it_is_fresh(lifetime_s: float, late_s: float) -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')), lifetime_s)
    prepared(batch)
    signed_before = len(batch.bucket.lifetimes)
    batch.now += late_s
    link = batch.submit()
    assert len(batch.bucket.lifetimes) == signed_before
    assert batch.submit() != link, "once"


@pytest.mark.parametrize(("lifetime_s", "late_s"), [(DAY_S, 301.0), (600.0, 61.0)])
def test_a_prepared_link_that_is_old_is_replaced(lifetime_s: float, late_s: float) -> None:
    batch = Batch(Bucket(ObjectState(10, '"e1"')), lifetime_s)
    prepared(batch)
    signed_before = len(batch.bucket.lifetimes)
    batch.now += late_s
    batch.submit()
    assert len(batch.bucket.lifetimes) == signed_before + 1


def test_a_job_without_addresses_needs_no_preparation() -> None:
    assert Batch(Bucket(ObjectState(10, '"e1"'))).provider.prepare(make_job("plain")) is None


def test_an_object_that_changed_is_found_by_the_preparation_and_the_submission() -> None:
    batch = Batch(Bucket(None))
    with pytest.raises(LocalFault, match="no longer exists"):
        prepared(batch)
    with pytest.raises(LocalFault, match="no longer exists"):
        batch.submit()
