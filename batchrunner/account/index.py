"""The account's index: one SQLite file in the state folder, shared by all processes of a user on this machine.

It says which jobs the account has paid for, and where. A batch's rows mirror its journal, so a missing or broken index
is made again from the run directories that ``runs.jsonl`` lists, before anything is submitted. A broken one is set
aside and kept. The index must not lie on a network file system: SQLite's log does not work there.

Each index has a file name of its own, ``index-<random>.db``: a process that still has an earlier one open removes that
one's log by its name when it closes it, which must not be the log of the new one.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from batchrunner.account import checksums, journals, presence, runs_log, schema, transactions
from batchrunner.account.index_errors import mapped
from batchrunner.account.older_copy import lost_work
from batchrunner.account.rows import BatchRow
from batchrunner.account.run_directories import find, lacking
from batchrunner.errors import BatchrunnerError, UsageError
from batchrunner.journal.rows import RowDamaged
from batchrunner.storage.durable_files import Disk

_PATTERN = "index-*.db"
_BUSY_S = 30.0
_CACHE_KIB = 8 * 1024  # at most; twice as much saves 2 % of the time of the claims of 100,000 jobs
_STATEMENTS = 512  # kept compiled: a statement for each number of rows
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}

Connect = Callable[[str], sqlite3.Connection]
Transaction = Callable[[sqlite3.Connection], Any]


class Replaced(Exception):
    """Another process has made the index again; this connection's file is set aside."""


class _Broken(Exception):
    """The file is not a usable index."""


class Rebuilt(NamedTuple):
    """The run directories of a rebuilt or extended index.

    unread: directory and reason. renamed: the new names of broken files.
    """

    batches: int = 0
    unread: tuple[tuple[str, str], ...] = ()
    renamed: tuple[Path, ...] = ()


def connect(path: str) -> sqlite3.Connection:
    """Open a connection that one thread at a time uses."""
    return sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_S,
        uri=path.startswith("file:"),
        cached_statements=_STATEMENTS,
    )


