"""Decoder processes: a hostile file harms neither the caller nor the next file."""

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import BatchrunnerError
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Here, NoDecoder, Pool, one
from tests.conftest import ROOT, encoded
from tests.soak.processes import wait_for

START = f"sys.path.insert(0, {str(ROOT)!r}); from tests.odd_tasks import serve; serve()"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with closing(Pool(2, start=START)) as created:
        yield created


def png_clip(path: Path, size_px: tuple[int, int], *, declared: tuple[int, int] | None = None) -> Path:
    """Make an MP4 of one black PNG picture: a small file that decodes to any size."""
    import av

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width_px, height_px = size_px
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width_px)) for _ in range(height_px)) + packer.flush()
    head = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("png", rate=10)
        stream.width, stream.height = declared or size_px
        stream.pix_fmt, stream.time_base = "gray", Fraction(1, 10)
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 10)
        packet.is_keyframe = True
        container.mux(packet)
    return path


def clip_task(path: Path) -> dict[str, Any]:
    return {"path": str(path), "size_bytes": path.stat().st_size}


def test_a_task_runs_in_a_process_that_is_reused(pool: Pool) -> None:
    first, second = (one(pool, "echo", {"name": name}) for name in "ab")
    assert (first[0], second[0]) == ("a", "b")
    assert first[1] == second[1] != os.getpid()


def test_both_pools_give_the_same_results(pool: Pool, tmp_path: Path, clip: bytes) -> None:
    (whole := tmp_path / "whole.mp4").write_bytes(clip)
    (torn := tmp_path / "torn.mp4").write_bytes(clip[:-100])
    items = [clip_task(whole), clip_task(torn), {"path": str(tmp_path / "none"), "size_bytes": 1}]
    there, here = pool.run_all("clip", items), Here().run_all("clip", items)
    assert there[0] == here[0]
    assert there[0]["frames"] == 8
    for ours, theirs in zip(there[1:], here[1:], strict=True):
        assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    assert [type(entry) for entry in there[1:]] == [ValueError, FileNotFoundError]


