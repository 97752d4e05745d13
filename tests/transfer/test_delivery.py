"""Delivery: every result gets each of its ids, no foreign file is overwritten, and a start repairs any crash."""

import asyncio
import errno
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Entry, Record, Result, State
from batchrunner.journal.journal import Journal, read
from batchrunner.journal.summary import owners
from batchrunner.media.decoder_pool import Here
from batchrunner.plan.kept_clips import KeptClip, kept_clips
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir, RunDirectoryClips
from batchrunner.transfer.delivery import Store
from batchrunner.transfer.downloader import Fetched
from tests.conftest import Inline, make_entries, make_job, make_record, make_run, result_of


class Crash(BaseException):
    """The process dies here."""


class Mortal(Disk):
    """A disk on which the process dies at operation `die_at` (from 1); `done`: the operation took place before that."""

    def __init__(self, die_at: int = 0, done: bool = False) -> None:
        self.left, self.done = die_at, done

    def _step(self, work: Any) -> Any:
        self.left -= 1
        if self.left != 0:
            return work()
        if self.done:
            work()
        raise Crash

    def rename_all(self, names: Sequence[tuple[Path | str, Path | str]]) -> None:
        self._step(lambda: Disk.rename_all(self, names))

    def duplicate(self, source: Path, target: Path) -> None:
        self._step(lambda: Disk.duplicate(self, source, target))


class House:
    """A run directory over several runs; `records` are the jobs as in the journal."""

    def __init__(self, path: Path) -> None:
        self.dir = RunDir(path / "out")
        self.dir.make()
        self.records: dict[str, Record] = {}

    def run(
        self, entries: Sequence[Entry], deliveries: Mapping[str, bytes] | None = None, disk: Disk | None = None
    ) -> dict[str, Result | None]:
        """Start with `entries`, then deliver jobs by name. Return what the start found."""
        return asyncio.run(self._run(entries, deliveries or {}, disk or Disk()))

    def look_again(
        self, entries: Sequence[Entry], deliveries: Mapping[str, bytes], meddle: Callable[[], Any]
    ) -> dict[str, Result | None]:
        """Start and deliver, then change files. Return the losses that the check at the end finds."""
        return asyncio.run(self._run(entries, deliveries, Disk(), meddle))

    def touch(self, name: str, at_s: int = 1) -> Callable[[], Any]:
        """Touch a file so that it looks different and has the same content."""
        return lambda: os.utime(self.dir.path / name, (at_s, at_s))

    async def _run(
        self,
        entries: Sequence[Entry],
        deliveries: Mapping[str, bytes],
        disk: Disk,
        meddle: Callable[[], Any] | None = None,
    ) -> Any:
        journal = Journal(self.dir.journal, Inline())
        try:
            for entry in entries:
                self.records.setdefault(entry.job.fingerprint, make_record(state=State.IN_FLIGHT, job=entry.job))
            await journal.begin(make_run(), entries, self.records.values())
            store = Store(self.dir, journal, Inline(), disk, Here())
            news = await store.settle(entries, self.records)
            for fingerprint, result in news.items():
                self._note(fingerprint, result)
            for name, content in deliveries.items():
                job = make_job(name)
                partial = self.dir.partial_dir / f"{job.key}.part"
                partial.write_bytes(content)
                await store.deliver(job, Fetched(str(partial), result_of(content)))
                self._note(job.fingerprint, result_of(content))
            if meddle is not None:
                meddle()
                return await store.look_again(self.records)
            return news
        finally:
            journal.close()

    def _note(self, fingerprint: str, result: Result | None) -> None:
        state = State.SUCCEEDED if result else State.IN_FLIGHT
        self.records[fingerprint] = replace(self.records[fingerprint], state=state, result=result)

    def planned(self, entries: Sequence[Entry]) -> tuple[KeptClip, ...]:
        """Return the clips that a run with `entries` will move, by the journal of the last run."""
        snapshot = read(self.dir.journal)
        if snapshot is None:
            return ()
        snapshot = replace(snapshot, records=self.records)
        return kept_clips(entries, snapshot, owners(self.dir.journal), RunDirectoryClips(self.dir).size_bytes)

    def files(self) -> dict[str, bytes]:
        """Return the content of the run directory except for the private folder."""
        return {path.name: path.read_bytes() for path in self.dir.path.iterdir() if path.is_file()}

    def kept(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.dir.kept.iterdir()}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def key(name: str) -> str:
    return f"{make_job(name).key}.mp4"


