"""The review server over loopback: what it sends, what it refuses, and when a verdict is stored."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Entry, Media
from batchrunner.review.board import Board
from batchrunner.review.server import Address, ReviewServer, start
from batchrunner.review.source import BatchSource
from batchrunner.review.verdicts import Verdict, VerdictLog, load
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, make_run
from tests.review import sample_runs

CLIP = bytes(range(256)) * 40
OTHER = CLIP[::-1]
DIGEST = hashlib.sha256(CLIP).hexdigest()
CUT = (
    b"POST /TOKEN/api/verdict HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@dataclass
class Client:
    server: ReviewServer
    session: aiohttp.ClientSession

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.server.url + path, headers=names) as answer:
            return answer.status, await answer.read(), answer.headers

    async def json(self, path: str) -> Any:
        return json.loads((await self.get(path))[1])

    async def post(self, body: object, **headers: str) -> tuple[int, Any]:
        names = {"Origin": self.server.url.rsplit("/", 2)[0], **headers}
        async with self.session.post(self.server.url + "api/verdict", json=body, headers=names) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    async def put(self, name: str = "a", verdict: str = "reject", **more: Any) -> tuple[int, Any]:
        return await self.post({"id": name, "sha256": DIGEST, "verdict": verdict, **more})


@asynccontextmanager
async def serving(rundir: RunDir, log: Any = None, fetch: Any = None) -> AsyncIterator[Client]:
    source = BatchSource(rundir, "0", fetch)
    verdicts, found = source.read_verdicts() or {}, source.read()
    assert found is not None
    with VerdictLog(rundir.path) as own:
        server = await start(source, Board(found, verdicts), log or own, "ann", Address())
        try:
            async with aiohttp.ClientSession() as session:
                yield Client(server, session)
        finally:
            await server.close()
            source.close()


def on_loopback(rundir: RunDir, work: Callable[[Client], Awaitable[None]], log: Any = None, fetch: Any = None) -> None:
    async def all_of_it() -> None:
        async with serving(rundir, log, fetch) as client:
            await work(client)

    asyncio.run(all_of_it())


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    """Three jobs: `a` delivered with local inputs, `b` delivered with remote ones, `c` failed."""
    (tmp_path / "walk.mp4").write_bytes(b"the reference")
    (tmp_path / "face.jpg").write_bytes(b"the picture")
    video = sample_runs.local("video", tmp_path / "walk.mp4")
    image = sample_runs.local("image", tmp_path / "face.jpg")
    remote = Media("video", "https://user:pass@example.com/far.mp4?key=secret", None, "https://example.com/far.mp4")
    jobs = [
        sample_runs.job_of("a", video, image),
        sample_runs.job_of("b", remote, image),
        sample_runs.job_of("c", video, image),
    ]
    records = [
        sample_runs.record_of(jobs[0], CLIP, {"frozen_frames": 40}),
        sample_runs.record_of(jobs[1], OTHER),
        sample_runs.record_of(jobs[2], None),
    ]
    entries = [
        Entry(place, name, job, {"note": HOSTILE}) for place, (name, job) in enumerate(zip("abc", jobs, strict=True))
    ]
    contents = {hashlib.sha256(clip).hexdigest(): clip for clip in (CLIP, OTHER)}
    return sample_runs.write(tmp_path / "run", entries, records, contents)


def test_the_page_loads_only_itself(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        status, body, headers = await client.get("")
        assert status == 200
        assert b'<script type="module" src="app.js">' in body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        for name in ("app.js", "dom.js", "list.js", "player.js", "sheet.js", "store.js", "review.css", "icon.svg"):
            status, body, _ = await client.get(name)
            assert status == 200
            assert b"https://" not in body
            assert b"innerHTML" not in body
        assert (await client.get("server.py"))[0] == 404

    on_loopback(rundir, work)


def test_requests_without_the_token_or_from_elsewhere_are_refused(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        good = client.server.url
        other = "y" if good[-2] == "x" else "x"
        for url in (good.rsplit("/", 2)[0] + "/", f"{good[:-2]}{other}/", good.rsplit("/", 2)[0] + "/api/batch"):
            async with client.session.get(url) as answer:
                assert answer.status == 404
                assert b"http" not in await answer.read()
        assert (await client.get("api/batch", Host="evil.example"))[0] == 403
        assert (await client.get("api/batch", Origin="http://evil.example"))[0] == 403
        status, _ = await client.post({"id": "a"}, Origin="http://evil.example")
        assert status == 403
        async with client.session.post(
            good + "api/verdict", data="x", headers={"Origin": good.rsplit("/", 2)[0]}
        ) as answer:
            assert answer.status == 415
        async with client.session.post(
            good + "api/verdict", json={"note": "x" * 100_000}, headers={"Origin": good.rsplit("/", 2)[0]}
        ) as answer:
            assert answer.status == 413
        assert load(rundir.path) == {}

    on_loopback(rundir, work)


def test_rows_are_printable_and_have_no_secret(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        batch = await client.json("api/batch")
        head = {"name": "night", "manifest": "night.yaml", "is_sandbox": False, "total": 3}
        assert batch["head"] == {**head, "counts": {"succeeded": 2, "failed": 1}}
        first, second, third = (await client.json("api/rows"))["rows"]
        assert first["label"] == "walk \u00d7 face"
        assert [mark["kind"] for mark in first["marks"]] == ["frozen"]
        assert first["suspicion"] > second["suspicion"]
        assert first["tags"] == {"note": "<img src=x onerror=alert(1)>\\u202e"}
        assert third == {"id": "c", "job": "c", "take": 1, "state": "failed"}
        remote, local = second["inputs"]
        assert remote["key"] is None
        assert remote["source"] == "https://\u2026@example.com/far.mp4?\u2026"
        assert local["key"].startswith("image-")
        assert b"secret" not in (await client.get("api/rows"))[1]
        assert [row["id"] for row in (await client.json("api/rows?start=2"))["rows"]] == ["c"]
        assert (await client.json("api/rows?start=-1"))["rows"][0]["id"] == "a"

    on_loopback(rundir, work)


def test_a_clip_is_sent_whole_and_in_ranges(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        path = f"file/clip-{DIGEST}"
        status, body, headers = await client.get(path)
        assert (status, body) == (200, CLIP)
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Content-Type"] == "video/mp4"
        assert "sandbox" in headers["Content-Security-Policy"]
        status, body, headers = await client.get(path, Range="bytes=100-199")
        assert (status, body, headers["Content-Range"]) == (206, CLIP[100:200], f"bytes 100-199/{len(CLIP)}")
        assert (await client.get(path, Range="bytes=-5"))[1] == CLIP[-5:]
        assert (await client.get(path, Range="bytes=0-", If_Range='"other"'))[0] == 200
        status, body, headers = await client.get(path, Range=f"bytes={len(CLIP)}-")
        assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(CLIP)}")
        status, body, headers = await client.get(path, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CLIP)))
        assert (await client.get(path, If_None_Match=headers["ETag"]))[0] == 304

    on_loopback(rundir, work)


def test_only_files_that_the_journal_names_are_sent(rundir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    secret = hashlib.sha256(b"secret").hexdigest()

    async def work(client: Client) -> None:
        rows = (await client.json("api/rows"))["rows"]
        for item, content in zip(rows[0]["inputs"], (b"the reference", b"the picture"), strict=True):
            assert (await client.get(f"file/{item['key']}"))[1] == content
        for path in (
            f"file/clip-{secret}",
            "file/..%2f..%2fsecret.txt",
            "file/../../secret.txt",
            "file/%2e%2e/secret.txt",
            "file//etc/passwd",
            "file/journal.db",
            "file/",
            "poster/large/..%2f..%2f..%2fsecret.txt",
            "poster/huge/" + rows[0]["inputs"][0]["key"],
            "poster/large/strip-" + secret,
        ):
            assert (await client.get(path))[0] in {403, 404}, path
        # An input that is no longer the one of the journal, a clip that became a link.
        (tmp_path / "walk.mp4").write_bytes(b"something else")
        assert (await client.get(f"file/{rows[0]['inputs'][0]['key']}"))[0] == 404
        (rundir.path / "b.mp4").unlink()
        (rundir.path / "b.mp4").symlink_to(tmp_path / "secret.txt")
        assert (await client.get(f"file/clip-{rows[1]['sha256']}"))[0] == 404

    on_loopback(rundir, work)


def test_a_poster_is_sent_when_it_is_made(rundir: RunDir) -> None:
    rundir.posters.mkdir()
    (rundir.posters / f"strip-{DIGEST}.small.webp").write_bytes(b"RIFF")

    async def work(client: Client) -> None:
        status, body, headers = await client.get(f"poster/small/strip-{DIGEST}")
        assert (status, body, headers["Content-Type"]) == (200, b"RIFF", "image/webp")
        status, body, headers = await client.get(f"poster/large/strip-{DIGEST}")
        assert (status, body, headers["Cache-Control"]) == (204, b"", "no-store"), "it is not made yet"

    on_loopback(rundir, work)


def test_a_verdict_is_on_the_disk_when_it_is_answered(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        status, answer = await client.put(reasons=["hands", "face"], note="sixth finger", rating=2)
        assert status == 200
        stored = load(rundir.path)["a"]
        assert (stored.verdict, stored.reasons, stored.note, stored.rating) == (
            "reject",
            ("face", "hands"),
            "sixth finger",
            2,
        )
        assert (stored.sha256, stored.fingerprint, stored.take, stored.by) == (
            DIGEST,
            sample_runs.fingerprint("a 1"),
            1,
            "ann",
        )
        assert answer["row"]["verdict"]["reasons"] == ["face", "hands"]
        await client.put(verdict="none")
        assert load(rundir.path)["a"].verdict == "none"
        assert len(rundir.review.read_text().splitlines()) == 2

    on_loopback(rundir, work)

    async def again(client: Client) -> None:
        assert (await client.json("api/rows"))["rows"][0]["verdict"]["verdict"] == "none"

    on_loopback(rundir, again)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "maybe"},
        {"verdict": None},
        {"id": 7},
        {"sha256": ["a"]},
        {"reasons": "face"},
        {"reasons": [7]},
        {"reasons": ["x" * 100]},
        {"reasons": [str(number) for number in range(30)]},
        {"rating": 6},
        {"rating": True},
        {"note": {"a": 1}},
        {"id": "\ud800"},
    ],
    ids=str,
)
def test_an_invalid_verdict_is_refused(rundir: RunDir, changes: dict[str, Any]) -> None:
    async def work(client: Client) -> None:
        body = {"id": "a", "sha256": DIGEST, "verdict": "reject", **changes}
        status, answer = await client.post(body)
        assert status in {400, 409}
        assert answer["error"]
        assert load(rundir.path) == {}

    on_loopback(rundir, work)


def test_a_verdict_on_another_clip_is_refused(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        for body in ({"id": "a", "sha256": "ff"}, {"id": "c", "sha256": DIGEST}, {"id": "zz", "sha256": DIGEST}):
            status, answer = await client.post({**body, "verdict": "accept"})
            assert status == 409
            assert "another clip" in answer["error"]
        assert load(rundir.path) == {}

    on_loopback(rundir, work)


def test_a_verdict_on_a_changed_or_missing_file_is_refused(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        path = rundir.path / "a.mp4"
        path.write_bytes(OTHER)
        status, answer = await client.put()
        assert status == 409
        assert "not the one that was delivered" in answer["error"]
        path.unlink()
        assert "missing" in (await client.put())[1]["error"]
        assert load(rundir.path) == {}
        assert (await client.put(verdict="none"))[0] == 200, "a verdict can still be withdrawn"

    on_loopback(rundir, work)


class FullDisk:
    def append(self, verdict: Verdict) -> None:
        raise LocalFault(
            "disk_full", f"the verdict on {verdict.id} could not be stored: the disk is full", "Make room."
        )


def test_a_verdict_that_cannot_be_stored_is_an_error_and_is_not_shown(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        status, answer = await client.put()
        assert status == 507
        assert "disk is full. Make room." in answer["error"]
        assert "verdict" not in (await client.json("api/rows"))["rows"][0]

    on_loopback(rundir, work, FullDisk())


async def events(client: Client, query: str) -> AsyncIterator[dict[str, Any]]:
    async with client.session.get(client.server.url + "api/events?" + query) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def test_verdicts_and_new_clips_are_sent_to_open_pages(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        batch = await client.json("api/batch")
        stream = events(client, f"boot={batch['boot']}&version={batch['version']}")
        reading = asyncio.ensure_future(anext(stream))
        await client.put()
        change = await reading
        assert [(row["id"], row["verdict"]["verdict"]) for row in change["rows"]] == [("a", "reject")]

        # A verdict of another process.
        reading = asyncio.ensure_future(anext(stream))
        with VerdictLog(rundir.path) as log:
            log.append(Verdict("b", 1, "", hashlib.sha256(OTHER).hexdigest(), "accept"))
        await client.server.refresh()
        assert [(row["id"], row["verdict"]["verdict"]) for row in (await reading)["rows"]] == [("b", "accept")]

        # A job that is delivered while the page is open.
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(deliver, rundir, "c", OTHER[:100])
        await client.server.refresh()
        change = await reading
        assert [(row["id"], row["state"]) for row in change["rows"]] == [("c", "succeeded")]
        assert change["head"]["counts"] == {"succeeded": 3}
        assert (await client.get(f"file/clip-{change['rows'][0]['sha256']}"))[1] == OTHER[:100]
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    on_loopback(rundir, work)


def deliver(rundir: RunDir, name: str, content: bytes) -> None:
    """Deliver a job of an existing batch, as the next run would."""
    source = sample_runs.snapshot(rundir)
    entry = next(entry for entry in source.entries if entry.id == name)
    (rundir.path / entry.file).write_bytes(content)
    run = make_run("run2", started_at=NOW + 500)
    sample_runs.save(rundir, run, source.entries, [sample_runs.record_of(entry.job, content)])


@pytest.mark.parametrize("query", ["boot=other&version=1", "version=abc", ""])
def test_a_page_of_another_server_loads_everything_again(rundir: RunDir, query: str) -> None:
    async def work(client: Client) -> None:
        stream = events(client, query)
        assert (await anext(stream))["rows"] is None
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    on_loopback(rundir, work)


def test_the_server_closes_while_pages_are_open(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        batch = await client.json("api/batch")
        stream = events(client, f"boot={batch['boot']}&version={batch['version']}")
        reading = asyncio.ensure_future(anext(stream, None))
        await client.put()
        assert await reading is not None
        ending = asyncio.ensure_future(anext(stream, None))
        await client.server.close()
        assert await ending is None

    on_loopback(rundir, work)


def test_reading_takes_no_lock_and_leaves_no_file(rundir: RunDir) -> None:
    before = sorted(path.name for path in rundir.internal_dir.iterdir())

    async def work(client: Client) -> None:
        await client.json("api/rows")
        assert rundir.holder() is None

    on_loopback(rundir, work)
    after = {path.name for path in rundir.internal_dir.iterdir()} - set(before)
    assert after <= {"review.lock", "posters"}


def test_a_journal_that_cannot_be_read_is_shown(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        os.truncate(rundir.journal, 100)
        await client.server.refresh()
        batch = await client.json("api/batch")
        assert batch["problem"].startswith("The batch cannot be read")
        assert batch["head"]["total"] == 3, "the page keeps the clips that it has"

    on_loopback(rundir, work)


def test_an_address_in_use_is_an_error(rundir: RunDir) -> None:
    async def work(client: Client) -> None:
        port = int(client.server.url.split(":")[2].split("/")[0])
        source = BatchSource(rundir, "0")
        board = client.server.board
        with VerdictLog(rundir.path) as log, pytest.raises(UsageError, match="cannot be served"):
            await start(source, board, log, "ann", Address(port=port))

    on_loopback(rundir, work)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        CUT,
    ],
    ids=["TLS", "two hosts", "long", "cut"],
)
def test_a_broken_request_writes_nothing_to_the_terminal(
    rundir: RunDir, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: Client) -> None:
        _, _, host, token, _ = client.server.url.split("/")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(host.split(":")[1]))
        writer.write(request_bytes.replace(b"TOKEN", token.encode()).replace(b"HOST", host.encode()))
        writer.write_eof()
        await reader.read()
        writer.close()
        assert (await client.json("api/batch"))["head"]["total"] == 3

    on_loopback(rundir, work)
    assert caplog.text == ""


@pytest.fixture
def in_bucket(tmp_path: Path) -> RunDir:
    """One job whose clip is only in a bucket."""
    (tmp_path / "walk.mp4").write_bytes(b"the reference")
    video = sample_runs.local("video", tmp_path / "walk.mp4")
    record = sample_runs.record_of(sample_runs.job_of("a", video, video), CLIP)
    assert record.result is not None
    record = replace(record, result=replace(record.result, objects={"s3://clips/a.mp4": "etag"}))
    contents = {DIGEST: CLIP}
    settings = json.dumps({"deliver": "s3://clips/"})
    rundir = sample_runs.write(
        tmp_path / "run", [Entry(0, "a", record.job)], [record], contents, settings_json=settings
    )
    (rundir.path / "a.mp4").unlink()
    return rundir


def test_a_clip_that_only_a_bucket_has_is_shown_and_gets_a_verdict(in_bucket: RunDir) -> None:
    def fetch(address: str, sha256: str, path: Path) -> None:
        assert (address, sha256) == ("s3://clips/a.mp4", DIGEST)
        path.write_bytes(CLIP)

    async def work(client: Client) -> None:
        status, body, headers = await client.get(f"file/clip-{DIGEST}", Range="bytes=2-5")
        assert (status, body) == (206, CLIP[2:6])
        assert headers["Content-Type"] == "video/mp4"
        assert (await client.put())[0] == 200

    on_loopback(in_bucket, work, fetch=fetch)
    assert not (in_bucket.path / "a.mp4").exists()


def test_a_bucket_that_refuses_gives_the_page_a_reason_and_stores_no_verdict(in_bucket: RunDir) -> None:
    def fetch(address: str, sha256: str, path: Path) -> None:
        raise UsageError("the bucket s3://clips is not allowed", "Add --allow-bucket s3://clips.\nÄ")

    async def work(client: Client) -> None:
        status, body, _ = await client.get(f"file/clip-{DIGEST}")
        assert status == 404
        assert b"Only a bucket has this clip: the bucket s3://clips is not allowed. Add --allow-bucket" in body
        status, answer = await client.put()
        assert status == 409
        assert "--allow-bucket s3://clips" in answer["error"]

    on_loopback(in_bucket, work, fetch=fetch)
    assert not in_bucket.review.exists()
