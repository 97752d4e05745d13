"""``review.jsonl``: durable, append-only, bound to the clip, with one writer at a time."""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.errors import BatchLocked, LocalFault, UsageError
from batchrunner.review import verdicts
from batchrunner.review.verdicts import QUALITY, Verdict, VerdictLines, VerdictLog, load
from batchrunner.storage.run_directory import RunDir

A, B = "a" * 64, "b" * 64


def verdict(name: str = "walk", sha256: str = A, to: str = "reject", *reasons: str, by: str = "ann") -> Verdict:
    return Verdict(name, 1, "sha256:00", sha256, to, reasons, None, "", "2027-01-15T08:00:00.000Z", by)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    RunDir(tmp_path).make()
    return tmp_path


def store(run_dir: Path, *lines: Verdict) -> None:
    with VerdictLog(run_dir) as log:
        for line in lines:
            log.append(line)


def test_a_line_has_the_documented_keys(run_dir: Path) -> None:
    full = Verdict(
        "walk.t2", 2, "sha256:00", A, "reject", ("hands",), 2, "Élodie \udcff", "2027-01-15T08:00:00Z", "ann"
    )
    store(run_dir, full)
    stored = json.loads((run_dir / "review.jsonl").read_text("utf-8"))
    assert list(stored) == ["id", "take", "fingerprint", "sha256", "verdict", "reasons", "rating", "note", "at", "by"]
    assert load(run_dir) == {"walk.t2": full}


def test_a_run_directory_without_verdicts_has_none(run_dir: Path) -> None:
    assert load(run_dir) == {}
    assert not (run_dir / "review.jsonl").exists()


def test_the_last_line_of_a_clip_counts(run_dir: Path) -> None:
    store(run_dir, verdict(to="reject"), verdict("run"), verdict(to="accept"))
    assert {name: found.verdict for name, found in load(run_dir).items()} == {"walk": "accept", "run": "reject"}
    assert (run_dir / "review.jsonl").read_bytes().count(b"\n") == 3


def test_a_verdict_counts_only_for_the_clip_that_it_names(run_dir: Path) -> None:
    store(run_dir, verdict(sha256=A, to="accept"), verdict(sha256=B, to="reject"))
    assert load(run_dir, {"walk": A})["walk"].verdict == "accept"
    assert load(run_dir, {"walk": B.upper()})["walk"].verdict == "reject"
    assert load(run_dir, {"walk": "c" * 64, "run": A}) == {}


def test_every_prefix_of_the_file_is_readable_and_continues(run_dir: Path) -> None:
    """A kill or a power cut in the middle of a line costs at most this line."""
    store(run_dir, verdict("walk"), verdict("run"))
    path = run_dir / "review.jsonl"
    content = path.read_bytes()
    first = content.index(b"\n")
    for size in range(first + 1, len(content)):
        path.write_bytes(content[:size])
        warnings: list[str] = []
        known = {"walk", "run"} if size == len(content) - 1 else {"walk"}
        assert set(load(run_dir, warn=warnings.append)) == known
        assert warnings == []
        store(run_dir, verdict("jump"))
        assert set(load(run_dir)) == {*known, "jump"}
        assert path.read_bytes().startswith(content[:size])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff", b"{", b"[]", b"null", b'"walk"', b"[" * 100_000, b'{"id": "walk"}',
        b'{"id": "walk", "sha256": 1, "verdict": "accept"}',
        b'{"id": "walk", "sha256": "aa", "verdict": "perhaps"}',
        b'{"id": "", "sha256": "aa", "verdict": "accept"}',
        b'{"id": "walk", "sha256": "aa", "verdict": "accept", "reasons": "hands"}',
        b'{"id": "walk", "sha256": "aa", "verdict": "accept", "reasons": [1]}',
        b'{"id": "walk", "sha256": "aa", "verdict": "accept", "rating": "5"}',
        b'{"id": "walk", "sha256": "aa", "verdict": "accept", "take": true}',
        b'{"id": "walk", "sha256": "aa", "verdict": ["accept"]}',
    ],
)  # fmt: skip
def test_a_foreign_line_is_named_and_does_not_count(run_dir: Path, garbage: bytes) -> None:
    store(run_dir, verdict("run"))
    with (run_dir / "review.jsonl").open("ab") as file:
        file.write(garbage + b"\n\n")
    store(run_dir, verdict("jump"))
    warnings: list[str] = []
    assert set(load(run_dir, warn=warnings.append)) == {"run", "jump"}
    assert warnings == [f"{run_dir / 'review.jsonl'}: line 2 is not a verdict and does not count"]
    assert garbage in (run_dir / "review.jsonl").read_bytes()


def test_several_foreign_lines_are_one_warning(run_dir: Path) -> None:
    (run_dir / "review.jsonl").write_bytes(b"x\ny\nz\n")
    warnings: list[str] = []
    load(run_dir, warn=warnings.append)
    assert len(warnings) == 1
    assert "3 lines, the first of them line 1, are not verdicts" in warnings[0]


def test_a_line_by_hand_needs_only_id_hash_and_verdict(run_dir: Path) -> None:
    line = {"id": "walk", "sha256": A.upper(), "verdict": "accept", "later": {"key": 1}}
    (run_dir / "review.jsonl").write_text(json.dumps(line), "utf-8")
    assert load(run_dir, {"walk": A}) == {"walk": Verdict("walk", 1, "", A, "accept")}


