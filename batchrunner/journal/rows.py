"""Records to rows and back. Pure.

The journal can be read without the manifest. It contains no secrets and no content of inputs: a data URI is stored as
its description and hash, a URL without its query, which may contain a signature. Each row ends with a checksum of its
values, and a row without a valid checksum is refused. The fixed part of a job has a checksum of its own, because it is
written only once.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as _text
from math import isfinite, isnan
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Any
from zlib import crc32

from batchrunner.errors import Problem
from batchrunner.job import Attempt, Entry, Job, Media, PlacedFile, Record, Result, Retake, Run, State, TimelineEvent
from batchrunner.providers import registry
from batchrunner.providers.models import Params

_RUN_FIELDS = tuple(field.name for field in fields(Run))
_TIMELINE_EVENT_FIELDS = tuple(field.name for field in fields(TimelineEvent))
_ATTEMPT_FIELDS = Attempt._fields
# In the order of the tables.
RUN_COLUMNS = (*_RUN_FIELDS, "checksum")
JOB_COLUMNS = ("fingerprint", "job_json", "job_checksum", "state", "error_json", "result_json", "checksum")
ENTRY_COLUMNS = ("position", "id", "fingerprint", "tags_json", "priority", "output_name", "checksum")
TIMELINE_EVENT_COLUMNS = (*_TIMELINE_EVENT_FIELDS, "checksum")
FILE_COLUMNS = ("name", "fingerprint", "sha256", "size_bytes", "checksum")
RETAKE_COLUMNS = ("fingerprint", "take", "run_id", "checksum")
MARK_COLUMNS = ("only", "journal_id", "sequence", "is_open", "checksum")
ATTEMPT_COLUMNS = ("fingerprint", *("error_json" if name == "error" else name for name in _ATTEMPT_FIELDS), "checksum")
COLUMNS = {
    "runs": RUN_COLUMNS,
    "jobs": ("job", *JOB_COLUMNS),
    "attempts": ("job", *ATTEMPT_COLUMNS),
    "entries": ENTRY_COLUMNS,
    "timeline_events": TIMELINE_EVENT_COLUMNS,
    "files": FILE_COLUMNS,
    "retakes": RETAKE_COLUMNS,
    "mark": MARK_COLUMNS,
}
_MEDIA_COLUMNS = tuple(name for name in Media._fields if name not in {"uri", "path"})
_AFTER_URI = Media._fields.index("uri") + 1
_UNREAD = (None,) * (len(Media._fields) - _AFTER_URI)  # the fields after the URI of an input that was not read
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":")
)  # reused: json.dumps would create one for each record
_RESULT_FIELDS = tuple(field.name for field in fields(Result))
_result_values = attrgetter(*_RESULT_FIELDS)
_ERROR_AT, _OUTCOME_AT = _ATTEMPT_FIELDS.index("error"), _ATTEMPT_FIELDS.index("outcome")
_NUMBERS = {int, float}
MOST_SHARED = 256
_SHARED: dict[str, Any] = {}  # values of earlier rows, by their `repr`


class RowDamaged(ValueError):
    """A row whose checksum does not match its values."""


def checksum(table: str, values: Iterable[Any]) -> int:
    """Return the checksum of a row's values. table: its table; ``standing`` is the part of a job's row that changes.

    Numbers are taken as floating-point numbers, as SQLite returns them from a REAL column.
    """
    # ascii() (%a) of plain values is the same in all versions of Python; repr() of text is not.
    plain = [
        value
        if value is None or type(value) is str
        else value + 0.0
        if type(value) in _NUMBERS and value == value  # noqa: PLR0124 (not NaN; isnan would be a call for each value)
        else _plain(value)
        for value in values
    ]
    return crc32(b"%a" % (plain,), _seed(table))


@cache
def _seed(table: str) -> int:
    """Return where a checksum starts: a row of one table is not valid in another."""
    return crc32(table.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return None if isnan(value) else float(value) + 0.0  # SQLite stores neither NaN nor the sign of a zero
    return str(value)


def signed(table: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values with their checksum."""
    return (*values, checksum(table, values))


def verified(table: str, row: Sequence[Any]) -> Sequence[Any]:
    """Check a row and return it without its checksum. Raises RowDamaged."""
    *values, stored = row
    if checksum(table, values) != stored:
        raise RowDamaged(f"a row of its table {'jobs' if table == 'standing' else table} fails its checksum")
    return values


def dump(value: object) -> str:
    """Return compact JSON with sorted keys. Lone surrogates are escaped, so it can always be encoded."""
    return _ENCODER.encode(value)


