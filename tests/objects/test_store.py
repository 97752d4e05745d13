import asyncio
import hashlib
import http.client
import io
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchrunner.errors import CallError, LocalFault, UsageError
from batchrunner.storage.objects import store
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.store import Access, ObjectState, open_store
from tests.objects.s3_server import ADMIN, BUCKET, CLOSED_BUCKET, READER, Server

run = asyncio.run


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "clip.mp4"
    path.write_bytes(f"a clip of {tmp_path.name}".encode() * 1000)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(url: str, method: str = "GET") -> tuple[int, bytes]:
    address = urlsplit(url)
    with closing(http.client.HTTPConnection(address.netloc, timeout=10)) as connection:
        connection.request(method, f"{address.path}?{address.query}")
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("key", ["a/plain.mp4", "ü/a b#1+x%20y.mp4", "q?x=1&y.mp4", "t~*[1].mp4"])
def test_an_object_is_written_read_listed_signed_and_removed(server: Server, clip: tuple[Path, str], key: str) -> None:
    async def story() -> None:
        bucket = server.open()
        path, sha256 = clip
        assert await bucket.head(key) is None
        state = await bucket.put_new(key, path, sha256, content_type="video/mp4")
        assert state == await bucket.head(key)
        assert state.size == path.stat().st_size
        assert await bucket.read(key, 2, 6) == path.read_bytes()[2:6]
        listed = {name: found async for name, found in bucket.list(key.rpartition("/")[0])}
        assert listed[key] == state
        assert fetched(await bucket.sign(key, 60)) == (200, path.read_bytes())
        await bucket.delete(key)
        await bucket.delete(key)
        assert await bucket.head(key) is None

    run(story())


def test_a_link_is_valid_for_get_only_and_until_its_end(server: Server, clip: tuple[Path, str]) -> None:
    """The server checks signatures and expiry: without this, the other tests of links would show nothing."""

    async def story() -> list[str]:
        bucket = server.open()
        await bucket.put_new("linked.mp4", *clip)
        return [await bucket.sign("linked.mp4", seconds) for seconds in (60, 1, 30 * 86_400)]

    valid, short, longest = run(story())
    assert fetched(valid, "HEAD")[0] == 403
    assert fetched(valid.replace("linked", "other"))[0] == 403
    assert fetched(valid[:-1] + ("0" if valid[-1] != "0" else "1"))[0] == 403
    assert "X-Amz-Expires=604800" in longest
    while (answer := fetched(short))[0] == 200:
        time.sleep(0.05)  # the server has a clock of its own
    assert b"expired" in answer[1]


def test_an_upload_is_repeatable_and_replaces_nothing(server: Server, clip: tuple[Path, str], tmp_path: Path) -> None:
    async def story() -> None:
        bucket = server.open()
        path, sha256 = clip
        first = await bucket.put_new("once.mp4", path, sha256)
        sent: list[int] = []
        assert await bucket.put_new("once.mp4", path, sha256, sent.append) == first
        assert sent == []
        other = tmp_path / "other.mp4"
        other.write_bytes(b"x" * first.size)
        with pytest.raises(LocalFault, match="another content") as caught:
            await bucket.put_new("once.mp4", other, hashlib.sha256(other.read_bytes()).hexdigest())
        assert caught.value.kind == "object_differs"
        assert await bucket.head("once.mp4") == first

    run(story())


@pytest.mark.parametrize("most_bytes", [64_000_000, 1000], ids=["one request", "multipart"])
@pytest.mark.parametrize("size", [0, 5, 9_000_000])
def test_a_file_that_changed_is_not_uploaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most_bytes: int
) -> None:
    monkeypatch.setattr(store, "MOST_CONDITIONAL_BYTES", most_bytes)
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(size))

    async def story() -> None:
        bucket = server.open()
        key, digest = f"changed-{size}-{most_bytes}.mp4", hashlib.sha256(bytes(size)).hexdigest()
        with pytest.raises(LocalFault) as caught:
            await bucket.put_new(key, path, "0" * 64)
        assert caught.value.kind == "input_changed"
        assert await bucket.head(key) is None
        sent: list[int] = []
        assert (await bucket.put_new(key, path, digest, sent.append)).size == size == sum(sent)

    run(story())


def test_objects_of_other_programs_are_compared_by_their_bytes(server: Server, clip: tuple[Path, str]) -> None:
    import obstore

    async def story() -> None:
        bucket = server.open()
        path, sha256 = clip
        await obstore.put_async(bucket._store, "foreign.mp4", path.read_bytes())
        state = await bucket.head("foreign.mp4")
        assert await bucket.put_new("foreign.mp4", path, sha256) == state

    run(story())


