"""The witness: it distinguishes a journal that went back in time from one that made no progress."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest

from batchrunner.errors import JournalError, LocalFault
from batchrunner.job import State
from batchrunner.journal import reader
from batchrunner.journal.journal import Journal, read, require_current, view
from batchrunner.journal.witness import Mark, Witness
from batchrunner.storage.durable_files import Disk
from tests.conftest import Inline, make_job, make_record
from tests.journal.test_journal import begun

ID = "ab" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "room").mkdir()
    return tmp_path / "room" / "journal.db"


def beside(path: Path, files: Disk | None = None) -> Witness:
    return Witness(path.parent.parent / "witness", files or Disk())


def opened(path: Path, *, recover: bool = False) -> Journal:
    return Journal(path, Inline(), beside(path), recover=recover)


def submitted(path: Path, *names: str) -> Journal:
    """Make an open journal with jobs in flight."""
    journal = opened(path)
    begun(journal, *names)
    for name in names:
        asyncio.run(journal.save(make_record(name, State.IN_FLIGHT)))
    return journal


def test_a_mark_is_read_as_written(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", Disk())
    assert witness.read() is None
    witness.create(Mark(ID, 7))
    assert witness.read() == Mark(ID, 7)
    for sequence in range(8, 12):
        witness.write(Mark(ID, sequence))
        assert Witness(tmp_path / "witness", Disk()).read() == Mark(ID, sequence)
    witness.close()


def test_a_torn_write_leaves_the_previous_mark(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", Disk())
    witness.create(Mark(ID, 999))
    witness.write(Mark(ID, 1000))
    before = witness.path.read_bytes()
    witness.write(Mark(ID, 1001))
    after = witness.path.read_bytes()
    witness.close()
    [first, *_, last] = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    for cut in range(first, last + 1):
        witness.path.write_bytes(after[:cut] + before[cut:])
        assert witness.read() == Mark(ID, 1000)
    witness.path.write_bytes(after)
    assert witness.read() == Mark(ID, 1001)


def test_the_write_after_a_torn_one_replaces_the_torn_slot(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", Disk())
    witness.create(Mark(ID, 1))
    witness.write(Mark(ID, 2))
    witness.close()
    content = bytearray(witness.path.read_bytes())
    torn = content.index(b"%020d" % 2)
    content[torn : torn + 30] = bytes(30)
    witness.path.write_bytes(content)
    again = Witness(witness.path, Disk())
    assert again.read() == Mark(ID, 1)
    again.write(Mark(ID, 3))
    assert witness.path.read_bytes().count(b"batchrunner witness") == 2, "the intact slot is kept"
    assert again.read() == Mark(ID, 3)
    again.close()


def test_no_flipped_bit_gives_another_mark(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", Disk())
    witness.create(Mark(ID, 1))
    witness.write(Mark(ID, 2))
    witness.close()
    whole = witness.path.read_bytes()
    for at in range(0, len(whole), 1):
        if whole[at] != ord(" "):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << at % 8
            witness.path.write_bytes(flipped)
            assert witness.read() in {Mark(ID, 1), Mark(ID, 2)}


def test_each_commit_updates_the_witness_before_the_save_returns(path: Path) -> None:
    journal = submitted(path, "a")
    mark = beside(path).read()
    assert mark is not None
    asyncio.run(journal.save(make_record("a", State.SUCCEEDED)))
    assert beside(path).read() == Mark(mark.journal_id, mark.sequence + 1)
    journal.close()
    again = opened(path)
    assert again.warning == ""
    again.close()


def test_a_new_id_is_at_once_in_the_journal_and_in_its_witness(path: Path) -> None:
    """Before the next commit another process must find the batch, and a kill must leave a journal that opens."""
    journal = submitted(path, "a")
    before = journal.mark
    journal.renew_id()
    stored = view(path, lambda connection: reader.mark(connection)[0])
    assert stored == beside(path).read() == journal.mark
    assert (stored.journal_id == before.journal_id, stored.sequence) == (False, before.sequence)
    journal.close()
    again = opened(path)
    assert (again.warning, again.mark) == ("", stored)
    again.close()


def logs(path: Path) -> Path:
    return path.with_name("journal.db-wal")


def cut(path: Path) -> None:
    logs(path).write_bytes(logs(path).read_bytes()[:5000])


def flipped(path: Path) -> None:
    content = bytearray(logs(path).read_bytes())
    content[len(content) // 2] ^= 4
    logs(path).write_bytes(content)


HARMS: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "flipped": flipped,
    "empty": lambda path: logs(path).write_bytes(b""),
    "zeros": lambda path: logs(path).write_bytes(bytes(logs(path).stat().st_size)),
    "lost": lambda path: logs(path).unlink(),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_journal_without_its_latest_changes_is_refused_and_left_unchanged(
    path: Path, tmp_path: Path, harm: str
) -> None:
    journal = submitted(path, "a", "b")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(path.parent, copy / "room")
    shutil.copy(beside(path).path, copy)
    journal.close()
    killed = copy / "room" / path.name
    HARMS[harm](killed)
    before = {file.name: file.read_bytes() for file in killed.parent.iterdir() if not file.name.endswith("-shm")}
    for _ in range(2):
        with pytest.raises(JournalError, match="is an old copy") as caught:
            opened(killed)
        assert "--recover" in caught.value.hint
        with pytest.raises(JournalError, match="is an old copy"):
            require_current(killed, beside(killed).path)
    after = {file.name: file.read_bytes() for file in killed.parent.iterdir() if not file.name.endswith("-shm")}
    assert after == before


def test_an_old_copy_of_the_journal_is_refused(path: Path, tmp_path: Path) -> None:
    submitted(path, "a").close()
    old = path.read_bytes()
    journal = opened(path)
    asyncio.run(journal.save(make_record("a", State.SUCCEEDED)))
    journal.close()
    path.write_bytes(old)
    with pytest.raises(JournalError, match="lacks the last 1 commit"):
        opened(path)


def test_another_journal_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    submitted(path, "a").close()
    other = tmp_path / "other" / "room" / "journal.db"
    other.parent.mkdir(parents=True)
    journal = submitted(other, "a", "b", "c", "d")
    journal.close()
    shutil.copy(other, path)
    with pytest.raises(JournalError, match="witness belongs to another"):
        opened(path)


def test_a_newer_journal_continues(path: Path) -> None:
    journal = submitted(path, "a")
    older = beside(path).path.read_bytes()
    asyncio.run(journal.save(make_record("a", State.SUCCEEDED)))
    journal.close()
    beside(path).path.write_bytes(older)
    opened(path).close()


@pytest.mark.parametrize("content", [None, b"", b"nonsense", bytes(8192)])
def test_without_a_witness_it_warns_once_writes_one_and_continues(path: Path, content: bytes | None) -> None:
    submitted(path, "a").close()
    witness = beside(path).path
    witness.unlink()
    if content is not None:
        witness.write_bytes(content)
    journal = opened(path)
    assert "witness" in journal.warning
    journal.close()
    assert beside(path).read() is not None
    again = opened(path)
    assert again.warning == ""
    again.close()


def test_recovery_opens_a_stale_journal_until_its_first_commit(path: Path) -> None:
    submitted(path, "a").close()
    old = path.read_bytes()
    journal = opened(path)
    for _ in range(3):
        asyncio.run(journal.save(make_record("a", State.SUCCEEDED)))
    journal.close()
    path.write_bytes(old)
    opened(path, recover=True).close()
    with pytest.raises(JournalError):
        opened(path)
    recovered = opened(path, recover=True)
    states = [recovered.is_stale]
    asyncio.run(recovered.save(make_record("a", State.SUCCEEDED)))
    assert [*states, recovered.is_stale] == [True, False]
    recovered.close()
    opened(path).close()


class Failing(Disk):
    """A disk that refuses to write the witness."""

    def __init__(self) -> None:
        self.fails = False

    def overwrite(self, file: BinaryIO, start_bytes: int, content: bytes) -> None:
        if self.fails:
            raise OSError(5, "Input/output error")
        super().overwrite(file, start_bytes, content)


def test_an_unwritable_witness_is_reported_and_the_log_is_kept(path: Path) -> None:
    files = Failing()
    journal = Journal(path, Inline(), beside(path, files))
    begun(journal, "a")
    files.fails = True
    with pytest.raises(LocalFault, match=r"witness .* could not be written"):
        asyncio.run(journal.save(make_record("a", State.IN_FLIGHT)))
    log = logs(path).read_bytes()
    journal.close()
    assert logs(path).read_bytes() == log, "not merged"
    again = opened(path)
    snapshot = again.snapshot()
    assert snapshot is not None
    assert snapshot.records[make_job("a").fingerprint].generation_id == "gen:a/1"
    again.close()


def test_the_witness_recovers_with_the_disk(path: Path) -> None:
    files = Failing()
    journal = Journal(path, Inline(), beside(path, files))
    begun(journal, "a")
    files.fails = True
    with pytest.raises(LocalFault):
        asyncio.run(journal.save(make_record("a", State.IN_FLIGHT)))
    files.fails = False
    asyncio.run(journal.save(make_record("a", State.SUCCEEDED)))
    journal.close()
    assert not logs(path).exists(), "merged, because nothing is missing"
    opened(path).close()


def test_a_read_error_is_not_a_missing_witness(path: Path) -> None:
    class Refusing(Disk):
        def read(self, path: Path, most_bytes: int) -> bytes:
            raise OSError(5, "Input/output error")

    submitted(path, "a").close()
    with pytest.raises(LocalFault, match="Input/output error"):
        Journal(path, Inline(), beside(path, Refusing()))


def test_flipped_bytes_give_the_same_snapshot_or_a_journal_error(path: Path) -> None:
    """A bounded sample of the file's bytes."""
    submitted(path, *(f"j{number}" for number in range(6))).close()
    whole, before, rng = path.read_bytes(), read(path), Random(1)
    beside(path).path.unlink()
    places = sorted(rng.sample([at for at, byte in enumerate(whole) if byte], 300))
    for at in places:
        content = bytearray(whole)
        content[at] ^= rng.randrange(1, 256)
        path.write_bytes(content)
        try:
            found = read(path)
        except JournalError:
            continue
        assert found == before, f"byte {at}"


@pytest.mark.parametrize("number", [5, 23, 24, 116])
def test_a_transient_error_is_not_reported_as_damage(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """EIO, ENFILE, EMFILE, ESTALE."""
    submitted(path, "a").close()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "words of the system")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(LocalFault):
        read(path)
    with pytest.raises(LocalFault):
        require_current(path, beside(path).path)
