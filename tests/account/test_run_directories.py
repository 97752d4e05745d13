"""Run directories that the index lacks: found beside their old place, or a reason to submit nothing."""

import shutil
from pathlib import Path

import pytest

from batchrunner.account.index import Index, viewed
from batchrunner.account.run_directories import missing, require_found
from batchrunner.errors import UsageError
from tests.account.batches import ACCOUNT, Process, jobs, run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder after a batch in ``first`` has ended, without its index."""

    async def body() -> None:
        first = await Process(tmp_path / "state", tmp_path / "first", jobs(1)).start()
        await first.submit(first.jobs[0])
        await first.end()

    run(body())
    for path in (tmp_path / "state").glob("index-*"):
        path.unlink()
    return tmp_path / "state"


def test_a_missing_run_directory_is_named_with_the_next_steps(state: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").rename(tmp_path / "elsewhere" / "first")
    for _ in range(2):  # the index that was made again is not mistaken for a complete one
        index = Index(state)
        with pytest.raises(UsageError) as caught:
            index.read(lambda connection: require_found(connection, state, ACCOUNT, ""))
        index.close()
        assert f"{tmp_path}/first (its batch is not there)" in caught.value.message
        assert "account --scan DIR" in caught.value.hint
        assert f"account --forget {tmp_path}/first" in caught.value.hint
    with viewed(state) as view, pytest.raises(UsageError):
        require_found(view, state, ACCOUNT, "")


def test_a_journal_that_cannot_be_read_is_missing_and_says_why(state: Path, tmp_path: Path) -> None:
    (tmp_path / "first" / ".batchrunner" / "journal.db").write_bytes(b"no database" * 1000)
    with viewed(state) as view:
        [item] = missing(view, state, ACCOUNT)
    assert "journal" in item.why


def test_a_batch_of_another_account_and_the_own_one_are_not_missing(state: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "first")
    with viewed(state) as view:
        [item] = missing(view, state, ACCOUNT)
        assert missing(view, state, f"studio@{ACCOUNT}") == []
        require_found(view, state, ACCOUNT, item.line.batch_id)


def test_an_index_that_knows_the_batch_needs_no_run_directory(tmp_path: Path) -> None:
    async def body() -> None:
        first = await Process(tmp_path / "state", tmp_path / "first", jobs(1)).start()
        await first.end()

    run(body())
    shutil.rmtree(tmp_path / "first")
    with viewed(tmp_path / "state") as view:
        assert missing(view, tmp_path / "state", ACCOUNT) == []
