"""Posters are made once, small and complete, and a failure affects no other poster."""

import base64
import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import pytest
from PIL import Image

from batchrunner.events import Event, JobMoved, Noticed
from batchrunner.job import Entry, Job, Move, Record, Snapshot, State
from batchrunner.media import posters
from batchrunner.media.decoder_pool import Here
from batchrunner.media.posters import Posters, make_missing, pictures
from batchrunner.media.probe import probe
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import RunDir
from tests.conftest import MEDIA, NOW, make_job, make_run, result_of

Batch = tuple[RunDir, Snapshot]


@pytest.fixture
def batch(tmp_path: Path, clip: bytes) -> Batch:
    """One succeeded job with its clip, a real reference clip and a real character image."""
    rundir = RunDir(tmp_path / "run")
    rundir.make()
    (rundir.path / "a.mp4").write_bytes(clip)
    job = make_job("a", probe(MEDIA / "bunny.mp4", "video"), probe(MEDIA / "hopper.jpg", "image"))
    record = Record(job, State.SUCCEEDED, (), None, result_of(clip))
    return rundir, Snapshot(make_run(), (Entry(0, "a", job),), {job.fingerprint: record})


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))), formats=["WEBP"])


def record_of(batch: Batch) -> Record:
    return next(iter(batch[1].records.values()))


def test_a_clip_its_reference_and_its_character_get_posters(batch: Batch) -> None:
    make_missing(*batch, Here())
    shown = pictures(*batch)
    sizes = {key.partition("-")[0]: opened(uri).size for key, uri in shown.posters.items()}
    assert sizes == {"strip": (960, 320), "video": (320, 320), "image": (273, 320)}
    assert [Path(batch[0].path, at).resolve() for at in shown.clips.values()] == [MEDIA / "bunny.mp4"]
    assert all(len(uri) < 80_000 for uri in shown.posters.values())


