"""Write changes to a journal in one transaction."""

import sqlite3
from contextlib import suppress
from pathlib import Path

from batchrunner.errors import LocalFault
from batchrunner.journal.errors import refused
from batchrunner.journal.statements import Bulk, Change, in_few


def write(connection: sqlite3.Connection, path: Path, changes: list[Change | Bulk]) -> LocalFault | None:
    """Write the changes in one transaction. It is durable on return. Returns a fault for a failed one."""
    bulks = [change for change in changes if type(change) is Bulk]
    try:
        if bulks:  # a search for each row takes as long as its insertion; `_require_jobs` makes one pass instead
            connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in in_few([change for change in changes if type(change) is not Bulk]):
                connection.execute(statement, values)
            for bulk in bulks:
                connection.executemany(bulk.statement.of_one, bulk.rows())
            if bulks:
                _require_jobs(connection)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if bulks:
                connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error as error:
        return refused(error, path, "written")
    if bulks:
        # The database takes its space now: on a disk that is full later, the log can still be merged into it.
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint")
    return None


def _require_jobs(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.IntegrityError if an entry has no job. An attempt is not stored without the number of its job."""
    orphan = "SELECT 1 FROM entries WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE fingerprint = entries.fingerprint)"
    if connection.execute(f"{orphan} LIMIT 1").fetchone():
        raise sqlite3.IntegrityError("a row of entries has no job")
