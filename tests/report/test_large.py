"""Reports of large batches: rows are generated one at a time, and the page has a limited number of cards."""

import csv
import errno
import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Job, Record, Snapshot, State
from batchrunner.media.posters import Pictures
from batchrunner.report import formats, gallery, rows, writer
from batchrunner.report.charts import AttemptTable, generation_times
from batchrunner.report.formats import CSV, JSON, JUNIT
from batchrunner.report.html import render
from batchrunner.storage.durable_files import Disk
from tests.browser.sample_batches import sample_batch
from tests.report.test_report import ALL, RUN, built, page_of, record, snapshot

STATES = ("succeeded", "failed", "in_doubt", "in_flight", "pending")


class Watched(Mapping[str, Record]):
    """Records that count how often they are read."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = records
        self.calls = 0

    def __getitem__(self, key: str) -> Record:
        self.calls += 1
        return self.records[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def test_a_row_is_generated_on_access_and_not_kept() -> None:
    shot = sample_batch(50)
    watched = Watched(shot.records)
    jobs = writer.build(replace(shot, records=watched), "0.1.0")["jobs"]
    before = watched.calls
    passing = iter(jobs)
    first, second = next(passing), next(passing)
    assert watched.calls == before + 2
    assert (first["id"], second["id"]) == (shot.entries[0].id, shot.entries[1].id)
    assert dict(jobs[0]) == dict(first)
    assert len(jobs) == len(list(jobs)) == len(list(jobs)) == 50


def peak_bytes(shot: Snapshot, folder: Path) -> int:
    writer.write(shot, folder, "0.1.0", junit=str(folder / "junit.xml"))  # so that permanent caches exist
    tracemalloc.start()
    try:
        writer.write(shot, folder, "0.1.0", junit=str(folder / "junit.xml"))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_rows_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with all its values takes 3 kB; charts and causes keep a tenth of that."""
    monkeypatch.setattr(gallery, "MOST", 20)
    few, many = (peak_bytes(sample_batch(jobs), tmp_path) for jobs in (100, 700))
    assert (many - few) / 600 < 1000


def test_a_page_is_never_one_text_in_memory() -> None:
    """A page with pictures has many megabytes. No piece has the cards, the details or the pictures of many jobs."""
    shot = sample_batch(1000)
    pictures = Pictures({f"strip-{number}": "x" * 4000 for number in range(1000)}, {})
    sizes = [len(piece) for piece in render(writer.build(shot, "0.1.0"), pictures)]
    assert max(sizes) < sum(sizes) / 10


def test_one_pass_over_the_rows_serves_all_files_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[str] = []

    class Counted(rows.Row):
        __slots__ = ()

        def __init__(self, job: Job, *further: Any) -> None:
            super().__init__(job, *further)
            created.append(job.fingerprint)

    monkeypatch.setattr(rows, "Row", Counted)
    shot = sample_batch(80)  # more jobs than the timeline has rows
    writer.write(shot, tmp_path, "0.1.0", junit=str(tmp_path / "junit.xml"))
    assert created == [entry.job.fingerprint for entry in shot.entries]


def test_report_json_equals_the_whole_dictionary_with_one_job_a_line(tmp_path: Path) -> None:
    shot = replace(sample_batch(30), records=sample_batch(40).records)  # ten jobs are of an earlier manifest
    path, _, table = writer.write(shot, tmp_path, "0.1.0")
    text = path.read_text("utf-8")
    whole = built(shot)
    assert json.loads(text) == whole
    assert list(json.loads(text)) == list(whole)
    lines = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith('{"')]
    assert lines == [*whole["jobs"], *whole["earlier_jobs"]]
    assert whole["earlier_jobs"]
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [job["id"] for job in whole["jobs"]]


@pytest.mark.parametrize("jobs", [(), ALL[:1], ALL])
def test_every_format_is_complete_for_any_number_of_jobs(jobs: tuple[Record, ...]) -> None:
    report = writer.build(snapshot(*jobs), "0.1.0")
    assert json.loads(writer.to_json(report)) == built(snapshot(*jobs))
    for form in (JSON, CSV, JUNIT):
        assert "".join(formats.pieces(form, report)).endswith("\n")


def test_a_page_that_cannot_be_rendered_does_not_stop_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr("batchrunner.report.html.render", broken)
    with pytest.raises(RuntimeError):
        writer.write(sample_batch(3), tmp_path, "0.1.0")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["report.json", "results.csv"]


class Filling:
    """A file on a disk with the given number of bytes left."""

    def __init__(self, file: BinaryIO, room_bytes: int) -> None:
        self._file = file
        self._room_bytes = room_bytes

    def write(self, content: bytes) -> int:
        self._room_bytes -= len(content)
        if self._room_bytes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room_bytes", [0, 5000, 20_000])
def test_a_full_disk_keeps_the_earlier_file_and_the_other_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    json_path, _, table = writer.write(snapshot(ALL[4]), tmp_path, "0.1.0")
    before = json_path.read_bytes()
    real = Disk.open

    def opened(disk: Disk, path: Path, mode: str) -> Any:
        file = real(disk, path, mode)
        return Filling(file, room_bytes) if "report.json" in path.name else file

    monkeypatch.setattr(Disk, "open", opened)
    with pytest.raises(LocalFault, match=r"report\.json could not be written: the disk is full"):
        writer.write(sample_batch(30), tmp_path, "0.1.0")
    assert json_path.read_bytes() == before
    assert table.read_text("utf-8").count("\n") == 31
    assert not list(tmp_path.rglob("*.new"))