def brightening(frames: int) -> bytes:
    """Make a clip with one key frame; each frame is 20 brighter than the one before."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"g": "1000"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            frame: Any = av.VideoFrame.from_image(Image.new("RGB", (96, 64), (20 * number,) * 3))  # type: ignore[no-untyped-call]  # so in the library
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def test_a_strip_shows_first_middle_and_last_frame(batch: Batch) -> None:
    (batch[0].path / "a.mp4").write_bytes(brightening(11))
    make_missing(*batch, Here())
    uri = next(uri for key, uri in pictures(*batch).posters.items() if key.startswith("strip"))
    strip = opened(uri).convert("L")
    assert strip.size == (3 * 96, 64), "never larger than the image"
    levels = [strip.getpixel((96 * number + 48, 32)) for number in range(3)]
    assert levels == pytest.approx([0, 100, 200], abs=12)


def test_existing_posters_are_not_made_again(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    make_missing(*batch, Here())
    posters_made: list[object] = []
    monkeypatch.setattr(posters, "_make", lambda *arguments: posters_made.append(arguments))
    make_missing(*batch, Here())
    assert posters_made == []
    torn = next(batch[0].posters.glob("strip-*.large.webp"))
    torn.write_bytes(torn.read_bytes()[:-5])
    assert len(pictures(*batch).posters) == 2, "an incomplete picture does not count"
    make_missing(*batch, Here())
    assert len(posters_made) == 1
    make_missing(*batch, Here(), most=0)
    assert len(posters_made) == 1


def test_the_posters_of_equal_clips_are_read_once(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    rundir, snapshot = batch
    entry = snapshot.entries[0]
    several = replace(snapshot, entries=tuple(replace(entry, position=number) for number in range(5)))
    make_missing(rundir, several, Here())
    opened_paths: list[Path] = []

    def open_plain(path: Path) -> BinaryIO:
        opened_paths.append(path)
        return path.open("rb")

    monkeypatch.setattr(durable_files, "open_plain", open_plain)
    make_missing(rundir, several, Here())
    assert len(opened_paths) == len(list(rundir.posters.iterdir())) == 9


def test_the_largest_size_that_fits_is_used(batch: Batch) -> None:
    make_missing(*batch, Here())
    large = sum(map(len, pictures(*batch).posters.values()))
    medium = pictures(*batch, budget_bytes=large // 2).posters
    assert len(medium) == 3
    assert {opened(uri).height for uri in medium.values()} == {176}
    few = pictures(*batch, budget_bytes=4000).posters
    assert 0 < len(few) < 3
    assert sum(map(len, few.values())) <= 4500


@pytest.mark.parametrize("content", [b"", b"<html>", b"\0\0\0\x20ftypisom" + bytes(400)])
def test_a_clip_that_cannot_be_shown_affects_no_other(batch: Batch, content: bytes) -> None:
    rundir, snapshot = batch
    (rundir.path / "a.mp4").write_bytes(content)
    make_missing(rundir, snapshot, Here())
    assert {key.partition("-")[0] for key in pictures(rundir, snapshot).posters} == {"video", "image"}
    assert not list(rundir.posters.glob("*.new"))


def test_missing_and_remote_inputs_have_no_posters(batch: Batch) -> None:
    rundir, snapshot = batch
    record = record_of(batch)
    gone = record.job.inputs["video"]._replace(path=rundir.path / "gone.mp4", sha256="00" * 32)
    far = make_job("b")
    changed = Record(
        replace(record.job, inputs={**record.job.inputs, "video": gone}), record.state, (), None, record.result
    )
    entries = (*snapshot.entries, Entry(1, "b", far))
    both = replace(snapshot, entries=entries, records={record.job.fingerprint: changed, far.fingerprint: Record(far)})
    make_missing(rundir, both, Here())
    shown = pictures(rundir, both)
    assert {key.partition("-")[0] for key in shown.posters} == {"strip", "image"}
    assert shown.clips == {}


def test_a_link_in_place_of_a_clip_is_not_followed(batch: Batch, tmp_path: Path) -> None:
    (batch[0].path / "a.mp4").rename(tmp_path / "elsewhere.mp4")
    (batch[0].path / "a.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    make_missing(*batch, Here())
    assert not any(key.startswith("strip") for key in pictures(*batch).posters)


def test_on_a_disk_with_little_space_no_posters_are_made(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes = [31 << 20, 33 << 20]
    monkeypatch.setattr("batchrunner.storage.durable_files.free_bytes", lambda _: free_bytes[0])
    make_missing(*batch, Here())
    assert pictures(*batch).posters == {}
    del free_bytes[0]
    make_missing(*batch, Here())
    assert len(pictures(*batch).posters) == 3


def test_names_are_encoded_in_addresses(batch: Batch, tmp_path: Path) -> None:
    odd = tmp_path / "a #1?%20 \u00fc.mp4"
    odd.write_bytes((MEDIA / "bunny.mp4").read_bytes())
    record = record_of(batch)
    video = record.job.inputs["video"]._replace(path=odd)
    job = replace(record.job, inputs={**record.job.inputs, "video": video})
    shot = Snapshot(make_run(), (Entry(0, "a", job),), {job.fingerprint: replace(record, job=job)})
    assert list(pictures(batch[0], shot).clips.values()) == ["../a%20%231%3F%2520%20%C3%BC.mp4"]


def test_posters_are_made_during_a_run(batch: Batch) -> None:
    rundir, snapshot = batch
    events: list[Event] = [Noticed(NOW, (), "x"), JobMoved(NOW, ("a",), Move.DELIVER, record_of(batch))]
    with Posters(rundir, Here()) as posters_made:
        listen = posters_made.listener(snapshot.entries)
        for event in events:
            listen(event)
        posters_made.finish(snapshot).result(30)
        assert len(pictures(rundir, snapshot).posters) == 3


def test_an_interrupted_run_does_not_wait_for_posters(batch: Batch) -> None:
    with Posters(batch[0], Here()) as posters_made:
        posters_made.hurry()
        posters_made.finish(batch[1]).result(30)
    assert pictures(*batch).posters == {}


def test_an_image_keeps_its_orientation(tmp_path: Path) -> None:
    """The camera's orientation tag is used: 6 is a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (64, 32)).save(path, exif=exif)
    image = probe(path, "image")
    job: Job = make_job("c", image=image)
    rundir = RunDir(tmp_path / "run")
    rundir.make()
    shot = Snapshot(make_run(), (Entry(0, "c", job),), {job.fingerprint: Record(job)})
    make_missing(rundir, shot, Here())
    assert [opened(uri).size for uri in pictures(rundir, shot).posters.values()] == [(32, 64)]


def test_an_interrupted_run_stops_after_the_poster_in_progress(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    make = posters._make
    with Posters(batch[0], Here()) as posters_made:

        def slow(folder: Path, wanted: Any, allow: Any) -> None:
            make(folder, wanted, allow)
            posters_made.hurry()

        monkeypatch.setattr(posters, "_make", slow)
        posters_made.finish(batch[1]).result(30)
    assert len(pictures(*batch).posters) == 1


def test_several_posters_at_once_are_the_same_ones(batch: Batch) -> None:
    make_missing(*batch, Here(), width=3)
    found = pictures(*batch).posters
    assert len(found) == 3
    for path in batch[0].posters.iterdir():
        path.unlink()
    make_missing(*batch, Here())
    assert pictures(*batch).posters == found
