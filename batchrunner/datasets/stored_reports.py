"""Read a report.json of anyone for a data set: every value that a data set uses has its type afterwards.

Rules: the file is untrusted. Each value is checked once, before it is used. A fault is a UsageError that names the
value's place. Keys that an earlier version did not write are completed, and keys that no data set uses are not checked.
The checks are functions in tables, because the JSON Schema of the report takes minutes for 100,000 rows.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from batchrunner.datasets.columns import public_source
from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.manifest.schema import dataset_fits
from batchrunner.report import reader
from batchrunner.storage import durable_files

_MOST_REPORT_BYTES = 2_000_000_000
_MOST_DEPTH = 50  # of a parameter's value
_MOST_NAME_CHARS = 300
_INT64_END = 1 << 63
_HINT = "Write it again with: batchrunner report, on the machine that has .batchrunner of this run directory."
_FINGERPRINT, _SHA256 = re.compile(r"sha256:[0-9a-f]{64}"), re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STATES = {"pending", "in_flight", "in_doubt", "succeeded", "failed"}

Check = Callable[[Any], None]


class Misfit(ValueError):
    """A value is not what a report has there. place: of the value in the checked one, such as ``.quality.marks[0]``."""

    def __init__(self, why: str, place: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.place = place

    def below(self, step: str) -> "Misfit":
        """Return the same error for the value that contains the checked one at `step`."""
        return Misfit(self.why, step + self.place)


def read_report(path: Path) -> dict[str, Any] | None:
    """Return the report at `path`, or None if there is none. Raises UsageError."""
    shown = printable(str(path))
    try:
        with durable_files.open_plain(path) as file:
            report = json.loads(file.read(_MOST_REPORT_BYTES))
        _require_report(report)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or error}") from error
    except Misfit as error:
        place = printable(error.place.removeprefix("."), 200)
        raise UsageError(f"{shown} is not a report of batchrunner: {place or 'it'} {error.why}", _HINT) from error
    except RecursionError as error:
        raise UsageError(f"{shown} is not a report of batchrunner: it is nested too deeply", _HINT) from error
    except ValueError as error:
        why = printable(str(error), 200)
        raise UsageError(f"{shown} is not a report of batchrunner: it is not JSON ({why})", _HINT) from error
    return dict(report)


def _require_report(report: Any) -> None:
    """Raise Misfit for a report of another form. Complete the keys that earlier versions lack."""
    if isinstance(report, dict):
        try:
            reader.require_known("schema_version", report.get("schema_version", 1))
        except ValueError as error:
            raise Misfit(f"cannot be used: {error}") from None
    _REPORT(report)
    report.setdefault("runs", [])
    for row in report["jobs"]:
        for key, value in {"job": row["id"], "take": 1, "tags": {}, "inputs": {}, "attempts": []}.items():
            row.setdefault(key, value)
        for key in _NULL_IF_MISSING:
            row.setdefault(key, None)


def _shown(value: Any) -> str:
    """Return a value for a message: a simple one as JSON, another one by its type."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return printable(json.dumps(value, ensure_ascii=False), 80)


def _value(fits: Callable[[Any], object], what: str) -> Check:
    """Return a check of a single value. what: what it must be, for the message."""

    def check(value: Any) -> None:
        if not fits(value):
            raise Misfit(f"is {_shown(value)} instead of {what}")

    return check


def _or_null(check: Check) -> Check:
    def checked(value: Any) -> None:
        if value is not None:
            check(value)

    return checked


def _mapping(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check of a mapping with these keys. Other keys are not checked."""
    fields = [(key, check, key in required) for key, check in {**(optional or {}), **required}.items()]

    def check_mapping(value: Any) -> None:
        if not isinstance(value, dict):
            raise Misfit(f"is {_shown(value)} instead of a mapping")
        for key, check, is_required in fields:
            if key in value:
                try:
                    check(value[key])
                except Misfit as error:
                    raise error.below(f".{key}") from None
            elif is_required:
                raise Misfit("is missing", f".{key}")

    return check_mapping


def _mapping_of(check: Check) -> Check:
    """Return a check of a mapping with any keys, whose values all pass `check`."""

    def check_mapping(value: Any) -> None:
        if not isinstance(value, dict):
            raise Misfit(f"is {_shown(value)} instead of a mapping")
        for key, item in value.items():
            try:
                check(item)
            except Misfit as error:
                raise error.below(f".{key}") from None

    return check_mapping


def _list_of(check: Check) -> Check:
    def check_list(value: Any) -> None:
        if not isinstance(value, list):
            raise Misfit(f"is {_shown(value)} instead of a list")
        for number, item in enumerate(value):
            try:
                check(item)
            except Misfit as error:
                raise error.below(f"[{number}]") from None

    return check_list


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -_INT64_END <= value < _INT64_END)


def _is_path(value: Any) -> bool:
    """Return whether the system can look for a file of this name."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_source(value: Any) -> bool:
    """Return whether a value is an input's path or address."""
    try:
        return _is_path(value) and isinstance(public_source(value), str)
    except ValueError:  # of `urlsplit`
        return False


def _is_shallow(value: Any, depth: int = _MOST_DEPTH) -> bool:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in items)
    return True


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_NAME_CHARS and not _UNSAFE.search(value)