def test_another_content_at_a_read_is_a_changed_input(server: Server, clip: tuple[Path, str]) -> None:
    async def story() -> None:
        bucket = server.open()
        await bucket.put_new("read.mp4", *clip)
        with pytest.raises(LocalFault) as caught:
            await bucket.read("read.mp4", 0, 1, '"another"')
        assert caught.value.kind == "input_changed"

    run(story())


Call = Callable[[Any], Coroutine[Any, Any, ObjectState | None]]


@pytest.mark.parametrize(
    ("bucket", "change", "kind"),
    [
        ("nowhere", {}, "bucket_missing"),
        (CLOSED_BUCKET, {"AWS_ACCESS_KEY_ID": READER[0], "AWS_SECRET_ACCESS_KEY": READER[1]}, "bucket_refused"),
        (BUCKET, {"AWS_ACCESS_KEY_ID": "AKIANOBODY000000"}, "bucket_credentials"),
        (BUCKET, {"AWS_SECRET_ACCESS_KEY": "not-the-secret-at-all"}, "bucket_credentials"),
        (BUCKET, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "bucket_unreachable"),
    ],
)
def test_a_failure_of_a_call_names_the_next_step_and_no_secret(
    server: Server, clip: tuple[Path, str], bucket: str, change: dict[str, str], kind: str
) -> None:
    access = server.access(bucket, more=change)
    objects = open_store(ObjectAddress("s3", bucket), access)
    secrets = [value for name, value in change.items() if name != "AWS_ENDPOINT_URL"]
    calls: list[Call] = [lambda it: it.head("a.mp4"), lambda it: it.read("a.mp4", 0, 1)]
    calls.append(lambda it: it.put_new("new.mp4", *clip))
    for call in calls:
        with pytest.raises(CallError) as caught:
            run(call(objects))
        assert caught.value.kind == kind
        assert caught.value.hint
        text = f"{caught.value.message} {caught.value.hint} {caught.value!r} {objects!r} {access!r}"
        assert not any(value in text for value in (*ADMIN, *READER, *secrets))


def test_a_bucket_must_be_allowed_before_credentials_are_read(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("broken")
    access = Access(AllowedBuckets.of(["clips"]), {}, tmp_path)
    with pytest.raises(UsageError, match="not allowed"):
        open_store(ObjectAddress("s3", "other"), access)
    with pytest.raises(LocalFault, match="cannot be read"):
        open_store(ObjectAddress("s3", "clips"), access)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_the_stores_of_google_and_azure_name_their_own_variables(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is sent: without an account, Azure's store is not made; Google's is."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    address = ObjectAddress(scheme, "clips")
    access = Access(AllowedBuckets.of([address.place]), {}, Path("/nonexistent"))
    if scheme == "gs":
        assert repr(open_store(address, access)) == "Objects(gs://clips)"
        return
    with pytest.raises(LocalFault) as caught:
        open_store(address, access)
    assert "AZURE_STORAGE_ACCOUNT_NAME" in caught.value.hint


def test_a_failed_upload_leaves_no_piece_that_others_see(server: Server, tmp_path: Path) -> None:
    """A multipart upload that ends before its last piece makes no object."""
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(store.MOST_CONDITIONAL_BYTES + 1)

    def stop(_: int) -> None:
        raise OSError("the process is killed here")

    async def story() -> None:
        bucket = server.open()
        with pytest.raises(CallError):
            await bucket.put_new("large.mp4", path, "0" * 64, stop)
        assert await bucket.head("large.mp4") is None

    run(story())


@pytest.mark.parametrize("size_bytes", [1000, 66_000_000])
def test_a_report_replaces_only_one_of_the_same_owner(server: Server, tmp_path: Path, size_bytes: int) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_bytes(b"1" * size_bytes)
    second.write_bytes(b"2" * size_bytes)
    key = f"own/{size_bytes}/report.json"

    async def scenario() -> str:
        objects = server.open()
        await objects.put_own(key, first, "one", "application/json")
        await objects.put_own(key, second, "one", "application/json")
        with pytest.raises(LocalFault) as caught:
            await objects.put_own(key, first, "two", "application/json")
        assert caught.value.kind == "object_differs"
        return await objects.download(key, io.BytesIO())

    assert asyncio.run(scenario()) == hashlib.sha256(second.read_bytes()).hexdigest()


def test_an_object_that_has_changed_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"clip")

    async def scenario() -> None:
        objects = server.open()
        await objects.put_own("changed.mp4", file, "one", "video/mp4")
        with pytest.raises(LocalFault) as caught:
            await objects.download("changed.mp4", io.BytesIO(), '"another"')
        assert caught.value.kind == "input_changed"
        with pytest.raises(LocalFault) as caught:
            await objects.download("missing.mp4", io.BytesIO())
        assert caught.value.kind == "object_missing"

    asyncio.run(scenario())
