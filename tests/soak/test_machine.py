"""The machine: two runs at once, an unwritable run directory, a full disk."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import State
from batchrunner.journal import journal
from tests.conftest import Inline, make_job, make_record
from tests.journal.test_journal import begun
from tests.soak.batch import Batch, make_batch, make_clip, make_picture
from tests.soak.oracle import check_batch, latest_requests
from tests.soak.processes import Service, call, plain_clips, wait_for

Mount = Callable[..., None]
_BETWEEN_READERS_S = 0.4
_FULL_DISK_ENDS_S = 90.0  # a minute for the ids, and a margin for a slow machine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, "--duration", "400ms", *plain_clips(tmp_path)) as started:
        yield started


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount a tmpfs with `options` at a place, or remount it. Skip the test where that is not allowed."""
    places: list[Path] = []

    def mounted(place: Path, options: str) -> None:
        arguments = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"NOT TESTED: no tmpfs can be mounted here ({done.stderr.strip() if done else 'no mount'})")
        if "remount" not in options:
            places.append(place)

    yield mounted
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# Two runs at once


def test_a_second_run_ends_at_once_and_a_killed_one_leaves_no_lock(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 16, dict(service.environment()))
    with batch.start(forked=True) as first:
        first.says("accepted")
        with batch.start(forked=True) as second:
            assert second.end() == 4
            assert f"pid {first.process.pid} " in second.output
            assert "Traceback" not in second.output
        assert first.process.poll() is None, "the second must not disturb the first"
        first.process.kill()
        first.end()
        with batch.start(forked=True) as third:
            assert third.end() in {0, 1}, third.output
    figures = check_batch(batch, service.ledger(), _submissions_in_doubt(batch))
    assert not figures.wrong, figures.table("kill")
    assert figures.in_doubt <= 8


def test_only_one_of_two_simultaneous_runs_works(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 8, dict(service.environment()))
    with batch.start(forked=True) as one, batch.start(forked=True) as other:
        assert sorted([one.end(), other.end()]) == [0, 4]
    figures = check_batch(batch, service.ledger(), set())
    assert not figures.wrong, figures.table("race")
    assert figures.accepted == figures.jobs


def test_status_plan_and_validate_work_during_a_run(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 40, dict(service.environment()))
    with batch.start(forked=True) as run:
        run.says("accepted")
        polls = 0
        while not run.ended_within(_BETWEEN_READERS_S):
            status = _json(call("status", batch.output, "--json", cwd=tmp_path))
            plan = _json(call("plan", batch.manifest, "--output", batch.output, "--json", cwd=tmp_path))
            assert status["totals"]["jobs"] == len(plan["jobs"]) == 40
            assert sum(status["totals"][state] for state in ("succeeded", "in_flight", "pending")) == 40
            for shown in (
                call("status", batch.manifest, "--output", batch.output, cwd=tmp_path),
                call("validate", batch.manifest, cwd=tmp_path),
            ):
                assert (shown.returncode, shown.stderr) == (0, "")
            polls += 1
        assert run.end() == 0
        assert polls, "the batch was over before the first status"
    assert _json(call("plan", batch.manifest, "--output", batch.output, "--json", cwd=tmp_path))["submissions"] == 0


def test_status_works_from_the_first_moment_of_a_run(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 2, dict(service.environment()))
    with batch.start() as run:
        while run.process.poll() is None:
            plan = call("plan", batch.manifest, "--output", batch.output, "--json", cwd=tmp_path)
            assert (plan.returncode, plan.stderr) == (0, ""), plan
        assert run.end() == 0


def test_the_latest_requests_of_jobs_are_found_in_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert latest_requests(path, State.SUBMITTING) == set()
    open_journal = journal.Journal(path, Inline())
    begun(open_journal, "a", "b", "c", "d")
    records = [
        make_record("a", State.SUBMITTING, 12),
        make_record("b", State.SUBMITTING),
        make_record("c", State.IN_DOUBT, 2),
    ]
    for record in records:
        asyncio.run(open_journal.save(record))
    assert latest_requests(path, State.SUBMITTING) == {record.last.request_id for record in records[:2]}
    assert latest_requests(path, State.SUBMITTING, State.IN_DOUBT) == {record.last.request_id for record in records}
    open_journal.close()
    assert latest_requests(path, State.IN_DOUBT) == {records[2].last.request_id}


# An unwritable run directory


@pytest.mark.parametrize("place", ["a file", "below a file", "below /proc"])
def test_an_impossible_run_directory_is_a_usage_error(tmp_path: Path, service: Service, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    output = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "out", "below /proc": Path("/proc/out")}
    batch = make_batch(tmp_path, 2, dict(service.environment()), output=output[place])
    _is_refused(batch, service)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_file_system_is_a_usage_error(tmp_path: Path, service: Service, mount: Mount) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "ro")
    _is_refused(make_batch(tmp_path, 2, dict(service.environment()), output=place / "out"), service)


