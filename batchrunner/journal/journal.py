"""The journal: the durable record of a batch. SQLite in the run directory, one writer, group commit.

`save` returns when its record is on disk (write-ahead log, synchronous=FULL). Records that arrive during a commit share
the next one, so a burst of records needs one flush. A damaged or newer journal is refused with an error. It is never
repaired or replaced silently, because it lists paid generations. A journal that is older than its witness
(`batchrunner.journal.witness`) is refused too; the witness is written after each commit and before `save` returns.
The journal stores decisions of the engine and makes none.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from batchrunner.errors import JournalError, LocalFault
from batchrunner.formatting import count_text
from batchrunner.job import Entry, PlacedFile, Record, Retake, Run, Snapshot, State, TimelineEvent
from batchrunner.journal import ballast, beginning, commit, migrate, reader, rollback, rows, shared_folders
from batchrunner.journal.errors import DAMAGE_HINT, NO_WITNESS, STALE_HINT, no_room, reading
from batchrunner.journal.publications import Publication, put_all
from batchrunner.journal.statements import (
    MOST_ROWS,
    PUT_FILE,
    PUT_MARK,
    PUT_RUN,
    PUT_TIMELINE_EVENT,
    Bulk,
    Change,
    Guard,
    has_intent,
    in_few,
    latest_attempts,
    saved,
)
from batchrunner.journal.witness import Mark, Witness
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

if TYPE_CHECKING:
    from concurrent.futures import Executor

_T = TypeVar("_T")

# SQLite checkpoints the log after this many pages of 4 KiB. A checkpoint flushes three times and writes each page once,
# however often it has changed, so a long log saves work. After the start of a run, less than a tenth of the pages are
# new ones, so the reserved space is enough for a checkpoint on a full disk.
_LOG_PAGES = 1024
LOG_BYTES = (_LOG_PAGES + 2) * (4096 + 24)  # size of a log just before a checkpoint
_CACHE_KIB = 12 * 1024  # at most; the indexes of 100,000 entries fit: a page that does not is written several times
_TEXTS = 4 * MOST_ROWS  # cached statements: three kinds of changes are frequent, each with any number of rows
BESIDE = ("-wal", "-shm", "-journal")  # SQLite's own files beside a database
APPLICATION_ID = 0x42525231  # "BRR1": marks a SQLite file as a journal

_NEWER_HINT = "Install the newer version again; nothing was submitted and nothing was changed."
_OR_DAMAGED = (
    " If none was used here, the file's header is damaged: run with --recover, which makes a new journal from the "
    "readable rows."
)


class Journal:
    """The open journal of one run directory. Writes go through `save` and its siblings, from one event loop.

    executor: runs the commits; one thread, or inline in a simulation. witness: None for no witness. recover: also open
    a journal that is older than its witness; `is_stale` is then true until the next `begin`. guard: asked before every
    commit. warning: a message for the user about the witness, or "".
    Raises JournalError if the file is damaged, newer than this program, older than its witness, or not a journal.
    """

    def __init__(
        self,
        path: Path,
        executor: "Executor",
        witness: Witness | None = None,
        *,
        recover: bool = False,
        guard: Guard = lambda **_: None,
    ) -> None:
        from batchrunner.storage.batching import Batcher  # imported here: `read` needs no event loop

        self.is_stale = False
        self.warning = ""
        self._path = path
        self._witness = witness
        self._guard = guard
        # Reserved disk space: on a full disk, ids of active requests can still be stored.
        self._ballast = path.with_name("ballast")
        try:
            self._open(recover=recover)
        except LocalFault as fault:
            # With the reserved space, a run on a full disk can open the journal and fetch clips, but submits nothing.
            if fault.kind != "disk_full" or not ballast.release(self._ballast):
                raise
            self._open(recover=recover)
        self._is_witnessed = True
        self._is_tight = not ballast.reserve(self._ballast)
        self._executor = executor
        self._commits: Batcher[Change | Bulk | Publication] = Batcher(executor, self._write)

    def _open(self, *, recover: bool) -> None:
        path, witness = self._path, self._witness
        with reading(path):
            if not path.exists():
                create(path)
            seen = None if witness is None else witness.read()

            def examined(connection: sqlite3.Connection) -> str:
                require_sound(connection, thorough=True)
                return _age(connection, path, seen)

            complaint = view(path, examined)
            if complaint and not recover:
                raise JournalError(complaint, STALE_HINT)
            rollback.settle(path, _sequence)
        self.is_stale = bool(complaint) or (recover and seen is None)
        self._connection = _connect(path)
        with reading(path), ExitStack() as undo:
            undo.callback(self._connection.close)
            mark, _ = reader.mark(self._connection)
            if witness is not None and seen is None and not self.is_stale:
                self.warning = NO_WITNESS if mark.sequence else ""
                witness.create(mark)
            self._mark = mark._replace(sequence=max(mark.sequence, seen.sequence if seen else 0))
            self._put_mark(is_open=True)
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            undo.pop_all()

    def close(self) -> None:
        """Close the file. SQLite merges the write-ahead log into it.

        The log is left unchanged if the witness could not be written, because a failing disk should get few further
        writes, and if another run has taken over the run directory.
        """
        if self._witness is not None:
            self._witness.close()
        if not self._is_witnessed or self._guard(intent=False) is not None:
            shared_folders.close_untouched(self._connection, self._path)
            return
        try:
            self._put_mark(is_open=False)
        except sqlite3.Error:
            # The log cannot grow. A checkpoint makes space in it for the mark. Without it, `close` would remove the log
            # while the mark still requires one. If the checkpoint fails, both stay.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
                self._put_mark(is_open=False)
        self._connection.close()
        if self._is_tight:
            ballast.reserve(self._ballast)  # for the next start: the log gave its space back

    def _put_mark(self, *, is_open: bool, journal_id: str = "") -> None:
        """Store whether the journal is open, and a new id. This does not count as a commit."""
        mark, _ = reader.mark(self._connection)
        mark = mark._replace(journal_id=journal_id or mark.journal_id)
        for statement, values in in_few([(PUT_MARK, rows.mark_row(*mark, is_open=is_open))]):
            self._connection.execute(statement, values)

    @property
    def mark(self) -> Mark:
        """The journal's id and the number of its last commit."""
        return self._mark

    def renew_id(self) -> None:
        """Give a copy of a run directory an id of its own. Call it before `begin`. Raises LocalFault.

        The witness is removed first: a crash in between leaves a journal without a witness, which is a warning.
        """
        if self._witness is not None:
            self._witness.remove()
        self._mark = Mark(os.urandom(16).hex(), self._mark.sequence)
        with reading(self._path):
            self._put_mark(is_open=True, journal_id=self._mark.journal_id)
        if self._witness is not None:
            self._witness.create(self._mark)

    def mark_stale(self, sequence: int) -> None:
        """Treat the journal as one that lacks commits, at least up to `sequence`. Call it before `begin`.

        The witness says so from now on: until the next commit, only a recovery opens the journal. Raises LocalFault.
        """
        self._mark = self._mark._replace(sequence=max(sequence, self._mark.sequence + 1))
        self.is_stale = True  # whether or not the witness can be written
        if self._witness is not None:
            with reading(self._path):
                self._witness.create(self._mark)

    def snapshot(self) -> Snapshot | None:
        """Return the whole content, or None before the first run. Raises JournalError if the content is invalid."""
        with reading(self._path):
            return _in_one_view(self._connection, reader.snapshot)

    def has_run(self) -> bool:
        """Return whether a run has started here. Raises JournalError as `snapshot` does."""
        with reading(self._path):
            return reader.latest_run(self._connection) is not None

    def story(self) -> Snapshot:
        """Return the runs and the timeline without entries and records. Call it after `begin`."""
        with reading(self._path):
            return _in_one_view(self._connection, reader.story)

    def files(self) -> dict[str, PlacedFile]:
        """Return the result files by their name in the run directory. Raises JournalError as `snapshot` does."""
        with reading(self._path):
            return reader.files(self._connection)

    async def begin(
        self, run: Run, entries: Iterable[Entry], changed: Iterable[Record], retakes: Iterable[Retake] = ()
    ) -> None:
        """Record the start of a run: replace the entries with the manifest's, and store new or changed records.

        retakes: the takes that this run adds. All of it is one commit.
        """
        import asyncio  # imported here: `read` needs no event loop

        # Made in the thread of the commits: the comparison with the entries of a large batch takes seconds.
        making = partial(self._beginning, run, tuple(entries), list(changed), retakes)
        await self._commits.do(await asyncio.get_running_loop().run_in_executor(self._executor, making))

    def _beginning(
        self, run: Run, entries: Sequence[Entry], changed: list[Record], retakes: Iterable[Retake]
    ) -> list[Change | Bulk]:
        with reading(self._path):
            return beginning.changes_of(self._connection, run, entries, changed, retakes)

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        """Store the state of a job with so many of its latest attempts. Durable on return.

        A new submission is refused once the reserved space is used: the rest is for the ids of accepted submissions.
        """
        if self._is_tight and record.state is State.SUBMITTING:
            raise no_room("written")
        await self._commits.do(saved(record, attempts))

    async def save_attempts(self, records: Iterable[Record]) -> None:
        """Store all attempts of records whose states have not changed, in one commit. Durable on return."""
        changes = [change for record in records for change in latest_attempts(record, len(record.attempts))]
        await self._commits.do(changes)

    def post(self, timeline_event: TimelineEvent) -> None:
        """Store an event of the batch's timeline with the next commit, without waiting. A failed commit loses it."""
        self._commits.post([(PUT_TIMELINE_EVENT, rows.timeline_event_row(timeline_event))])

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Store an event of the batch's timeline. Durable on return."""
        await self._commits.do([(PUT_TIMELINE_EVENT, rows.timeline_event_row(timeline_event))])

    async def place(self, name: str, placed: PlacedFile) -> None:
        """Store that the file `name` is or will be the result of a job. Durable on return."""
        await self._commits.do([(PUT_FILE, rows.file_row(name, placed))])

    async def publish(self, publication: Publication) -> None:
        """Store whose file it is, let it get its name, then store its record. Durable on return. Raises LocalFault."""
        await self._commits.do([publication])
        if publication.fault is not None:
            raise publication.fault

    async def finish(self, run: Run) -> None:
        """Record the end of a run. Durable on return."""
        await self._commits.do([(PUT_RUN, rows.run_row(run))])

    def _write(self, items: list[Change | Bulk | Publication]) -> LocalFault | None:
        """Commit, then let the published files get their names, and commit the records that say so."""
        return put_all(items, self._put)

    def _put(self, changes: list[Change | Bulk]) -> LocalFault | None:
        """Commit, then write the witness."""
        if (problem := self._guard(intent=has_intent(changes))) is not None:
            return problem
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

    def _write_over_a_full_disk(self, changes: list[Change | Bulk]) -> LocalFault | None:
        """Commit. On a full disk, try again after a checkpoint, and then after releasing the reserved space."""
        error = commit.write(self._connection, self._path, changes)
        for give_up in (False, True):
            if error is None or error.kind != "disk_full":
                break
            if give_up:
                self._is_tight = True
                ballast.release(self._ballast)
            with suppress(sqlite3.Error):
                # RESTART keeps the log's blocks and overwrites them. TRUNCATE would give them to other processes.
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
            error = commit.write(self._connection, self._path, changes)
        return error


