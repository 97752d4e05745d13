"""Batches of one account for the tests: run directories with real journals, and processes that are simulated."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from batchrunner.account import runs_log
from batchrunner.account.base import Granted
from batchrunner.account.index import Index, connect
from batchrunner.account.journals import file_names
from batchrunner.account.limits import Limits
from batchrunner.account.presence import Presence
from batchrunner.account.rows import BatchRow
from batchrunner.account.session import Session
from batchrunner.job import Entry, Job, Move, Record, advance
from batchrunner.journal.journal import Journal
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, Inline, make_job, make_run, result_of

ACCOUNT = "https://api.example.com"
PRICE = 100.0
_T = TypeVar("_T")


def run(work: Awaitable[_T]) -> _T:
    async def awaited() -> _T:
        return await work

    return asyncio.run(awaited())


@dataclass
class Process:
    """A process that runs a batch: its journal, its lock and its session. Used inside a loop.

    now: wall time, which the tests move on.
    """

    state: Path
    directory: Path
    jobs: Sequence[Job]
    limits: Limits = field(default_factory=Limits)
    priority: int = 0
    connection: Callable[[str], sqlite3.Connection] = connect
    now: float = NOW
    number: int = 1
    account: str = ACCOUNT

    async def start(self) -> "Process":
        rundir = RunDir(self.directory)
        rundir.make()
        self.journal = Journal(rundir.journal, Inline())
        snapshot = self.journal.snapshot()
        self.records = dict(snapshot.records) if snapshot else {}
        for job in self.jobs:
            self.records.setdefault(job.fingerprint, Record(job))
        mark = self.journal.mark
        name, service = self.directory.name, "api.example.com"
        row = BatchRow(mark.journal_id, self.account, str(self.directory), name, service, self.priority, NOW)
        self.presence = Presence(self.state, mark.journal_id)
        self.state.mkdir(parents=True, exist_ok=True)
        self.presence.__enter__()
        try:
            self.index = Index(self.state, self.connection)
            runs_log.append(
                self.state, [runs_log.Line(row.batch_id, row.account, row.directory, row.name, row.service)]
            )
            entries = tuple(Entry(place, job.key, job) for place, job in enumerate(self.jobs))
            names = file_names(entries)
            self.session = Session(self.index, Inline(), row, self.limits, lambda: self.now, names)
            await self.session.register(list(self.records.values()), mark.sequence)
        except BaseException:
            self.die()
            raise
        self.number += 1
        await self.journal.begin(make_run(f"run{self.number}-{mark.journal_id}"), entries, self.records.values())
        return self

    async def claim(self, job: Job, estimate: float | None = PRICE) -> Any:
        return await self.session.claim(self.records[job.fingerprint], self._request_id(job), estimate)

    async def submit(self, job: Job, generation_id: str | None = "gen") -> Any:
        """Claim, begin, and be accepted; without a generation id the reply is yet to come."""
        answer = await self.claim(job)
        if isinstance(answer, Granted):
            await self.begin(job)
            if generation_id is not None:
                await self.move(job, Move.ACCEPT, generation_id=generation_id, accepted_at=self.now)
        return answer

    async def begin(self, job: Job) -> None:
        await self.move(job, Move.BEGIN_SUBMIT, request_id=self._request_id(job), submitted_at=self.now, estimate=PRICE)

    async def move(self, job: Job, move: Move, **attempt: Any) -> None:
        record = advance(self.records[job.fingerprint], move, **attempt)
        await self.store(record)

    async def deliver(self, job: Job, content: bytes = b"clip") -> None:
        (self.directory / f"{job.key}.mp4").write_bytes(content)
        record = replace(self.records[job.fingerprint], result=result_of(content))
        await self.store(advance(record, Move.DELIVER, ended_at=self.now))

    async def store(self, record: Record) -> None:
        await self.journal.save(record)
        self.records[record.job.fingerprint] = record
        self.session.moved(record)

    async def catch_up(self) -> None:
        """Let the session store the records that wait, as it does once a second."""
        keeping_up = asyncio.create_task(self.session.keep_up(lambda _: asyncio.sleep(0)))
        for _ in range(3):
            await asyncio.sleep(0)
        keeping_up.cancel()
        await self.session.known_charges()  # a call in the thread of the index, after what is posted

    async def end(self) -> None:
        """End cleanly."""
        await self.session.close(self.journal.mark.sequence)
        self.die()

    def die(self) -> None:
        """End as a kill does: nothing is stored any more, and the kernel closes what is open."""
        self.presence.close()
        if hasattr(self, "index"):
            self.index.close()
        self.journal.close()

    def _request_id(self, job: Job) -> str:
        attempts = len(self.records[job.fingerprint].attempts)
        return f"{self.journal.mark.journal_id[:8]}.{job.key}.{attempts + 1}"


def jobs(count: int) -> list[Job]:
    return [make_job(f"job{number}") for number in range(count)]


def set_version(connection: sqlite3.Connection, version: int) -> None:
    """Let an index look like one of another version."""
    number = connection.execute("PRAGMA application_id").fetchone()[0]
    own = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA application_id = {number - own + version}")
    connection.execute(f"PRAGMA user_version = {version}")