def test_a_run_on_a_file_system_that_became_read_only_is_a_usage_error(
    tmp_path: Path, service: Service, mount: Mount
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=16m")
    batch = make_batch(tmp_path, 2, dict(service.environment()), output=place / "out")
    assert batch.run() == 0
    mount(place, "remount,ro")
    before = len(service.accepted())
    with batch.start(forked=True) as run:
        assert run.end() == 2, run.output
        assert "Traceback" not in run.output
        assert str(batch.output) in run.output
    assert len(service.accepted()) == before
    status = call("status", batch.output, cwd=tmp_path)
    assert (status.returncode, status.stderr) == (0, "")
    assert batch.verify()[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root passes file modes: the read-only mount is tried instead")
def test_a_folder_without_write_permission_is_a_usage_error(tmp_path: Path, service: Service) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    _is_refused(make_batch(tmp_path, 2, dict(service.environment()), output=place / "out"), service)


def _is_refused(batch: Batch, service: Service) -> None:
    with batch.start(forked=True) as run:
        assert run.end() == 2, run.output
        assert "Traceback" not in run.output
        assert "cannot be used" in run.output
        assert str(batch.output) in run.output
    assert service.accepted() == []


# A full disk


def test_a_full_disk_stops_the_batch_and_free_space_continues_it(tmp_path: Path, mount: Mount) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=6m")
    with Service(tmp_path, "--duration", "300ms") as service:
        batch = make_batch(
            tmp_path,
            16,
            dict(service.environment()),
            output=place / "out",
            concurrency=4,
            defaults={"video_quality": "maximum"},
        )
        make_clip(tmp_path / "clip.mp4", frames=6)
        make_picture(tmp_path / "picture.png", 400, noisy=True)  # about 300 kB a clip
        with batch.start(forked=True) as run:
            assert run.end() == 5, run.output
            assert "too little for the clips in flight and one more" in run.output, run.output
        assert "Traceback" not in batch.log()
        stopped_at = len(service.accepted())
        assert 0 < stopped_at < 16, "it must stop submitting, and not before the disk is full"
        kept = sorted(path.name for path in batch.output.glob("*.mp4"))
        assert len(kept) == stopped_at, "each paid clip was stored"
        # A run that ends merges the journal's log into the journal, and releases the log's space. If that space counted
        # as free, the next start would find it, pay for one more clip, and then lack it for its own log. How often that
        # happened depended on the log's length at the end of the first run, and so on the machine's load.
        for _ in range(2):
            with batch.start(forked=True) as run:
                assert run.end() == 5, run.output
                assert "too little for the clips in flight and one more" in run.output
        assert len(service.accepted()) == stopped_at, "a start on a full disk must pay for nothing"
        status = call("status", batch.output, cwd=tmp_path)
        assert (status.returncode, "Traceback" in status.stderr) == (0, False), status

        mount(place, "remount,size=64m")
        assert batch.run() == 0, batch.log()
        figures = check_batch(batch, service.ledger(), set())
        assert not figures.wrong, f"{figures.table('full disk')}\n{batch.log()}"
        assert figures.accepted == figures.jobs
        assert set(kept) <= {path.name for path in batch.output.glob("*.mp4")}


def test_a_run_started_on_a_full_disk_submits_nothing_and_names_the_disk(tmp_path: Path, mount: Mount) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=8m")
    with Service(tmp_path, "--duration", "300ms", *plain_clips(tmp_path)) as service:
        batch = make_batch(tmp_path, 12, dict(service.environment()), output=place / "out", concurrency=2)
        with batch.start(forked=True) as run:
            run.says("succeeded:")
            run.process.send_signal(signal.SIGTERM)
            assert run.end() == 143
        before = len(service.accepted())
        _fill(place)
        with batch.start(forked=True) as run:
            assert run.end() == 5, run.output
            assert "too little for the clips in flight and one more" in run.output
            assert "the journal could not be opened" not in run.output, "space is reserved for that"
            assert "Traceback" not in run.output
            assert "damage" not in run.output
            assert "pays for every job again" not in run.output
        assert len(service.accepted()) == before
        (place / "filler").unlink()
        assert batch.run() == 0, batch.log()
        figures = check_batch(batch, service.ledger(), set())
        assert not figures.wrong, figures.table("full disk")
        assert figures.accepted == figures.jobs


def test_a_disk_filled_by_another_process_ends_the_run_with_every_id_stored(tmp_path: Path, mount: Mount) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=8m")
    with Service(tmp_path, "--duration", "3s", *plain_clips(tmp_path)) as service:
        batch = make_batch(tmp_path, 60, dict(service.environment()), output=place / "out", concurrency=40)
        with batch.start(forked=True) as run:
            wait_for(service.accepted, "the first submission is accepted")
            _fill(place)
            assert run.end(_FULL_DISK_ENDS_S) == 5, run.output
            assert "the disk is full" in run.output
            assert "Traceback" not in run.output
        snapshot = journal.read(batch.journal)
        assert snapshot is not None
        paid = {event["generation_id"] for event in service.accepted()}
        assert {record.generation_id for record in snapshot.records.values()} - {None} == paid, run.output
        assert 0 < len(paid) < 60, "it must stop submitting"


def test_a_journal_on_a_full_disk_stores_ids_and_refuses_intents(tmp_path: Path, mount: Mount) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=8m")
    keys = [f"job-{number}" for number in range(108)]
    open_journal = journal.Journal(place / "journal.db", Inline())
    begun(open_journal, *keys)
    for key in keys[:100]:  # their attempts take new pages, which the database does not have yet
        asyncio.run(open_journal.save(make_record(key, State.SUBMITTING)))
    _fill(place)
    for _ in range(40):  # far more than the reserved space would hold if the log only grew
        for key in keys[92:100]:
            asyncio.run(open_journal.save(make_record(key, State.IN_FLIGHT)))
    with pytest.raises(LocalFault, match="the disk is full"):
        asyncio.run(open_journal.save(make_record(keys[100], State.SUBMITTING)))
    open_journal.close()
    snapshot = journal.read(place / "journal.db")
    assert snapshot is not None
    states = [snapshot.records[make_job(key).fingerprint].state for key in keys]
    assert states == [State.SUBMITTING] * 92 + [State.IN_FLIGHT] * 8 + [State.PENDING] * 8


def _fill(place: Path) -> None:
    """Leave not one byte free."""
    with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(1024))


def _json(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def _submissions_in_doubt(batch: Batch) -> set[str]:
    return {row["attempts"][-1]["request_id"] for row in batch.report()["jobs"] if row["state"] == "in_doubt"}
