"""Whole runs that deliver to a bucket: what is there afterwards, and what a run does when the bucket is down."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MEDIA
from tests.objects.conftest import ADMIN, Server, digests
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
    done = batch.run()
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
