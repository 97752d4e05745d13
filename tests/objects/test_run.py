"""Whole runs with inputs in buckets: secrets reach no file, and a link that has expired is signed anew."""

import asyncio
import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator

from batchrunner.job import Job
from batchrunner.providers.base import Accepted
from batchrunner.redaction import Redactor
from batchrunner.storage.objects.inputs import ObjectInputs
from batchrunner.storage.objects.signing import Links, SignedInputs
from tests.conftest import MEDIA, ROOT, make_job
from tests.objects.s3_server import ADMIN, Server
from tests.soak.processes import call

SECRETS = (*ADMIN, "X-Amz-Signature", "X-Amz-Credential")
MANIFEST = """
version: 1
name: bucket
provider: sandbox
poll_interval: 200ms
matrix: [{video: s3://clips/run/*.mp4, image: s3://clips/run/*.jpg, resolution: 480p}]
"""


@pytest.fixture(scope="module")
def uploaded(server: Server) -> None:
    import obstore

    for name in ("bunny.mp4", "hopper.jpg", "astronaut.jpg"):
        obstore.put(server.open()._store, f"run/{name}", MEDIA / name)


def status_of(link: str) -> int:
    address = urlsplit(link)
    with closing(http.client.HTTPConnection(address.netloc, timeout=10)) as connection:
        connection.request("GET", f"{address.path}?{address.query}")
        return connection.getresponse().status


