"""The command `review`: one server for a run directory, a private way to the browser, and the closing lines."""

import hashlib
import signal
import stat
import subprocess
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import review_page
from batchrunner.app.review_page import PageOptions, ending, open_page, serve
from batchrunner.errors import BatchLocked, UsageError
from batchrunner.job import Entry
from batchrunner.review.board import Board
from batchrunner.review.source import BatchSource
from batchrunner.review.verdicts import Verdict
from batchrunner.storage.objects.address import AllowedBuckets
from batchrunner.storage.objects.blocking import ObjectReader
from batchrunner.storage.objects.store import Access
from batchrunner.storage.run_directory import RunDir
from tests.conftest import remote
from tests.review import sample_runs
from tests.soak.processes import command, environment

CLIP = b"clip" * 100


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    jobs = [sample_runs.job_of(name, remote(), remote("image")) for name in "ab"]
    entries = [Entry(place, name, job) for place, (name, job) in enumerate(zip("ab", jobs, strict=True))]
    records = [sample_runs.record_of(job, CLIP) for job in jobs]
    return sample_runs.write(tmp_path / "run", entries, records, {hashlib.sha256(CLIP).hexdigest(): CLIP})


def board_of(rundir: RunDir) -> Board:
    found = BatchSource(rundir, "0").read()
    assert found is not None
    return Board(found, {})


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no batch"):
        serve(RunDir(tmp_path), PageOptions(open_browser=False), "0", print)


def test_clips_in_a_bucket_that_is_not_allowed_are_refused_with_the_next_step(rundir: RunDir) -> None:
    board = board_of(rundir)
    sources = {key: replace(item, address=f"s3://clips/{key}") for key, item in board.catalogue.sources.items()}
    found = replace(board.catalogue, sources=sources)
    objects = ObjectReader(lambda: Access(AllowedBuckets()))
    review_page.require_readable(found, objects)  # the files are there
    (rundir.path / "b.mp4").unlink()
    (rundir.path / "a.mp4").unlink()
    with pytest.raises(UsageError) as caught:
        review_page.require_readable(found, objects)
    assert "--allow-bucket s3://clips" in caught.value.hint
    review_page.require_readable(found, ObjectReader(lambda: Access(AllowedBuckets.of(["clips"]))))


def test_the_end_counts_the_verdicts_and_offers_the_next_step(rundir: RunDir) -> None:
    board = board_of(rundir)
    retake = "batchrunner run night.yaml --retake rejected"
    stored = f"Stored in {rundir.path / 'review.jsonl'}"
    assert ending(board, rundir, retake) == [f"2 clips: 0 accepted, 0 rejected, 2 undecided. {stored}"]
    board.put(Verdict("a", 1, "", hashlib.sha256(CLIP).hexdigest(), "reject"))
    first, second = ending(board, rundir, retake)
    assert first == f"2 clips: 0 accepted, 1 rejected, 1 undecided. {stored}"
    assert second.endswith(f"\n  {retake}")


def test_the_browser_gets_a_private_file_and_not_the_address(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    open_page("http://127.0.0.1:1/token/", rundir, {"DISPLAY": ":0"})
    path = rundir.internal_dir / "review.html"
    assert shown == [path.as_uri()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "url=http://127.0.0.1:1/token/" in path.read_text()


def test_a_page_for_other_machines_comes_with_a_warning() -> None:
    assert review_page.warnings_of(PageOptions()) == []
    assert review_page.warnings_of(PageOptions("localhost")) == []
    (warning,) = review_page.warnings_of(PageOptions("0.0.0.0"))
    assert warning.startswith("warning: the page listens on 0.0.0.0: everybody")


def test_without_a_screen_no_browser_takes_the_terminal(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    monkeypatch.setattr(review_page.sys, "platform", "linux")  # type: ignore[attr-defined]  # it is imported there
    open_page("http://127.0.0.1:1/token/", rundir, {"TERM": "xterm"})
    assert shown == []


def test_a_second_server_names_the_first_and_ctrl_c_ends_with_a_summary(rundir: RunDir) -> None:
    arguments = [*command(), "review", str(rundir.path), "--no-open", "--port", "0"]
    options: Any = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **options) as first:
        try:
            assert first.stdout is not None
            line = first.stdout.readline()
            assert line.startswith("review page: http://127.0.0.1:")
            token = line.rstrip().rsplit("/", 2)[1]
            with pytest.raises(
                BatchLocked, match=rf"open already: process {first.pid} at http://127.0.0.1:\d+$"
            ) as error:
                serve(rundir, PageOptions(open_browser=False), "0", print)
            assert token not in f"{error.value.message} {error.value.hint}"
            assert first.poll() is None
        finally:
            first.send_signal(signal.SIGINT)
        output, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert "2 clips: 0 accepted, 0 rejected, 2 undecided." in output
    assert errors == ""
