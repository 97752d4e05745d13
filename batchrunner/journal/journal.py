"""The journal: what has happened, durable. SQLite in the run directory, one writer, group commit.

Rules: `save` returns when its record is on disk (write-ahead log, synchronous=FULL) and not before; records that come
while a commit is under way share the next one, so durability costs one flush a burst, not one a record. A damaged or
newer journal is refused with words, never repaired or replaced in silence: what it holds is worth money. So is one that
is older than its witness (`batchrunner.journal.witness`), which is written after each commit and before `save` returns.
No policy lives here: the journal stores what the engine decided.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from batchrunner.errors import JournalError, LocalFault
from batchrunner.formatting import count_text
from batchrunner.job import Entry, PlacedFile, Record, Run, Snapshot, State, TimelineEvent
from batchrunner.journal import migrate, reader, rows
from batchrunner.journal.errors import DAMAGE_HINT, STALE_HINT, no_room, reading, refused
from batchrunner.journal.statements import (
    MOST_ROWS,
    MOVE_JOB,
    PUT_ATTEMPT,
    PUT_ENTRY,
    PUT_FILE,
    PUT_JOB,
    PUT_MARK,
    PUT_RUN,
    PUT_TIMELINE_EVENT,
    REMOVE_ENTRIES,
    Change,
    in_few,
)
from batchrunner.journal.witness import Mark, Witness
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

if TYPE_CHECKING:
    from concurrent.futures import Executor

_T = TypeVar("_T")

_NO_WITNESS = (
    "no readable witness is beside the journal, so nothing shows whether the journal is as new as it should be; one is "
    "written now. If the journal is an old copy, stop this run, and run again with --recover"
)
_BALLAST_BYTES = 256 * 1024
# The log is folded into the file after so many pages of 4 KiB. Most of them are old ones written again, so the room set
# aside is enough to fold them in on a full disk.
_LOG_PAGES = 128
LOG_BYTES = (_LOG_PAGES + 2) * (4096 + 24)  # of a log that is about to be folded in
_TEXTS = 4 * MOST_ROWS  # compiled statements kept: three kinds of changes are many, each with any number of rows
APPLICATION_ID = 0x42525231  # "BRR1": tells a journal from any other SQLite file

_NEWER_HINT = "Install the newer version again; nothing was submitted and nothing was changed."
_OR_DAMAGED = (
    " If none was used here, the file's header is damaged: run with --recover, which makes the journal anew from what "
    "can be read."
)


class Journal:
    """The open journal of one run directory. Writes go through `save` and its siblings, from one event loop.

    executor: where commits run; one thread, or inline under a simulation. witness: None to keep none. recover: open a
    journal that is older than its witness, too; `is_stale` then says so until the next `begin`.
    warning: what the user should hear of the witness, or "".
    Raises JournalError where the file is damaged, newer than this program, older than its witness, or no journal.
    """

    def __init__(
        self, path: Path, executor: "Executor", witness: Witness | None = None, *, recover: bool = False
    ) -> None:
        from batchrunner.storage.batching import Batcher  # here, as `read` does without an event loop and its weight

        with reading(path):
            if not path.exists():
                create(path)
            seen = None if witness is None else witness.read()

            def examined(connection: sqlite3.Connection) -> str:
                require_sound(connection, thorough=True)
                return _age(connection, path, seen)

            complaint = look(path, examined)
            if complaint and not recover:
                raise JournalError(complaint, STALE_HINT)
        self.is_stale = bool(complaint) or (recover and seen is None)
        self.warning = ""
        self._path = path
        self._witness = witness
        self._connection = _connect(path)
        with reading(path), ExitStack() as undo:
            undo.callback(self._connection.close)
            mark, _ = reader.mark(self._connection)
            if witness is not None and seen is None and not self.is_stale:
                self.warning = _NO_WITNESS if mark.sequence else ""
                witness.create(mark)
            self._mark = mark._replace(sequence=max(mark.sequence, seen.sequence if seen else 0))
            self._put_mark(is_open=True)
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            undo.pop_all()
        self._is_witnessed = True
        # Room set aside for the day the disk is full, so that ids of what is in the air can still be stored.
        self._ballast = path.with_name("ballast")
        self._is_tight = not _set_aside(self._ballast)
        self._commits = Batcher(executor, self._write)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in, so that one file holds everything.

        It is left as it is where the witness could not be written: the less is done to a failing disk, the better.
        """
        if self._witness is not None:
            self._witness.close()
        if not self._is_witnessed:
            close_untouched(self._connection, self._path)
            return
        try:
            self._put_mark(is_open=False)
        except sqlite3.Error:
            # The log cannot grow. Where it can be folded in, there is room in it, and without this it would be gone
            # after `close` while the mark still asks for it; where not, both stay.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
                self._put_mark(is_open=False)
        self._connection.close()

    def _put_mark(self, *, is_open: bool) -> None:
        """Store what does not count as a commit: whether the journal is open."""
        mark, _ = reader.mark(self._connection)
        for statement, values in in_few([(PUT_MARK, rows.mark_row(*mark, is_open=is_open))]):
            self._connection.execute(statement, values)

    def snapshot(self) -> Snapshot | None:
        """All that the journal holds, or None before the first run. Raises JournalError where it makes no sense."""
        with reading(self._path):
            return _in_one_view(self._connection, reader.snapshot)

    def has_run(self) -> bool:
        """Whether a run has begun here. Raises JournalError as `snapshot` does."""
        with reading(self._path):
            return reader.latest_run(self._connection) is not None

    def story(self) -> Snapshot:
        """The runs and what befell them, without entries and records: a run has those itself. Not before `begin`."""
        with reading(self._path):
            return _in_one_view(self._connection, reader.story)

    def files(self) -> dict[str, PlacedFile]:
        """Result files by their name in the run directory. Raises JournalError as `snapshot` does."""
        with reading(self._path):
            return reader.files(self._connection)

    async def begin(self, run: Run, entries: Iterable[Entry], changed: Iterable[Record]) -> None:
        """Record the start of a run: the manifest's entries, in place of the last one's, and new or moved records."""
        changes: list[Change] = [(PUT_RUN, rows.run_row(run))]
        for record in changed:
            changes.append((PUT_JOB, rows.job_row(record)))
            changes += _last_attempt(record)
        wanted = list(map(rows.entry_row, entries))
        with reading(self._path):
            held = self._connection.execute(f"{reader.GET_ENTRIES} ORDER BY position").fetchall()
        if wanted != held:
            changes += [(REMOVE_ENTRIES, ()), *((PUT_ENTRY, row) for row in wanted)]
        await self._commit(changes)

    async def save(self, record: Record) -> None:
        """Store where a job of this batch stands, with its latest attempt. Durable on return.

        An intent is refused where the room set aside is gone: what is left of it is for the ids of what was accepted.
        """
        if self._is_tight and record.state is State.SUBMITTING:
            raise no_room("written")
        await self._commit([(MOVE_JOB, rows.moved_row(record)), *_last_attempt(record)])

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Store what befell the batch. Durable on return."""
        await self._commit([(PUT_TIMELINE_EVENT, rows.timeline_event_row(timeline_event))])

    async def place(self, name: str, placed: PlacedFile) -> None:
        """Store that the file `name` is, or is about to become, the result of a job. Durable on return."""
        await self._commit([(PUT_FILE, rows.file_row(name, placed))])

    async def finish(self, run: Run) -> None:
        """Record how a run ended. Durable on return."""
        await self._commit([(PUT_RUN, rows.run_row(run))])

    async def _commit(self, changes: list[Change]) -> None:
        """Durable on return. Raises LocalFault, for all that were committed together, if that failed."""
        await self._commits.do(changes)

    def _write(self, changes: list[Change]) -> LocalFault | None:
        """Commit, and then write the witness."""
        following = self._mark._replace(sequence=self._mark.sequence + 1)
        marked = [*changes, (PUT_MARK, rows.mark_row(*following, is_open=True))]
        error = self._write_over_a_full_disk(marked)
        if error is not None:
            return error
        self._mark = following
        return self._bear_witness()

    def _bear_witness(self) -> LocalFault | None:
        if self._witness is None:
            return None
        try:
            if self.is_stale:
                self._witness.create(self._mark)
            else:
                self._witness.write(self._mark)
        except OSError as error:
            self._is_witnessed = False
            return durable_files.fault(error, f"the journal's witness {self._witness.path} could not be written")
        self._is_witnessed, self.is_stale = True, False
        return None

    def _write_over_a_full_disk(self, changes: list[Change]) -> LocalFault | None:
        """Commit; on a full disk again, over the log's own room, and then with the room that was set aside."""
        error = _write(self._connection, self._path, changes)
        for give_up in (False, True):
            if error is None or error.kind != "disk_full":
                break
            if give_up:
                self._is_tight = True
                with suppress(OSError):
                    self._ballast.unlink(missing_ok=True)
            with suppress(sqlite3.Error):
                # RESTART keeps the log's room, and writes over it: TRUNCATE would leave it to whoever fills the disk.
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
            error = _write(self._connection, self._path, changes)
        return error


