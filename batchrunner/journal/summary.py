"""Counts of a batch, made by SQLite, for commands that read batches of any size.

It makes one or two passes over each table. It reads rows only of jobs with an error or a doubt; similar other jobs are
represented by one of them. Unlike before a run, the journal is not checked as a whole; unreadable rows are still
reported. What the counts mean is not decided here.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

from batchrunner.errors import Problem
from batchrunner.job import REUSED, Attempt, Entry, Record, Retake, Run, State, base_name
from batchrunner.journal import journal, reader, rows
from batchrunner.journal.witness import Mark
from batchrunner.plan.prices import overrun_in_sql
from batchrunner.plan.selection import selects

_OWN = ", ".join(f"attempts.{name}" for name in rows.COLUMNS["attempts"])
ATTEMPTS_OF_JOBS = f"SELECT {_OWN} FROM jobs CROSS JOIN attempts USING (job)"
NAMED = "EXISTS (SELECT 1 FROM entries WHERE entries.fingerprint = jobs.fingerprint)"
# If each job has one entry, the other table is not needed.
_ONE_ENTRY = "(SELECT *, 1 AS entries FROM {})"
_JOINED = (
    "(SELECT fingerprint, count(*) AS entries FROM entries GROUP BY fingerprint) CROSS JOIN jobs USING (fingerprint)"
)
_JOINED_ATTEMPTS = f"(SELECT job FROM {_JOINED}) CROSS JOIN attempts USING (job)"
# Waiting jobs: without an error there is nothing to report about a single one.
_PLAIN = "state IN ('pending', 'in_flight') AND error_json IS NULL"
# Most jobs have succeeded. They are counted apart, which needs no sorting.
_STATES = f"""
SELECT 'succeeded', 0, count(*), sum(entries), sum(entries * json_extract(result_json, '$.size_bytes'))
FROM {{0}} WHERE state = 'succeeded'
UNION ALL SELECT state, {_PLAIN}, count(*), sum(entries), 0 FROM {{0}} WHERE state <> 'succeeded' GROUP BY 1, 2
"""
# One value says which prices an attempt has: grouping by four columns takes longer.
_FIGURES = (
    "(credits IS NULL) + 2 * ifnull(credits = 0, 0) + 4 * (estimate IS NULL) + 8 * ifnull(estimate = 0, 0) "
    "+ 16 * (settled IS NULL)"
)
# Another batch of the account pays for such an attempt (`Attempt.is_reused`).
_REUSED = f"substr(request_id, 1, {len(REUSED)}) = '{REUSED}'"
_ATTEMPTS = f"""
SELECT outcome, json_extract(error_json, '$.kind'), completed_at IS NULL, {_FIGURES}, {_REUSED}, sum(credits),
    sum(estimate), sum(settled), count(*), count(generation_id), min(submitted_at),
    sum({overrun_in_sql("ifnull(settled, credits)", "estimate")})
