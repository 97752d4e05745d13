"""The tables of the index: their version, and the way from an earlier version to the present one.

Earlier versions have the same columns, but version 1, whose rows have no checksums.
"""

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from batchrunner.account.transactions import remove_repeated

VERSION = 4
CHANGED_IN_PLACE = (2, 3)
_ID = 0x42524130  # "BRA0"; the last byte is the version again, so that a changed byte is not taken for another version

_Item = tuple[str, str, str, str | None]  # type, name, table, SQL


def create(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty database."""
    connection.executescript(Path(__file__).with_name("schema.sql").read_text("utf-8"))
    _put_version(connection)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of an index; 0 for a file that is none. Raises sqlite3.Error."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return version if connection.execute("PRAGMA application_id").fetchone()[0] == _ID + version else 0


def is_own(connection: sqlite3.Connection) -> bool:
    """Return whether the index has the tables of the present version, and nothing else. Raises sqlite3.Error."""
    return version_of(connection) == VERSION and _items(connection) == _own()


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring an index of one of the versions CHANGED_IN_PLACE to the present one, in one transaction.

    Processes that have it open go on. Raises sqlite3.Error, RowDamaged.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        stored = _items(connection)
        for kind, name, _, sql in stored:
            if kind in ("index", "trigger") and sql is not None:
                connection.execute(f'DROP {kind} "{name}"')
        for item in sorted(_own(), key=lambda item: item[0] != "table"):
            if item[0] == "table" and item not in stored:
                _copy(connection, item)
            elif item[0] != "table" and item[3] is not None:
                connection.execute(item[3])
        remove_repeated(connection)
        _put_version(connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _copy(connection: sqlite3.Connection, table: _Item) -> None:
    """Put the rows of a table of an earlier version into a new one."""
    _, name, _, sql = table
    connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    connection.execute(str(sql))
    columns = ", ".join(column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})"))
    connection.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM old_{name}")
    connection.execute(f"DROP TABLE old_{name}")


def _items(connection: sqlite3.Connection) -> list[_Item]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


@cache
def _own() -> list[_Item]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        create(empty)
        return _items(empty)


def _put_version(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {_ID + VERSION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
