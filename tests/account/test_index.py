"""The index as a file: made again from run directories, read without writing, and crashes at every statement."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account import index, runs_log, schema, transactions
from batchrunner.account.base import Granted, Hold, Reuse, Wait
from batchrunner.account.index import Index, connect, viewed
from batchrunner.account.limits import Limits
from batchrunner.account.rows import JobRow
from batchrunner.errors import ExitStatus, LocalFault, UsageError
from batchrunner.job import Job, Move
from batchrunner.plan.endings import stop_for
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run
from tests.conftest import ROOT
from tests.scenarios.__main__ import shared_memory

KILLED = 9


async def worked(state: Path, directory: Path, wanted: list[Job]) -> Process:
    """A batch with one job delivered, one in flight and one in doubt, whose process was killed."""
    process = await Process(state, directory, wanted).start()
    await process.submit(wanted[0], "gen0")
    await process.deliver(wanted[0])
    await process.submit(wanted[1], "gen1")
    await process.submit(wanted[2], None)
    process.die()
    return process


def index_file(folder: Path) -> Path:
    [path] = (folder / "state").glob("index-*.db")
    return path


def kinds(answers: list[Any]) -> list[str]:
    return [type(answer).__name__ for answer in answers]


def break_file(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_bytes(b"no database" * 1000)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no table":
        with closing(connect(str(path))) as connection:
            connection.execute("DROP TABLE jobs")
    elif how == "zeros":
        content = bytearray(path.read_bytes())
        content[4096:12288] = bytes(8192)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["sound", "missing", "empty", "foreign", "cut", "no table", "zeros"])
def test_a_missing_or_broken_index_is_made_again_from_the_run_directories(tmp_path: Path, how: str) -> None:
    async def body() -> None:
        wanted = jobs(4)
        first = await worked(tmp_path / "state", tmp_path / "first", wanted)
        break_file(index_file(tmp_path), how)
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        answers = [await second.claim(job) for job in wanted]
        assert kinds(answers) == ["Reuse", "Reuse", "Hold", "Granted"]
        assert answers[0].clips[0].path.parent == first.directory
        assert answers[1].generation_id == "gen1"
        assert (second.index.rebuilt is not None) == (how != "sound")
        if how not in ("sound", "missing"):
            assert second.index.rebuilt is not None
            assert [path.exists() for path in second.index.rebuilt.renamed] == [True]
        second.die()

    run(body())


def test_a_run_directory_that_was_renamed_is_found_beside_its_old_place(tmp_path: Path) -> None:
    async def body() -> None:
        wanted = jobs(3)
        first = await worked(tmp_path / "state", tmp_path / "first", wanted)
        index_file(tmp_path).unlink()
        first.directory.rename(tmp_path / "renamed")
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        assert kinds([await second.claim(job) for job in wanted]) == ["Reuse", "Reuse", "Hold"]
        second.die()

    run(body())


def test_a_run_directory_that_is_gone_is_named_and_the_index_is_made_without_it(tmp_path: Path) -> None:
    async def body() -> None:
        wanted = jobs(3)
        first = await worked(tmp_path / "state", tmp_path / "first", wanted)
        index_file(tmp_path).unlink()
        shutil.rmtree(first.directory)
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        assert second.index.rebuilt is not None
        assert [directory for directory, _ in second.index.rebuilt.unread] == [str(first.directory)]
        second.die()

    run(body())


def test_an_index_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    index = Index(tmp_path / "state")
    index.close()
    path = index_file(tmp_path)
    with closing(connect(str(path))) as connection:
        [number] = connection.execute("PRAGMA application_id").fetchone()
        connection.execute(f"PRAGMA application_id = {number + 1}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="newer batchrunner"):
        Index(tmp_path / "state")
    assert path.read_bytes() == before


def test_a_run_whose_index_was_made_again_meanwhile_registers_again(tmp_path: Path) -> None:
    """Until then, another run gets no claim: it could be for a job that the first one has just claimed."""

    async def body() -> None:
        wanted = jobs(4)
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        assert await first.claim(wanted[1]) == Granted()  # neither index nor journal has it after this
        index_file(tmp_path).unlink()
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        assert isinstance(await second.claim(wanted[1]), Wait)
        assert isinstance(await second.claim(wanted[3]), Wait)
        assert await first.claim(wanted[2]) == Granted()
        answers = [await second.claim(job) for job in wanted]
        assert kinds(answers) == ["Hold", "Hold", "Hold", "Granted"]
        first.die()
        second.die()

    run(body())


def test_a_run_that_dies_before_it_registers_again_holds_up_nobody(tmp_path: Path) -> None:
    async def body() -> None:
        wanted = jobs(4)
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        assert await first.claim(wanted[1]) == Granted()
        index_file(tmp_path).unlink()
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        assert isinstance(await second.claim(wanted[1]), Wait)
        first.die()
        assert kinds([await second.claim(job) for job in wanted]) == ["Reuse", "Granted", "Granted", "Granted"]
        second.die()

    run(body())


def test_a_view_writes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        await worked(tmp_path / "state", tmp_path / "first", jobs(3))

    run(body())
    before = {path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    with viewed(tmp_path / "state") as connection:
        [batch] = transactions.batch_rows(connection, ACCOUNT)
        with pytest.raises(sqlite3.OperationalError):
            transactions.put_batch(connection, batch)
    assert {path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()} == before


def test_a_view_of_a_missing_index_is_made_in_memory(tmp_path: Path) -> None:
    async def body() -> None:
        await worked(tmp_path / "state", tmp_path / "first", jobs(3))

    run(body())
    index_file(tmp_path).unlink()
    with viewed(tmp_path / "state") as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
    assert not list((tmp_path / "state").glob("*.db"))


def test_a_view_of_no_state_folder_is_empty(tmp_path: Path) -> None:
    with viewed(tmp_path / "state") as connection:
        assert transactions.batch_rows(connection) == []
    assert not (tmp_path / "state").exists()


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(LocalFault):
        Index(tmp_path / "state")


def test_a_full_disk_of_the_state_folder_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    index = Index(state)

    def fill(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # the same error as that of a full disk
        for number in range(2_000):
            transactions.end_generation(connection, ACCOUNT, f"gen{number}")

    def no_space(_: sqlite3.Connection) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for work in (fill, no_space):
        with pytest.raises(LocalFault, match=f"the disk of the state folder {state} is full") as caught:
            index.write([work], durable=True)
        reason = stop_for(caught.value)
        assert "disk of the state folder" in reason.ending.advice
        assert "run directory" not in reason.ending.advice
        assert reason.ending.status is ExitStatus.NEEDS_ACTION
        assert str(state) in caught.value.hint
    index.close()


def test_sums_of_days_follow_every_change_of_a_submission(tmp_path: Path) -> None:
    async def body() -> None:
        wanted = jobs(3)
        process = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await process.submit(wanted[0], "gen0")
        await process.submit(wanted[1], None)
        await process.move(wanted[1], Move.ACCEPT, generation_id="gen1", credits=3 * PRICE)
        await process.submit(wanted[2], "gen2")
        await process.move(wanted[2], Move.FAIL)
        await process.end()

    run(body())
    with viewed(tmp_path / "state") as connection:
        assert connection.execute("SELECT sum(cost) FROM spend_by_day").fetchone() == (4 * PRICE,)
        assert connection.execute("SELECT sum(cost) FROM submissions").fetchone() == (4 * PRICE,)


def test_a_run_directory_whose_name_is_not_text_is_known(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"n\xff")

    async def body() -> None:
        wanted = jobs(1)
        first = await Process(tmp_path / "state", odd, wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.deliver(wanted[0])
        await first.end()
        second = await Process(tmp_path / "state", tmp_path / "second", wanted).start()
        answer = await second.claim(wanted[0])
        assert [clip.path.parent for clip in answer.clips] == [odd]
        second.die()

    run(body())
    index_file(tmp_path).unlink()
    with viewed(tmp_path / "state") as connection:
        assert str(odd) in [batch.directory for batch in transactions.batch_rows(connection, ACCOUNT)]


def test_statements_of_many_rows_write_no_temporary_file(tmp_path: Path) -> None:
    index = Index(tmp_path / "state")
    assert index.read(lambda connection: connection.execute("PRAGMA temp_store").fetchone()) == (2,), "in memory"
    index.close()


def test_a_clean_end_spares_the_next_run_the_journal(tmp_path: Path) -> None:
    async def body() -> None:
        wanted = jobs(1)
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.end()
        first.index = Index(tmp_path / "state")
        before = first.index.read(partial(transactions.batch_row, batch_id=first.session.batch.batch_id))
        assert before.sequence == first.journal.mark.sequence
        marked = _only_job(first.index)._replace(request_id="marked")
        first.index.write([partial(transactions.store, jobs=[marked], submissions=())], durable=True)
        first.index.close()
        again = await Process(tmp_path / "state", tmp_path / "first", wanted, number=5).start()
        assert _only_job(again.index).request_id == "marked", "the rows were not read again"
        again.die()

    run(body())


def _only_job(index: Index) -> JobRow:
    [row] = index.read(lambda connection: connection.execute("SELECT * FROM jobs").fetchall())
    return JobRow(*row[:-1])._replace(takes_slot=bool(row[7]))


class Mortal(sqlite3.Connection):
    """A connection whose process dies at its n-th statement, before or after it is executed. left: until then."""

    left = -1

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._live()
        cursor = super().execute(*arguments)
        self._live()
        return cursor

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self._live()
        cursor = super().executemany(*arguments)
        self._live()
        return cursor

    def _live(self) -> None:
        if Mortal.left == 0:
            os._exit(KILLED)
        Mortal.left -= 1


def mortal(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Mortal)


async def _live(folder: Path, wanted: list[Job]) -> None:
    """Start, and pay for what is granted. A job is paid for between its begin and its reply."""
    limits = Limits(concurrency=3, credits_per_day=10 * PRICE)
    process = await Process(folder / "state", folder / "first", wanted, limits, connection=mortal).start()
    for job in wanted:
        answer = await process.claim(job)
        if isinstance(answer, Granted):
            await process.begin(job)
            (folder / f"paid-{job.key}").touch()
            await process.move(job, Move.ACCEPT, generation_id=f"gen-{job.key}")
            await process.deliver(job)
    await process.end()


def _died(folder: Path, wanted: list[Job], statement: int) -> bool:
    """Let a process live and die at a statement; False where it lived to its end."""
    folder.mkdir()
    child = os.fork()
    if not child:
        Mortal.left = statement
        status = 1
        try:
            run(_live(folder, wanted))
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def test_a_crash_at_any_statement_pays_for_nothing_twice_and_keeps_no_slot() -> None:
    wanted = jobs(2)
    with tempfile.TemporaryDirectory(dir=shared_memory()) as name:
        statement = 0
        while _died(Path(name, str(statement)), wanted, statement):
            run(_after(Path(name, str(statement)), wanted))
            statement += 1
        run(_after(Path(name, str(statement)), wanted))
    assert statement > 60, "the whole life of a batch was tried"


async def _after(folder: Path, wanted: list[Job]) -> None:
    """Another batch of the same jobs runs after the crash: what was paid for is known, and all else is free."""
    process = await Process(folder / "state", folder / "second", wanted, Limits(concurrency=2)).start()
    for job in wanted:
        answer = await process.claim(job)
        is_paid = (folder / f"paid-{job.key}").exists()
        assert isinstance(answer, Reuse | Hold if is_paid else Granted), f"{folder.name}: {answer}"
        if not is_paid:
            await process.begin(job)
    process.die()


def test_opening_the_index_does_not_change_a_registered_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def two_batches() -> None:
        state, [job] = tmp_path / "state", jobs(1)
        first = await Process(state, tmp_path / "first", [job]).start()
        assert isinstance(await first.claim(job), Granted)
        # The second process read runs.jsonl before the first one registered.
        monkeypatch.setattr(index, "lacking", lambda connection, folder: runs_log.read(folder))
        second = await Process(state, tmp_path / "second", [job]).start()
        assert isinstance(await second.claim(job), Hold)
        await first.begin(job)
        for process in (first, second):
            process.die()

    run(two_batches())


def test_real_processes_share_jobs_and_slots(tmp_path: Path) -> None:
    """Three processes claim the same jobs at the same time; one is killed."""
    count, slots = 40, 25
    command = [sys.executable, "-m", "tests.account.claimer", str(tmp_path / "state")]
    processes = [
        subprocess.Popen(
            [*command, str(tmp_path / name), str(count), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in ("first", "second", "third")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    processes[0].kill()
    granted = [key for process in processes[1:] for key in process.communicate("end\n", timeout=60)[0].split()]
    processes[0].communicate()
    assert len(granted) == len(set(granted)), "no job was granted twice"
    with closing(connect(str(index_file(tmp_path)))) as connection:
        rows = connection.execute("SELECT fingerprint, count(*) FROM jobs GROUP BY fingerprint").fetchall()
        assert all(number == 1 for _, number in rows)
        assert len(rows) == slots, "the slots of all were used, and not one more"
