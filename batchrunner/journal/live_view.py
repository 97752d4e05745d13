"""A view of a running batch for a screen that is drawn repeatedly: records of active jobs, counts of all others.

It reads the rows of active jobs, of failed jobs and of the latest finished jobs. Waiting jobs of the same kind share
one row. The time to read does not grow with the number of finished jobs.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batchrunner.job import Job, Record, TimelineEvent
from batchrunner.journal import journal, reader, rows
from batchrunner.journal.summary import ATTEMPTS_OF_JOBS, NAMED, Counts, counted
from batchrunner.providers import registry

_LATEST = 1000  # finished jobs, to estimate how long a generation takes
_MOVING = f"""
SELECT fingerprint FROM jobs WHERE state <> 'pending' AND {NAMED} AND (state <> 'succeeded' OR fingerprint IN
    (SELECT fingerprint FROM attempts WHERE completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT {_LATEST}))
"""
_THESE = "fingerprint IN (SELECT value FROM json_each(?))"
_JOBS = f"{reader.GET_JOBS} WHERE {_THESE} ORDER BY job"
_ATTEMPTS = f"{ATTEMPTS_OF_JOBS} WHERE jobs.{_THESE} ORDER BY job, number"
_IDS = f"SELECT fingerprint, id FROM entries WHERE {_THESE} ORDER BY position"
_ENDS = "SELECT fingerprint, ended_at FROM attempts WHERE outcome = 'succeeded' AND ended_at >= ? ORDER BY ended_at"
_TIMELINE_EVENTS = f"SELECT {', '.join(rows.TIMELINE_EVENT_COLUMNS)} FROM timeline_events WHERE at >= ? ORDER BY rowid"


@registry.cached
def _waiting() -> str:
    """Group the waiting jobs by what price (`batchrunner.plan.prices`) and time of a generation depend on."""
    paths = ["model", "params.resolution"]
    for price in (spec.price for spec in registry.models().values() if spec.price):
        paths += [f"params.{price.by}", f"{price.input}.duration_s", f"{price.input}.frames"]
    kind = ", ".join(f"'$.{path}'" for path in dict.fromkeys(paths))
    return f"""
    SELECT fingerprint, job_json, job_checksum, count(*) FROM jobs WHERE state = 'pending' AND {NAMED}
    GROUP BY json_extract(job_json, {kind})
    """


@dataclass(frozen=True, slots=True)
class Moving:
    """A running batch.

    records: by fingerprint, in the order of the entries. ids: the entries' ids, by fingerprint. waiting: one job for
    each group with the same model, resolution and length, with the size of the group. ended_at: end times of jobs that
    were delivered in this run and are not in `records` (wall time, s, in order). timeline_events: of this run, oldest
    first.
    """

    counts: Counts
    records: Mapping[str, Record]
    ids: Mapping[str, tuple[str, ...]]
    waiting: tuple[tuple[Job, int], ...]
    ended_at: tuple[float, ...]
    timeline_events: tuple[TimelineEvent, ...]


def moving(path: Path, since: float) -> Moving | None:
    """Read the batch of the journal at `path`. since: earliest end time to list. None and errors: as `journal.read`."""
    return journal.view(path, partial(_moving, since))


def _moving(since: float, connection: sqlite3.Connection) -> Moving | None:
    counts = counted(connection)
    if counts is None:
        return None
    since = max(since, counts.run.started_at)
    these = (json.dumps([fingerprint for (fingerprint,) in connection.execute(_MOVING)]),)
    records = dict(reader.joined(connection.execute(_JOBS, these), connection.execute(_ATTEMPTS, these)))
    ids: dict[str, tuple[str, ...]] = {}
    for fingerprint, name in connection.execute(_IDS, these):
        ids[fingerprint] = (*ids.get(fingerprint, ()), name)
    ends = connection.execute(_ENDS, (since,))
    waiting = connection.execute(_waiting())
    return Moving(
        counts,
        {fingerprint: records[fingerprint] for fingerprint in ids},
        ids,
        tuple((rows.job_of(*columns), number) for *columns, number in waiting),
        tuple(ended_at for fingerprint, ended_at in ends if fingerprint not in records),
        tuple(rows.timeline_event(row) for row in connection.execute(_TIMELINE_EVENTS, (counts.run.started_at,))),
    )