def require_current(path: Path, witness: Path) -> None:
    """Refuse a journal that is older than its witness, for commands that only look. Raises JournalError, LocalFault."""
    with reading(path):
        seen = Witness(witness, Disk()).read()  # before the journal: another process may be writing both
    if complaint := look(path, lambda connection: _age(connection, path, seen)):
        raise JournalError(complaint, STALE_HINT)


def _age(connection: sqlite3.Connection, path: Path, seen: Mark | None) -> str:
    """Why the journal may lack what was done, by its witness, or ""."""
    mark, is_open = reader.mark(connection)
    if seen is None:
        lost = is_open and not _log_of(path).exists()
        return f"{path} has lost its write-ahead log ({_log_of(path).name})" if lost else ""
    if seen.journal_id != mark.journal_id:
        return f"{path} is not the journal that was last used here: the run directory's witness is of another"
    if seen.sequence > mark.sequence:
        missing = count_text(seen.sequence - mark.sequence, "commit")
        return f"{path} is older than what was done: it lacks the last {missing} that its witness knows of"
    return ""


def read(path: Path) -> Snapshot | None:
    """What a journal holds, without writing to it: for commands that look at a batch, also while it runs.

    None where there is no journal, or no run in it yet. Raises JournalError as `Journal` does.
    """
    return look(path, _checked)