def test_a_delivered_result_has_its_ids_name(house: House) -> None:
    assert house.run(make_entries("a"), {"a": b"clip a"}) == {}
    assert house.files() == {"a.mp4": b"clip a"}
    assert list(house.dir.partial_dir.iterdir()) == []
    assert house.run(make_entries("a")) == {}, "a second start has nothing to report"


def test_equal_jobs_are_delivered_under_every_id(house: House) -> None:
    house.run(make_entries("a", "copy=a", "b"), {"a": b"clip a", "b": b"clip b"})
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a", "b.mp4": b"clip b"}


def test_an_id_added_later_gets_the_result(house: House) -> None:
    house.run(make_entries("a"), {"a": b"clip a"})
    house.run(make_entries("a", "late=a"))
    assert house.files() == {"a.mp4": b"clip a", "late.mp4": b"clip a"}


def test_a_renamed_id_keeps_its_result(house: House) -> None:
    house.run(make_entries("a"), {"a": b"clip a"})
    house.run(make_entries("new-name=a"))
    assert house.files()["new-name.mp4"] == b"clip a"


def test_an_id_that_now_means_another_job_keeps_the_old_result_in_kept(house: House) -> None:
    house.run(make_entries("a=old"), {"old": b"clip old"})
    house.run(make_entries("a=new"), {"new": b"clip new"})
    assert house.files() == {"a.mp4": b"clip new"}
    assert house.kept() == {key("old"): b"clip old"}


def test_changing_the_id_back_restores_the_old_result(house: House) -> None:
    house.run(make_entries("a=old"), {"old": b"clip old"})
    house.run(make_entries("a=new"), {"new": b"clip new"})
    assert house.run(make_entries("a=old")) == {}
    assert house.files() == {"a.mp4": b"clip old"}
    assert house.kept() == {key("new"): b"clip new"}


def test_two_ids_swap_their_jobs(house: House) -> None:
    house.run(make_entries("a", "b"), {"a": b"clip a", "b": b"clip b"})
    assert house.run(make_entries("a=b", "b=a")) == {}
    assert house.files() == {"a.mp4": b"clip b", "b.mp4": b"clip a"}


def test_three_ids_rotate_their_jobs(house: House) -> None:
    house.run(make_entries("a", "b", "c"), {name: f"clip {name}".encode() for name in "abc"})
    assert house.run(make_entries("a=b", "b=c", "c=a")) == {}
    assert house.files() == {"a.mp4": b"clip b", "b.mp4": b"clip c", "c.mp4": b"clip a"}


def test_a_foreign_file_with_a_clips_name_is_kept(house: House) -> None:
    (house.dir.path / "a.mp4").write_bytes(b"somebody's own")
    (house.dir.kept / "a.1.mp4").write_bytes(b"an earlier one")
    house.run(make_entries("a"), {"a": b"clip a"})
    assert house.files() == {"a.mp4": b"clip a"}
    assert house.kept() == {"a.1.mp4": b"an earlier one", "a.2.mp4": b"somebody's own"}


def test_a_foreign_file_under_a_second_id_is_kept(house: House) -> None:
    (house.dir.path / "copy.mp4").write_bytes(b"somebody's own")
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a"}
    assert house.kept() == {"copy.1.mp4": b"somebody's own"}


def test_an_edited_result_is_kept_and_downloaded_again(house: House) -> None:
    house.run(make_entries("a"), {"a": b"clip a"})
    (house.dir.path / "a.mp4").write_bytes(b"cut by hand")
    assert house.run(make_entries("a"), {"a": b"clip a"}) == {make_job("a").fingerprint: None}
    assert house.files() == {"a.mp4": b"clip a"}
    assert list(house.kept().values()) == [b"cut by hand"]


