"""Inputs in buckets: found, listed, probed by ranges, and identified by address and ETag."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from batchrunner import manifest
from batchrunner.errors import ManifestError
from batchrunner.media.probe import MediaProblem, probe
from batchrunner.storage.objects.inputs import ObjectInputs
from batchrunner.storage.objects.store import Objects
from tests.conftest import MEDIA
from tests.objects.s3_server import CLOSED_BUCKET, READER, Server

FOLDER = "inputs"
KEYS = ("bunny.mp4", "deep/er/bunny.mp4", ".hidden.mp4", "b#1 ü?.mp4", "[x].mp4", "hopper.jpg", "astronaut.jpg")
Load = Callable[[str], manifest.Batch]


@pytest.fixture(scope="module")
def bucket(server: Server) -> str:
    """The address of a folder with the inputs of KEYS."""
    import obstore

    store = server.open()._store
    for key in KEYS:
        source = MEDIA / (key if key.endswith(".jpg") else "bunny.mp4")
        obstore.put(store, f"{FOLDER}/{key}", source)
    obstore.put(store, f"{FOLDER}/note.txt", b"no picture and no video")
    obstore.put(store, f"{FOLDER}/nothing.mp4", b"")
    return f"s3://clips/{FOLDER}"


@pytest.fixture
def objects(server: Server) -> Iterator[ObjectInputs]:
    with ObjectInputs(lambda: server.access("clips", CLOSED_BUCKET)) as opened:
        yield opened


@pytest.fixture
def load(objects: ObjectInputs, tmp_path: Path) -> Load:
    def loaded(text: str) -> manifest.Batch:
        (tmp_path / "batch.yaml").write_text(text)
        return manifest.load(tmp_path / "batch.yaml", objects=objects)

    return loaded


def test_an_object_is_measured_as_the_file_and_identified_by_its_etag(bucket: str, objects: ObjectInputs) -> None:
    for kind, name in (("video", "bunny.mp4"), ("image", "hopper.jpg")):
        file: Any = probe(MEDIA / name, kind)  # type: ignore[arg-type]
        found = objects.get(kind, f"{bucket}/{name}")  # type: ignore[arg-type]
        assert found.source == found.uri == f"{bucket}/{name}"
        assert found.etag
        assert '"' not in found.etag
        same = {"sha256": None, "path": None, "mtime_ns": None}
        expected = file._replace(**same, source=found.source, uri=found.uri, etag=found.etag)
        assert found == expected


@pytest.mark.parametrize("place", ["index first", "index last"])
def test_a_large_video_is_probed_by_ranges(
    server: Server, objects: ObjectInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The object is 40 MB; the probe reads its index and the first frames."""
    import obstore

    data = (MEDIA / "bunny.mp4").read_bytes()
    filler = (40_000_000).to_bytes(4, "big") + b"free" + bytes(40_000_000 - 8)
    path = tmp_path / "large.mp4"
    path.write_bytes(data + filler if place == "index first" else _index_last(path, filler))
    key = f"{place.replace(' ', '-')}.mp4"
    obstore.put(server.open()._store, key, path)
    read: list[int] = []
    original = Objects.read

    async def counted(self: Objects, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        read.append(end - start)
        return await original(self, key, start, end, etag)

    monkeypatch.setattr(Objects, "read", counted)
    found = objects.get("video", f"s3://clips/{key}")
    file = probe(MEDIA / "bunny.mp4", "video")
    assert (found.duration_s, found.frames, found.width_px) == (file.duration_s, file.frames, file.width_px)
    assert found.size_bytes == path.stat().st_size
    assert sum(read) < 10_000_000


def _index_last(path: Path, filler: bytes) -> bytes:
    """Return the clip with its index at the end, behind the filler."""
    with av.open(MEDIA / "bunny.mp4") as source, av.open(path, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    at = data.rindex(b"moov") - 4
    return data[:at] + filler + data[at:]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["[x].mp4", "b#1 ü?.mp4", "bunny.mp4"]),
        ("**/*.mp4", ["[x].mp4", "b#1 ü?.mp4", "bunny.mp4", "deep/er/bunny.mp4"]),
        ("*/*/bun?y.mp4", ["deep/er/bunny.mp4"]),
        ("[a-h]*.jpg", ["astronaut.jpg", "hopper.jpg"]),
        ("[!a]*.jpg", ["hopper.jpg"]),
        ("[x].mp4", ["[x].mp4"]),
        (".h*.mp4", [".hidden.mp4"]),
        ("none*.mp4", []),
        ("dee*", []),
    ],
)
def test_a_pattern_matches_as_it_does_for_files(
    bucket: str, objects: ObjectInputs, tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    assert objects.glob(f"{bucket}/{pattern}") == [f"{bucket}/{name}" for name in expected]


def test_a_matrix_lists_buckets_and_the_identity_does_not_depend_on_it(bucket: str, load: Load) -> None:
    listed = load(f"matrix: [{{video: '{bucket}/bun*.mp4', image: '{bucket}/*.jpg'}}]")
    named = load(f"jobs: [{{video: '{bucket}/bunny.mp4', image: '{bucket}/astronaut.jpg'}}]")
    assert [entry.job.inputs["image"].source for entry in listed.entries] == [
        f"{bucket}/astronaut.jpg",
        f"{bucket}/hopper.jpg",
    ]
    assert listed.entries[0].job.fingerprint == named.entries[0].job.fingerprint
    assert listed.entries[0].job.inputs["video"].duration_s


def test_another_content_is_another_job(server: Server, bucket: str, load: Load, tmp_path: Path) -> None:
    import obstore

    text = f"jobs: [{{video: '{bucket}/bunny.mp4', image: 's3://clips/change.jpg'}}]"
    names = []
    for source in ("hopper.jpg", "astronaut.jpg", "hopper.jpg"):
        obstore.put(server.open()._store, "change.jpg", MEDIA / source)
        with ObjectInputs(server.access) as objects:
            (tmp_path / "again.yaml").write_text(text)
            names.append(manifest.load(tmp_path / "again.yaml", objects=objects).entries[0].job.fingerprint)
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://clips/inputs/absent.mp4", "there is no object"),
        ("s3://clips/inputs/*.mp4", "there is no object"),
        ("s3://clips/inputs/note.txt", "looks like text"),
        ("s3://clips/inputs/nothing.mp4", "is empty"),
        ("s3://clips/inputs/hopper.jpg", "is a JPEG image, given as video"),
        ("s3://clips/", "names no object"),
        ("s3://clips/inputs/", "names no object"),
        ("s3://clips/a//b.mp4", "empty segment"),
        ("s3://elsewhere/a.mp4", "not allowed"),
        ("gs://clips/a.mp4", "not allowed"),
    ],
)
def test_an_unusable_object_is_an_error_with_its_place(bucket: str, load: Load, address: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(f"jobs: [{{video: '{address}', image: '{bucket}/hopper.jpg'}}]")
    (diagnostic,) = caught.value.diagnostics
    assert message in diagnostic.message
    assert (diagnostic.line, diagnostic.code) == (1, "video")


def test_a_bucket_that_refuses_is_asked_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = Objects.head

    async def counted(self: Objects, key: str) -> Any:
        asked.append(key)
        return await original(self, key)

    monkeypatch.setattr(Objects, "head", counted)
    with ObjectInputs(lambda: server.access(CLOSED_BUCKET, keys=READER)) as objects:
        for number in range(20):
            with pytest.raises(MediaProblem, match="refuses this access"):
                objects.get("video", f"s3://{CLOSED_BUCKET}/{number}.mp4")
        with pytest.raises(MediaProblem, match="refuses this access"):
            objects.glob(f"s3://{CLOSED_BUCKET}/*.mp4")
    assert asked == ["0.mp4"]


def test_no_copy_is_left(server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ObjectInputs(server.access) as objects:
        objects.glob(f"{bucket}/*.mp4")
        objects.get("video", f"{bucket}/bunny.mp4")
    assert list(tmp_path.iterdir()) == []
