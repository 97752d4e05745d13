"""Deliveries to a bucket through the real engine: kills at any step, outages, refusals, renamed and changed rows."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner.app.setup import Setup
from batchrunner.clock import LoopClock
from batchrunner.errors import LocalFault, NetworkFault, UsageError
from batchrunner.journal import journal
from batchrunner.sandbox.clips import marks
from batchrunner.storage.objects import store
from batchrunner.storage.objects.address import AllowedBuckets
from batchrunner.storage.objects.store import Access
from tests.providers.dummy import LISTING, Studio, offered
from tests.scenarios.test_second_provider import Simulation
from tests.scenarios.world import EPOCH, Loop, in_virtual_time
from tests.transfer.memory_bucket import MemoryBucket

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")

JOBS = 37  # of 38 entries
DOWN = NetworkFault("bucket_unreachable", "the store of s3://clips cannot be reached", "")
REFUSED = LocalFault("bucket_refused", "the bucket s3://clips refuses this access (403)", "")


@dataclass
class Delivery(Simulation):
    """A simulation that delivers to a bucket. rename: changes the ids of the entries. recover: as the flag."""

    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    rename: Callable[[str], str] = str
    recover: bool = False

    def _setup(self, **flags: object) -> Setup:
        setup = super()._setup(**{"deliver": "s3://clips/results/", **flags})
        entries = tuple(replace(entry, id=self.rename(entry.id)) for entry in setup.batch.entries)
        self.entries = entries
        return replace(
            setup,
            batch=replace(setup.batch, entries=entries),
            access=lambda: Access(AllowedBuckets.of(["clips"]), {}),
            recover=self.recover,
        )

    def check_bucket(self) -> None:
        """Each object of an entry is the clip of its own job, and the journal has its ETag."""
        snapshot = journal.read(self.rundir.journal)
        assert snapshot is not None
        for row in self.report["jobs"]:
            assert row["state"] == "succeeded"
            label = marks.read(self.bucket.objects[f"results/{row['file']}"])
            assert label is not None
            order = json.loads(label["fingerprint"])
            assert order["picture"]["href"] == row["request"]["still"]
            assert order["options"]["shift"] == row["request"]["shift"]
            result = snapshot.records[row["fingerprint"]].result
            assert result is not None
            assert f"s3://clips/results/{row['file']}" in (result.objects or {})
            assert row["object"]["address"] == f"s3://clips/results/{row['file']}"
        for name in ("report.json", "results.csv", "report.html"):
            assert self.bucket.objects[f"results/{name}"] == (self.rundir.path / name).read_bytes()

    @property
    def clips(self) -> list[str]:
        return sorted(path.name for path in self.rundir.path.rglob("*.mp4"))


def simulate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, scenario: Callable[[Delivery], Any], **rates: Any
) -> None:
    async def main(loop: Loop) -> None:
        studio = Studio(LoopClock(EPOCH), Random(seed), lists=True, **rates)
        delivery = Delivery(loop, folder, studio, LISTING, Random(f"{seed} process"))
        monkeypatch.setattr(store, "open_store", lambda *_: delivery.bucket)
        async with studio.open() as delivery.url:
            await scenario(delivery)

    with offered():
        in_virtual_time(main)


@pytest.mark.parametrize("keep_local", ["on", "off"])
@pytest.mark.parametrize("seed", range(3))
def test_kills_and_cut_calls_lose_nothing_and_pay_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, keep_local: str
) -> None:
    async def scenario(delivery: Delivery) -> None:
        chance = Random(f"{seed} bucket")

        def cut(*_: str) -> None:
            if chance.random() < 0.05:
                raise DOWN

        delivery.bucket.before_call = cut
        assert await delivery.until_over(deaths=8, keep_local=keep_local) == 0
        delivery.bucket.before_call = lambda *_: None
        assert await delivery.until_over(deaths=0, keep_local=keep_local) == 0
        assert delivery.deaths > 0
        assert sorted(delivery.paid().values()) == [1] * JOBS
        delivery.check_bucket()
        names = {f"results/{entry.file}" for entry in delivery.entries}
        assert set(delivery.bucket.puts) == names, "nothing is uploaded to another name"
        assert len(delivery.clips) == (38 if keep_local == "on" else 0)

    simulate(tmp_path, monkeypatch, seed, scenario, lost=0.1, cut=0.05)


def test_a_bucket_that_is_down_fails_no_job_and_the_next_run_copies_the_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(delivery: Delivery) -> None:
        def down(*_: str) -> None:
            raise DOWN

        delivery.bucket.before_call = down
        assert await delivery.run(die=False, keep_local="off", outage_wait="1h") == 5
        assert {row["state"] for row in delivery.report["jobs"]} == {"in_flight"}
        assert {row["error"]["kind"] for row in delivery.report["jobs"]} == {"not_delivered"}
        run = delivery.report["runs"][-1]
        assert run["stop_kind"] == "bucket_unreachable"
        assert "the store of s3://clips cannot be reached" in run["stopped"]
        assert len(delivery.clips) == 38, "every clip is in the run directory"
        downloads = sum(path.endswith(".mp4") for _, path in delivery.studio.calls)
        delivery.bucket.before_call = lambda *_: None
        assert await delivery.run(die=False, keep_local="off") == 0
        delivery.check_bucket()
        assert delivery.clips == []
        assert sum(path.endswith(".mp4") for _, path in delivery.studio.calls) == downloads, "nothing is fetched again"
        assert sorted(delivery.paid().values()) == [1] * JOBS

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_an_outage_pauses_the_deliveries_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(delivery: Delivery) -> None:
        up_at = asyncio.get_running_loop().time() + 3000

        def down(*_: str) -> None:
            if asyncio.get_running_loop().time() < up_at:
                raise DOWN

        delivery.bucket.before_call = down
        assert await delivery.run(die=False) == 0
        delivery.check_bucket()
        statuses = {item["status"] for item in delivery.report["timeline"] if item["call"] == "deliver"}
        assert statuses == {"unreachable", "fine"}

    simulate(tmp_path, monkeypatch, 1, scenario)


@pytest.mark.parametrize("refused", ["list", "put"])
def test_a_bucket_that_refuses_stops_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    async def scenario(delivery: Delivery) -> None:
        def refuse(call: str, _: str) -> None:
            if call == refused:
                raise REFUSED

        delivery.bucket.before_call = refuse
        assert await delivery.run(die=False) == 5
        assert delivery.paid() == {}
        assert delivery.report["runs"][-1]["stop_kind"] == "bucket_refused"
        delivery.bucket.before_call = lambda *_: None
        assert await delivery.run(die=False) == 0
        delivery.check_bucket()

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_objects_in_the_way_stop_before_anything_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(delivery: Delivery) -> None:
        delivery.bucket.objects["results/both.mp4"] = b"foreign"
        assert await delivery.run(die=False) == 5
        assert delivery.paid() == {}
        stopped = delivery.report["runs"][-1]["stopped"]
        assert "1 object in the way that this batch did not deliver, as s3://clips/results/both.mp4" in stopped
        assert delivery.bucket.objects.pop("results/both.mp4") == b"foreign"
        assert await delivery.run(die=False) == 0
        delivery.check_bucket()

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_reports_of_another_batch_stop_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(delivery: Delivery) -> None:
        bucket = delivery.bucket
        bucket.objects["results/report.json"], bucket.owners["results/report.json"] = b"{}", "another batch"
        assert await delivery.run(die=False) == 5
        assert delivery.paid() == {}
        assert "results/report.json is not of this batch" in delivery.report["runs"][-1]["stopped"]
        assert bucket.objects.pop("results/report.json") == b"{}"
        assert await delivery.run(die=False) == 0
        delivery.check_bucket()
        assert await delivery.run(die=False) == 0, "the reports are now those of this batch"

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_an_object_of_somebody_else_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(delivery: Delivery) -> None:
        def appear(call: str, _: str) -> None:
            if call == "put":  # after the list at the start
                delivery.bucket.objects["results/both.mp4"] = b"foreign"

        delivery.bucket.before_call = appear
        assert await delivery.run(die=False) == 5
        delivery.bucket.before_call = lambda *_: None
        assert delivery.bucket.objects["results/both.mp4"] == b"foreign"
        assert "another content" in delivery.report["runs"][-1]["stopped"]
        del delivery.bucket.objects["results/both.mp4"]
        assert await delivery.run(die=False) == 0
        delivery.check_bucket()
        assert sorted(delivery.paid().values()) == [1] * JOBS

    simulate(tmp_path, monkeypatch, 1, scenario)


@pytest.mark.parametrize("keep_local", ["on", "off"])
def test_renamed_rows_are_copied_to_their_new_names_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_local: str
) -> None:
    async def scenario(delivery: Delivery) -> None:
        assert await delivery.until_over(deaths=0, keep_local=keep_local) == 0
        before = dict(delivery.bucket.objects)
        downloads = len(delivery.studio.calls)
        swapped = {"both": "again", "again": "renamed", **{e.id: e.id for e in delivery.entries[2:]}}
        ids = [entry.id for entry in delivery.entries]
        swapped |= {ids[2]: ids[3], ids[3]: ids[2]}
        delivery.rename = swapped.__getitem__
        for _ in range(6):
            await delivery.run(die=True, keep_local=keep_local)
        assert await delivery.until_over(deaths=0, keep_local=keep_local) == 0
        delivery.check_bucket()
        assert delivery.bucket.objects["results/both.mp4"] == before["results/both.mp4"], "a former name stays"
        assert {content for key, content in before.items() if key.endswith(".mp4")} <= set(
            delivery.bucket.objects.values()
        )
        assert sorted(delivery.paid().values()) == [1] * JOBS
        assert not [path for _, path in delivery.studio.calls[downloads:] if path.endswith(".mp4")]

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_a_batch_whose_clips_are_only_in_a_bucket_does_not_run_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(delivery: Delivery) -> None:
        assert await delivery.until_over(deaths=0, keep_local="off") == 0
        for _ in range(2):  # a run that is refused changes nothing
            with pytest.raises(UsageError, match="are only in s3://clips/results/"):
                await delivery.run(die=False, deliver=None)
        assert await delivery.run(die=False, keep_local="on") == 0
        assert len(delivery.clips) == 38, "the clips are copied back"
        assert await delivery.run(die=False, deliver=None) == 0, "the run directory has all clips"

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_clips_that_could_not_be_copied_back_are_still_only_in_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_downloads(call: str, _: str) -> None:
        if call == "download":
            raise DOWN

    async def scenario(delivery: Delivery) -> None:
        assert await delivery.until_over(deaths=0, keep_local="off") == 0
        objects = dict(delivery.bucket.objects)
        fetched = sum(path.endswith(".mp4") for _, path in delivery.studio.calls)
        delivery.bucket.before_call = refuse_downloads
        assert await delivery.run(die=False, keep_local="on") == 0
        assert delivery.clips == []
        with pytest.raises(UsageError, match="are only in s3://clips/results/"):
            await delivery.run(die=False, deliver=None)
        assert delivery.bucket.objects.keys() == objects.keys()
        assert sum(path.endswith(".mp4") for _, path in delivery.studio.calls) == fetched

    simulate(tmp_path, monkeypatch, 1, scenario)


def test_a_recovery_finds_the_clips_in_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(delivery: Delivery) -> None:
        assert await delivery.until_over(deaths=0, keep_local="off") == 0
        calls = len(delivery.studio.calls)
        shutil.rmtree(delivery.rundir.internal_dir)
        delivery.recover = True
        assert await delivery.run(die=False, keep_local="off") == 0
        delivery.check_bucket()
        assert not [path for _, path in delivery.studio.calls[calls:] if path.endswith(".mp4")]
        assert sorted(delivery.paid().values()) == [1] * JOBS

    simulate(tmp_path, monkeypatch, 1, scenario)


@pytest.mark.parametrize("keep_local", ["on", "off"])
def test_a_store_that_lists_other_etags_gets_each_clip_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_local: str
) -> None:
    async def scenario(delivery: Delivery) -> None:
        delivery.bucket.lists_other_etags = True
        assert await delivery.run(die=False, keep_local=keep_local) == 0
        objects = {key: content for key, content in delivery.bucket.objects.items() if key.endswith(".mp4")}
        assert await delivery.run(die=False, keep_local=keep_local) == 0
        delivery.check_bucket()
        assert objects.items() <= delivery.bucket.objects.items()
        assert sorted(delivery.paid().values()) == [1] * JOBS
        assert sum(path.endswith(".mp4") for _, path in delivery.studio.calls) == JOBS, "each clip is fetched once"

    simulate(tmp_path, monkeypatch, 1, scenario)