def storable(value: Any) -> Any:
    r"""Escape text that UTF-8 cannot encode (in a file name or a reply of the service), as ``\udcff``."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def job_to_json(job: Job) -> str:
    """Return the job as JSON, without the content of its inputs: what `dump` would return, from a template."""
    params = job.params
    values = {
        "model": _text(job.model),
        "params": params.json if isinstance(params, Params) else dump(dict(params)),
        "take": str(job.take),
        **{name: _media_json(item) for name, item in job.inputs.items()},
    }
    names, template = _job_template(job.take > 1, *job.inputs)
    return template % tuple([values[name] for name in names])


@lru_cache(maxsize=256)
def _job_template(has_take: bool, *inputs: str) -> tuple[list[str], str]:
    """Return the keys of a job's JSON in order, and the template of the text."""
    names = sorted({"model", "params", *inputs, *(("take",) if has_take else ())})
    keys = [_text(name).replace("%", "%%") for name in names]
    return names, f"{{{','.join(f'{key}:%s' for key in keys)}}}"


def _media_json(item: Media) -> str:
    if item[_AFTER_URI:] == _UNREAD and item.path is None:  # a URL
        return f'{{"kind":{_text(item.kind)},"source":{_text(item.source)}}}'
    kept = {name: value for name in _MEDIA_COLUMNS if (value := getattr(item, name)) is not None}
    return dump({**kept, "path": str(item.path)} if item.path else kept)


def job_from_json(fingerprint: str, text: str) -> Job:
    """Return the stored job. Its inputs cannot be submitted: that needs the manifest."""
    row = json.loads(text)
    model, params = _shared((row.pop("model"), row.pop("params")))
    take = row.pop("take", 1)
    spec = registry.models().get(model)
    inputs = {name: _input(tuple(item), *item.values()) for name, item in (spec.ordered(row) if spec else row).items()}
    return Job(fingerprint, model, inputs, params, take)


@lru_cache(maxsize=256, typed=True)  # typed: 5 and 5.0 are not the same
def _input(names: tuple[str, ...], *values: Any) -> Media:
    """Return an input by the names and values of its fields. Cached: many jobs of a batch have the same one."""
    found = dict(zip(names, values, strict=True))
    found["kind"] = intern(found["kind"])
    return Media(**{**found, "path": Path(found["path"])} if "path" in found else found)


def _shared(value: Any) -> Any:
    """Return the equal value of an earlier row, so that equal values of 100,000 rows do not take 100 MB.

    Values are compared by `repr`, because True, 1 and 1.0 are equal.
    """
    if len(_SHARED) >= MOST_SHARED:
        _SHARED.clear()
    return _SHARED.setdefault(repr(value), value)


def problem_to_json(problem: Problem) -> str:
    """Return a problem as JSON."""
    return dump(asdict(problem))


def problem_from_json(text: str | None) -> Problem | None:
    """Do the reverse of `problem_to_json`."""
    return None if text is None else Problem(**json.loads(text))


def job_row(record: Record) -> tuple[Any, ...]:
    """Return a row of ``jobs``, in the order of JOB_COLUMNS."""
    return (*signed("jobs", (record.job.fingerprint, job_to_json(record.job))), *moved_row(record)[1:])


def moved_row(record: Record) -> tuple[Any, ...]:
    """Return the fingerprint and those columns of ``jobs`` that change while a batch runs."""
    error = None if record.error is None else problem_to_json(record.error)
    result = None if record.result is None else dump(_plain_result(record.result))
    return signed("standing", (record.job.fingerprint, str(record.state), error, result))


def _plain_result(result: Result) -> dict[str, Any]:
    """Return a result as JSON values. Without measures, marks or objects, it is stored as before these existed."""
    return {
        name: value
        for name, value in zip(_RESULT_FIELDS, _result_values(result), strict=True)
        if value is not None or name not in {"quality", "synthetic_marks", "objects"}
    }


def attempt_row(fingerprint: str, attempt: Attempt) -> tuple[Any, ...]:
    """Return a row of ``attempts``, in the order of ATTEMPT_COLUMNS."""
    values = [fingerprint, *attempt]
    if attempt.error is not None:
        values[_ERROR_AT + 1] = problem_to_json(attempt.error)
    return signed("attempts", values)


def record(row: Sequence[Any], attempts: Iterable[Sequence[Any]]) -> Record:
    """Make a record from its row of ``jobs`` and its rows of ``attempts``, ordered by number. Raises RowDamaged."""
    fingerprint, job_json, job_checksum, *_ = row
    _, state, error_json, result_json = verified("standing", (fingerprint, *row[3:]))
    result = None
    if result_json is not None:
        values = json.loads(result_json)
        lists = {name: tuple(values[name]) for name in ("warnings", "synthetic_marks") if name in values}
        result = Result(**{**values, **lists})
    return Record(
        job=job_of(fingerprint, job_json, job_checksum),
        state=State(state),
        attempts=tuple(attempt(values)[1] for values in attempts),
        error=problem_from_json(error_json),
        result=result,
    )


def job_of(fingerprint: str, job_json: str, job_checksum: int) -> Job:
    """Make a job from its columns. Raises RowDamaged."""
    verified("jobs", (fingerprint, job_json, job_checksum))
    return job_from_json(fingerprint, job_json)