def test_relative_paths_are_relative_to_the_callers_folder(
    pool: Pool, tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in "12":
        (folder := tmp_path / number).mkdir()
        (folder / f"{number}.mp4").write_bytes(clip)
        monkeypatch.chdir(folder)
        assert one(pool, "clip", {"path": f"{number}.mp4", "size_bytes": len(clip)})["frames"] == 8


def test_a_process_uses_the_memory_of_the_last_clip_for_the_next_one(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded(4))
    count, item = 10, clip_task(path)

    def page_faults() -> int:
        return int(one(pool, "page_faults", {}))

    pool.run_all("clip", [item] * count)
    before = page_faults()
    assert all("frames" in found for found in pool.run_all("clip", [item] * count))
    assert page_faults() - before < 50 * count, "a frame of this size has 85 pages"


def test_a_problem_keeps_its_hint(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("just words")
    with pytest.raises(BatchrunnerError, match="looks like text") as caught:
        one(pool, "input", {"path": str(tmp_path / "a"), "kind": "video", "shown": "a"})
    assert "MP4" in caught.value.hint


@pytest.mark.parametrize(
    ("task", "item", "message"),
    [
        ("crash", {}, "SIGABRT"),
        ("defect", {}, "status 1"),
        ("loop", {}, "more time"),
        ("slow_alarm", {}, "more time"),
        ("hog", {"size_bytes": 1 << 30}, "more memory"),
    ],
)
def test_damage_to_the_process_is_reported_and_harms_no_other_task(
    pool: Pool, task: str, item: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckLimit, match=message):
        one(pool, task, item)
    assert one(pool, "echo", {"name": "next"})[0] == "next"


def test_the_memory_limit_depends_on_the_header(pool: Pool) -> None:
    wanted = {"size_bytes": 600 << 20}
    with pytest.raises(CheckLimit, match="more memory"):
        one(pool, "widen", {**wanted, "pixels": 480 * 480})
    assert one(pool, "widen", {**wanted, "pixels": 7680 * 4320}) == 600 << 20
    with pytest.raises(CheckLimit, match="more memory"):
        one(pool, "hog", wanted)  # the next file has its own limit


def test_without_memory_limits_of_the_system_memory_is_watched() -> None:
    item = {"pixels": 7680 * 4320, "size_bytes": 400 << 20, "stays": True}
    with (
        closing(Pool(1, most_resident_kb=200_000, start=START)) as watched,
        pytest.raises(CheckLimit, match="too much memory"),
    ):
        one(watched, "widen", item)


def test_only_the_guilty_file_of_a_group_is_blamed(pool: Pool) -> None:
    names = ["a", "bad", "c", "bad", "e"]
    found = pool.run_all("crash_on", [{"name": name} for name in names])
    assert [type(entry) is CheckLimit for entry in found] == [name == "bad" for name in names]
    assert [entry[0] for entry in found if isinstance(entry, list)] == ["a", "c", "e"]


@pytest.mark.parametrize(("patience_s", "workers"), [(60.0, 1), (0.0, 2)])
def test_a_task_waits_for_a_busy_worker_before_another_one_starts(
    tmp_path: Path, patience_s: float, workers: int
) -> None:
    first, second = tmp_path / "first.end", tmp_path / "second.end"
    pids: list[int] = []

    def run(path: Path) -> None:
        pids.append(one(created, "await_file", {"path": str(path)}))

    with closing(Pool(2, start=START, patience_s=patience_s)) as created:
        threads = [threading.Thread(target=run, args=(path,)) for path in (first, second)]
        threads[0].start()
        wait_for(first.with_suffix(".begun").exists, "the first task has begun")
        threads[1].start()
        if workers == 2:
            wait_for(second.with_suffix(".begun").exists, "the second task has begun beside it")
        first.touch()
        second.touch()
        for thread in threads:
            thread.join()
    assert len(set(pids)) == workers


def test_the_outcomes_of_a_group_are_one_reply(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.ready()
    replies: list[bytes] = []
    real_read = os.read

    def read(descriptor: int, most_bytes: int) -> bytes:
        replies.append(real_read(descriptor, most_bytes))
        return replies[-1]

    monkeypatch.setattr(os, "read", read)
    found = pool.run_all("echo", [{"name": str(number)} for number in range(50)])
    assert [entry[0] for entry in found] == [str(number) for number in range(50)]
    assert len(replies) == 1


def test_a_process_that_ended_is_replaced(pool: Pool) -> None:
    pid = one(pool, "echo", {"name": "a"})[1]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # all of its threads have ended
    assert one(pool, "echo", {"name": "b"})[0] == "b"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_process_ignores_signals_for_its_parent(pool: Pool, number: signal.Signals) -> None:
    pid = one(pool, "echo", {"name": "a"})[1]
    os.kill(pid, number)
    assert one(pool, "echo", {"name": "a"})[1] == pid


@pytest.mark.parametrize("way", ["stop", "enough"])
def test_a_running_task_can_be_cancelled(tmp_path: Path, way: str) -> None:
    note, enough, outcomes = tmp_path / "pid", threading.Event(), list[Any]()
    with closing(Pool(1, start=START)) as created:
        items = [{"path": str(note)}, {}]
        thread = threading.Thread(target=lambda: outcomes.extend(created.run_all("sleep", items, enough.is_set)))
        thread.start()
        wait_for(lambda: note.exists() and note.read_text().strip(), "the task has begun")
        if way == "stop":
            created.stop()
        else:
            enough.set()
        thread.join(30)
        assert [type(entry) for entry in outcomes] == [CheckLimit, CheckLimit]
        assert one(created, "echo", {"name": "later"})[0] == "later"


def test_the_process_has_no_secret_no_file_and_no_terminal(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIMLAPI_KEY", "sk-not-for-decoders")
    with (tmp_path / "lock").open("w") as lock, closing(Pool(1, start=START)) as fresh:
        os.set_inheritable(lock.fileno(), True)
        found = one(fresh, "environment", {})
    assert "sk-not-for-decoders" not in found["environment"].values()
    assert found["environment"]["OPENBLAS_NUM_THREADS"] == "1", "threads count against the memory limit"
    assert found["files"] <= 6, "three streams, the replies' descriptor, the listing itself"
    assert found["session"] != os.getsid(0)


PARENT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from batchrunner.media.decoder_pool import Pool
Pool(1, start={START!r}).run_all("sleep", [{{"path": sys.argv[1]}}])
"""


def test_the_process_ends_with_its_parent_even_if_it_is_busy(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(note)])
    wait_for(lambda: note.exists() and note.read_text().strip(), "the task has begun")
    worker = int(note.read_text())
    parent.kill()
    parent.wait()
    wait_for(lambda: _state(worker) in {"Z", ""}, "the worker has ended")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2][0]
    except OSError:
        return ""


@pytest.mark.parametrize("start", ["raise SystemExit(3)", "import os; os.abort()", "print('not json')"])
def test_a_decoder_that_does_not_load_is_reported(start: str) -> None:
    with pytest.raises(NoDecoder, match="cannot be loaded"):
        Pool(1, start=start).ready()


# Real files


def test_a_frame_that_its_header_declares_too_large_is_refused(pool: Pool, tmp_path: Path) -> None:
    path = png_clip(tmp_path / "large.mp4", (8000, 8000))
    with pytest.raises(CheckLimit, match="36,000,000 pixels"):
        one(pool, "clip", clip_task(path))
    with pytest.raises(CheckLimit, match="36,000,000 pixels"):
        one(pool, "input", {"path": str(path), "kind": "video", "shown": "large.mp4"})


def test_a_frame_larger_than_its_header_declares_is_not_decoded(pool: Pool, tmp_path: Path) -> None:
    path = png_clip(tmp_path / "liar.mp4", (8000, 8000), declared=(64, 64))
    with pytest.raises(CheckLimit, match="36,000,000 pixels"):
        one(pool, "clip", clip_task(path))


def test_8k_is_accepted(pool: Pool, tmp_path: Path) -> None:
    path = png_clip(tmp_path / "8k.mp4", (8192, 4320))
    assert one(pool, "clip", clip_task(path))["width_px"] == 8192


def test_every_frame_is_decoded(pool: Pool, tmp_path: Path) -> None:
    """A flipped byte in one of the last frames is found even though the first frame is intact."""
    content = bytearray(encoded(12))
    at = len(content) - 2000 if b"moov" not in content[-2000:] else content.rindex(b"moov") - 600
    for place in range(at, at + 40):
        content[place] ^= 0x5A
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"decode|damaged"):
        one(pool, "clip", clip_task(tmp_path / "a.mp4"))
