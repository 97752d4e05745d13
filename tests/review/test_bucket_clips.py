"""Clips that only a bucket has: copied when the page asks for them, and removed with the server."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrunner.errors import LocalFault, UsageError
from batchrunner.review import bucket_clips
from batchrunner.review.bucket_clips import BucketClips, OnlyInBucket
from batchrunner.review.clips import Source

CLIPS = {f"s3://clips/{number}.mp4": f"clip {number}".encode() for number in range(5)}


class Bucket:
    """Objects in memory. fetched: the addresses in the order of their copies."""

    def __init__(self, error: Exception | None = None) -> None:
        self.fetched: list[str] = []
        self._error = error

    def fetch(self, address: str, sha256: str, path: Path) -> None:
        if self._error is not None:
            raise self._error
        self.fetched.append(address)
        path.write_bytes(CLIPS[address])


def source(folder: Path, address: str) -> Source:
    name, content = address.rpartition("/")[2], CLIPS[address]
    return Source(folder / name, hashlib.sha256(content).hexdigest(), len(content), folder, address)


def test_a_clip_is_copied_once_however_many_requests_ask_for_it(tmp_path: Path) -> None:
    bucket = Bucket()
    clips = BucketClips(bucket.fetch)
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(clips.local, [source(tmp_path, address) for address in CLIPS for _ in range(4)])]
    assert sorted(bucket.fetched) == sorted(CLIPS)
    assert {item.path.read_bytes() for item in found} == set(CLIPS.values())
    assert {item.root for item in found} == {found[0].path.parent}
    clips.close()
    assert not found[0].path.parent.exists()


def test_a_file_that_is_there_is_not_copied(tmp_path: Path) -> None:
    bucket = Bucket()
    wanted = source(tmp_path, "s3://clips/1.mp4")
    wanted.path.write_bytes(b"here")
    assert BucketClips(bucket.fetch).local(wanted) == wanted
    assert BucketClips(bucket.fetch).local(Source(tmp_path / "gone.mp4", "", None)).path == tmp_path / "gone.mp4"
    assert bucket.fetched == []


def test_only_the_latest_copies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_clips, "_MOST_COPIES", 2)
    bucket = Bucket()
    clips = BucketClips(bucket.fetch)
    for number in (0, 1, 0, 2):
        folder = clips.local(source(tmp_path, f"s3://clips/{number}.mp4")).path.parent
    kept = {source(tmp_path, f"s3://clips/{number}.mp4").sha256 for number in (0, 2)}
    assert {path.stem for path in folder.iterdir()} == kept
    clips.local(source(tmp_path, "s3://clips/1.mp4"))
    assert bucket.fetched == [f"s3://clips/{number}.mp4" for number in (0, 1, 2, 1)]
    clips.close()


@pytest.mark.parametrize(
    "error",
    [
        UsageError("the bucket s3://clips is not allowed", "add --allow-bucket s3://clips"),
        LocalFault("object_missing", "there is no object s3://clips/1.mp4", "Run the batch again."),
    ],
)
def test_a_clip_that_cannot_be_copied_has_a_reason_and_a_next_step(
    tmp_path: Path, error: UsageError | LocalFault
) -> None:
    clips = BucketClips(Bucket(error).fetch)
    with pytest.raises(OnlyInBucket) as caught:
        clips.local(source(tmp_path, "s3://clips/1.mp4"))
    assert error.message in caught.value.message
    assert error.hint in caught.value.message
    clips.close()
