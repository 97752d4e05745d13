"""A recovery always ends with a writable journal. Unreadable data is missing, never changed."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from batchrunner.app.recovery import open_journal
from batchrunner.errors import JournalError, LocalFault
from batchrunner.job import PlacedFile, State, TimelineEvent
from batchrunner.journal import migrate
from batchrunner.journal.journal import Journal, read
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, Inline, make_entries, make_record, make_run

NAMES = tuple(f"job{number}" for number in range(12))
ENTRIES = make_entries(*NAMES)
PAGE_BYTES = 4096


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    """Make a run directory whose journal has half of its jobs in flight, half of them done, and free pages."""
    rundir = RunDir(tmp_path / "run")
    rundir.make()
    journal = opened(rundir)
    many = make_entries(*NAMES, *(f"gone{number}" for number in range(60)))
    asyncio.run(journal.begin(make_run("run0"), many, [make_record(entry.id) for entry in many]))
    lived(journal, "run1")
    journal.close()
    return rundir


def opened(rundir: RunDir, *, recovers: bool = False) -> Journal:
    recover = (lambda: make_run("recovered")) if recovers else None
    return open_journal(rundir, ENTRIES, Inline(), Disk(), recover)


def lived(journal: Journal, run_id: str) -> None:
    """Write to every table."""

    async def live() -> None:
        run = make_run(run_id)
        await journal.begin(run, ENTRIES, [make_record(name) for name in NAMES])
        for number, name in enumerate(NAMES):
            record = make_record(name, State.IN_FLIGHT if number % 2 else State.SUCCEEDED)
            await journal.save(record)
            await journal.place(f"{name}.mp4", PlacedFile(record.job.fingerprint, "0" * 64, 1))
        await journal.note(TimelineEvent(NOW, "cap", run_id, "8", ""))
        await journal.finish(replace(run, finished_at=NOW))

    asyncio.run(live())


def places(content: bytes, most: int) -> Iterator[tuple[int, int]]:
    """Yield positions and bit masks: one bit of each byte of the header, and a sample of the others."""
    yield from ((at, 1 << at % 2) for at in range(100))
    rng = Random(3)
    filled = [at for at in range(100, len(content)) if content[at]]
    yield from ((at, rng.randrange(1, 256)) for at in sorted(rng.sample(filled, most)))


def damaged(rundir: RunDir, content: bytes | bytearray) -> None:
    for file in rundir.journal.parent.glob("journal.db*"):
        file.unlink()
    rundir.journal.write_bytes(content)


def test_recovery_from_any_flipped_byte_gives_a_writable_journal(rundir: RunDir) -> None:
    whole, witness = rundir.journal.read_bytes(), rundir.witness.read_bytes()
    before = read(rundir.journal)
    assert before is not None
    for at, mask in places(whole, 120):
        content = bytearray(whole)
        content[at] ^= mask
        damaged(rundir, content)
        rundir.witness.write_bytes(witness)
        journal = opened(rundir, recovers=True)
        snapshot = journal.snapshot()
        assert snapshot is not None
        for name, record in snapshot.records.items():
            known = before.records[name]
            assert record.state in {known.state, State.PENDING, State.IN_FLIGHT}, f"byte {at}"
            assert record == known or journal.is_stale, f"byte {at}"
        lived(journal, "run2")
        journal.close()
        again = opened(rundir)
        assert len(again.files()) == len(NAMES)
        again.close()


def outcome(rundir: RunDir) -> tuple[str, JournalError | LocalFault | None]:
    """Return when a run is refused ("at once", "later" or "" for never), and the error."""
    try:
        journal = opened(rundir)
    except (JournalError, LocalFault) as error:
        return "at once", error
    try:
        lived(journal, "run2")
    except (JournalError, LocalFault) as error:
        return "later", error
    finally:
        journal.close()
    return "", None


def test_with_any_flipped_byte_a_run_works_or_names_recover(rundir: RunDir) -> None:
    whole, witness = rundir.journal.read_bytes(), rundir.witness.read_bytes()
    refused: dict[str, list[int]] = {"at once": [], "later": []}
    for at, mask in places(whole, 120):
        content = bytearray(whole)
        content[at] ^= mask
        damaged(rundir, content)
        rundir.witness.write_bytes(witness)
        when, error = outcome(rundir)
        if error is not None:
            refused[when].append(at)
            assert "--recover" in error.hint or (isinstance(error, JournalError) and not error.recoverable), f"{at}"
    assert len(refused["later"]) < len(refused["at once"]) / 10, "most damage is found before a submission"


def test_an_index_without_a_row_is_refused_before_a_submission(rundir: RunDir) -> None:
    with closing(sqlite3.connect(rundir.journal)) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_by_job'")
        [(fingerprint,)] = connection.execute("SELECT fingerprint FROM entries LIMIT 1")
    content = bytearray(rundir.journal.read_bytes())
    at = content.index(fingerprint.encode(), (page - 1) * PAGE_BYTES, page * PAGE_BYTES)
    content[at + 10] ^= 1
    damaged(rundir, content)
    with closing(sqlite3.connect(rundir.journal)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone()[0] == "ok", "the quick check does not find it"
    with pytest.raises(JournalError, match="is damaged") as refused:
        opened(rundir)
    assert "Nothing was submitted" in refused.value.hint
    assert "--recover" in refused.value.hint


def test_a_recovery_of_a_sound_journal_changes_nothing_and_keeps_the_earlier_file(rundir: RunDir) -> None:
    before, content = read(rundir.journal), rundir.journal.read_bytes()
    journal = opened(rundir, recovers=True)
    after = journal.snapshot()
    assert before is not None
    assert after is not None
    assert (after.records, after.runs, after.timeline_events) == (before.records, before.runs, before.timeline_events)
    assert not journal.is_stale, "no job is put in doubt"
    journal.close()
    assert (rundir.journal.parent / "damaged.1" / rundir.journal.name).read_bytes() == content
    again = opened(rundir)
    assert again.warning == ""
    again.close()


def test_a_recovery_leaves_no_file_of_the_earlier_journal_beside_the_new_one(rundir: RunDir) -> None:
    stale = [rundir.journal.with_name(f"{name}-journal") for name in ("journal.db", "journal.db.recovered")]
    for file in stale:
        file.write_bytes(b"stale")
    opened(rundir, recovers=True).close()
    assert not any(file.exists() for file in stale)
    assert (rundir.journal.parent / "damaged.1" / "journal.db-journal").read_bytes() == b"stale"


def test_damage_found_by_a_write_names_recover(rundir: RunDir) -> None:
    journal = opened(rundir)
    with closing(sqlite3.connect(rundir.journal)) as other:
        other.execute("DROP TABLE files")
    with pytest.raises(LocalFault, match="could not be written") as refused:
        lived(journal, "run2")
    journal.close()
    assert refused.value.kind == "journal_damaged"
    assert "--recover" in refused.value.hint


def test_a_recovery_leaves_a_newer_journal_untouched(rundir: RunDir) -> None:
    with closing(sqlite3.connect(rundir.journal)) as connection:
        connection.execute("ALTER TABLE jobs ADD COLUMN later TEXT")
        connection.execute(f"PRAGMA user_version = {migrate.VERSION + 1}")
    content = rundir.journal.read_bytes()
    with pytest.raises(JournalError, match="newer batchrunner"):
        opened(rundir, recovers=True)
    assert rundir.journal.read_bytes() == content
