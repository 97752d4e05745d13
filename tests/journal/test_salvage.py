"""Reading a damaged journal, whatever the damage contains."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from batchrunner.errors import JournalError, Problem
from batchrunner.job import Move, advance
from batchrunner.journal import salvage
from batchrunner.journal.journal import Journal, read
from tests.conftest import Inline
from tests.journal.test_journal import begun


def test_an_error_that_quotes_a_damaged_name_is_handled(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path, Inline())
    jobs = {record.job.fingerprint: record.job for record in begun(journal, "a", "b")}
    journal.close()
    content = path.read_bytes()
    assert b"sqlite_autoindex_runs_1" in content
    path.write_bytes(content.replace(b"sqlite_autoindex_runs_1", b"sqlite_autoind\xe5x_runs_1"))
    with pytest.raises(JournalError):
        read(path)
    assert set(salvage.readable(path, lambda retakes: jobs).records) <= set(jobs)


def test_an_attempt_in_the_place_of_its_job_counts_more_than_one_in_another_place(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path, Inline())
    [record] = begun(journal, "a")
    submitted = advance(record, Move.BEGIN_SUBMIT, request_id="run.1", submitted_at=1.0)
    record = advance(submitted, Move.ACCEPT, generation_id="gen:1", accepted_at=2.0)
    asyncio.run(journal.save(record))
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(attempts)")]
        copied = ", ".join(columns[1:])
        connection.execute(f"INSERT INTO attempts (job, {copied}) SELECT 99, {copied} FROM attempts")
    refused = advance(record, Move.FAIL, error=Problem("kind", "words"), ended_at=3.0)
    asyncio.run(journal.save(refused))
    journal.close()
    with pytest.raises(JournalError):
        read(path)
    jobs = {record.job.fingerprint: record.job}
    [found] = salvage.readable(path, lambda retakes: jobs).records.values()
    assert (found.state, found.attempts) == (refused.state, refused.attempts)
