"""Whole runs that deliver to a bucket: what is there afterwards, and what a run does when the bucket is down."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.conftest import MEDIA, ROOT
from tests.objects.s3_server import ADMIN, READER, Server, digests, put, remove
from tests.soak.processes import call

MANIFEST = """
version: 1
name: delivered
provider: sandbox
poll_interval: 200ms
deliver: s3://clips/{prefix}/
matrix: [{{video: "*.mp4", image: "*.jpg", resolution: 480p}}]
"""


class Batch:
    """A batch in a folder of its own that delivers to a prefix of its own."""

    def __init__(self, server: Server, folder: Path, prefix: str) -> None:
        self.folder, self.server, self.prefix = folder, server, prefix
        self.output = folder / "output" / "delivered"
        (folder / "batch.yaml").write_text(MANIFEST.format(prefix=prefix))
        for name in ("bunny.mp4", "hopper.jpg", "astronaut.jpg"):
            (folder / name).write_bytes((MEDIA / name).read_bytes())
        (folder / "quick.yaml").write_text("service: {duration: 300ms, logs: false, render: tiny}")
        self.variables = server.environment() | {"BATCHRUNNER_STATE": str(folder / "state"), "HOME": str(folder)}

    def call(self, *arguments: str, **variables: str) -> Any:
        return call(*arguments, cwd=self.folder, **{**self.variables, **variables})

    def run(self, *options: str, **variables: str) -> Any:
        command = ("run", "batch.yaml", "--allow-bucket", "clips", "--faults", "quick.yaml", *options)
        return self.call(*command, **variables)

    @property
    def report(self) -> Any:
        return json.loads((self.output / "report.json").read_text())

    @property
    def accepted(self) -> int:
        lines = (self.output / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
        return sum(json.loads(line)["event"] == "accepted" for line in lines)

    @property
    def objects(self) -> dict[str, str]:
        """The SHA-256 of each object below the prefix."""
        return digests(self.server, self.prefix)


@pytest.fixture
def batch(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Batch:
    return Batch(server, tmp_path, f"d-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}")


def test_clips_and_reports_are_in_the_bucket_and_no_secret_is_written(batch: Batch) -> None:
    refused = batch.call("plan", "batch.yaml")
    assert "--allow-bucket s3://clips" in refused.stderr
    done = batch.run("--stage", f"s3://clips/{batch.prefix}-staged/", "--stage-above", "0")
    assert done.returncode == 0, done.stderr
    rows = batch.report["jobs"]
    assert {row["file"]: row["sha256"] for row in rows}.items() <= batch.objects.items()
    assert len(rows) == 2
    for name in ("report.json", "report.html", "results.csv"):
        assert batch.objects[name] == hashlib.sha256((batch.output / name).read_bytes()).hexdigest()
    again = batch.run()
    assert again.returncode == 0, again.stderr
    assert batch.accepted == 2
    texts = [done.stdout.encode(), done.stderr.encode()]
    texts += [path.read_bytes() for path in sorted(batch.folder.rglob("*")) if path.is_file()]
    for secret in (*ADMIN, "X-Amz-Signature", "X-Amz-Credential"):
        assert not [text[:100] for text in texts if secret.encode() in text]


def test_without_local_files_verify_and_export_read_the_bucket(batch: Batch, server: Server) -> None:
    done = batch.run("--keep-local", "no")
    assert done.returncode == 0, done.stderr
    assert f"2 clips in s3://clips/{batch.prefix}/" in done.stdout + done.stderr
    assert list(batch.output.glob("*.mp4")) == []
    rows = batch.report["jobs"]
    assert {row["object"]["address"] for row in rows} == {f"s3://clips/{batch.prefix}/{row['file']}" for row in rows}
    page = (batch.output / "report.html").read_text()
    assert "data:image/webp" in page, "the pictures were made before the files were freed"
    assert f"s3://clips/{batch.prefix}/" in page

    plan = batch.call("plan", "batch.yaml", "--allow-bucket", "clips")
    assert "2 done" in plan.stdout
    refused = batch.call("verify", "output/delivered")
    assert refused.returncode == 2
    assert "--allow-bucket s3://clips" in refused.stderr
    good = batch.call("verify", "output/delivered", "--allow-bucket", "clips")
    assert good.returncode == 0, good.stdout + good.stderr

    export = ("export", "output/delivered", "set", "--format", "folder")
    assert "--allow-bucket s3://clips" in batch.call(*export).stderr
    exported = batch.call(*export, "--allow-bucket", "clips")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    clips = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (batch.folder / "set").rglob("*.mp4")}
    assert {row["sha256"] for row in rows} <= clips
    assert not (batch.folder / "set.fetched").exists()

    again = batch.run("--keep-local", "no")
    assert again.returncode == 0, again.stderr
    assert batch.accepted == 2
    assert list(batch.output.glob("*.mp4")) == []

    replaced = f"{batch.prefix}/{rows[0]['file']}"
    put(server, replaced, b"another content")
    bad = batch.call("verify", "output/delivered", "--allow-bucket", "clips")
    assert bad.returncode == 1
    assert "another content than the clip that was delivered" in bad.stdout


def test_objects_of_somebody_else_stay_and_nothing_is_paid_for(batch: Batch, server: Server) -> None:
    plan = json.loads(batch.call("plan", "batch.yaml", "--json", "--allow-bucket", "clips").stdout)
    names = [row["id"] for row in plan["jobs"]]
    assert plan["egress"]["delivered"] == 2
    put(server, f"{batch.prefix}/{names[0]}.mp4", b"foreign")
    put(server, f"{batch.prefix}/report.json", b"{}")
    stopped = batch.run()
    assert stopped.returncode == 5, stopped.stderr
    assert "1 object in the way that this batch did not deliver" in stopped.stdout + stopped.stderr
    assert batch.accepted == 0
    assert "report.json is not of this batch" in stopped.stdout + stopped.stderr
    assert batch.objects[f"{names[0]}.mp4"] == hashlib.sha256(b"foreign").hexdigest()
    remove(server, f"{batch.prefix}/{names[0]}.mp4", f"{batch.prefix}/report.json")
    done = batch.run()
    assert done.returncode == 0, done.stderr
    assert batch.accepted == 2
    assert {row["file"]: row["sha256"] for row in batch.report["jobs"]}.items() <= batch.objects.items()


def test_nothing_is_paid_for_if_the_bucket_may_not_be_written(batch: Batch) -> None:
    refused = batch.run(AWS_ACCESS_KEY_ID=READER[0], AWS_SECRET_ACCESS_KEY=READER[1])
    assert refused.returncode == 5, refused.stderr
    assert "nothing is submitted, because clips cannot be delivered" in refused.stdout + refused.stderr
    assert "s3:PutObject" in refused.stdout + refused.stderr
    assert batch.accepted == 0
    done = batch.run()
    assert done.returncode == 0, done.stderr
    assert batch.accepted == 2


def test_a_changed_row_keeps_its_name_and_the_former_clip_is_kept(batch: Batch) -> None:
    manifest = batch.folder / "batch.yaml"
    row = "deliver: s3://clips/{}/\njobs: [{{id: a, video: bunny.mp4, image: hopper.jpg, resolution: {}}}]\n"
    head = "version: 1\nname: delivered\nprovider: sandbox\npoll_interval: 200ms\n"
    manifest.write_text(head + row.format(batch.prefix, "480p"))
    assert batch.run("--keep-local", "no").returncode == 0
    former = batch.report["jobs"][0]["sha256"]
    manifest.write_text(head + row.format(batch.prefix, "720p"))
    done = batch.run("--keep-local", "no")
    assert done.returncode == 0, done.stderr
    changed = batch.report["jobs"][0]["sha256"]
    assert changed != former
    assert batch.objects["a.mp4"] == changed
    assert batch.objects[f".kept/{former}.mp4"] == former


def test_a_store_that_is_down_leaves_the_clips_in_the_run_directory(batch: Batch) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    stopped = batch.run("--outage-wait", "1s", **nowhere)
    assert stopped.returncode == 5, stopped.stderr
    assert batch.report["stop_kind"] == "bucket_unreachable"
    assert {row["error"]["kind"] for row in batch.report["jobs"]} == {"not_delivered"}
    assert len(list(batch.output.glob("*.mp4"))) == 2
    assert "not copied to the bucket" in stopped.stdout + stopped.stderr or "could not be copied" in stopped.stderr
    done = batch.run()
    assert done.returncode == 0, done.stderr
    assert batch.accepted == 2
    assert {row["file"]: row["sha256"] for row in batch.report["jobs"]}.items() <= batch.objects.items()


def test_killed_processes_lose_nothing_and_pay_for_nothing_twice(batch: Batch) -> None:
    manifest = batch.folder / "batch.yaml"
    manifest.write_text(manifest.read_text().replace("480p", "[480p, 720p]"))
    options = ("--allow-bucket", "clips", "--keep-local", "no", "--faults", "quick.yaml", "--log-format", "json")
    argv = (sys.executable, "-m", "batchrunner", "run", "batch.yaml", *options)
    environment = {**os.environ, **batch.variables, "PYTHONPATH": str(ROOT)}
    chance = Random(1)
    for _ in range(5):
        with subprocess.Popen(argv, cwd=batch.folder, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(3, 20)):  # it is killed after so many events
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    done = batch.run("--keep-local", "no")
    assert done.returncode == 0, done.stderr
    rows = batch.report["jobs"]
    assert batch.accepted == len(rows) == 4
    clips = {name: digest for name, digest in batch.objects.items() if name.endswith(".mp4")}
    assert clips == {row["file"]: row["sha256"] for row in rows}
    assert list(batch.output.glob("*.mp4")) == []
