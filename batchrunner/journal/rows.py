"""Records to rows and back. Pure.

Rule: what stands in the journal can be read without the manifest, and holds no secret and no input's content: a data
URI is stored as its description and hash, a URL without the query that may carry a signature.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from batchrunner.errors import Problem
from batchrunner.job import Attempt, Entry, Happening, Job, Media, Record, Result, Run, State

RUN_COLUMNS = tuple(field.name for field in fields(Run))
JOB_COLUMNS = ("fingerprint", "job_json", "state", "error_json", "result_json")
ENTRY_COLUMNS = ("position", "id", "fingerprint", "tags_json", "priority", "output_name")
HAPPENING_COLUMNS = tuple(field.name for field in fields(Happening))
FILE_COLUMNS = ("name", "fingerprint", "sha256", "size_bytes")
_MEDIA_COLUMNS = tuple(name for name in Media._fields if name not in {"uri", "path"})
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))  # kept: json.dumps would make one for each record
_ATTEMPT_COLUMNS = tuple(field.name for field in fields(Attempt))
_attempt_values = attrgetter(*_ATTEMPT_COLUMNS)
_ERROR_AT = _ATTEMPT_COLUMNS.index("error")
ATTEMPT_COLUMNS = ("fingerprint", *("error_json" if name == "error" else name for name in _ATTEMPT_COLUMNS))


def dump(value: object) -> str:
    """Compact JSON with sorted keys; lone surrogates are escaped, so that it always encodes."""
    return _ENCODER.encode(value)


def storable(value: Any) -> Any:
    r"""Text that UTF-8 has no place for (a file name, half a character from the service) written out, as ``\udcff``."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def job_to_json(job: Job) -> str:
    """The job as text, its inputs without their content."""

    def media(item: Media) -> dict[str, Any]:
        kept = {name: value for name in _MEDIA_COLUMNS if (value := getattr(item, name)) is not None}
        return {**kept, "path": str(item.path)} if item.path else kept

    return dump({"model": job.model, "params": dict(job.params), "video": media(job.video), "image": media(job.image)})


def job_from_json(fingerprint: str, text: str) -> Job:
    """The job as it was stored. Its inputs cannot be sent from this: a manifest is needed for that."""
    row = json.loads(text)

    def media(item: dict[str, Any]) -> Media:
        return Media(**{**item, "path": Path(item["path"])} if "path" in item else item)

    return Job(fingerprint, row["model"], media(row["video"]), media(row["image"]), row["params"])


def problem_to_json(problem: Problem | None) -> str | None:
    """A problem as text, None for none."""
    return None if problem is None else dump(asdict(problem))


def problem_from_json(text: str | None) -> Problem | None:
    """The reverse of `problem_to_json`."""
    return None if text is None else Problem(**json.loads(text))


def job_row(record: Record) -> tuple[str, str, str, str | None, str | None]:
    """A row of ``jobs``, in the order of JOB_COLUMNS."""
    return record.job.fingerprint, job_to_json(record.job), *_standing(record)


def moved_row(record: Record) -> tuple[str, str, str | None, str | None]:
    """Whose row of ``jobs`` it is, and what changes in it while a batch runs."""
    return record.job.fingerprint, *_standing(record)


def _standing(record: Record) -> tuple[str, str | None, str | None]:
    result = None if record.result is None else dump(asdict(record.result))
    return record.state.value, problem_to_json(record.error), result


def attempt_row(fingerprint: str, attempt: Attempt) -> tuple[Any, ...]:
    """A row of ``attempts``, in the order of ATTEMPT_COLUMNS."""
    values = [fingerprint, *_attempt_values(attempt)]
    values[_ERROR_AT + 1] = problem_to_json(attempt.error)
    return tuple(values)


def record(row: Sequence[Any], attempts: Iterable[Sequence[Any]]) -> Record:
    """A record from its row of ``jobs`` and its rows of ``attempts``, ordered by number."""
    fingerprint, job_json, state, error_json, result_json = row
    result = None
    if result_json is not None:
        values = json.loads(result_json)
        result = Result(**{**values, "warnings": tuple(values["warnings"])})
    return Record(
        job=job_from_json(fingerprint, job_json),
        state=State(state),
        attempts=tuple(_attempt(attempt) for attempt in attempts),
        error=problem_from_json(error_json),
        result=result,
    )


def _attempt(row: Sequence[Any]) -> Attempt:
    values = list(row[1:])  # without the fingerprint
    values[_ERROR_AT] = problem_from_json(values[_ERROR_AT])
    return Attempt(*values)


def entry_row(entry: Entry) -> tuple[int, str, str, str, int, str]:
    """A row of ``entries``, in the order of ENTRY_COLUMNS."""
    tags = dump(dict(entry.tags)) if entry.tags else "{}"
    return entry.position, entry.id, entry.job.fingerprint, tags, entry.priority, entry.output_name


def entry(row: Sequence[Any], records: Mapping[str, Record]) -> Entry:
    """The reverse of `entry_row`."""
    position, name, fingerprint, tags, priority, output_name = row
    return Entry(position, name, records[fingerprint].job, json.loads(tags), priority, output_name)
