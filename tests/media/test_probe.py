"""Inputs: what a file really contains, and how it is sent."""

import asyncio
import base64
import errno
import hashlib
import io
import os
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.errors import LocalFault
from batchrunner.job import Media
from batchrunner.media.probe import Kind, MediaProblem, data_uri_length, inline, probe, read_data_uri, sniff
from batchrunner.storage import durable_files
from tests.conftest import Inline

MEDIA = Path(__file__).parents[2] / "manifests" / "media"
BUNNY = MEDIA / "bunny.mp4"
HOPPER = MEDIA / "hopper.jpg"


def picture(form: str, size: tuple[int, int] = (40, 30)) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(out, form)
    return out.getvalue()


def clip(form: str, codec: str) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def sound_only() -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        frame.sample_rate = 44100
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def bomb() -> bytes:
    """Make a PNG of a few bytes that declares 30,000 by 30,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_video_is_measured_and_hashed() -> None:
    media = probe(BUNNY, "video", "media/bunny.mp4")
    assert media == Media(
        kind="video",
        source="media/bunny.mp4",
        path=BUNNY,
        sha256=hashlib.sha256(BUNNY.read_bytes()).hexdigest(),
        size_bytes=BUNNY.stat().st_size,
        mime="video/mp4",
        mtime_ns=BUNNY.stat().st_mtime_ns,
        width_px=480,
        height_px=480,
        duration_s=2.4,
        frames=60,
    )


def test_an_image_is_measured_and_hashed() -> None:
    media = probe(HOPPER, "image")
    assert (media.mime, media.width_px, media.height_px, media.duration_s) == ("image/jpeg", 512, 600, None)
    assert media.sha256 == hashlib.sha256(HOPPER.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("form", "mime"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("BMP", "image/bmp")],
)
def test_images_are_recognised_by_content_and_not_by_name(tmp_path: Path, form: str, mime: str) -> None:
    path = tmp_path / "picture.mp4"
    path.write_bytes(picture(form))
    media = probe(path, "image")
    assert (media.mime, media.width_px, media.height_px) == (mime, 40, 30)


@pytest.mark.parametrize(
    ("form", "codec", "mime"),
    [
        ("mp4", "libx264", "video/mp4"),
        ("mov", "libx264", "video/quicktime"),
        ("matroska", "libx264", "video/x-matroska"),
        ("webm", "libvpx", "video/webm"),
        ("avi", "mpeg4", "video/x-msvideo"),
    ],
)
def test_videos_are_recognised_by_content_and_not_by_name(tmp_path: Path, form: str, codec: str, mime: str) -> None:
    path = tmp_path / "clip.jpg"
    path.write_bytes(clip(form, codec))
    media = probe(path, "video")
    assert (media.mime, media.width_px, media.height_px) == (mime, 64, 48)
    assert media.duration_s == pytest.approx(1.0, abs=0.11)


WRONG: list[tuple[str, Kind, Callable[[], bytes], str]] = [
    ("empty", "video", lambda: b"", "is empty"),
    ("text", "video", lambda: b"<html>404</html>", "looks like text"),
    ("noise", "image", lambda: bytes(range(200, 256)), "an unknown format"),
    ("image as video", "video", lambda: picture("PNG"), "is a PNG image, given as video"),
    ("video as image", "image", BUNNY.read_bytes, "is an MP4 video, given as image"),
    ("gif", "image", lambda: picture("GIF"), "is a GIF image, which is not accepted"),
    ("tiff", "image", lambda: picture("TIFF"), "is a TIFF or camera raw image, which is not accepted"),
    ("heif", "image", lambda: b"\0\0\0\x18ftypheic" + bytes(40), "is a HEIF image (HEIC or AVIF), which is not"),
    ("lfs", "video", lambda: b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    ("zip", "video", lambda: b"PK\x03\x04" + bytes(40), "is a ZIP archive, given as video"),
    ("cut video", "video", lambda: clip("mp4", "libx264")[:800], "is not a complete video: the box 'mdat'"),
    ("magic only", "video", lambda: b"\0\0\0\x18ftypisom" + bytes(40), "is not a complete video"),
    ("sound", "video", sound_only, "has no moving picture, only sound"),
    ("cut jpeg", "image", lambda: HOPPER.read_bytes()[:30_000], "cannot be decoded"),
    ("cut png", "image", lambda: picture("PNG", (400, 300))[:-40], "cannot be decoded"),
    ("bomb", "image", bomb, "far too many pixels"),
]


@pytest.mark.parametrize(("name", "kind", "content", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_a_file_of_the_wrong_type_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, kind: Kind, content: Callable[[], bytes], message: str
) -> None:
    path = tmp_path / "input"
    path.write_bytes(content())
    with pytest.raises(MediaProblem) as caught:
        probe(path, kind, "in/put")
    assert message in caught.value.message
    assert caught.value.message.startswith("in/put ")
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_suggests_the_nearest_name() -> None:
    with pytest.raises(MediaProblem, match="no such file") as caught:
        probe(MEDIA / "buny.mp4", "video")
    assert caught.value.hint == "did you mean bunny.mp4?"


def test_a_link_without_a_target_is_named(tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(MediaProblem, match="no such file") as caught:
        probe(tmp_path / "walk.mp4", "video")
    assert caught.value.hint == "it is a link, and its target does not exist"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, message in (
        (fifo, "not a regular file"),
        (tmp_path, "is a directory"),
        (Path("/dev/zero"), "not a regular file"),
        (BUNNY / "inside", "cannot read"),
        (tmp_path / ("x" * 300), "cannot read"),
        (tmp_path / "nul\0", "cannot read"),
    ):
        with pytest.raises(MediaProblem, match=message):
            probe(path, "video")


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damaged_media_give_a_problem_or_a_medium(data: st.DataObject) -> None:
    kind: Kind = data.draw(st.sampled_from(["video", "image"]))
    whole = bytearray(
        clip("mp4", "mpeg4") if kind == "video" else picture(data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"])))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    try:
        media = inline(f"data:{kind}/x;base64,{base64.b64encode(cut).decode()}", kind)
    except MediaProblem:
        return
    assert media.size_bytes == len(cut)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_sniffing_never_raises(head: bytes) -> None:
    found = sniff(head)
    assert found is None or found.mime


def test_a_data_uri_has_the_same_content_as_the_file() -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(HOPPER.read_bytes()).decode()
    media = inline(uri, "image")
    local = probe(HOPPER, "image")
    assert (media.sha256, media.size_bytes, media.width_px) == (local.sha256, local.size_bytes, local.width_px)
    assert media.uri == uri
    assert media.source == "data:image/jpeg;base64,… (61.3 kB)"


def test_white_space_in_a_data_uri_does_not_count() -> None:
    encoded = base64.encodebytes(picture("PNG")).decode()
    media = inline("data:image/png;base64,\n" + encoded, "image")
    assert media.uri == "data:image/png;base64," + encoded.replace("\n", "")


def read(media: Media, chunk_bytes: int = 3 << 18, into: list[bytes] | None = None) -> list[bytes]:
    """Return the chunks of the data URI. into: a list that gets them as they are produced."""
    chunks = [] if into is None else into

    async def main() -> None:
        async for chunk in read_data_uri(media, Inline(), chunk_bytes):
            chunks.append(chunk)

    asyncio.run(main())
    return chunks


@pytest.mark.parametrize("chunk_bytes", [1, 3, 100, 4096, 1 << 20])
def test_a_file_is_sent_as_its_data_uri(chunk_bytes: int) -> None:
    media = probe(HOPPER, "image")
    body = b"".join(read(media, chunk_bytes))
    assert body == b"data:image/jpeg;base64," + base64.b64encode(HOPPER.read_bytes())
    assert len(body) == data_uri_length(media)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 299, 300, 301])
def test_the_length_is_known_in_advance(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    digest = hashlib.sha256(b"x" * size).hexdigest()
    media = Media("video", "x", path=path, sha256=digest, size_bytes=size, mime="video/mp4")
    assert len(b"".join(read(media, 30))) == data_uri_length(media)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_last(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [grow, shrink, flip_last, Path.unlink, replace_by_folder])
def test_a_changed_file_never_gives_a_complete_body(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(HOPPER.read_bytes())
    media = probe(path, "image")
    change(path)
    sent: list[bytes] = []
    with pytest.raises(LocalFault) as caught:
        read(media, 3000, sent)
    assert caught.value.kind == "input_changed"
    assert len(b"".join(sent)) < data_uri_length(media)


@pytest.mark.parametrize("change", [grow, shrink, flip_last])
def test_a_file_that_changes_while_it_is_sent_never_gives_a_complete_body(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(1 << 20))
    digest = hashlib.sha256(bytes(1 << 20)).hexdigest()
    media = Media("video", "x.bin", path=path, sha256=digest, size_bytes=1 << 20, mime="video/mp4")
    sent: list[bytes] = []

    async def main() -> None:
        async for chunk in read_data_uri(media, Inline(), 30_000):
            sent.append(chunk)
            if len(sent) == 2:
                change(path)

    with pytest.raises(LocalFault):
        asyncio.run(main())
    assert len(sent) > 1
    assert len(b"".join(sent)) < data_uri_length(media)


def test_an_input_is_read_and_encoded_in_the_executor() -> None:
    """The event loop itself does not open, read, hash or encode."""
    media = probe(HOPPER, "image")
    loop_thread, threads = threading.get_ident(), set[int]()

    class Watched(ThreadPoolExecutor):
        def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> "Future[Any]":
            def run() -> Any:
                threads.add(threading.get_ident())
                return function(*arguments, **more)

            return super().submit(run)

    opened: list[int] = []
    real = durable_files.open_plain

    def open_plain(path: Path, *, follow: bool = False) -> io.BufferedReader:
        opened.append(threading.get_ident())
        return real(path, follow=follow)

    async def main(executor: Watched) -> int:
        return len([chunk async for chunk in read_data_uri(media, executor)])

    with Watched() as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable_files, "open_plain", open_plain)
        assert asyncio.run(main(executor)) == 2
    assert set(opened) <= threads
    assert opened
    assert loop_thread not in threads


def test_a_reader_that_stops_early_closes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(1 << 20))
    digest = hashlib.sha256(bytes(1 << 20)).hexdigest()
    media = Media("video", "x.bin", path=path, sha256=digest, size_bytes=1 << 20, mime="video/mp4")
    opened: list[io.BufferedReader] = []
    real = durable_files.open_plain

    def open_plain(path: Path, *, follow: bool = False) -> io.BufferedReader:
        opened.append(real(path, follow=follow))
        return opened[-1]

    monkeypatch.setattr(durable_files, "open_plain", open_plain)

    async def main() -> None:
        chunks = read_data_uri(media, Inline(), 30_000)
        await anext(chunks)
        assert not opened[0].closed
        await chunks.aclose()
        assert opened[0].closed

    asyncio.run(main())


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 40 << 20
    with path.open("wb") as file:
        file.truncate(size)
    digest = hashlib.sha256(bytes(size)).hexdigest()
    media = Media("video", "large", path=path, sha256=digest, size_bytes=size, mime="video/mp4")

    async def total_bytes() -> int:
        return sum([len(chunk) async for chunk in read_data_uri(media, Inline())])

    tracemalloc.start()
    try:
        total = asyncio.run(total_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == data_uri_length(media)
    assert peak < 8 << 20


def test_records_are_immutable() -> None:
    with pytest.raises(AttributeError):
        probe(HOPPER, "image").source = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("number", "kind"), [(errno.EMFILE, "too_little"), (errno.EIO, "disk_error")])
def test_a_read_error_does_not_condemn_the_file(monkeypatch: pytest.MonkeyPatch, number: int, kind: str) -> None:
    media = probe(HOPPER, "image")

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(durable_files, "open_plain", refused)
    with pytest.raises(LocalFault) as caught:
        read(media)
    assert caught.value.kind == kind


def test_large_metadata_does_not_condemn_a_picture(tmp_path: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    metadata = PngInfo()
    metadata.add_text("prompt", "x" * (3 << 20))
    metadata.add_text("workflow", "y" * (3 << 20), zip=True)
    path = tmp_path / "input"
    Image.new("RGB", (40, 30)).save(path, "PNG", pnginfo=metadata)
    media = probe(path, "image")
    assert (media.width_px, media.height_px) == (40, 30)