def require_current(path: Path, witness: Path) -> None:
    """Refuse a journal that is older than its witness, for commands that only read. Raises JournalError, LocalFault."""
    with reading(path):
        seen = Witness(witness, Disk()).read()  # before the journal: another process may write both now
    if complaint := view(path, lambda connection: _age(connection, path, seen)):
        raise JournalError(complaint, STALE_HINT)


def _age(connection: sqlite3.Connection, path: Path, seen: Mark | None) -> str:
    """Return why the journal is older than its witness, or ""."""
    mark, is_open = reader.mark(connection)
    if seen is None:
        lost = is_open and not _log_of(path).exists()
        return f"{path} has lost its write-ahead log ({_log_of(path).name})" if lost else ""
    if seen.journal_id != mark.journal_id:
        return (
            f"{path} is not the journal that was last used here: the run directory's witness belongs to another journal"
        )
    if seen.sequence > mark.sequence:
        missing = count_text(seen.sequence - mark.sequence, "commit")
        return f"{path} is an old copy: it lacks the last {missing} that its witness records"
    return ""


def read(path: Path) -> Snapshot | None:
    """Return the content of a journal without writing to it, for commands that read a batch, also while it runs.

    None if there is no journal or it has no run yet. Raises JournalError as `Journal` does.
    """
    return view(path, _checked)


