"""Hostile files: inputs that never end, and objects planted in the run directory.

Inputs may be symbolic links to any place. The program writes only to its own regular files.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from batchrunner.app.verify import verify
from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Media, Snapshot
from batchrunner.media import probe as media
from batchrunner.media.decoder_pool import Here
from batchrunner.media.probe import MediaProblem, probe, read_data_uri
from batchrunner.report import writer
from batchrunner.storage.durable_files import Disk, open_plain
from batchrunner.storage.run_directory import Lock, RunDir
from batchrunner.transfer import downloader
from batchrunner.workers.engines import Workers
from tests.conftest import MEDIA, NOW, Inline, make_entries, make_job, make_run
from tests.hostile.test_links import Peer, fetch, sends
from tests.transfer.test_delivery import House, house

__all__ = ["fetch", "house"]  # fixtures

PATIENCE_S = 20.0  # a call that blocks fails the test instead of hanging the suite


def in_time(call: Callable[[], object]) -> object:
    """Return or raise what `call` does; fail if it does not return (opening a pipe would wait for ever)."""
    future: Future[object] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 (it is handed on, not swallowed)
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(PATIENCE_S)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(path.parent)  # the kernel accepts short names only
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


def link_to(target: str | Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ODD: dict[str, Callable[[Path], None]] = {
    "fifo": make_fifo,
    "socket": make_socket,
    "link to a device": link_to("/dev/zero"),
    "link to a terminal": link_to("/dev/tty"),
    "link to nothing": link_to("/nonexistent/x"),
}


# Inputs


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("odd", [*ODD, "folder", "link to a folder", "circle"])
def test_an_input_that_is_not_a_regular_file_is_refused_without_waiting(
    tmp_path: Path, odd: str, kind: media.Kind
) -> None:
    path = tmp_path / "input"
    more = {"folder": Path.mkdir, "link to a folder": link_to(tmp_path), "circle": link_to(path)}
    (ODD | more)[odd](path)
    with pytest.raises(MediaProblem):
        in_time(lambda: probe(path, kind))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/random", "/dev/full", "/dev/stdin", "/proc/self/environ",
                                  "/proc/self/mem", "/proc/kmsg", "/proc/self/fd/0", "/sys/kernel/uevent_seqnum",
                                  "/proc/self/pagemap", "/proc/self/exe"])  # fmt: skip
def test_a_kernel_file_is_refused_as_input(path: str) -> None:
    with pytest.raises(MediaProblem) as caught:
        in_time(lambda: probe(Path(path), "image"))
    assert "PATH=" not in caught.value.message + caught.value.hint


async def read(media: Media) -> list[bytes]:
    return [chunk async for chunk in read_data_uri(media, Inline())]


def test_a_file_that_becomes_a_pipe_after_the_check_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes((MEDIA / "bunny.mp4").read_bytes())
    looked_at = probe(path, "video")
    path.unlink()
    make_fifo(path)
    monkeypatch.setattr(media, "_require_regular", lambda *_: None)
    with pytest.raises(MediaProblem):
        in_time(lambda: probe(path, "video"))
    with pytest.raises(LocalFault) as caught:
        in_time(lambda: asyncio.run(read(looked_at)))
    assert caught.value.kind == "input_changed"


@pytest.mark.parametrize("step", [1 << 20, -5])
def test_an_input_that_changes_size_while_it_is_read_is_refused_in_bounded_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The writer is as fast as the reader, so the end is never reached."""
    path = tmp_path / "clip.mp4"
    path.write_bytes((MEDIA / "bunny.mp4").read_bytes())
    inspect = media._inspected

    def look_while_it_changes(*arguments: object) -> object:
        found = inspect(*arguments)  # type: ignore[arg-type]  # handed on
        if step < 0:
            os.truncate(path, path.stat().st_size + step)
        else:
            os.truncate(path, 1 << 40)  # a sparse file, as large as a writer could make it
        return found

    monkeypatch.setattr(media, "_inspected", look_while_it_changes)
    with pytest.raises(MediaProblem, match="changes while it is read"):
        in_time(lambda: probe(path, "video"))


def test_an_input_may_be_a_link_to_another_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").symlink_to(MEDIA / "bunny.mp4")
    (tree / "b").symlink_to("a")
    assert probe(tree / "b", "video").sha256 == probe(MEDIA / "bunny.mp4", "video").sha256


# The run directory


