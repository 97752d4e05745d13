"""CI's share of the power cuts, and the rules of the simulated disk."""

from dataclasses import replace
from pathlib import Path
from random import Random

from tests import preload
from tests.powercut.cuts import Moment, distinct, moments, play, record
from tests.powercut.disk import Cut, Disk, found
from tests.powercut.record import Act, Kind

MOMENTS = 16
CHANCES = range(40)


def act(kind: Kind, inode: int = 1, at: int = 0, path: str = "", other: str = "", data: bytes = b"") -> Act:
    return Act(kind, inode, at, path, other, data)


def disk_of(*acts: Act) -> Disk:
    return Disk().play(
        [act(Kind.MKDIR, path="/d"), act(Kind.FLUSH_BEGINS, 9, 1, "/"), act(Kind.FLUSH_ENDS, 9, 1, "/"), *acts]
    )


def flushed(inode: int, path: str = "") -> tuple[Act, Act]:
    return act(Kind.FLUSH_BEGINS, inode, 7, path), act(Kind.FLUSH_ENDS, inode, 7, path)


def outcomes(disk: Disk, cut: Cut = Cut.SOME) -> set[frozenset[tuple[str, bytes | None]]]:
    return {frozenset(disk.left("/d", cut, Random(seed)).items()) for seed in CHANCES}


NEW = (act(Kind.CREATE, 1, path="/d/a"), act(Kind.WRITE, 1, 0, data=b"one"))


def test_flushed_content_with_a_flushed_name_survives_every_cut() -> None:
    disk = disk_of(*NEW, *flushed(1), *flushed(2, "/d"))
    for cut in Cut:
        assert outcomes(disk, cut) == {frozenset({(".", None), ("a", b"one")})}


def test_a_name_without_a_flush_of_its_folder_may_be_lost() -> None:
    assert outcomes(disk_of(*NEW, *flushed(1))) == {
        frozenset({(".", None)}),
        frozenset({(".", None), ("a", b"one")}),
    }


def test_content_without_a_flush_may_be_lost_under_its_name() -> None:
    contents = {dict(outcome)["a"] for outcome in outcomes(disk_of(*NEW, *flushed(2, "/d")))}
    assert contents == {b"", b"one"}


def test_content_written_during_a_flush_is_not_durable() -> None:
    begins, ends = flushed(1)
    disk = disk_of(
        act(Kind.CREATE, 1, path="/d/a"), *flushed(2, "/d"), begins, act(Kind.WRITE, 1, 0, data=b"late"), ends
    )
    assert disk.left("/d", Cut.NONE, Random(0))["a"] == b""


def test_a_later_write_may_survive_without_an_earlier_one() -> None:
    pages = (act(Kind.WRITE, 1, 0, data=b"a" * 4096), act(Kind.WRITE, 1, 4096, data=b"b"))
    disk = disk_of(act(Kind.CREATE, 1, path="/d/a"), *flushed(2, "/d"), *pages)
    assert bytes(4096) + b"b" in {dict(outcome)["a"] for outcome in outcomes(disk)}
    assert bytes(4096) + b"b" not in {dict(outcome)["a"] for outcome in outcomes(disk, Cut.PREFIX)}


def test_a_write_may_be_torn_between_sectors() -> None:
    disk = disk_of(act(Kind.CREATE, 1, path="/d/a"), *flushed(2, "/d"), act(Kind.WRITE, 1, 0, data=b"x" * 1500))
    sizes = {len(dict(outcome)["a"] or b"") for outcome in outcomes(disk, Cut.PREFIX)}
    assert sizes == {0, 512, 1024, 1500}


def test_a_rename_is_atomic_and_durable_with_its_folder() -> None:
    acts = (*NEW, *flushed(1), *flushed(2, "/d"), act(Kind.RENAME, 1, 0, "/d/a", "/d/b"))
    assert outcomes(disk_of(*acts)) == {frozenset({(".", None), (name, b"one")}) for name in ("a", "b")}
    assert outcomes(disk_of(*acts, *flushed(2, "/d"))) == {frozenset({(".", None), ("b", b"one")})}


def test_a_durable_name_is_not_replaced_by_an_earlier_one_of_another_folder() -> None:
    folders = (act(Kind.MKDIR, path="/d/in"), *flushed(2, "/d"))
    new = (act(Kind.CREATE, 1, path="/d/in/a"), act(Kind.RENAME, 1, 0, "/d/in/a", "/d/a"))
    disk = disk_of(*folders, *new, *flushed(2, "/d"), *flushed(3, "/d/in"))
    assert outcomes(disk) == {frozenset({(".", None), ("in", None), ("a", b"")})}


def test_earlier_content_is_durable(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    before = found(tmp_path)
    inode = before[str(tmp_path / "a")][0]
    disk = Disk.holding(before).play([act(Kind.WRITE, inode, 0, data=b"new")])
    assert disk.left(str(tmp_path), Cut.NONE, Random(0)) == {".": None, "a": b"old"}
    assert disk.now(str(tmp_path / "a")) == b"new"


@preload.needed
def test_a_run_after_a_power_cut_pays_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    recording = record(tmp_path / "recorded", jobs=6)
    outcome = play(recording, tmp_path / "cuts", moments(recording, 1, MOMENTS), lanes=2)
    table = outcome.figures.table("power cut")
    assert not outcome.figures.wrong, table
    assert outcome.moments >= MOMENTS // 2, table
    assert outcome.figures.accepted, table

    # And once more, during the run that continues after a cut.
    [(_, left)] = distinct(recording, [Moment(len(recording.acts) // 2, Cut.SOME, 1)])
    second = record(tmp_path / "again", 6, (recording.folder, left))
    outcome = play(second, tmp_path / "cuts-again", moments(second, 2, MOMENTS // 4), lanes=2)
    assert not outcome.figures.wrong, outcome.figures.table("power cut")

    # The checks must be able to fail: if a run never flushed, a cut at its end leaves nothing.
    careless = [step for step in recording.acts if step.kind is not Kind.FLUSH_ENDS]
    outcome = play(replace(recording, acts=careless), tmp_path / "careless", [Moment(len(careless), Cut.NONE)])
    assert outcome.figures.paid_twice == 6, outcome.figures.table("power cut")