def test_a_failure_in_the_middle_leaves_no_incomplete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr(formats, "CSV", CSV._replace(line=broken))
    with pytest.raises(RuntimeError):
        writer.write(sample_batch(3), tmp_path, "0.1.0")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


# The page


@pytest.mark.parametrize("seed", range(40))
def test_cards_are_limited_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    monkeypatch.setattr(gallery, "MOST", 20)
    states = rng.choices(STATES, [rng.random() ** 3 for _ in STATES], k=rng.choice((0, 19, 20, 21, 300)))
    chosen = gallery.places(states)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(20, len(states))
    shown, every = Counter(states[place] for place in chosen), Counter(states)
    for state in ("failed", "in_doubt", "succeeded"):
        assert shown[state] >= min(every[state], 5)
    assert not any(shown[state] for state in ("in_flight", "pending")) or all(
        shown[state] == every[state] for state in ("failed", "in_doubt", "succeeded")
    )
    for state in STATES:
        places = [place for place in range(len(states)) if states[place] == state]
        assert [place for place in chosen if states[place] == state] == places[: shown[state]], "the first of each"


def test_failures_get_half_of_the_cards_or_all_that_others_do_not_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gallery, "MOST", 10)
    both = ["succeeded"] * 50 + ["failed"] * 50
    assert gallery.places(both) == [*range(5), *range(50, 55)]
    assert gallery.places(["failed"] * 50 + ["pending"] * 50) == list(range(10))
    assert gallery.places(["failed"] * 3 + ["succeeded"] * 50) == list(range(10))


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", page.partition("<main>")[2]).split())


def test_a_page_that_omits_jobs_says_so_and_draws_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST", 12)
    shot = snapshot(
        *[record(f"{n}s", State.SUCCEEDED) for n in range(70)],
        *[record(f"{n}p", State.PENDING) for n in range(9)],
        *ALL,
    )
    page = page_of(writer.build(shot, "0.1.0"))
    assert page.count('<li class="card"') == 12
    text = text_of(page)
    assert (
        "12 of 85 jobs are shown here: 9 of 71 succeeded, all 1 failed, all 2 in doubt, none of 1 in flight, "
        "none of 10 not submitted. results.csv and report.json have every job; the charts and sums on this page "
        "include every job."
    ) in text
    assert "75 jobs in 1 run" in text
    assert 'href="./results.csv"' in page


def test_a_complete_page_mentions_no_omission() -> None:
    assert "are shown here" not in page_of(writer.build(snapshot(*ALL), "0.1.0"))


def test_posters_are_for_jobs_with_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    shot = sample_batch(40)
    assert writer.on_page(shot) == shot
    monkeypatch.setattr(gallery, "MOST", 10)
    ids = [entry.id for entry in writer.on_page(shot).entries]
    page = page_of(writer.build(shot, "0.1.0"))
    assert re.findall(r"<h3>(?:<a [^>]*>)?<bdi>([^<]+)</bdi>", page)[-10:] == ids


def test_earlier_jobs_are_listed_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.report.html._MOST_EARLIER", 3)
    old = tuple(record(str(n), State.SUCCEEDED) for n in range(8))
    page = page_of(writer.build(snapshot(ALL[0], earlier=old), "0.1.0"))
    assert "and 5 more in report.json" in text_of(page)


# Large figures in charts


def test_labels_of_large_numbers_are_short_and_of_times_complete() -> None:
    durations_s = [230 * n / 120_000 for n in range(120_000)]
    drawn = generation_times(durations_s)
    assert drawn is not None
    assert [tick["label"] for tick in drawn["y_ticks"]][-1] == "6,000"
    assert [tick["label"] for tick in drawn["x_ticks"]] == ["0", "40 s", "80 s", "2 min", "160 s", "200 s"]
    drawn = generation_times([*durations_s, *durations_s[:1] * 250_000])
    assert drawn is not None
    assert [tick["label"] for tick in drawn["y_ticks"]] == ["0", "100k", "200k", "300k"]


def test_compact_attempts_are_restored_unchanged() -> None:
    report = built(sample_batch(60))
    tries = list(AttemptTable(report["jobs"]))
    attempts = [attempt for job in report["jobs"] for attempt in job["attempts"]]
    assert len(tries) == len(attempts)
    for one, other in zip(tries, attempts, strict=True):
        assert (one.outcome, one.polls, one.is_accepted) == (
            other["outcome"], other["polls"], other["generation_id"] is not None,
        )  # fmt: skip
        assert (one.completed_at is None) == (other["completed_at"] is None)
        assert one.price == (other["estimate"] if other["credits"] is None else other["credits"])


def test_the_first_submission_is_that_of_the_listed_jobs() -> None:
    old = record("old", State.SUCCEEDED)
    earliest = replace(old, attempts=(old.attempts[0]._replace(submitted_at=RUN.started_at - 500),))
    report = built(snapshot(*ALL, earlier=(earliest,)))
    assert report["first_submitted_at"] == report["jobs"][0]["attempts"][0]["submitted_at"]
    assert built(snapshot(ALL[4]))["first_submitted_at"] is None
