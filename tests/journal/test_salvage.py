"""Reading a damaged journal, whatever the damage contains."""

from pathlib import Path

import pytest

from batchrunner.errors import JournalError
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