class Index:
    """The open index in a state folder. Every method blocks; use it from one thread at a time.

    rebuilt: the result if the index was rebuilt on opening, otherwise None. connection: how to connect; a
    test passes a connection that fails. Raises LocalFault, UsageError.
    """

    def __init__(self, state: Path, connection: Connect = connect) -> None:
        self.state = state
        self.path = state
        self.rebuilt: Rebuilt | None = None
        self._connect = connection
        self._is_durable: bool | None = None
        with mapped(self.state):
            self._open()

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def reopen(self) -> None:
        """Open the file that stands there now, after `Replaced`. Raises LocalFault, UsageError."""
        self.close()
        with mapped(self.state):
            self._open()

    def write(self, work: Sequence[Transaction], *, durable: bool) -> list[Any]:
        """Do all work in one transaction, and return the results. durable: on the disk on return.

        A commit that is not durable survives a kill and may be lost in a power cut. Raises Replaced, LocalFault.
        """
        with mapped(self.path):
            self._require_place()
            if durable is not self._is_durable:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                results = [item(self._connection) for item in work]
                self._require_place()
                self._connection.execute("COMMIT")
            except RowDamaged:
                raise Replaced from None  # it is set aside where it is opened again
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        return results

    def read(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return the result of `work`, which reads one consistent state. Raises LocalFault."""
        with mapped(self.path):
            self._connection.execute("BEGIN")
            try:
                return work(self._connection)
            finally:
                self._connection.execute("COMMIT")

    def is_running(self, batch_id: str) -> bool:
        """Return whether a process runs the batch."""
        return presence.is_running(self.state, batch_id)

    def settle_ended(self, batch_ids: Sequence[str]) -> None:
        """Bring the rows of batches whose process was killed in line with their journals. Raises as `write`."""
        for batch_id in batch_ids:
            batch = self.read(partial(transactions.batch_row, batch_id=batch_id))
            if batch is not None:
                found = _stored(batch)  # before the transaction: it may take seconds
                self.write([partial(_settle, batch=batch, found=found, is_running=self.is_running)], durable=True)

    def _require_place(self) -> None:
        """Raise Replaced unless the open file is the one that has the name."""
        try:
            status = self.path.stat()
        except OSError:
            raise Replaced from None
        if (status.st_dev, status.st_ino) != self._place:
            raise Replaced

    def _open(self) -> None:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self.state / "index.lock"):
            connection, aside = self._existing()
            if connection is None:
                self.rebuilt = rebuild(self.state, self._connect)._replace(renamed=aside)
                connection, _ = self._existing()
                assert connection is not None
            self._connection = connection
            self._is_durable = None
            status = self.path.stat()
            self._place = (status.st_dev, status.st_ino)
            self._add_missing()

    def _existing(self) -> tuple[sqlite3.Connection | None, tuple[Path, ...]]:
        """Return a connection to a sound index, or None; and the new names of broken ones. Raises UsageError."""
        found = sorted(self.state.glob(_PATTERN))
        if len(found) == 1:
            with suppress(_Broken, sqlite3.Error, RowDamaged, UnicodeDecodeError):  # then it is made again
                _upgrade(self.state, self._connect, found[0])
            found = sorted(self.state.glob(_PATTERN))
            self.path = found[0]
            with suppress(_Broken), ExitStack() as undo:
                connection = undo.enter_context(closing(self._connect(str(self.path))))
                require_sound(connection, self.path)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                connection.execute("PRAGMA temp_store = MEMORY")  # what a statement would undo is no file
                undo.pop_all()
                return connection, ()
        return None, tuple(map(_rename_broken, found))

    def _add_missing(self) -> None:
        """Add run directories of runs.jsonl that the index lacks, as where its log was lost."""
        if self.rebuilt is None and (lines := lacking(self._connection, self.state)):
            self.rebuilt = fill(self._connection, lines, self.is_running)


def require_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged file, and an index of a newer version. Raises _Broken, UsageError, sqlite3.Error.

    Each row is checked: a changed byte could hide a job that is paid for.
    """
    try:
        version = schema.version_of(connection)
        if version > schema.VERSION:
            raise UsageError(
                f"{path} was written by a newer batchrunner (index version {version}, this one knows {schema.VERSION})",
                "Install the newer version again; nothing was submitted and nothing was changed.",
            )
        if not schema.is_own(connection):
            raise _Broken
        if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise _Broken
        checksums.require_all_valid(connection)
    except (RowDamaged, UnicodeDecodeError) as error:  # the latter: a message of SQLite that quotes damaged text
        raise _Broken from error
    except sqlite3.Error as error:
        if _is_broken(error):
            raise _Broken from error
        raise


def rebuild(state: Path, connection: Connect = connect) -> Rebuilt:
    """Make the index from the run directories in runs.jsonl. It is complete before it gets its name.

    The caller has the lock of the state folder. A batch that a process runs now is not current until it has registered.
    """
    lines = runs_log.read(state)
    rebuilt: Rebuilt = _make(
        state, connection, lambda new: fill(new, lines, lambda batch_id: presence.is_running(state, batch_id))
    )
    return rebuilt


def _make(state: Path, connection: Connect, work: Transaction) -> Any:
    """Make an index, and return what `work` returns, which fills it."""
    new = state / "index.new"
    for path in _files(new):
        path.unlink(missing_ok=True)
    with closing(connection(str(new))) as target:
        schema.create(target)
        result = work(target)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(state / f"index-{os.urandom(4).hex()}.db")
    Disk().flush_folder(state)
    return result


def _upgrade(state: Path, connection: Connect, path: Path) -> None:
    """Replace an index of version 1, whose rows have no checksums; change one of a later version. Raises _Broken."""
    with closing(connection(str(path))) as old:
        version = schema.version_of(old)
        if version in schema.CHANGED_IN_PLACE:
            schema.upgrade(old)
        if version != 1:
            return
        if old.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise _Broken
        _make(state, connection, partial(transactions.copy_unsigned, old))
    for file in _files(path):
        file.unlink(missing_ok=True)


def fill(connection: sqlite3.Connection, lines: Sequence[runs_log.Line], is_running: Callable[[str], bool]) -> Rebuilt:
    """Add the batches of these run directories that the index lacks, as their journals have them.

    A batch that has registered since `lines` were read keeps its rows: they are newer than its journal was then.
    """
    unread: list[tuple[str, str]] = []
    batches = 0
    for line in lines:
        try:
            directory, stored = find(line)
        except BatchrunnerError as error:
            unread.append((line.directory, error.message))
            continue
        if stored is None:
            unread.append((line.directory, "its batch is not there any more"))
            continue
        running = is_running(line.batch_id)
        started = stored.snapshot.run.started_at if stored.snapshot else 0.0
        sequence = None if running else stored.mark.sequence
        batch = BatchRow(
            line.batch_id,
            line.account,
            str(directory),
            line.name,
            line.service,
            opened_at=started,
            sequence=sequence,
            is_current=not running,
        )
        batches += _import_lacking(connection, batch, stored)
    return Rebuilt(batches, tuple(unread))


def _import_lacking(connection: sqlite3.Connection, batch: BatchRow, stored: journals.Stored) -> bool:
    """Add a batch unless the index has it by now. Return whether it was added."""
    connection.execute("BEGIN IMMEDIATE")
    is_lacking = transactions.batch_row(connection, batch.batch_id) is None
    if is_lacking:
        transactions.import_rows(connection, batch, *journals.rows_of_ended(batch, stored))
    connection.execute("COMMIT")
    return is_lacking


def _stored(batch: BatchRow) -> tuple[Path, journals.Stored | None]:
    """Return where a batch is, and its journal; None if it is not found or cannot be read."""
    line = runs_log.Line(batch.batch_id, batch.account, batch.directory, batch.name, batch.service)
    try:
        return find(line)
    except BatchrunnerError:
        return Path(batch.directory), None


def settle(connection: sqlite3.Connection, batch_id: str, is_running: Callable[[str], bool]) -> None:
    """Bring the rows of a batch whose process was killed in line with its journal, in an index in memory."""
    batch = transactions.batch_row(connection, batch_id)
    if batch is not None:
        _settle(connection, batch, _stored(batch), is_running)


def _settle(
    connection: sqlite3.Connection,
    batch: BatchRow,
    found: tuple[Path, journals.Stored | None],
    is_running: Callable[[str], bool],
) -> None:
    """Store what the journal says, unless another run of the batch has registered since it was read."""
    directory, stored = found
    if transactions.batch_row(connection, batch.batch_id) != batch or is_running(batch.batch_id):
        return
    if stored is None or lost_work(connection, stored) is not None:  # an older copy shows nothing of later jobs
        transactions.doubt_unread(connection, batch)
        return
    settled = batch._replace(directory=str(directory), sequence=stored.mark.sequence, is_current=True)
    transactions.import_rows(connection, settled, *journals.rows_of_ended(settled, stored))


def exists(state: Path) -> bool:
    """Return whether the state folder has an index, which may be broken."""
    return any(state.glob(_PATTERN))


@contextmanager
def viewed(state: Path) -> Iterator[sqlite3.Connection]:
    """Give a read-only view of the index, for commands that write nothing.

    A missing or broken one is made in memory, and so is one that lacks a batch. Raises LocalFault, UsageError.
    """

    def is_running(batch_id: str) -> bool:
        return presence.is_running(state, batch_id)

    with mapped(state), ExitStack() as stack:
        copy = stack.enter_context(closing(connect(":memory:")))
        for path in state.glob(_PATTERN):
            at_rest = not path.with_name(f"{path.name}-wal").exists()
            source = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if at_rest else ''}"
            connection = stack.enter_context(closing(connect(source)))
            with suppress(_Broken):
                connection = _upgraded(connection, stack)
                require_sound(connection, path)
                if lines := lacking(connection, state):
                    connection.backup(copy)
                    fill(copy, lines, is_running)
                    connection = copy
                yield connection
                return
        schema.create(copy)
        fill(copy, runs_log.read(state), is_running)
        yield copy


def _upgraded(connection: sqlite3.Connection, stack: ExitStack) -> sqlite3.Connection:
    """Return the connection; for an index of an earlier version one to an upgraded copy in memory."""
    with suppress(sqlite3.Error, RowDamaged, UnicodeDecodeError):  # a broken one is found later
        if schema.version_of(connection) in schema.CHANGED_IN_PLACE:
            copy = stack.enter_context(closing(connect(":memory:")))
            connection.backup(copy)
            schema.upgrade(copy)
            return copy
    return connection


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the lock of the state folder, and hold it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _rename_broken(path: Path) -> Path:
    """Rename a broken index and its log, and return its new name."""
    target = path.with_name(path.name.replace("index-", "broken-", 1))
    for file in _files(path):
        with suppress(FileNotFoundError):
            file.replace(target.with_name(target.name + file.name.removeprefix(path.name)))
    return target


def _files(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal", ""))


def _is_broken(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of Python's own: text that is not UTF-8
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in _BROKEN or code == sqlite3.SQLITE_IOERR_SHORT_READ