FROM {{}} GROUP BY 1, 2, 3, 4, 5
"""
_CHARGES = "SELECT status FROM timeline_events WHERE kind = 'charges' ORDER BY rowid DESC LIMIT 1"
_LISTED = f"state <> 'succeeded' AND NOT ({_PLAIN})"
_JOBS = f"SELECT {', '.join(rows.JOB_COLUMNS)} FROM jobs WHERE {{}}"
_CLIPS = """state = 'succeeded' AND (json_extract(result_json, '$.quality') IS NOT NULL
OR fingerprint IN (SELECT fingerprint FROM entries WHERE id IN (SELECT value FROM json_each(?))))"""
_ENTRIES = f"{reader.GET_ENTRIES} WHERE fingerprint"
_ENTRY_VALUES = f"SELECT {', '.join(rows.ENTRY_COLUMNS[:-1])} FROM entries ORDER BY position"
_DELIVERED = """
SELECT files.name, files.fingerprint, files.size_bytes FROM entries CROSS JOIN files
ON files.name = iif(output_name = '', id, output_name) || '.mp4' AND files.fingerprint = entries.fingerprint
ORDER BY position
"""


class AttemptGroup(NamedTuple):
    """Attempts that differ only in their prices.

    sum: an attempt with the sums of their credits, estimates and settled charges. overrun: by how many credits quotes
    and charges are above their estimates.
    """

    sum: Attempt
    number: int
    overrun: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """The content of a `Snapshot` as counts.

    states: entries by the state of their job. jobs: jobs by state. size_bytes: of the entries' results. attempts,
    generations (accepted, without those that another batch pays for), first_submitted_at: of jobs that an entry names.
    every: attempts of all jobs in the journal.
    listed: entries with an error or in doubt, in order, with their records. plain: other unfinished entries: for each
    state an example, its record and the count. earlier: jobs that no entry names, by state. mark: the last commit.
    is_open: whether a process has the journal open for writing or was killed while it had. charges: what the last run
    learned of its charges, the status of its timeline event.
    """

    run: Run
    states: Mapping[State, int]
    jobs: Mapping[State, int]
    size_bytes: int
    generations: int
    first_submitted_at: float | None
    attempts: tuple[AttemptGroup, ...]
    every: tuple[AttemptGroup, ...]
    listed: tuple[tuple[Entry, Record], ...] = ()
    plain: tuple[tuple[Entry, Record, int], ...] = ()
    earlier: Mapping[State, int] = field(default_factory=dict)
    mark: Mark | None = None
    is_open: bool = False
    charges: str = ""


def count(path: Path) -> Counts | None:
    """Count the journal at `path`. None and JournalError as for `journal.read`."""
    return journal.view(path, counted)


def lists(path: Path, entries: Sequence[Entry]) -> bool:
    """Return whether the journal's entries begin with these, in order. Raises JournalError.

    Equal values need no checksum.
    """

    def same(connection: sqlite3.Connection) -> bool:
        stored = connection.execute(_ENTRY_VALUES)
        return all(map(eq, map(rows.entry_values, entries), stored))

    return bool(journal.view(path, same))


def retakes(path: Path) -> tuple[Retake, ...]:
    """Return the takes that ``run --retake`` added. Raises JournalError."""
    return journal.view(path, reader.retakes) or ()


def delivered(path: Path) -> list[tuple[str, str, int]]:
    """Return the file of each entry, in order: name, the job's fingerprint, size in bytes. Raises JournalError.

    Entries without a file of their job are left out. The checksums are not compared: the caller looks at the files.
    """

    def files(connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
        return connection.execute(_DELIVERED).fetchall()

    return journal.view(path, files) or []


def owners(path: Path) -> dict[str, str]:
    """Return the job's fingerprint of each result file, by the file's name. Raises JournalError."""

    def files(connection: sqlite3.Connection) -> dict[str, str]:
        return {name: placed.fingerprint for name, placed in reader.files(connection).items()}

    return journal.view(path, files) or {}


def clips(path: Path, ids: Iterable[str]) -> tuple[tuple[Entry, Record], ...]:
    """Return the entries with a clip that was measured, or whose id is one of `ids`, in order. Raises JournalError."""

    def found(connection: sqlite3.Connection) -> tuple[tuple[Entry, Record], ...]:
        jobs = connection.execute(f"{_JOBS.format(_CLIPS)}", (json.dumps(list(ids)),))
        records = {record.job.fingerprint: record for record in (rows.record(row, ()) for row in jobs)}
        named = connection.execute(
            f"{_ENTRIES} IN (SELECT value FROM json_each(?)) ORDER BY position", (json.dumps(list(records)),)
        )
        entries = [rows.entry(row, records) for row in named]
        return tuple((entry, records[entry.job.fingerprint]) for entry in entries)

    return journal.view(path, found) or ()


def counted(connection: sqlite3.Connection) -> Counts | None:
    """Count the journal of an open connection."""
    run = reader.latest_run(connection)
    if run is None:
        return None
    [(entries,)] = connection.execute("SELECT count(*) FROM entries")
    [(jobs_named,)] = connection.execute("SELECT count(*) FROM (SELECT DISTINCT fingerprint FROM entries)")
    states = connection.execute(_STATES.format(_ONE_ENTRY.format("jobs"))).fetchall()
    attempts = every = connection.execute(_ATTEMPTS.format("attempts")).fetchall()
    earlier: Mapping[State, int] = {}
    if not entries == jobs_named == sum(row[2] for row in states):
        states = connection.execute(_STATES.format(_JOINED)).fetchall()
        attempts = connection.execute(_ATTEMPTS.format(_JOINED_ATTEMPTS)).fetchall()
        query = "SELECT state, count(*) FROM jobs WHERE fingerprint NOT IN (SELECT fingerprint FROM entries) GROUP BY 1"
        earlier = {State(state): number for state, number in connection.execute(query)}
    return Counts(
        run,
        _sums(states, 3),
        _sums(states, 2),
        sum(size_bytes or 0 for *_, size_bytes in states),
        sum(row[9] for row in attempts if not row[4]),
        min((row[10] for row in attempts), default=None),
        tuple(map(_attempt_group, attempts)),
        tuple(map(_attempt_group, every)),
        _listed_entries(connection)
        if any(not plain and state != State.SUCCEEDED for state, plain, *_ in states)
        else (),
        tuple(
            group
            for state, plain, _, number, _ in states
            if plain
            for group in _plain(connection, state, number, json.loads(run.settings_json).get("only") or ())
        ),
        earlier,
        *reader.mark(connection),
        charges=next((status for (status,) in connection.execute(_CHARGES)), ""),
    )


def _sums(states: Sequence[tuple[Any, ...]], column: int) -> dict[State, int]:
    sums = dict.fromkeys(State, 0)
    for row in states:
        sums[State(row[0])] += row[column] or 0
    return sums


def _attempt_group(row: tuple[Any, ...]) -> AttemptGroup:
    outcome, kind, is_open, _, is_reused, credits_, estimate, settled, number, _, _, overrun = row
    error = Problem(kind, "") if kind else None
    completed_at = None if is_open else 0.0
    request_id = REUSED if is_reused else ""
    attempt = Attempt(
        1, request_id, 0.0, None, outcome, error, None, None, completed_at, None, credits_, estimate, 0, settled
    )
    return AttemptGroup(attempt, number, overrun or 0.0)


def _listed_entries(connection: sqlite3.Connection) -> tuple[tuple[Entry, Record], ...]:
    condition = _LISTED.replace("error_json", "jobs.error_json")
    tries = connection.execute(f"{ATTEMPTS_OF_JOBS} WHERE {condition} ORDER BY job, number")
    records = dict(reader.joined(connection.execute(f"{reader.GET_JOBS} WHERE {_LISTED} ORDER BY job"), tries))
    named = connection.execute(f"{_ENTRIES} IN (SELECT fingerprint FROM jobs WHERE {_LISTED}) ORDER BY position")
    entries = [rows.entry(row, records) for row in named]
    return tuple((entry, records[entry.job.fingerprint]) for entry in entries)


def _plain(
    connection: sqlite3.Connection, state: str, number: int, only: Sequence[str]
) -> Iterator[tuple[Entry, Record, int]]:
    """Yield an example of the entries of a state with its record and their number.

    Entries that ``--only`` names and others are different groups.
    """
    if not only:
        yield (*_example(connection, state, f"{NAMED} LIMIT 1"), number)
        return
    named = connection.execute(
        "SELECT id, fingerprint, coalesce(json_extract(job_json, '$.take'), 1) FROM entries JOIN jobs "
        f"USING (fingerprint) WHERE {_PLAIN} AND state = ?",
        (state,),
    )
    groups: dict[bool, list[str]] = {}
    for name, fingerprint, take in named:
        groups.setdefault(selects(name, base_name(name, take), only), []).append(fingerprint)
    for fingerprints in groups.values():
        yield (*_example(connection, state, "fingerprint = ?", fingerprints[0]), len(fingerprints))


def _example(connection: sqlite3.Connection, state: str, condition: str, *values: str) -> tuple[Entry, Record]:
    """Return an entry and the record of the first waiting job that meets a condition."""
    query = f"{_JOBS.format(_PLAIN)} AND state = ? AND {condition}"
    record = rows.record(connection.execute(query, (state, *values)).fetchone(), ())
    row = connection.execute(f"{_ENTRIES} = ? LIMIT 1", (record.job.fingerprint,)).fetchone()
    return rows.entry(row, {record.job.fingerprint: record}), record