def test_a_deleted_file_is_reported_as_lost(house: House) -> None:
    house.run(make_entries("a", "b"), {"a": b"clip a", "b": b"clip b"})
    (house.dir.path / "a.mp4").unlink()
    assert house.run(make_entries("a", "b")) == {make_job("a").fingerprint: None}


def test_a_deleted_file_with_another_name_left_is_not_lost(house: House) -> None:
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    (house.dir.path / "a.mp4").unlink()
    assert house.run(make_entries("a", "copy=a")) == {}
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a"}


def test_a_job_without_an_entry_keeps_its_result(house: House) -> None:
    house.run(make_entries("a", "b"), {"a": b"clip a", "b": b"clip b"})
    house.run(make_entries("b"))
    assert house.files()["b.mp4"] == b"clip b"
    assert b"clip a" in [*house.files().values(), *house.kept().values()]


def test_a_former_name_moves_to_the_kept_files(house: House) -> None:
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    house.run(make_entries("a"))
    assert house.files() == {"a.mp4": b"clip a"}
    assert house.kept() == {key("a"): b"clip a"}


def test_all_names_of_a_removed_job_move_to_the_kept_files(house: House) -> None:
    house.run(make_entries("a", "copy=a", "b"), {"a": b"clip a", "b": b"clip b"})
    house.run(make_entries("b"))
    assert house.files() == {"b.mp4": b"clip b"}
    assert house.kept() == {key("a"): b"clip a", "copy.1.mp4": b"clip a"}


def test_an_edited_file_stays_under_its_former_name(house: House) -> None:
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    (house.dir.path / "copy.mp4").unlink()
    (house.dir.path / "copy.mp4").write_bytes(b"cut by hand")
    house.run(make_entries("a"))
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"cut by hand"}


@pytest.mark.parametrize("copy", ["kept", "other id"])
def test_a_damaged_copy_does_not_replace_a_missing_file(house: House, copy: str) -> None:
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    if copy == "kept":
        house.run(make_entries("a"))
    damaged = house.dir.kept / key("a") if copy == "kept" else house.dir.path / "copy.mp4"
    damaged.unlink()
    damaged.write_bytes(b"CLIP A")
    (house.dir.path / "a.mp4").unlink()
    entries = make_entries("a") if copy == "kept" else make_entries("a", "copy=a")
    assert house.run(entries) == {make_job("a").fingerprint: None}
    assert not (house.dir.path / "a.mp4").exists()