def test_a_verdict_is_flushed_before_append_returns(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[str, int]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((path.name, (run_dir / "review.jsonl").stat().st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with VerdictLog(run_dir) as log:
        log.append(verdict())
        size = (run_dir / "review.jsonl").stat().st_size
        assert flushed == [("review.jsonl", size), (run_dir.name, size)]
        log.append(verdict())
        assert flushed[2:] == [("review.jsonl", 2 * size)]


def test_concurrent_writers_lose_no_line(run_dir: Path) -> None:
    """Threads that share a log, and logs of their own, which lock each other out as processes do."""

    def write(log: VerdictLog, name: str) -> None:
        for number in range(10):
            log.append(verdict(f"{name}-{number}"))

    with VerdictLog(run_dir) as first, VerdictLog(run_dir) as second:
        writers = [
            threading.Thread(target=write, args=(log, f"{place}-{number}"))
            for place, log in enumerate((first, second))
            for number in range(2)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    warnings: list[str] = []
    assert len(load(run_dir, warn=warnings.append)) == 40
    assert warnings == []


def test_a_lock_that_is_never_released_is_an_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "_TRIES", 2)
    monkeypatch.setattr(verdicts, "_BETWEEN_TRIES_S", 0.0)
    with RunDir(run_dir).review_lock.open("w") as other, VerdictLog(run_dir) as log:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BatchLocked, match=r"review\.lock"):
            log.append(verdict())
        assert load(run_dir) == {}
        fcntl.flock(other, fcntl.LOCK_UN)
        log.append(verdict())
    assert set(load(run_dir)) == {"walk"}


def test_without_locks_verdicts_are_stored(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store(run_dir, verdict())
    assert set(load(run_dir)) == {"walk"}


@pytest.mark.parametrize("most", [0, 1, 40])
def test_a_full_disk_leaves_the_file_as_it_was(run_dir: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    store(run_dir, verdict("run"))
    before = (run_dir / "review.jsonl").read_bytes()
    write = os.write
    left = [most]

    def limited(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(descriptor, data[: left[0]])
        left[0] -= done
        return done

    with VerdictLog(run_dir) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", limited)
            with pytest.raises(
                LocalFault, match=r"the verdict on walk could not be stored .*: the disk is full"
            ) as caught:
                log.append(verdict())
        assert caught.value.kind == "disk_full"
        assert (run_dir / "review.jsonl").read_bytes() == before
        log.append(verdict())
    assert set(load(run_dir)) == {"run", "walk"}


def test_a_failed_flush_is_an_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with VerdictLog(run_dir) as log, pytest.raises(LocalFault, match="Input/output error"):
        log.append(verdict())


@pytest.mark.parametrize("name", ["review.jsonl", ".batchrunner/review.lock"])
def test_a_link_in_place_of_a_file_is_refused(run_dir: Path, name: str) -> None:
    outside = run_dir.parent / f"{run_dir.name}-outside"
    outside.write_text("mine")
    (run_dir / name).symlink_to(outside)
    with pytest.raises(UsageError, match="symbolic link"), VerdictLog(run_dir):
        pass
    assert outside.read_text() == "mine"


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"), VerdictLog(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_new_lines_are_read_once(run_dir: Path) -> None:
    lines = VerdictLines(run_dir)
    assert not lines.refresh()
    store(run_dir, verdict("walk"))
    assert lines.refresh()
    assert set(lines.by_id) == {"walk"}
    assert not lines.refresh()
    store(run_dir, verdict("run", B, "accept"))
    assert lines.refresh()
    assert lines.on({"walk": B, "run": B}) == {"run": verdict("run", B, "accept")}


def change_nothing(path: Path) -> None:
    del path


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b""), change_nothing])
def test_a_replaced_file_is_read_from_its_start(run_dir: Path, change: Callable[[Path], object]) -> None:
    store(run_dir, verdict("walk"))
    lines = VerdictLines(run_dir)
    lines.refresh()
    change(lines.path)
    lines.refresh()
    assert set(lines.by_id) == ({"walk"} if change is change_nothing else set())


def test_a_proposed_rejection_never_changes_a_person_s_verdict(run_dir: Path) -> None:
    proposed = verdict(to="reject", by=QUALITY)
    proposed = replace(proposed, reasons=("frozen",))
    with VerdictLog(run_dir) as log:
        for by_person in ("accept", "none", "reject"):
            log.append(verdict(by_person, to=by_person))
            assert not log.propose(replace(proposed, id=by_person))
        log.append(verdict(sha256=B, to="accept"))
        assert log.propose(proposed), "another clip of the same job"
    found = load(run_dir, {"walk": A, "accept": A, "none": A, "reject": A})
    assert {name: one.by for name, one in found.items()} == {
        "walk": QUALITY, "accept": "ann", "none": "ann", "reject": "ann",
    }  # fmt: skip


def test_proposals_add_their_reasons_once(run_dir: Path) -> None:
    with VerdictLog(run_dir) as log:
        assert log.propose(verdict(A, A, "reject", "frozen", by="quality"))
        assert log.propose(verdict(A, A, "reject", "no face", by="on_clip"))
        assert not log.propose(verdict(A, A, "reject", "frozen", by="quality"))
    assert load(run_dir)[A].reasons == ("frozen", "no face")
    assert (run_dir / "review.jsonl").read_bytes().count(b"\n") == 2