def attempt(row: Sequence[Any]) -> tuple[str, Attempt]:
    """Do the reverse of `attempt_row`. Raises RowDamaged."""
    fingerprint, *values = verified("attempts", row)
    values[_ERROR_AT] = problem_from_json(values[_ERROR_AT])
    values[_OUTCOME_AT] = values[_OUTCOME_AT] and intern(values[_OUTCOME_AT])
    return fingerprint, Attempt(*values)


def entry_values(entry: Entry) -> tuple[Any, ...]:
    """Return the values of a row of ``entries`` without the checksum, in the order of ENTRY_COLUMNS."""
    tags = _tags_json(entry.tags) if entry.tags else "{}"
    return entry.position, entry.id, entry.job.fingerprint, tags, entry.priority, entry.output_name


def _tags_json(tags: Mapping[str, str]) -> str:
    return f"{{{','.join([f'{_text(name)}:{_text(tag)}' for name, tag in sorted(tags.items())])}}}"


def entry_row(entry: Entry) -> tuple[Any, ...]:
    """Return a row of ``entries``, in the order of ENTRY_COLUMNS."""
    return signed("entries", entry_values(entry))


def entry(row: Sequence[Any], records: Mapping[str, Record]) -> Entry:
    """Do the reverse of `entry_row`. Raises RowDamaged."""
    position, name, fingerprint, tags, priority, output_name = verified("entries", row)
    return Entry(position, name, records[fingerprint].job, _tags(tags), priority, output_name)


@lru_cache(maxsize=256)
def _tags(text: str) -> dict[str, str]:
    """Return the tags of an entry. Cached: most batches have few different ones."""
    tags: dict[str, str] = json.loads(text)
    return tags


def run_row(run: Run) -> tuple[Any, ...]:
    """Return a row of ``runs``, in the order of RUN_COLUMNS."""
    return signed("runs", [storable(getattr(run, name)) for name in _RUN_FIELDS])


def run(row: Sequence[Any]) -> Run:
    """Do the reverse of `run_row`. Raises RowDamaged; ValueError where its settings have another form."""
    found = Run(*verified("runs", row))
    require_settings(json.loads(found.settings_json))
    return found


def require_settings(settings: object) -> None:
    """Raise ValueError for stored settings of another form."""
    if not isinstance(settings, dict):
        raise ValueError("the settings of a run are not a mapping")  # noqa: TRY004 (a value of a file, not of a caller)
    for name, is_valid in _SETTINGS.items():
        if settings.get(name) is not None and not is_valid(settings[name]):
            raise ValueError(f"the setting {name} of a run has a value of another type")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# The settings of a run that figures and commands are made of. All others are only shown.
_SETTINGS: Mapping[str, Callable[[Any], bool]] = {
    "assume_length_s": _is_number,
    "max_cost": _is_number,
    "max_credits": _is_number,
    "max_generations": _is_number,
    "output": _is_text,
    "quality": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "prices": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "options": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "only": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "shard": _is_text,
}


def timeline_event_row(timeline_event: TimelineEvent) -> tuple[Any, ...]:
    """Return a row of ``timeline_events``, in the order of TIMELINE_EVENT_COLUMNS."""
    return signed("timeline_events", [storable(getattr(timeline_event, name)) for name in _TIMELINE_EVENT_FIELDS])


def timeline_event(row: Sequence[Any]) -> TimelineEvent:
    """Do the reverse of `timeline_event_row`. Raises RowDamaged."""
    return TimelineEvent(*verified("timeline_events", row))


def file_row(name: str, placed: PlacedFile) -> tuple[Any, ...]:
    """Return a row of ``files``, in the order of FILE_COLUMNS."""
    return signed("files", (name, placed.fingerprint, placed.sha256, placed.size_bytes))


def file(row: Sequence[Any]) -> tuple[str, PlacedFile]:
    """Do the reverse of `file_row`. Raises RowDamaged."""
    name, *values = verified("files", row)
    return name, PlacedFile(*values)


def retake_row(retake: Retake) -> tuple[Any, ...]:
    """Return a row of ``retakes``, in the order of RETAKE_COLUMNS."""
    return signed("retakes", (retake.fingerprint, retake.take, retake.run_id))


def retake(row: Sequence[Any]) -> Retake:
    """Do the reverse of `retake_row`. Raises RowDamaged."""
    return Retake(*verified("retakes", row))


def mark_row(journal_id: str, sequence: int, *, is_open: bool) -> tuple[Any, ...]:
    """Return the one row of ``mark``, in the order of MARK_COLUMNS."""
    return signed("mark", (1, journal_id, sequence, int(is_open)))


def mark(row: Sequence[Any]) -> tuple[str, int, bool]:
    """Do the reverse of `mark_row`. Raises RowDamaged."""
    _, journal_id, sequence, is_open = verified("mark", row)
    return journal_id, sequence, bool(is_open)