def test_without_hard_links_a_result_is_copied(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    house.run(make_entries("a", "copy=a"), {"a": b"clip a"})
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a"}
    assert not (house.dir.path / "a.mp4").samefile(house.dir.path / "copy.mp4")


@pytest.mark.parametrize("step", ["flush_all", "rename_all"])
def test_a_full_disk_is_a_local_fault(house: House, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Disk, step, refuse)
    with pytest.raises(LocalFault, match="could not be given its name") as caught:
        house.run(make_entries("a"), {"a": b"clip a"})
    assert caught.value.kind == "disk_full"
    assert house.files() == {}


# Crashes


def test_a_crash_between_rename_and_journal_finds_the_file_again(house: House, clip: bytes) -> None:
    with pytest.raises(Crash):
        house.run(make_entries("a"), {"a": clip}, Mortal(1, done=True))
    news = house.run(make_entries("a"))
    found = news[make_job("a").fingerprint]
    assert found is not None
    assert (found.size_bytes, found.sha256) == (len(clip), result_of(clip).sha256)
    assert (found.width_px, found.height_px) == (480, 480)


def test_a_crash_between_record_and_rename_reports_no_file(house: House, clip: bytes) -> None:
    with pytest.raises(Crash):
        house.run(make_entries("a"), {"a": clip}, Mortal(1))
    assert house.run(make_entries("a")) == {}
    assert house.files() == {}


@pytest.mark.parametrize("harm", ["another content", "a cut", "no clip at all"])
def test_an_existing_file_is_checked_after_a_crash(house: House, clip: bytes, harm: str) -> None:
    content = b"not a clip" if harm == "no clip at all" else clip
    with pytest.raises(Crash):
        house.run(make_entries("a"), {"a": content}, Mortal(1, done=True))
    path = house.dir.path / "a.mp4"
    if harm == "another content":
        path.write_bytes(clip[:-1] + bytes([clip[-1] ^ 1]))
    elif harm == "a cut":
        path.write_bytes(clip[:-1])
    assert house.run(make_entries("a")) == {}


@pytest.mark.parametrize("harmed", ["a", "copy", "third"])
def test_each_existing_name_is_compared_with_the_hash_after_a_crash(house: House, clip: bytes, harmed: str) -> None:
    """The process dies after the files were named and before the journal records the job as succeeded."""
    entries = make_entries("a", "copy=a", "third=a")
    house.run(entries, {"a": clip})
    house.records.clear()
    bad = clip[:-1] + bytes([clip[-1] ^ 1])
    path = house.dir.path / f"{harmed}.mp4"
    path.unlink()  # the names are links to one file
    path.write_bytes(bad)
    assert house.run(entries)[make_job("a").fingerprint] is not None
    assert house.files() == dict.fromkeys(["a.mp4", "copy.mp4", "third.mp4"], clip)
    assert list(house.kept().values()) == [bad]


def test_an_existing_second_name_is_compared_with_the_hash_before_a_delivery(house: House) -> None:
    entries = make_entries("a", "copy=a")
    house.run(entries, {"a": b"clip a"})
    for name in ("a.mp4", "copy.mp4"):
        (house.dir.path / name).unlink()
    (house.dir.path / "copy.mp4").write_bytes(b"CLIP A")
    house.records.clear()
    house.run(entries, {"a": b"clip a"})
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a"}
    assert b"CLIP A" in house.kept().values()


SCENES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    # the earlier files, the current manifest, and the content that each name must have in the end
    "swap": (["a", "b"], ["a=b", "b=a"], {"a": "b", "b": "a"}),
    "ring": (["a", "b", "c"], ["a=b", "b=c", "c=a"], {"a": "b", "b": "c", "c": "a"}),
    "rename": (["a", "b"], ["x=a", "b"], {"x": "a", "b": "b"}),
    "spread": (["a", "b"], ["a", "b=a", "c=a", "d=b"], {"a": "a", "b": "a", "c": "a", "d": "b"}),
    "join": (["a", "a2=a", "b"], ["a=b", "a2=b", "z=a"], {"a": "b", "a2": "b", "z": "a"}),
}


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scene", SCENES)
def test_the_next_start_repairs_a_crash_at_any_operation(tmp_path: Path, scene: str, done: bool) -> None:
    first, then, wanted = SCENES[scene]
    for die_at in range(1, 40):
        house = House(tmp_path / f"{die_at}")
        contents = {name.rpartition("=")[2]: f"clip {name}".encode() for name in first}
        house.run(make_entries(*first), contents)
        crashed = False
        try:
            house.run(make_entries(*then), disk=Mortal(die_at, done))
        except Crash:
            crashed = True
            assert set(contents.values()) <= {*house.files().values(), *house.kept().values()}, "something was lost"
        assert house.run(make_entries(*then)) == {}, "nothing may be reported as lost"
        files = house.files()
        assert {name: files[f"{name}.mp4"] for name in wanted} == {name: contents[job] for name, job in wanted.items()}
        counter = Mortal()
        house.run(make_entries(*then), disk=counter)
        assert counter.left == 0, "a settled directory needs no operation"
        if not crashed:
            break
    assert not crashed
    assert die_at > 1


