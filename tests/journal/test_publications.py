"""Publications: the order of commits and names, and who receives a fault."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import PlacedFile, Record, Result, State
from batchrunner.journal.journal import Journal
from batchrunner.journal.publications import Publication, put_all
from batchrunner.journal.statements import REMOVE_ENTRIES
from tests.conftest import make_entries, make_record, make_run

FAULT = LocalFault("disk_full", "the disk is full")
Publish = Callable[[Sequence[Publication]], LocalFault | None]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with ThreadPoolExecutor(max_workers=1) as thread:
        opened = Journal(tmp_path / "journal.db", thread)
        asyncio.run(opened.begin(make_run(), make_entries("a", "b", "c"), map(in_flight, "abc")))
        yield opened
        opened.close()


def in_flight(name: str) -> Record:
    entry = make_entries(name)[0]
    return make_record(state=State.IN_FLIGHT, job=entry.job)


def publication(name: str, publish: Publish, *, recorded: bool = True) -> Publication:
    before = in_flight(name)
    record = Record(before.job, State.SUCCEEDED, before.attempts, None, Result(4, "ab" * 32))
    placed = PlacedFile(before.job.fingerprint, "ab" * 32, 4)
    return Publication(f"{name}.mp4", placed, (name, f"{name}.mp4"), record if recorded else None, publish)


def stored(journal: Journal) -> tuple[set[str], set[str]]:
    """Return the names of files with an owner, and of jobs that succeeded."""
    snapshot = journal.snapshot()
    assert snapshot is not None
    succeeded = {record for record in snapshot.records if snapshot.records[record].state is State.SUCCEEDED}
    return set(journal.files()), {entry.id for entry in snapshot.entries if entry.job.fingerprint in succeeded}


def test_a_file_gets_its_name_after_its_owner_is_stored_and_before_its_record(journal: Journal) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def publish(items: Sequence[Publication]) -> None:
        seen.append(stored(journal))

    asyncio.run(journal.publish(publication("a", publish)))
    assert seen == [({"a.mp4"}, set())]
    assert stored(journal) == ({"a.mp4"}, {"a"})


def test_files_that_arrive_together_get_their_names_in_one_call_between_two_commits(journal: Journal) -> None:
    calls: list[list[str]] = []

    def publish(items: Sequence[Publication]) -> None:
        calls.append([item.name for item in items])

    async def scenario() -> int:
        before = journal.mark.sequence
        await asyncio.gather(*(journal.publish(publication(name, publish)) for name in "abc"))
        return journal.mark.sequence - before

    assert asyncio.run(scenario()) == 2
    assert calls == [["a.mp4", "b.mp4", "c.mp4"]]
    assert stored(journal) == ({"a.mp4", "b.mp4", "c.mp4"}, {"a", "b", "c"})


def test_a_file_without_its_name_has_an_owner_and_no_record_and_the_others_succeed(journal: Journal) -> None:
    async def scenario() -> list[object]:
        refused, accepted = publication("a", lambda _: FAULT), publication("b", lambda _: None)
        saved = journal.save(in_flight("c"))
        calls = (journal.publish(refused), journal.publish(accepted), saved)
        return list(await asyncio.gather(journal.save(in_flight("c")), *calls, return_exceptions=True))

    assert asyncio.run(scenario()) == [None, FAULT, None, None]
    assert stored(journal) == ({"a.mp4", "b.mp4"}, {"b"})


def test_no_file_gets_its_name_if_its_owner_cannot_be_stored() -> None:
    calls: list[object] = []
    assert put_all([publication("a", calls.append)], lambda _: FAULT) is FAULT
    assert not calls


def test_a_record_that_cannot_be_stored_is_a_fault_of_its_publication() -> None:
    outcomes = [None, FAULT]
    recorded, plain = publication("a", lambda _: None), (REMOVE_ENTRIES, ())
    assert put_all([recorded, plain], lambda _: outcomes.pop(0)) is None, "the first commit has stored the change"
    assert recorded.fault is FAULT
    assert not outcomes


def test_a_publication_without_a_record_makes_one_commit(journal: Journal) -> None:
    before = journal.mark.sequence
    asyncio.run(journal.publish(publication("a", lambda _: None, recorded=False)))
    assert journal.mark.sequence == before + 1
    assert stored(journal) == ({"a.mp4"}, set())