def view(path: Path, make: Callable[[sqlite3.Connection], _T]) -> _T | None:
    """Call `make` with a consistent, read-only view of a journal; return its result, or None if there is no journal."""
    with reading(path):
        if not path.exists():
            return None
        if rollback.is_left(path):
            with rollback.settled_copy(path, _sequence) as copy:
                return _view_in(copy, "mode=ro", make, path)
        stands = _at_rest(path)
        if stands is not None:
            # Nobody writes to it, so open it as immutable: otherwise SQLite leaves its own files beside it.
            with suppress(sqlite3.DatabaseError):
                found = _view_in(path, "mode=ro&immutable=1", make)
                if _at_rest(path) == stands:
                    return found
        if shared_folders.is_shared(path):
            with shared_folders.copied(path) as copy:
                return _view_in(copy, "mode=ro", make, path)
        try:
            return _view_in(path, "mode=ro", make)
        except sqlite3.OperationalError:
            log = _log_of(path)
            if log.exists() and log.stat().st_size:
                raise  # otherwise the content of the log would be ignored
            # SQLite cannot create its lock in a read-only folder: read the file as it is.
            return _view_in(path, "mode=ro&immutable=1", make)


def _at_rest(path: Path) -> tuple[int, int] | None:
    """Return values that change when the journal is written; None while a process has it open (a log exists then)."""
    status = path.stat()
    return None if _log_of(path).exists() else (status.st_mtime_ns, status.st_size)