def look(path: Path, make: Callable[[sqlite3.Connection], _T]) -> _T | None:
    """What `make` makes of a journal, in one consistent view of it, without writing; None where there is no journal."""
    with reading(path):
        if not path.exists():
            return None
        stands = _at_rest(path)
        if stands is not None:
            # As a file that nobody writes to: SQLite leaves its own files beside any other.
            with suppress(sqlite3.DatabaseError):
                found = _look(path, "mode=ro&immutable=1", make)
                if _at_rest(path) == stands:
                    return found
        try:
            return _look(path, "mode=ro", make)
        except sqlite3.OperationalError:
            log = _log_of(path)
            if log.exists() and log.stat().st_size:
                raise  # what the log holds would be passed over in silence
            # A folder that cannot be written to has no room for SQLite's lock: read the file as it stands.
            return _look(path, "mode=ro&immutable=1", make)


def _at_rest(path: Path) -> tuple[int, int] | None:
    """What tells whether a journal has been written to; None while a process has it open, which has a log then."""
    facts = path.stat()
    return None if _log_of(path).exists() else (facts.st_mtime_ns, facts.st_size)


def _look(path: Path, mode: str, make: Callable[[sqlite3.Connection], _T]) -> _T:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)) as connection:
        _require_ours(connection, path)
        if migrate.version_of(connection) == migrate.VERSION:
            return _in_one_view(connection, make)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            connection.backup(copy)
            migrate.upgrade(copy)
            return _in_one_view(copy, make)