@pytest.mark.usefixtures("uploaded")
def test_a_batch_runs_with_inputs_in_a_bucket_and_writes_no_secret(server: Server, tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").write_text(MANIFEST)
    variables = server.environment() | {"BATCHRUNNER_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}
    (tmp_path / "quick.yaml").write_text("service: {duration: 300ms, logs: false, render: stub}")
    options = ("--allow-bucket", "clips", "--faults", "quick.yaml")
    refused = call("validate", "batch.yaml", cwd=tmp_path, **variables)
    assert refused.returncode == 2
    assert "--allow-bucket s3://clips" in refused.stderr
    done = call("run", "batch.yaml", "--log-format", "json", *options, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "output" / "bucket" / "report.json").read_text())
    Draft202012Validator(json.loads((ROOT / "batchrunner" / "report" / "report.schema.json").read_text())).validate(
        report
    )
    assert [job["inputs"]["video"]["source"] for job in report["jobs"]] == ["s3://clips/run/bunny.mp4"] * 2
    assert all(job["inputs"]["video"]["duration_s"] and job["inputs"]["image"]["etag"] for job in report["jobs"])
    texts = [done.stdout.encode(), done.stderr.encode()]
    texts += [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(texts) > 6
    for secret in SECRETS:
        assert not [text[:100] for text in texts if secret.encode() in text]
    again = call("run", "batch.yaml", *options, cwd=tmp_path, **variables)
    assert "nothing to do" in again.stdout + again.stderr


@pytest.mark.usefixtures("uploaded")
def test_a_link_that_expires_in_the_queue_fails_its_job_and_is_signed_anew_for_the_next_try(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "batch.yaml").write_text(MANIFEST + "generation_retries: 0\n")
    variables = server.environment() | {"BATCHRUNNER_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}
    options = ("run", "batch.yaml", "--allow-bucket", "clips", "--faults")
    slow = "service: {queue_wait: 2500ms, spread: 0, duration: 100ms, logs: false, render: stub}"
    (tmp_path / "slow.yaml").write_text(slow)
    failed = call(*options, "slow.yaml", "--link-lifetime", "1s", cwd=tmp_path, **variables)
    assert failed.returncode == 1, failed.stderr
    report = json.loads((tmp_path / "output" / "bucket" / "report.json").read_text())
    assert {job["state"] for job in report["jobs"]} == {"failed"}
    assert all("Failed to download the file" in job["error"]["message"] for job in report["jobs"])
    assert fetched(tmp_path / "output" / "bucket") == [403, 403]
    done = call(*options, "slow.yaml", "--retry-failed", cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert fetched(tmp_path / "output" / "bucket") == [403, 403, 200, 200, 200, 200]
    texts = [text.encode() for run in (failed, done) for text in (run.stdout, run.stderr)]
    texts += [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert [text[:100] for text in texts for secret in SECRETS if secret.encode() in text] == []


def fetched(run_directory: Path) -> list[int]:
    """Return the statuses with which the bucket has answered the service, in order."""
    lines = (run_directory / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    return [event["status"] for event in map(json.loads, lines) if event["event"] == "input_fetched"]


class Service:
    """Keeps the link of the last submission."""

    def __init__(self) -> None:
        self.link = ""

    async def submit(self, job: Job, request_id: str) -> Accepted:
        self.link = job.inputs["video"].uri or ""
        return Accepted(request_id, None)


@pytest.mark.usefixtures("uploaded")
def test_a_submission_after_the_link_has_expired_has_a_valid_link(server: Server) -> None:
    service: Any = Service()
    with ObjectInputs(server.access) as objects:
        job = make_job(video=objects.get("video", "s3://clips/run/bunny.mp4"))
    links = Links(server.access, 1.0, Redactor(), pytest.fail)
    provider = SignedInputs(service, links, [job])
    asyncio.run(provider.submit(job, "run.a.1"))
    first = service.link
    while status_of(first) == 200:
        time.sleep(0.05)  # the server has a clock of its own
    assert status_of(first) == 403
    asyncio.run(provider.submit(job, "run.a.2"))
    assert status_of(service.link) == 200
    assert Redactor().text(first) == first, "only the redactor of the run knows the bucket"
    assert links.redactor.text(first) != first


STAGED = """
version: 1
name: staged
provider: sandbox
poll_interval: 200ms
stage: s3://clips/staging/
stage_above: 70kB
matrix: [{video: "*.mp4", image: "*.jpg", resolution: [480p, 720p]}]
"""


def test_a_batch_stages_its_clips_once_and_the_next_command_cleans_up(server: Server, tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").write_text(STAGED)
    for name in ("bunny.mp4", "hopper.jpg", "astronaut.jpg"):
        (tmp_path / name).write_bytes((MEDIA / name).read_bytes())
    variables = server.environment() | {"BATCHRUNNER_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}
    (tmp_path / "quick.yaml").write_text("service: {duration: 300ms, logs: false, render: stub, max_body: 150kB}")
    assert "--allow-bucket s3://clips" in call("plan", "batch.yaml", cwd=tmp_path, **variables).stderr
    options = ("--allow-bucket", "clips", "--faults", "quick.yaml")
    plan = call("plan", "batch.yaml", *options, cwd=tmp_path, **variables)
    assert "1 local input, 77.8 kB, uploaded to s3://clips/staging/" in plan.stdout

    plain = call("run", "batch.yaml", "--stage-above", "1GB", *options, cwd=tmp_path, **variables)
    report = json.loads((tmp_path / "output" / "staged" / "report.json").read_text())
    assert plain.returncode == 1
    assert {job["error"]["kind"] for job in report["jobs"]} == {"too_large"}
    assert "stage" in report["jobs"][0]["error"]["hint"]
    fingerprints = [job["fingerprint"] for job in report["jobs"]]

    done = call("run", "batch.yaml", "--retry-failed", *options, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert "Uploading bunny.mp4 (77.8 kB) to s3://clips/staging/" in done.stdout + done.stderr
    assert "Uploaded bunny.mp4 (1 of 1 inputs, 77.8 kB of 77.8 kB)" in done.stdout + done.stderr
    report = json.loads((tmp_path / "output" / "staged" / "report.json").read_text())
    assert [job["fingerprint"] for job in report["jobs"]] == fingerprints, "staging makes no other job"
    assert [job["inputs"]["video"]["source"] for job in report["jobs"]] == ["bunny.mp4"] * 4
    ledger = (tmp_path / "output/staged/.batchrunner/sandbox/ledger.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in ledger]
    assert [event["status"] for event in events if event["event"] == "input_fetched"] == [200] * 4
    texts = [done.stdout.encode(), done.stderr.encode()]
    texts += [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    for secret in SECRETS:
        assert not [text[:100] for text in texts if secret.encode() in text]

    listed = call("stage", "--clean", "batch.yaml", "--allow-bucket", "clips", cwd=tmp_path, **variables)
    assert "Nothing was removed." in listed.stdout
    cleaned = call("stage", "--clean", "batch.yaml", "--yes", "--allow-bucket", "clips", cwd=tmp_path, **variables)
    assert "Removed 1 staged input, 77.8 kB." in cleaned.stdout
    again = call("stage", "--clean", "batch.yaml", "--yes", "--allow-bucket", "clips", cwd=tmp_path, **variables)
    assert "every staged input is needed, or there is none" in again.stdout