def _view_in(path: Path, mode: str, make: Callable[[sqlite3.Connection], _T], named: Path | None = None) -> _T:
    """Call `make` with a view of the file at `path`. named: its path in messages."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)) as connection:
        _require_ours(connection, named or path)
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


def _sequence(path: Path) -> int:
    """Return the number of the last commit of a sound journal. Raises JournalError, ValueError, sqlite3.Error."""

    def sequence(connection: sqlite3.Connection) -> int:
        require_sound(connection, thorough=True)
        reader.snapshot(connection)  # compares every checksum
        return reader.mark(connection)[0].sequence

    return _view_in(path, "mode=ro", sequence)


def _checked(connection: sqlite3.Connection) -> Snapshot | None:
    require_sound(connection)
    return reader.snapshot(connection)


def create(path: Path) -> None:
    """Create a journal. It is complete before it gets its name, so an incomplete file under this name is damage.

    It has its write-ahead log from the start. A later change to one needs a rollback journal, and SQLite does not make
    the removal of that durable: after a power failure it would come back and roll the change back.
    """
    new = path.with_suffix(".new")
    remove(new)
    connection = shared_folders.connect(new)
    try:
        connection.executescript(Path(__file__).with_name("schema.sql").read_text("utf-8"))
        for statement, values in in_few([(PUT_MARK, rows.mark_row(os.urandom(16).hex(), 0, is_open=False))]):
            connection.execute(statement, values)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {migrate.VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    new.replace(path)
    Disk().flush_folder(path.parent)


def remove(path: Path) -> None:
    """Remove an unfinished journal, and files of SQLite beside it that it would take for those of the next one."""
    for end in ("", *BESIDE):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    """Open for writing. The executor and the engine ensure that one thread at a time uses the connection."""
    with reading(path), ExitStack() as undo:
        connection = shared_folders.connect(path, check_same_thread=False, cached_statements=_TEXTS)
        undo.callback(connection.close)
        _require_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if (version := migrate.version_of(connection)) < migrate.VERSION:
            with closing(sqlite3.connect(path.with_name(f"{path.name}.v{version}"))) as copy:
                connection.backup(copy)  # kept, because an upgrade rewrites old rows
            migrate.upgrade(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")  # what a statement would undo is no file
        undo.pop_all()
    return connection


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _require_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is not a journal, and a journal of a newer version."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(f"{path} is not a batchrunner journal, or it was emptied", DAMAGE_HINT)
    version = migrate.version_of(connection)
    if version > migrate.VERSION:
        ours = migrate.has_our_columns(connection)
        raise JournalError(
            f"{path} was written by a newer batchrunner (journal version {version}, this one knows {migrate.VERSION})",
            _NEWER_HINT + (_OR_DAMAGED if ours else ""),
            recoverable=ours,
        )


def require_sound(connection: sqlite3.Connection, *, thorough: bool = False) -> None:
    """Refuse a damaged journal. Reads the whole file.

    thorough: also compare the indexes with their tables, because a write fails if they differ. This takes three times
    as long (2.1 s for 100,000 jobs). Raises RowDamaged, which `reading` maps to a JournalError.
    """
    check = "integrity_check" if thorough else "quick_check"
    complaint = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if complaint != "ok":
        raise rows.RowDamaged(complaint)