_TEXT = _value(lambda value: isinstance(value, str), "text")
_NAME = _value(_is_name, f"a name of 1 to {_MOST_NAME_CHARS} characters without control characters")
_PATH = _value(_is_path, "the name of a file")
_COUNT = _value(lambda value: type(value) is int and 0 <= value < _INT64_END, "a whole number from 0")
_HASH = _value(lambda value: isinstance(value, str) and _SHA256.fullmatch(value), "64 lower-case hex digits")
_KEY = _value(
    lambda value: isinstance(value, str) and _FINGERPRINT.fullmatch(value),
    "'sha256:' and 64 lower-case hex digits",
)
_NUMBER = _value(_is_number, "a number")
_TEXT_OR_NULL, _COUNT_OR_NULL, _HASH_OR_NULL = _or_null(_TEXT), _or_null(_COUNT), _or_null(_HASH)
_MEASURE = _value(lambda value: value is None or isinstance(value, str) or _is_number(value), "a number, text or null")
_RATING = _value(lambda value: type(value) is int and _is_number(value), "a whole number")
_PARAMETER = _value(_is_shallow, f"a value of at most {_MOST_DEPTH} levels")
_INPUT = _mapping(
    {
        "source": _value(_is_source, "a path or an address"),
        "sha256": _HASH_OR_NULL,
        "bytes": _COUNT_OR_NULL,
        "mime": _TEXT_OR_NULL,
    }
)
_QUALITY = _mapping(
    {}, {"measures": _or_null(_mapping_of(_MEASURE)), "marks": _or_null(_list_of(_mapping({"kind": _TEXT})))}
)
_FIELDS: Mapping[str, Check] = {
    "id": _NAME,
    "fingerprint": _KEY,
    "state": _value(lambda value: isinstance(value, str) and value in _STATES, f"one of {', '.join(sorted(_STATES))}"),
    "file": _or_null(_PATH),
}
_NULL_IF_MISSING: Mapping[str, Check] = {
    "generation_id": _TEXT_OR_NULL,
    "width_px": _COUNT_OR_NULL,
    "height_px": _COUNT_OR_NULL,
    "duration_s": _or_null(_NUMBER),
    "quality": _or_null(_QUALITY),
    "object": _or_null(_mapping({"address": _TEXT, "etag": _TEXT})),
    "verdict": _or_null(_mapping({"verdict": _TEXT}, {"rating": _or_null(_RATING)})),
    "rendered_by": _or_null(_mapping({}, {"service": _TEXT_OR_NULL, "run_id": _TEXT_OR_NULL})),
}
_ROW = _mapping(
    {**_FIELDS, "request": _mapping_of(_PARAMETER)},
    {
        **_NULL_IF_MISSING,
        "bytes": _COUNT_OR_NULL,
        "sha256": _HASH_OR_NULL,
        "job": _NAME,
        "take": _COUNT,
        "tags": _mapping_of(_TEXT),
        "inputs": _mapping_of(_INPUT),
        "attempts": _list_of(_mapping({}, {"completed_at": _TEXT_OR_NULL})),
    },
)
_MODEL = _mapping({"request": _mapping({"model": _TEXT})})
_CLIP = _mapping({"bytes": _COUNT, "sha256": _HASH})


def _job(row: Any) -> None:
    _ROW(row)
    _MODEL(row)
    if row["file"] is not None:
        _CLIP(row)


_RUN = _mapping(
    {"run_id": _TEXT},
    dict.fromkeys(("started_at", "finished_at", "provider", "service"), _TEXT_OR_NULL),
)
_FILE = _mapping({"path": _TEXT, "sha256": _HASH})
_REPORT = _mapping(
    {
        "name": _TEXT,
        "provider": _TEXT,
        "manifest": _mapping({"path": _PATH}, {"sha256": _HASH_OR_NULL, "files": _or_null(_list_of(_FILE))}),
        "jobs": _list_of(_job),
    },
    {
        **dict.fromkeys(("service", "batchrunner_version", "finished_at"), _TEXT_OR_NULL),
        "models": _or_null(_list_of(_TEXT)),
        "runs": _list_of(_RUN),
        "dataset": _or_null(_value(dataset_fits, "a `dataset` block as a manifest has it")),
    },
)