PLACES = [".batchrunner", ".batchrunner/parts", ".batchrunner/kept", ".batchrunner/sandbox", ".batchrunner/lock",
          ".batchrunner/journal.db", ".batchrunner/journal.db-wal", ".batchrunner/journal.db-shm"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", [*ODD, "link to a folder", "link to a file"])
def test_a_planted_link_or_device_in_the_private_folder_stops_the_run(tmp_path: Path, place: str, odd: str) -> None:
    outside, victim = tmp_path / "outside", tmp_path / "victim"
    outside.mkdir()
    victim.write_bytes(b"precious")
    path = tmp_path / "run" / place
    path.parent.mkdir(parents=True)
    more = {"link to a folder": link_to(outside), "link to a file": link_to(victim)}
    (ODD | more)[odd](path)
    before = path.lstat()
    rundir = RunDir(tmp_path / "run")
    with pytest.raises(UsageError, match="cannot be used") as caught:
        in_time(rundir.make)
    assert str(path) in caught.value.message
    assert list(outside.iterdir()) == []
    assert victim.read_bytes() == b"precious"
    assert path.lstat().st_ino == before.st_ino
    if place.endswith("lock") and "link" in odd:
        with pytest.raises(UsageError):
            Lock(rundir, NOW).__enter__()


def test_the_run_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big disk")
    RunDir(tmp_path / "run").make()
    with Lock(RunDir(tmp_path / "run"), NOW):
        assert (tmp_path / "big disk" / ".batchrunner" / "lock").exists()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("end", ["part", "json"])
def test_a_planted_partial_file_is_removed_and_its_target_is_untouched(
    fetch: Callable[..., object], tmp_path: Path, clip: bytes, odd: str, end: str
) -> None:
    ODD[odd](tmp_path / f"0123456789abcdef.{end}")
    (tmp_path / f"0123456789abcdef.{'json' if end == 'part' else 'part'}").write_bytes(
        b'{"etag": "x", "size_bytes": 5}'
    )
    peer = Peer(sends(f"HTTP/1.1 200 OK\nContent-Length: {len(clip)}", clip))
    fetched = in_time(lambda: fetch(peer))
    assert isinstance(fetched, downloader.Fetched)
    assert fetched.result.size_bytes == len(clip)
    assert not fetched.path.is_symlink()
    assert "range" not in peer.seen[0][1].lower()


@pytest.mark.parametrize("end", ["part", "json"])
def test_a_planted_link_to_a_file_is_not_followed(
    fetch: Callable[..., object], tmp_path: Path, clip: bytes, end: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b'{"etag": "x", "size_bytes": 5}' + bytes(100))
    (tmp_path / f"0123456789abcdef.{end}").symlink_to(victim)
    fetch(Peer(sends(f"HTTP/1.1 200 OK\nContent-Length: {len(clip)}", clip)))
    assert victim.read_bytes() == b'{"etag": "x", "size_bytes": 5}' + bytes(100)


@pytest.mark.parametrize("mode", ["wb", "ab"])
@pytest.mark.parametrize("odd", [*ODD, "link to a file", "folder"])
def test_the_disk_opens_regular_files_only(tmp_path: Path, odd: str, mode: str) -> None:
    path, victim = tmp_path / "x", tmp_path / "victim"
    victim.write_bytes(b"precious")
    (ODD | {"link to a file": link_to(victim), "folder": Path.mkdir})[odd](path)
    with pytest.raises(OSError):
        in_time(lambda: Disk().open(path, mode))
    with pytest.raises(OSError):
        in_time(lambda: open_plain(path))
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("target", ["a file of the same content", "another file", "nothing", "a device", "a folder"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clips_name_that_is_a_link_is_moved_and_its_target_is_untouched(
    house: House, tmp_path: Path, clip: bytes, target: str, when: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(clip if "same" in target else b"precious")
    (tmp_path / "folder").mkdir()
    leads_to = {"nothing": tmp_path / "gone", "a device": Path("/dev/zero"), "a folder": tmp_path / "folder"}
    name = house.dir.path / "a.mp4"
    if when == "after":
        house.run(make_entries("a"), {"a": clip})
        name.unlink()
    name.symlink_to(leads_to.get(target, victim))
    before = victim.read_bytes()
    news = in_time(lambda: house.run(make_entries("a"), {"a": clip}))
    assert (news == {make_job("a").fingerprint: None}) == (when == "after"), "a link is not our result"
    assert not name.is_symlink()
    assert name.read_bytes() == clip
    assert victim.read_bytes() == before
    assert not (tmp_path / "gone").exists()
    assert [path.is_symlink() for path in house.dir.kept.iterdir()] == [True], "a foreign object is kept unchanged"


@pytest.mark.parametrize("odd", ["fifo", "socket"])
def test_a_clips_name_that_is_a_pipe_is_moved(house: House, clip: bytes, odd: str) -> None:
    ODD[odd](house.dir.path / "a.mp4")
    in_time(lambda: house.run(make_entries("a", "b=a"), {"a": clip}))
    assert (house.dir.path / "a.mp4").read_bytes() == clip
    assert (house.dir.path / "b.mp4").read_bytes() == clip


@pytest.mark.parametrize("odd", [*ODD, "link to a file"])
@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_report_replaces_a_planted_link_and_does_not_follow_it(tmp_path: Path, name: str, odd: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (ODD | {"link to a file": link_to(victim)})[odd](tmp_path / "run" / name)
    shot = Snapshot(make_run(finished_at=NOW + 1), make_entries("a"), {})
    in_time(lambda: writer.write(shot, tmp_path / "run", "0"))
    assert (tmp_path / "run" / name).stat().st_size > 100
    assert not (tmp_path / "run" / name).is_symlink()
    assert victim.read_bytes() == b"precious"


def test_a_planted_link_with_a_temporary_reports_name_is_not_followed(tmp_path: Path) -> None:
    victim, private = tmp_path / "victim", tmp_path / "run" / ".batchrunner"
    victim.write_bytes(b"precious")
    private.mkdir(parents=True)
    for name in ("report.json", ".report.json"):
        (private / f"{name}.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(LocalFault):
        writer.write(Snapshot(make_run(), (), {}), tmp_path / "run", "0")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("odd", ODD)
def test_verify_reports_planted_objects_without_waiting(house: House, clip: bytes, odd: str) -> None:
    house.run(make_entries("a"), {"a": clip})
    (house.dir.path / "a.mp4").unlink()
    ODD[odd](house.dir.path / "a.mp4")
    ODD[odd](house.dir.path / "report.json")
    before = Snapshot(make_run(), make_entries("a"), house.records)
    found = in_time(lambda: list(verify(house.dir, before, Workers(Here()))))
    assert isinstance(found, list)
    [finding] = found
    assert finding.name == "a.mp4"
    assert finding.kind
    assert finding.message
