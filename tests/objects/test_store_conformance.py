"""The conformance suite of result stores over a bucket of a real S3 server, with and without files beside it."""

import hashlib
from concurrent.futures import Executor
from pathlib import Path

import pytest

from batchrunner.journal.journal import Journal
from batchrunner.media.decoder_pool import Decoders
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.bucket_delivery import BucketStore, BucketTarget
from batchrunner.transfer.delivery import Store
from tests.objects.s3_server import BUCKET, Server, remove
from tests.transfer import test_store_conformance
from tests.transfer.test_store_conformance import Batch

globals().update({name: test for name, test in vars(test_store_conformance).items() if name.startswith("test_")})


@pytest.fixture(params=["on", "off"], ids=["files too", "bucket alone"])
def batch(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Batch:
    prefix = f"c-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"

    def open_store(
        rundir: RunDir, journal: Journal, executor: Executor, files: Disk, decoders: Decoders
    ) -> BucketStore:
        place = ObjectAddress("s3", BUCKET, prefix)
        target = BucketTarget(place, lambda _: server.open(), request.param == "on")
        return BucketStore(Store(rundir, journal, executor, files, decoders), rundir, target)

    def taken_away(name: str) -> None:
        (tmp_path / "run" / name).unlink(missing_ok=True)
        remove(server, f"{prefix}/{name}")

    return Batch(tmp_path, open_store, taken_away)