def _in_one_view(connection: sqlite3.Connection, make: Callable[[sqlite3.Connection], _T]) -> _T:
    connection.execute("BEGIN")  # also while another process writes
    try:
        return make(connection)
    finally:
        connection.execute("COMMIT")


def _checked(connection: sqlite3.Connection) -> Snapshot | None:
    require_sound(connection)
    return reader.snapshot(connection)


def create(path: Path) -> None:
    """A new journal, complete before it gets its name: an empty or half-made file under this name is always damage."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        connection.executescript(Path(__file__).with_name("schema.sql").read_text("utf-8"))
        for statement, values in in_few([(PUT_MARK, rows.mark_row(os.urandom(16).hex(), 0, is_open=False))]):
            connection.execute(statement, values)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {migrate.VERSION}")
    finally:
        connection.close()
    new.replace(path)
    Disk().flush_folder(path.parent)


def _connect(path: Path) -> sqlite3.Connection:
    """Open for writing. One thread at a time uses it, which the executor and the engine see to."""
    with reading(path), ExitStack() as undo:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=_TEXTS)
        undo.callback(connection.close)
        _require_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if (version := migrate.version_of(connection)) < migrate.VERSION:
            with closing(sqlite3.connect(path.with_name(f"{path.name}.v{version}"))) as copy:
                connection.backup(copy)  # kept: an upgrade is the one time that old rows are rewritten
            migrate.upgrade(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        undo.pop_all()
    return connection


def close_untouched(connection: sqlite3.Connection, path: Path) -> None:
    """Close without folding the write-ahead log in: SQLite does that when the last who can write closes."""
    # Where the file is not found under its name any more, its log is not either.
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.close()
    connection.close()


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _require_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is foreign or newer."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(f"{path} is not a batchrunner journal, or an emptied one", DAMAGE_HINT)
    version = migrate.version_of(connection)
    if version > migrate.VERSION:
        ours = _has_our_columns(connection)
        raise JournalError(
            f"{path} was written by a newer batchrunner (journal version {version}, this one knows {migrate.VERSION})",
            _NEWER_HINT + (_OR_DAMAGED if ours else ""),
            recoverable=ours,
        )


def _has_our_columns(connection: sqlite3.Connection) -> bool:
    """Whether the tables have this version's columns: then the number of a later version can be a flipped bit."""
    return all(
        {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")} == set(columns)
        for table, columns in rows.COLUMNS.items()
    )


def require_sound(connection: sqlite3.Connection, *, thorough: bool = False) -> None:
    """Refuse what is damaged anywhere. Reads the whole file.

    thorough: compare the indexes with their tables, too, as a write fails where they differ. This takes three times as
    long (2.1 s for 100,000 jobs). Raises JournalError.
    """
    check = "integrity_check" if thorough else "quick_check"
    complaint = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if complaint != "ok":
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        raise JournalError(f"{path} is damaged: {complaint}", DAMAGE_HINT)


def _set_aside(ballast: Path) -> bool:
    """Take the room; False where the disk has none. One that cannot set any aside is found out by the commits."""
    try:
        if not ballast.exists() or ballast.stat().st_size < _BALLAST_BYTES:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _BALLAST_BYTES)
    except OSError as error:
        return error.errno not in durable_files.FULL
    return True


def _write(connection: sqlite3.Connection, path: Path, changes: list[Change]) -> LocalFault | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in in_few(changes):
                connection.execute(statement, values)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return refused(error, path, "written")
    return None


def _last_attempt(record: Record) -> list[Change]:
    """A record's latest attempt: earlier ones are over and do not change."""
    return [(PUT_ATTEMPT, rows.attempt_row(record.job.fingerprint, record.last))] if record.attempts else []
