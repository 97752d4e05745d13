"""The journal's version, and the way from an older version to the present one.

`VERSION` is the version of schema.sql. migrations/from_1.sql leads from version 1 to version 2, and so on. Each step is
one transaction. No other module knows what older versions look like.
"""

import sqlite3
from pathlib import Path

from batchrunner.journal import rows

VERSION = 7
MIGRATIONS = Path(__file__).with_name("migrations")


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of a journal."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_behind(path: Path) -> bool:
    """Return whether the file of a journal has an older version. Each command that only reads would convert a copy.

    The version is in bytes 60 to 63 of the file (https://sqlite.org/fileformat2.html). Raises OSError.
    """
    with path.open("rb") as file:
        return int.from_bytes(file.read(64)[60:], "big") < VERSION


def has_our_columns(connection: sqlite3.Connection) -> bool:
    """Return whether the tables have this version's columns: a later version number can then be a flipped bit."""
    return all(
        {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")} == set(columns)
        for table, columns in rows.COLUMNS.items()
    )


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring an older journal to VERSION. A step that fails changes nothing."""
    connection.create_function("row_checksum", -1, lambda table, *values: rows.checksum(table, values))
    while (version := version_of(connection)) < VERSION:
        statements = _statements(version)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _statements(version: int) -> list[str]:
    """The statements that lead from `version` to the next one."""
    text = (MIGRATIONS / f"from_{version}.sql").read_text("utf-8")
    return text.rstrip(";\n").split(";\n")
