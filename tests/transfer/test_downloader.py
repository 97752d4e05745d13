"""Downloads from a file host on loopback: complete or not at all, continued only if that is safe, without the key."""

import asyncio
import base64
import errno
import gzip
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from aiohttp import web

from batchrunner.errors import CallError, LocalFault, NetworkFault, ServiceFault
from batchrunner.media import decoder
from batchrunner.media.decoder_pool import Here
from batchrunner.redaction import Redactor
from batchrunner.storage.batching import Batcher
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer import downloader
from batchrunner.transfer.downloader import Checks, Downloader, Fetched
from batchrunner.transfer.partial_file import PartialFile
from batchrunner.transfer.url_guard import Guard
from tests.conftest import Inline, Opening

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "0123456789abcdef"


class Gauge:
    """Counts the bytes that the download has read, so that a host can cut the connection at a known position.

    aiohttp discards unread data when the connection breaks, so a cut must wait for the reader.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken_bytes = 0
        self.moved = asyncio.Event()
        take = PartialFile.take

        def watched(partial: Any, block: bytes) -> bool:
            full = take(partial, block)
            self.taken_bytes = partial.size_bytes
            self.moved.set()
            return full

        monkeypatch.setattr(PartialFile, "take", watched)

    def begin(self) -> None:
        self.moved, self.taken_bytes = asyncio.Event(), 0

    async def reach(self, size_bytes: int) -> None:
        while self.taken_bytes < size_bytes:
            await self.moved.wait()
            self.moved.clear()
        await asyncio.sleep(0)


@dataclass
class Host:
    """A file host. cuts: the byte counts after which the next replies break off. answer: sent instead of the file."""

    content: bytes
    etag: str | None = '"v1"'
    ranges: bool = True
    heeds_if_range: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    chunked: bool = False
    answer: Answer | None = None
    seen: list[dict[str, str]] = field(default_factory=list)
    sent_bytes: int = 0
    gauge: Gauge | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        if self.answer is not None:
            return await self.answer(request)
        reply = web.StreamResponse(headers=self.headers | ({"ETag": self.etag} if self.etag else {}))
        start = self._start(request, reply)
        body = self.content[start:]
        if self.chunked:
            reply.enable_chunked_encoding()
        else:
            reply.content_length = len(body)
        await reply.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else None
        await reply.write(body[:cut])
        self.sent_bytes += len(body[:cut])
        if cut is not None:
            assert request.transport is not None
            assert self.gauge is not None
            if cut:
                await self.gauge.reach(start + cut)
            request.transport.close()
        return reply

    def _start(self, request: web.Request, reply: web.StreamResponse) -> int:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        if not self.ranges or wanted is None or (self.heeds_if_range and condition not in {None, self.etag}):
            return 0
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        reply.set_status(206)
        reply.headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        return start


class Bench:
    """Downloads from one host into one folder, each as in its own process: only the disk is shared."""

    def __init__(self, folder: Path, executor: Executor, gauge: Gauge) -> None:
        self.folder, self.executor, self.gauge = folder, executor, gauge
        self.redactor = Redactor()

    def fetch(self, host: Host, files: Disk | None = None, path: str = "/clip.mp4?sig=1") -> Fetched:
        async def main(url: str) -> Fetched:
            async with Downloader(
                self.folder,
                self.executor,
                files or Disk(),
                Guard(url),
                Checks(Here(), self.executor),
                self.redactor,
            ) as clips:
                return await clips.fetch(url + path, KEY)

        fetched: Fetched = self.run(host, main)
        return fetched

    def run(self, host: Host, scenario: Callable[[str], Awaitable[Any]]) -> Any:
        host.gauge = self.gauge

        async def main() -> Any:
            self.gauge.begin()
            app = web.Application()
            app.router.add_get("/{path:.*}", host.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                return await scenario(f"http://127.0.0.1:{runner.addresses[0][1]}")
            finally:
                await runner.cleanup()

        return asyncio.run(main())

    def refused(self, host: Host, files: Disk | None = None) -> CallError:
        with pytest.raises(CallError) as caught:
            self.fetch(host, files)
        return caught.value

    def left(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def kept_files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.with_name("set_aside").iterdir()}


@pytest.fixture
def bench(tmp_path: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("parts", "set_aside"):
        (tmp_path / name).mkdir()
    return Bench(tmp_path / "parts", executor, Gauge(monkeypatch))


def assert_whole(fetched: Fetched, content: bytes) -> None:
    assert fetched.path.read_bytes() == content
    assert fetched.result.size_bytes == len(content)
    assert fetched.result.sha256 == hashlib.sha256(content).hexdigest()
    assert (fetched.result.width_px, fetched.result.height_px) == (480, 480)


def text(status: int, body: str = "<html>no</html>", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type="text/html", headers=headers)

    return answer


# Normal downloads


def test_a_complete_file_is_downloaded(bench: Bench, clip: bytes) -> None:
    host = Host(clip)
    assert_whole(bench.fetch(host), clip)
    [request] = host.seen
    assert "range" not in request
    assert request["accept-encoding"] == "identity"


def test_length_and_etag_are_optional(bench: Bench, clip: bytes) -> None:
    assert_whole(bench.fetch(Host(clip, etag=None, chunked=True)), clip)


def test_no_request_ever_has_a_credential(bench: Bench, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMLAPI_KEY", "secret-key")
    host = Host(clip, cuts=[1000])
    bench.refused(host)
    bench.fetch(host)
    assert len(host.seen) == 2
    for request in host.seen:
        assert not {"authorization", "cookie", "proxy-authorization"} & set(request)
        assert "secret-key" not in str(request)


def test_a_redirect_is_followed(bench: Bench, clip: bytes) -> None:
    host = Host(clip)
    serve, host_answers = host.handle, ["/elsewhere.mp4"]

    async def answer(request: web.Request) -> web.StreamResponse:
        if host_answers:
            raise web.HTTPFound(host_answers.pop())
        host.answer = None
        return await serve(request)

    host.answer = answer
    assert_whole(bench.fetch(host), clip)


@pytest.mark.parametrize("status", [203, 206])
def test_a_complete_file_with_another_status_is_accepted(bench: Bench, clip: bytes, status: int) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=clip)

    assert_whole(bench.fetch(Host(clip, answer=answer)), clip)


TARGETS = (
    "/files/a.mp4?response-content-type=video%2Fmp4&Signature=a%2Bb%3D",
    "/files/Take%20%282%29.mp4?sig=abc",
    "/files/it%27s.mp4?sig=a+b;c|d",
    '/files/%7Euser/~/a.mp4?a[0]={1}&b="<^`>\\"',
    "/files/a.mp4?sig=a%2fb%3d%",
    "/files/a%3Ab%40c.mp4?",
    "/files/a/../b/./c//d.mp4?x=?&/=/",
)


@pytest.mark.parametrize("way", ["link", "redirect", "relative redirect"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_link_is_requested_unchanged(bench: Bench, clip: bytes, target: str, way: str) -> None:
    host = Host(clip)
    serve, asked = host.handle, []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        if request.raw_path == "/first":
            base = f"http://{request.host}" if way == "redirect" else ""
            return web.Response(status=302, headers={"Location": base + target + "#there"})
        host.answer = None
        return await serve(request)

    host.answer = answer
    assert_whole(bench.fetch(host, path=f"{target}#here" if way == "link" else "/first"), clip)
    assert asked[-1] == target


def test_a_cookie_set_by_a_redirect_is_returned_to_its_host(bench: Bench, clip: bytes) -> None:
    host = Host(clip)
    serve = host.handle

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Cookie") != "pass=a%2Fb=; n=1":
            reply = web.Response(status=302, headers={"Location": "/clip.mp4"})
            reply.headers.add("Set-Cookie", "pass=a%2Fb=; Path=/; HttpOnly; Domain=example.com")
            reply.headers.add("Set-Cookie", "n=1")
            return reply
        host.answer = None
        return await serve(request)

    host.answer = answer
    assert_whole(bench.fetch(host), clip)
    host.answer = None
    bench.fetch(host)
    assert "cookie" not in host.seen[-1], "it lasts as long as its download"


def test_a_header_may_be_repeated(bench: Bench, clip: bytes) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        reply = web.Response(body=clip)
        for name in ("Set-Cookie", "Vary", "Server", "ETag"):
            reply.headers.extend({name: "a"})
            reply.headers.add(name, "b")
        return reply

    assert_whole(bench.fetch(Host(clip, answer=answer)), clip)


def test_more_than_a_hundred_downloads_run_at_once(bench: Bench, clip: bytes) -> None:
    all_started, here = asyncio.Event(), 0

    async def answer(_: web.Request) -> web.StreamResponse:
        nonlocal here
        here += 1
        if here == 150:
            all_started.set()
        async with asyncio.timeout(20):
            await all_started.wait()
        return web.Response(body=clip)

    async def scenario(url: str) -> None:
        async with Downloader(
            bench.folder, bench.executor, Disk(), Guard(url), Checks(Here(), bench.executor)
        ) as clips:
            await asyncio.gather(*(clips.fetch(f"{url}/{number}", f"{number:016x}") for number in range(150)))

    bench.run(Host(clip, answer=answer), scenario)


# Cuts


def test_only_the_missing_bytes_are_downloaded_after_a_cut(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000, 1234])
    for _ in range(2):
        fault = bench.refused(host)
        assert isinstance(fault, NetworkFault)
        assert fault.kind == "cut"
    assert_whole(bench.fetch(host), clip)
    asked = [(request.get("range"), request.get("if-range")) for request in host.seen]
    assert asked == [(None, None), ("bytes=5000-", '"v1"'), ("bytes=6234-", '"v1"')]
    assert host.sent_bytes == len(clip), "a byte was downloaded twice"


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.9999])
def test_a_cut_at_any_byte_is_continued(bench: Bench, clip: bytes, share: float) -> None:
    host = Host(clip, cuts=[int(len(clip) * share)])
    assert bench.refused(host).kind == "cut"
    assert_whole(bench.fetch(host), clip)
    assert host.sent_bytes == len(clip)


def test_a_host_that_ignores_range_starts_over(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000], ranges=False)
    bench.refused(host)
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


def test_no_secret_that_a_file_host_quotes_is_stored_or_reported(bench: Bench, clip: bytes) -> None:
    secret = "sk-recognisable-0123456789"
    bench.redactor = Redactor([secret])
    host = Host(clip, etag=f'"{secret}"', cuts=[5000])
    bench.refused(host)
    assert len(bench.left()) == 2
    assert not [name for name, content in bench.left().items() if secret.encode() in content]
    assert_whole(bench.fetch(host), clip)

    async def moved(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"http://{secret}.0x1/")

    fault = bench.refused(Host(clip, answer=moved))
    assert (fault.kind, secret in fault.message) == ("link_refused", False)


def test_a_changed_etag_starts_over(bench: Bench, clip: bytes, other_clip: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.content, host.etag = other_clip, '"v2"'
    assert_whole(bench.fetch(host), other_clip)


def test_a_host_that_continues_with_another_file_is_not_trusted(bench: Bench, clip: bytes, other_clip: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.content, host.etag, host.heeds_if_range = other_clip, '"v2"', False
    assert bench.refused(host).kind == "bad_range"
    assert_whole(bench.fetch(host), other_clip)


@pytest.mark.parametrize("etag", ['W/"v1"', "", None])
def test_without_a_strong_etag_nothing_is_continued(bench: Bench, clip: bytes, etag: str | None) -> None:
    host = Host(clip, cuts=[5000], etag=etag)
    bench.refused(host)
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


def test_416_starts_over(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.answer = text(416)
    fault = bench.refused(host)
    assert (type(fault), fault.kind) == (ServiceFault, "bad_range")
    host.answer = None
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[2]


@pytest.mark.parametrize("content_range", ["", "bytes 0-9/10", "bytes */100", "lines 5000-1/2"])
def test_206_with_another_range_starts_over(bench: Bench, clip: bytes, content_range: str) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.answer = text(206, **({"Content-Range": content_range} if content_range else {}))
    assert bench.refused(host).kind == "bad_range"
    host.answer = None
    assert_whole(bench.fetch(host), clip)


@pytest.mark.parametrize(
    "note", [b"", b"[]", b"{", b'{"etag": "", "size_bytes": 5000}', b'{"etag": "x", "size_bytes": 1e99}']
)
def test_an_invalid_sidecar_starts_over(bench: Bench, clip: bytes, note: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    (bench.folder / f"{KEY}.json").write_bytes(note)
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


def test_a_partial_file_shorter_than_its_sidecar_says_starts_over(bench: Bench, clip: bytes) -> None:
    """After a power cut, the sidecar was on the disk and the content was not."""
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    (bench.folder / f"{KEY}.part").write_bytes(clip[:4999])
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


def test_a_partial_file_longer_than_its_sidecar_says_is_continued_from_the_sidecar(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    (bench.folder / f"{KEY}.part").write_bytes(clip[:5000] + b"not flushed, so not in the sidecar")
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


def test_starting_over_removes_the_sidecar_before_the_partial_file(bench: Bench, clip: bytes) -> None:
    """Otherwise a crash right after would leave an old sidecar with new bytes."""
    host = Host(clip, cuts=[5000], ranges=False)
    bench.refused(host)
    steps: list[str] = []

    class Watched(Opening):
        def open(self, path: Path, mode: str) -> BinaryIO:
            steps.append(f"open {path.suffix} {mode}")
            return super().open(path, mode)

        def remove(self, path: Path) -> None:
            steps.append(f"remove {path.suffix}")
            super().remove(path)

        def flush_folder(self, folder: Path) -> None:
            steps.append("flush folder")
            super().flush_folder(folder)

    bench.fetch(host, Watched())
    assert steps == ["remove .json", "flush folder", "open .part wb"]


def test_small_clips_are_finished_together_and_an_invalid_one_affects_no_other(tmp_path: Path, clip: bytes) -> None:
    class Picky(Opening):
        def open(self, path: Path, mode: str) -> BinaryIO:
            if path.stem == "refused":
                raise OSError(errno.EIO, "no")
            return super().open(path, mode)

    items = []
    for name, content in (("a", clip), ("none", b"<html>"), ("refused", clip), ("b", clip)):
        partial = PartialFile(f"{tmp_path}/{name}.part", Picky(), Inline(), fresh=True)
        partial.start(continued=False, etag="")
        partial.take(content)
        assert partial.is_small
        items.append(downloader._Item(name, partial, downloader._Received(), tmp_path))
    downloader._finish_all(items, Checks(Here(), Inline()))
    first, none, refused, last = (item.outcome for item in items)
    assert isinstance(none, ServiceFault)
    assert none.kind == "bad_file"
    assert isinstance(refused, OSError)
    assert isinstance(first, Fetched)
    assert isinstance(last, Fetched)
    for fetched in (first, last):
        assert_whole(fetched, clip)


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_check_gets_the_further_fields_of_its_key(name: str, tmp_path: Path, clip: bytes) -> None:
    """And their findings are part of the result: here, the measures of a clip that is its own reference."""
    signature: dict[str, Any] = {}

    def further(key: str) -> dict[str, Any]:
        return {"quality": True, "reference": signature["a"]} if key == "a" else {}

    reference = tmp_path / "reference.mp4"
    reference.write_bytes(clip)
    [signature["a"]] = Here().run_all("reference", [{"path": str(reference)}])
    partial = PartialFile(f"{tmp_path}/{name}.part", Disk(), Inline(), fresh=True)
    partial.start(continued=False, etag="")
    partial.take(clip)
    item = downloader._Item(name, partial, downloader._Received(), tmp_path)
    downloader._finish_all([item], Checks(Here(), Inline(), further))
    assert isinstance(item.outcome, Fetched)
    quality = item.outcome.result.quality
    assert (quality is not None) == (name == "a")
    assert quality is None or quality["reference_fps"] == quality["fps"]


# Invalid clips


def bad(content: bytes, where: str) -> bytes:
    return {
        "html": b"<!doctype html><title>Sign in</title>",
        "json": b'{"error": "expired"}',
        "empty": b"",
        "short": content[: len(content) // 2],
        "one byte short": content[:-1],
        "zeros": content[:2000] + bytes(len(content) - 2000),
    }[where]


@pytest.mark.parametrize("where", ["html", "json", "empty", "short", "one byte short", "zeros"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_incomplete_or_foreign_file_is_refused_and_not_continued(
    bench: Bench, clip: bytes, where: str, chunked: bool
) -> None:
    host = Host(bad(clip, where), chunked=chunked)
    fault = bench.refused(host)
    assert (type(fault), fault.kind) == (ServiceFault, "bad_file")
    assert bench.left() == {}
    assert "no charge" in fault.hint
    host.content = clip
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


@pytest.mark.parametrize("tail", [b"\n", bytes(512), b'{"AIGC":{"Label":"1"}}', b"\0\0\0\0free" + b"x" * 20])
def test_a_clip_with_trailing_data_is_delivered_with_a_warning(bench: Bench, clip: bytes, tail: bytes) -> None:
    fetched = bench.fetch(Host(clip + tail))
    assert_whole(fetched, clip + tail)
    [warning] = fetched.result.warnings
    assert "last box" in warning


def test_a_download_that_fails_its_check_is_kept_once_and_named(bench: Bench, clip: bytes) -> None:
    broken = bad(clip, "zeros")
    faults = [bench.refused(Host(broken)) for _ in range(3)]
    [(name, content)] = bench.kept_files().items()
    assert content == broken
    assert name == f"{KEY}-{hashlib.sha256(broken).hexdigest()[:12]}.mp4"
    for fault in faults:
        assert f".batchrunner/set_aside/{name}" in fault.message
        assert f".batchrunner/set_aside/{name}" in fault.hint
    bench.refused(Host(bad(clip, "short")))
    assert len(bench.kept_files()) == 2, "another download of the same job removes nothing"


@pytest.mark.parametrize("where", ["html", "json", "empty"])
def test_a_page_in_place_of_a_clip_is_not_kept(bench: Bench, clip: bytes, where: str) -> None:
    bench.refused(Host(bad(clip, where)))
    assert bench.kept_files() == {}


def test_the_files_kept_for_one_job_are_bounded(bench: Bench, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.transfer.partial_file.MOST_SET_ASIDE", 2)
    kept = [bytes(100 + number) for number in range(2)]
    for content in kept:
        bench.refused(Host(content))
    fault = bench.refused(Host(bytes(200)))
    assert ".batchrunner/set_aside already" in fault.message
    assert sorted(bench.kept_files().values()) == kept
    assert bench.left() == {}


def test_a_check_that_reaches_its_limit_keeps_the_clip(
    bench: Bench, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: Any) -> decoder.Decoded:
        raise decoder.CheckLimit("it took more than 60 s")

    monkeypatch.setattr(decoder, "check_decodes", check)
    fault = bench.refused(Host(clip))
    assert (type(fault), fault.kind) == (ServiceFault, "check_limit")
    assert list(bench.kept_files().values()) == [clip]
    assert "no charge" in fault.hint


def test_a_truncated_chunked_reply_is_a_cut(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000], chunked=True)
    assert bench.refused(host).kind == "cut"
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


@pytest.mark.parametrize("name", ["Repr-Digest", "Digest"])
@pytest.mark.parametrize("right", [True, False])
def test_a_given_checksum_is_compared(bench: Bench, clip: bytes, name: str, right: bool) -> None:
    digest = base64.b64encode(hashlib.sha256(clip if right else b"another").digest()).decode()
    value = f"sha-512=:AAAA:, sha-256=:{digest}:" if name == "Repr-Digest" else f"SHA-256={digest}"
    host = Host(clip, headers={name: value})
    if right:
        assert_whole(bench.fetch(host), clip)
    else:
        fault = bench.refused(host)
        assert fault.kind == "bad_file"
        assert "SHA-256" in fault.message
        assert bench.left() == {}
        assert list(bench.kept_files().values()) == [clip]


def test_a_checksum_includes_the_bytes_from_before(bench: Bench, clip: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(clip).digest()).decode()
    host = Host(clip, cuts=[5000], headers={"Repr-Digest": f"sha-256=:{digest}:"})
    bench.refused(host)
    (bench.folder / f"{KEY}.part").write_bytes(bytes(5000))
    assert bench.refused(host).kind == "bad_file"
    assert_whole(bench.fetch(host), clip)


@pytest.mark.parametrize("value", ["", "sha-256=:not base64!:", "sha-256", "md5=:AAAA:", "sha-256=:AA==:x"])
def test_an_unusable_checksum_is_ignored(bench: Bench, clip: bytes, value: str) -> None:
    assert_whole(bench.fetch(Host(clip, headers={"Repr-Digest": value})), clip)


@pytest.mark.parametrize(
    "value", ["AAAA", "", "=", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(64)).decode()]
)
@pytest.mark.parametrize("name", ["Repr-Digest", "Digest"])
def test_a_checksum_of_another_length_is_ignored(bench: Bench, clip: bytes, name: str, value: str) -> None:
    header = f"sha-256=:{value}:" if name == "Repr-Digest" else f"SHA-256={value}"
    assert_whole(bench.fetch(Host(clip, headers={name: header})), clip)


# Content codings


@pytest.mark.parametrize(
    "coding", ["aws-chunked", "UTF-8", "binary", "none", "identity", "gzip", "deflate", "GZIP, aws-chunked", "br", ""]
)
def test_an_uncompressed_clip_is_accepted_whatever_coding_is_declared(bench: Bench, clip: bytes, coding: str) -> None:
    digest = base64.b64encode(hashlib.sha256(clip).digest()).decode()
    headers = {"Content-Encoding": coding, "Repr-Digest": f"sha-256=:{digest}:"}
    assert_whole(bench.fetch(Host(clip, headers=headers)), clip)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "deflate, gzip", "aws-chunked, gzip"])
def test_a_compressed_clip_is_decoded(bench: Bench, clip: bytes, coding: str, chunked: bool) -> None:
    packed = zlib.compress(clip) if "deflate" in coding else clip
    packed = gzip.compress(packed) if "gzip" in coding else packed
    digest = base64.b64encode(hashlib.sha256(packed).digest()).decode()
    headers = {"Content-Encoding": coding, "Repr-Digest": f"sha-256=:{digest}:"}
    assert_whole(bench.fetch(Host(packed, headers=headers, chunked=chunked)), clip)


def test_a_compressed_clip_that_was_cut_starts_over(bench: Bench, clip: bytes) -> None:
    """A range counts compressed bytes, and the stored bytes are decoded."""
    host = Host(gzip.compress(clip), headers={"Content-Encoding": "gzip"}, cuts=[0])
    assert bench.refused(host).kind == "cut"
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


def test_an_uncompressed_partial_file_is_not_continued_with_compressed_bytes(bench: Bench, clip: bytes) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.headers = {"Content-Encoding": "gzip"}
    assert bench.refused(host).kind == "bad_range"
    host.content = gzip.compress(clip)
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[2]


def test_a_partial_file_with_an_unknown_coding_is_continued(bench: Bench, clip: bytes) -> None:
    host = Host(clip, headers={"Content-Encoding": "aws-chunked"}, cuts=[5000])
    bench.refused(host)
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


def test_damaged_compression_is_reported_and_the_received_bytes_are_kept(bench: Bench, clip: bytes) -> None:
    fault = bench.refused(Host(gzip.compress(clip)[:-9], headers={"Content-Encoding": "gzip"}))
    assert fault.kind == "bad_file"
    assert "gzip coding ends too early" in fault.message
    assert len(bench.kept_files()) == 1


def test_a_small_file_that_expands_beyond_the_limit_ends_at_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloader, "_LARGEST_CLIP_BYTES", 1_000_000)
    host = Host(gzip.compress(bytes(200 << 20), 1), headers={"Content-Encoding": "gzip"})
    fault = bench.refused(host)
    assert fault.kind == "bad_file"
    assert "does not end" in fault.message
    assert bench.gauge.taken_bytes < 2_000_000
    assert bench.left() == bench.kept_files() == {}


def test_an_endless_body_ends_at_the_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "_LARGEST_CLIP_BYTES", 1_000_000)
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        reply = web.StreamResponse()
        reply.enable_chunked_encoding()
        await reply.prepare(request)
        while sent < 1 << 30:
            await reply.write(bytes(100_000))
            sent += 100_000
        return reply

    fault = bench.refused(Host(b"", answer=answer))
    assert fault.kind == "bad_file"
    assert "does not end" in fault.message
    assert sent < 1 << 28
    assert bench.left() == {}, "bytes that no run will continue must not fill the disk"


# Refusals


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_expired_link_is_named_and_keeps_the_partial_file(bench: Bench, clip: bytes, status: int) -> None:
    host = Host(clip, cuts=[5000])
    bench.refused(host)
    host.answer = text(status)
    fault = bench.refused(host)
    assert (type(fault), fault.kind, fault.status) == (ServiceFault, "link_expired", status)
    host.answer = None
    assert_whole(bench.fetch(host), clip)
    assert host.seen[2]["range"] == "bytes=5000-", "a new link continues the old download"


@pytest.mark.parametrize("status", [204, 400, 429, 500, 502, 503, 504, 524])
def test_a_host_with_an_error_status_is_a_service_fault(bench: Bench, clip: bytes, status: int) -> None:
    host = Host(clip, answer=text(status, ""))
    fault = bench.refused(host)
    assert (type(fault), fault.kind, fault.status) == (ServiceFault, "download_refused", status)
    host.answer = None
    assert_whole(bench.fetch(host), clip)


def test_redirects_are_limited(bench: Bench) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/again")

    host = Host(b"", answer=answer)
    fault = bench.refused(host)
    assert (type(fault), fault.kind) == (ServiceFault, "link_refused")
    assert len(host.seen) == 6


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://", ServiceFault),
        ("http://[::1", ServiceFault),
        ("http://a b/", NetworkFault),
        ("http://127.0.0.1:99999/x", ServiceFault),
        ("http://127.0.0.1:1/refused", NetworkFault),
        ("https://\ud800/x", ServiceFault),
        ("file:///etc/passwd", ServiceFault),
        ("data:video/mp4;base64,AAAA", ServiceFault),
        ("", ServiceFault),
    ],
)
def test_a_dead_link_is_reported(tmp_path: Path, executor: Executor, url: str, fault: type[CallError]) -> None:
    async def main() -> None:
        async with Downloader(tmp_path, executor, Disk(), Guard("http://127.0.0.1"), Checks(Here(), executor)) as clips:
            await clips.fetch(url, KEY)

    with pytest.raises(CallError) as caught:
        asyncio.run(main())
    assert type(caught.value) is fault


def test_silence_times_out_and_the_partial_file_is_kept(
    bench: Bench, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloader, "_SILENCE_S", 0.05)

    async def answer(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"ETag": '"v1"', "Content-Length": str(len(clip))})
        await reply.prepare(request)
        await reply.write(clip[:5000])
        await asyncio.Event().wait()
        return reply

    host = Host(clip, answer=answer)
    fault = bench.refused(host)
    assert (type(fault), fault.kind) == (NetworkFault, "timed_out")
    assert "after 5000 bytes: nothing arrived in time" in fault.message
    host.answer = None
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


def test_each_byte_extends_the_time_limit_up_to_the_total_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Limit:
        until_s, changes = 120.0, 0

        def when(self) -> float:
            return self.until_s

        def reschedule(self, until_s: float) -> None:
            self.until_s, self.changes = until_s, self.changes + 1

    async def main() -> None:
        now_s = 0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: float(now_s))
        limit: Any = Limit()
        arrived = downloader._arrival(limit, 3600.0, lambda *_: None)
        for now_s in range(3600):
            arrived(now_s, None)
            assert min(now_s + 60.0, 3600.0) <= limit.until_s <= min(now_s + 120.0, 3600.0)
        assert limit.changes <= 60, "the timer is not set anew for each piece"

    asyncio.run(main())


# This machine


def test_a_cancelled_download_keeps_its_partial_file(bench: Bench, clip: bytes) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"ETag": '"v1"', "Content-Length": str(len(clip))})
        await reply.prepare(request)
        await reply.write(clip[:5000])
        await asyncio.Event().wait()
        return reply

    host = Host(clip, answer=answer)

    async def scenario(url: str) -> None:
        async with Downloader(
            bench.folder, bench.executor, Disk(), Guard(url), Checks(Here(), bench.executor)
        ) as clips:
            task = asyncio.get_running_loop().create_task(clips.fetch(url + "/clip.mp4", KEY))
            await bench.gauge.reach(5000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    bench.run(host, scenario)
    host.answer = None
    assert_whole(bench.fetch(host), clip)
    assert host.seen[1]["range"] == "bytes=5000-"


class Failing(Opening):
    """A disk whose files fail on write or flush."""

    def __init__(self, number: int, at: str) -> None:
        self.number, self.at = number, at

    def open(self, path: Path, mode: str) -> BinaryIO:
        if self.at == "open" or (self.at == "note" and path.suffix == ".json"):
            raise OSError(self.number, "no")
        file = path.open(mode, buffering=0)
        return _Full(file, self.number) if self.at == "write" else file  # type: ignore[return-value]  # a stand-in

    def flush_all(self, paths: Sequence[Path | str]) -> None:
        if self.at == "flush":
            raise OSError(self.number, "no")
        super().flush_all(paths)


class _Full:
    def __init__(self, file: Any, number: int) -> None:
        self.file, self.number = file, number

    def write(self, _: bytes) -> int:
        raise OSError(self.number, "no")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("at", ["open", "write"])
@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "disk_error")])
def test_a_failing_disk_is_a_local_fault(bench: Bench, clip: bytes, at: str, number: int, kind: str) -> None:
    host = Host(clip)
    fault = bench.refused(host, Failing(number, at))
    assert (type(fault), fault.kind) == (LocalFault, kind)
    assert_whole(bench.fetch(host), clip)


@pytest.mark.parametrize("at", ["flush", "note"])
def test_a_partial_file_that_cannot_be_kept_costs_only_time(bench: Bench, clip: bytes, at: str) -> None:
    host = Host(clip, cuts=[5000])
    assert bench.refused(host, Failing(errno.ENOSPC, at)).kind == "cut"
    assert_whole(bench.fetch(host), clip)
    assert "range" not in host.seen[1]


def test_file_sha256_hashes_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert downloader.file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize(("size_bytes", "decoders"), [(60_000, 1), (100_000, 2), (200_000, 3)])
def test_small_clips_share_a_decoder_until_it_has_much_to_do(
    bench: Bench, clip: bytes, monkeypatch: pytest.MonkeyPatch, size_bytes: int, decoders: int
) -> None:
    content = clip + (size_bytes - len(clip)).to_bytes(4) + b"free" + bytes(size_bytes - len(clip) - 8)
    keys = [str(number) * 16 for number in range(3)]
    used: list[object] = []

    async def main(url: str) -> None:
        all_there = asyncio.Event()

        class Waiting(Batcher[Any]):
            async def do(self, items: Sequence[Any]) -> None:
                used.append(self)
                if len(used) == len(keys):
                    all_there.set()
                await all_there.wait()
                await super().do(items)

        monkeypatch.setattr(downloader, "Batcher", Waiting)
        checks = Checks(Here(), bench.executor, width=4)
        async with Downloader(bench.folder, bench.executor, Disk(), Guard(url), checks) as clips:
            for fetched in await asyncio.gather(*(clips.fetch(url, key) for key in keys)):
                assert_whole(fetched, content)

    bench.run(Host(content), main)
    assert len(set(used)) == decoders