def test_the_check_at_the_end_reads_no_unchanged_file(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.transfer.delivery.file_sha256", lambda _: pytest.fail("a file was read"))
    house.run(make_entries("old"), {"old": b"clip old"})
    entries = make_entries("old", "a", "copy=a")
    assert house.look_again(entries, {"a": b"clip a"}, lambda: None) == {}


@pytest.mark.parametrize("at_s", [-1, 1, 10**10])  # 10**10: the year 2286, more nanoseconds than 63 bits have
def test_a_touched_result_is_still_there(house: House, at_s: int) -> None:
    assert house.look_again(make_entries("a"), {"a": b"clip a"}, house.touch("a.mp4", at_s)) == {}


@pytest.mark.parametrize("stranger", [None, b"CLIP A", b"shorter"])
def test_a_removed_or_changed_result_is_lost(house: House, stranger: bytes | None) -> None:
    path = house.dir.path / "a.mp4"

    def meddle() -> None:
        path.unlink()
        if stranger is not None:
            path.write_bytes(stranger)

    lost = house.look_again(make_entries("a", "b"), {"a": b"clip a", "b": b"clip b"}, meddle)
    assert lost == {make_job("a").fingerprint: None}


def test_a_removed_name_is_restored_from_another(house: House) -> None:
    def meddle() -> None:
        (house.dir.path / "a.mp4").unlink()
        (house.dir.path / "copy.mp4").unlink()
        (house.dir.path / "copy.mp4").write_bytes(b"CLIP A")

    entries = make_entries("a", "copy=a", "third=a")
    assert house.look_again(entries, {"a": b"clip a"}, meddle) == {}
    assert house.files() == {"a.mp4": b"clip a", "copy.mp4": b"clip a", "third.mp4": b"clip a"}
    assert list(house.kept().values()) == [b"CLIP A"], "a foreign file is kept"


def test_a_result_that_is_temporarily_unreadable_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("batchrunner.transfer.delivery.file_sha256", refuse)
    assert house.look_again(make_entries("a"), {"a": b"clip a"}, house.touch("a.mp4")) == {}


def test_a_file_in_the_place_of_a_folder_moves_away_and_a_linked_folder_is_used(tmp_path: Path) -> None:
    house = House(tmp_path)
    (house.dir.path / "train").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (house.dir.path / "linked").symlink_to(tmp_path / "elsewhere")
    house.run(make_entries("train/a=a", "linked/b=b"), {"a": b"clip a", "b": b"clip b"})
    assert (house.dir.path / "train" / "a.mp4").read_bytes() == b"clip a"
    assert (house.dir.kept / "train.1").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "b.mp4").read_bytes() == b"clip b"
    assert (house.dir.path / "linked").is_symlink()


def test_new_folders_are_flushed(tmp_path: Path) -> None:
    flushed: list[Path] = []

    class Watching(Disk):
        def flush_folder(self, folder: Path) -> None:
            flushed.append(folder)
            super().flush_folder(folder)

    house = House(tmp_path)
    house.run(make_entries("train/x/a=a"), {"a": b"clip a"}, Watching())
    place = house.dir.path
    assert [folder for folder in flushed if folder != house.dir.partial_dir] == [
        place, place / "train", place / "train" / "x"
    ]  # fmt: skip


# What a plan says about it


@pytest.mark.parametrize("seed", range(30))
def test_the_plan_names_the_clips_that_a_run_moves_to_kept(house: House, seed: int) -> None:
    """Random manifests follow each other. A name that the plan does not list keeps its clip, or the clip is renamed."""
    rng = random.Random(seed)
    clips = {name: f"clip {name}".encode() * number for number, name in enumerate("pqrs", 1)}
    for _ in range(4):
        ids = rng.sample("abcd", rng.randint(1, 4))
        entries = make_entries(*(f"{name}={rng.choice('pqrs')}" for name in ids))
        moving, before = {clip.file for clip in house.planned(entries)}, house.files()
        new = {entry.job.fingerprint for entry in entries} - house.records.keys()
        house.run(entries, {name: content for name, content in clips.items() if make_job(name).fingerprint in new})
        after = house.files()
        gone = {name for name in before if after.get(name) != before[name]}
        assert moving <= gone
        assert {before[name] for name in moving} <= set(house.kept().values())
        renamed = [before[name] for name in gone - moving]
        assert len(set(renamed)) == len(renamed), "one copy of a clip is renamed, the others move"
        assert set(renamed) <= set(after.values())
