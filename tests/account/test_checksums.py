"""A changed byte of the index is found, or it changes nothing that is read."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner.account import transactions
from batchrunner.account.checksums import COLUMNS, require_all_valid
from batchrunner.account.index import Index, connect, viewed
from batchrunner.account.schema import CHANGED_IN_PLACE, VERSION, version_of
from batchrunner.account.transactions import settle_charges
from batchrunner.errors import LocalFault
from batchrunner.job import Move
from batchrunner.journal.rows import RowDamaged
from batchrunner.providers.base import Charge
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run, set_version
from tests.conftest import NOW

SAMPLE = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The index of a batch with a job delivered, one in flight, one in doubt and one failed."""

    async def body() -> None:
        wanted = jobs(4)
        process = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await process.submit(wanted[0], "gen0")
        await process.deliver(wanted[0])
        await process.submit(wanted[1], "gen1")
        await process.submit(wanted[2], None)
        await process.move(wanted[2], Move.DOUBT)
        await process.submit(wanted[3], "gen3")
        await process.move(wanted[3], Move.FAIL)
        process.session.throttled(NOW, "rate limited")
        process.session.generation_ended("gen9")
        await process.end()

    run(body())
    with closing(Index(tmp_path / "state")) as index:
        index.write(
            [lambda connection: settle_charges(connection, ACCOUNT, [Charge("gen0", PRICE / 2, NOW)])], durable=True
        )
    [path] = (tmp_path / "state").glob("index-*.db")
    return path


def content(connection: sqlite3.Connection) -> Mapping[str, list[Any]]:
    """Return all rows but the times of waits."""
    tables = {**COLUMNS, "spend_by_day": ("account", "day", "cost")}
    columns = {table: [name for name in names if not name.startswith("waits_")] for table, names in tables.items()}
    return {
        table: connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2, 3").fetchall()
        for table, names in columns.items()
        if len(names) > 2
    }


def test_a_changed_byte_is_found_or_changes_nothing(file: Path) -> None:
    """A bounded sample of the file's bytes. A damaged index is made again, so its settled charge is unknown then."""
    rng, whole = Random(7), file.read_bytes()
    with viewed(file.parent) as connection:
        sound = content(connection)
    made_again = 0
    for at in rng.sample([at for at, byte in enumerate(whole) if byte], SAMPLE):
        changed = bytearray(whole)
        changed[at] ^= rng.randrange(1, 256)
        file.write_bytes(changed)
        with viewed(file.parent) as connection:
            found = content(connection)
        if found != sound:
            made_again += 1
            assert found["jobs"] == sound["jobs"], f"byte {at}"
            assert [row[-1] for row in found["submissions"]] == [None] * 4, f"byte {at}"
    assert made_again > SAMPLE / 2


def test_a_run_sets_a_changed_index_aside_and_makes_it_again(file: Path) -> None:
    changed = bytearray(file.read_bytes())
    changed[changed.index(b"gen1")] ^= 1
    file.write_bytes(changed)
    index = Index(file.parent)
    assert index.rebuilt is not None
    assert [path.name.startswith("broken-") for path in index.rebuilt.renamed] == [True]
    rows = index.read(lambda connection: connection.execute("SELECT generation_id FROM jobs").fetchall())
    assert ("gen1",) in rows
    index.close()


@pytest.mark.parametrize("table", COLUMNS)
def test_a_row_that_was_changed_fails_its_checksum(file: Path, table: str) -> None:
    with closing(connect(str(file))) as connection:
        require_all_valid(connection)
        connection.execute(f"UPDATE {table} SET account = account || 'x'")
        with pytest.raises(RowDamaged, match=table):
            require_all_valid(connection)


def test_a_sum_that_differs_from_its_submissions_is_damage(file: Path) -> None:
    with closing(connect(str(file))) as connection:
        connection.execute("UPDATE spend_by_day SET cost = cost - 2")
        with pytest.raises(RowDamaged, match="spend_by_day"):
            require_all_valid(connection)


def test_a_row_that_changes_while_the_file_is_open_stops_a_reader_and_is_mended_by_a_writer(file: Path) -> None:
    index = Index(file.parent)
    with closing(connect(str(file))) as other:
        other.execute("UPDATE batches SET directory = '/elsewhere'")
    with pytest.raises(LocalFault, match="is damaged"):
        index.read(transactions.batch_rows)
    index.reopen()
    assert [row.directory for row in index.read(transactions.batch_rows)] == [str(file.parent.parent / "first")]
    index.close()


def test_an_index_of_version_1_gets_checksums_and_keeps_its_charges(file: Path) -> None:
    with closing(connect(str(file))) as connection:
        before = content(connection)
        set_version(connection, 1)
        for table in COLUMNS:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
    index = Index(file.parent)
    assert index.rebuilt is None
    assert index.read(content) == before
    assert index.path != file
    assert not file.exists()
    index.close()


def _of_version(file: Path, version: int) -> Mapping[str, list[Any]]:
    """Turn an index into one of version 2 or 3, whose rows are in the order of their keys, and return its content."""
    with closing(connect(str(file))) as connection:
        before = content(connection)
        query = "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        others = connection.execute(query).fetchall()
        for kind, name, _ in others:
            connection.execute(f"DROP {kind} {name}")
        for table in ("jobs", "submissions"):
            [(sql,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
            connection.execute(f"ALTER TABLE {table} RENAME TO present")
            connection.execute(f"{sql}, WITHOUT ROWID")
            connection.execute(f"INSERT INTO {table} SELECT * FROM present")
            connection.execute("DROP TABLE present")
        for _, name, sql in others:
            is_changed = version == 2 and name == "submissions_by_generation"
            connection.execute(sql.partition(" WHERE ")[0] if is_changed else sql)
        if version == 2:
            connection.execute("CREATE INDEX jobs_by_batch ON jobs (batch_id)")
            connection.execute("CREATE INDEX submissions_by_batch ON submissions (batch_id)")
        set_version(connection, version)
    return before


@pytest.mark.parametrize("version", CHANGED_IN_PLACE)
def test_an_index_of_an_earlier_version_is_changed_while_another_process_has_it_open(file: Path, version: int) -> None:
    before = _of_version(file, version)
    with closing(connect(str(file))) as other:
        assert content(other) == before
        index = Index(file.parent)
        assert index.rebuilt is None
        assert index.path == file
        assert index.read(content) == before
        assert index.read(version_of) == VERSION
        other.execute("DELETE FROM submissions")
        assert content(other) == index.read(content) != before
        index.close()
    with closing(Index(file.parent)) as again:
        assert again.rebuilt is None


@pytest.mark.parametrize("version", CHANGED_IN_PLACE)
def test_a_view_of_an_index_of_an_earlier_version_changes_nothing(file: Path, version: int) -> None:
    before = _of_version(file, version)
    stored = file.read_bytes()
    with viewed(file.parent) as connection:
        assert content(connection) == before
    assert file.read_bytes() == stored


@pytest.mark.parametrize("version", CHANGED_IN_PLACE)
def test_a_damaged_row_of_an_earlier_version_is_found_after_its_change(file: Path, version: int) -> None:
    before = _of_version(file, version)
    with closing(connect(str(file))) as connection:
        connection.execute("UPDATE jobs SET state = 'failed'")
    with viewed(file.parent) as connection:
        assert content(connection)["jobs"] == before["jobs"], "it is made again from the journals"
    with closing(Index(file.parent)) as index:
        assert index.rebuilt is not None
        assert index.read(content)["jobs"] == before["jobs"]
