"""The file of durations: it is kept between runs, it is bounded, and a broken one is ignored."""

import json
import os
import stat
from pathlib import Path

import pytest

from batchrunner.engine.polling import duration_cache
from batchrunner.engine.polling.duration_model import KEPT, DurationKey, Durations

LOW: DurationKey = (("model", "480p"), False)
QUEUED: DurationKey = (("model", "480p"), True)


def known(*courses: DurationKey, spans: int = 6) -> dict[DurationKey, Durations]:
    return {key: Durations([(50.0, 55.1234)] * spans) for key in courses}


def test_the_file_is_in_the_cache_folder() -> None:
    assert duration_cache.place({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/batchrunner/durations.json")
    assert duration_cache.place({"XDG_CACHE_HOME": "", "HOME": "/h"}) == Path("/h/.cache/batchrunner/durations.json")
    assert duration_cache.place({}) is None
    assert duration_cache.place({"XDG_CACHE_HOME": "relative"}) is None


def test_durations_are_kept_by_service_and_duration_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "durations.json"
    duration_cache.save(path, "a.example", known(LOW, QUEUED))
    duration_cache.save(path, "b.example", known(LOW, spans=1))
    duration_cache.save(path, "a.example", known(LOW, spans=2))
    found = duration_cache.load(path, "a.example")
    assert {key: list(value.spans) for key, value in found.items()} == {
        LOW: [(50.0, 55.123)] * 2,
        QUEUED: [(50.0, 55.123)] * 6,
    }
    assert list(duration_cache.load(path, "b.example")[LOW].spans) == [(50.0, 55.123)]
    assert duration_cache.load(path, "c.example") == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in path.parent.iterdir()] == ["durations.json"]


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    duration_cache.save(None, "a.example", known(LOW))
    assert duration_cache.load(None, "a.example") == {}
    duration_cache.save(tmp_path / "nothing", "a.example", {})
    assert not any(tmp_path.iterdir())


def test_the_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    for number in range(70):
        duration_cache.save(path, f"{number}.example", known(LOW, spans=500))
    assert path.stat().st_size < 400_000
    assert duration_cache.load(path, "0.example") == {}, "the oldest is dropped"
    assert len(duration_cache.load(path, "69.example")[LOW].spans) == KEPT


ROW = (
    b'{"version": 1, "kinds": [{"service": "a.example", "model": "m", "resolution": "", "queued": false, "spans": %b}]}'
)
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "torn": b'{"version": 1, "kinds": [{"serv',
    "not text": b"\xff\xfe\x00",
    "another version": b'{"version": 2, "kinds": []}',
    "a list": b"[]",
    "no list": b'{"version": 1, "kinds": 5}',
    "odd rows": b'{"version": 1, "kinds": [5, {}, {"service": "a.example"}]}',
    "odd spans": ROW % b'[[1], ["x", 2], null]',
    "no spans": ROW % b"5",
    "odd numbers": ROW % b"[[NaN, 5], [-1, 5], [5, 1], [1, Infinity], [1e999, 1e999]]",
    "deep": b"[" * 100_000,
    "large": b'{"version": 1, "kinds": [' + b" " * 1_000_001 + b"]}",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_ignored_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "durations.json"
    path.write_bytes(content)
    assert not any(path.spans for path in duration_cache.load(path, "a.example").values())
    duration_cache.save(path, "a.example", known(LOW))
    assert len(duration_cache.load(path, "a.example")[LOW].spans) == 6


def test_a_place_that_cannot_be_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    duration_cache.save(tmp_path / "file" / "durations.json", "a.example", known(LOW))
    (tmp_path / "folder").mkdir()
    duration_cache.save(tmp_path / "folder", "a.example", known(LOW))
    assert duration_cache.load(tmp_path / "folder", "a.example") == {}
    os.mkfifo(tmp_path / "pipe")
    assert duration_cache.load(tmp_path / "pipe", "a.example") == {}
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "pipe"}


def test_durations_from_the_journal_are_added() -> None:
    found = duration_cache.with_journal(known(LOW), {LOW[0]: [100.0] * 10, ("model", "720p"): [5.0]}, 15.0)
    assert list(found[LOW].spans) == [(50.0, 55.1234)] * 6 + [(85.0, 100.0)] * 10
    assert list(found[("model", "720p"), False].spans) == [(0.0, 5.0)]


def test_the_file_has_only_the_documented_content(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    duration_cache.save(path, "a.example", known(LOW))
    [row] = json.loads(path.read_text())["kinds"]
    assert set(row) == {"service", "model", "resolution", "queued", "spans"}


def test_the_works_of_the_jobs_are_stored_beside_the_durations(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    duration_cache.save(path, "a.example", {LOW: Durations([(50.0, 55.0), (60.0, 65.0)], [80.0, None])})
    assert list(duration_cache.load(path, "a.example")[LOW].works) == [80.0, None]


@pytest.mark.parametrize("works", [None, "x", [1.0], [True, -1.0], ["1", 1e300], {"a": 1}])
def test_works_that_cannot_be_used_are_unknown(tmp_path: Path, works: object) -> None:
    path = tmp_path / "durations.json"
    duration_cache.save(path, "a.example", {LOW: Durations([(50.0, 55.0), (60.0, 65.0)], [80.0, 80.0])})
    content = json.loads(path.read_text())
    content["kinds"][0]["works"] = works
    path.write_text(json.dumps(content))
    found = duration_cache.load(path, "a.example")[LOW]
    assert list(found.spans) == [(50.0, 55.0), (60.0, 65.0)]
    assert all(work in (None, 1.0) for work in found.works)
    assert len(found.works) == 2


def test_the_journals_durations_keep_their_works() -> None:
    found = duration_cache.with_journal({}, {LOW[0]: [50.0, 60.0]}, 15.0, {LOW[0]: [100.0, None]})
    assert list(found[LOW].works) == [100.0, None]
