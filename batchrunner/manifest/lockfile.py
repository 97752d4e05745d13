"""The lock file of a manifest: all that determines its jobs, as JSON with one line per item. Pure.

`build` makes the content from a batch; `text_of` and `parse` convert it to and from text. The content lists the inputs
and tables with digest and size, the inserted variables, the models with their defaults, and the jobs with their
fingerprints, sorted by name. It depends on nothing else, so the same manifest and inputs give the same bytes on every
machine. Settings of a run, such as budgets, are not in it. `batchrunner.manifest.lock_drift` compares two contents.

A lock file contains no secrets: of a URL with a query it has the address without the query, and a digest of the whole.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from batchrunner.errors import UsageError
from batchrunner.formatting import printable, printable_json, redacted
from batchrunner.job import Entry, Media
from batchrunner.manifest.fingerprint import RECIPE
from batchrunner.manifest.loader import Batch
from batchrunner.manifest.trace import Content, Trace, input_key
from batchrunner.providers import registry
from batchrunner.redaction import SHORTEST, is_secret_name

VERSION: Final = 1
PURPOSE: Final = "The jobs of a manifest and all that determines them. Written by batchrunner lock."
_SECTIONS = ("models", "tables", "variables", "inputs", "jobs")
_MAX_VALUE = 60

Document = dict[str, Any]


def build(batch: Batch, trace: Trace) -> Document:
    """Return the content of the lock file of `batch`, which was loaded with `trace`."""
    jobs: dict[str, Any] = {}
    models = {entry.job.model for entry in batch.entries}
    defaults = {name: _defaults(name) for name in models}
    media: dict[str, Media] = {}
    for entry, _, inputs in trace.entries(batch.entries):
        jobs[entry.id] = _job(entry, inputs, defaults[entry.job.model])
        media |= {input_key(item): item for item in inputs.values()}
    queries = "\n".join(key.partition("?")[2] for key, item in media.items() if item.path is None and "?" in key)
    return {
        "lock_version": VERSION,
        "about": PURPOSE,
        "fingerprint_recipe": RECIPE,
        "models": {name: {"defaults": values} for name, values in defaults.items()},
        "tables": {name: _of_file(content) for name, content in trace.contents.items()},
        "variables": {
            name: _one_or_more([_variable(name, text, queries) for text in values])
            for name, values in trace.variables.items()
        },
        "inputs": _inputs(media.values()),
        "jobs": jobs,
    }


def _inputs(media: Iterable[Media]) -> dict[str, Any]:
    """Return the contents of inputs by the name that people see. Several URLs and data URIs can share one."""
    found: dict[str, dict[str, Any]] = {}
    for item in media:
        content = _content(item)
        found.setdefault(item.source, {})[json.dumps(content)] = content
    return {name: _one_or_more([contents[key] for key in sorted(contents)]) for name, contents in found.items()}


def _job(entry: Entry, inputs: Mapping[str, Media], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the lock file has of an entry: all that identifies its job, and what a data set shows of it."""
    job = entry.job
    sources = {name: media.source for name, media in inputs.items()}
    found: dict[str, Any] = {"fingerprint": job.fingerprint, "inputs": sources, "model": job.model}
    if params := {name: value for name, value in job.params.items() if defaults.get(name) != value}:
        found["params"] = params
    if entry.tags:
        found["tags"] = {name: _safe(str(text)) for name, text in entry.tags.items()}
    if job.take > 1:
        found["take"] = job.take
    if entry.output_name:
        found["file"] = entry.file
    return found


def _defaults(model: str) -> dict[str, Any]:
    spec = registry.models()[model]
    return {name: value for name, value in spec.complete({}).items() if value is not None}


def _content(media: Media) -> dict[str, Any]:
    if media.etag is not None:
        return {"etag": media.etag, "bytes": media.size_bytes}
    if media.sha256 is not None and media.size_bytes is not None:
        return _of_file(Content(media.sha256, media.size_bytes))
    return {} if media.path else {"url_sha256": _digest(media.uri or "")}


def _of_file(content: Content) -> dict[str, Any]:
    return {"sha256": content.sha256, "bytes": content.size_bytes}


def _one_or_more(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _variable(name: str, text: str, queries: str) -> str:
    """Return the value of a variable, or its digest if it may be a secret, by its name or in the query of a URL.

    queries: of all URLs.
    """
    is_hidden = is_secret_name(name) or (len(text) >= SHORTEST and text in queries)
    return f"sha256:{_digest(text)}" if is_hidden else _safe(text)


def _safe(text: str) -> str:
    """Return a text without the queries and passwords of its URLs, with a digest if that changes it."""
    short = redacted(text)
    return text if short == text else f"{short} (sha256:{_digest(text)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def text_of(document: Document) -> str:
    """Return the content as text, with a line end at its end."""
    return "".join(_lines(document))


def _lines(document: Document) -> Iterator[str]:
    encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
    yield "{\n"
    for name in ("lock_version", "about", "fingerprint_recipe"):
        yield f'  "{name}": {encode(document[name])},\n'
    for section in _SECTIONS:
        items = document[section]
        yield f'  "{section}": {{'
        comma = "\n"
        for name in sorted(items):
            yield f"{comma}    {printable_json(encode(name))}: {printable_json(encode(items[name]))}"
            comma = ",\n"
        yield ("\n  }" if items else "}") + (",\n" if section != _SECTIONS[-1] else "\n")
    yield "}\n"


class _Damaged(Exception):
    """The text is not a lock file. The argument says why."""


def parse(text: str, shown: str, command: str) -> Document:
    """Return the content of a lock file. shown: its path. command: what writes it again. Raises UsageError."""
    try:
        document = _decoded(text)
        version = _version(document)
        if version <= VERSION:
            _check(document)
            return document
    except _Damaged as damage:
        again = "write it again" if is_lock(text) else "remove it and write another one"
        hint = f"Restore it from version control, or check the manifest and {again} with: {command}"
        raise UsageError(f"{shown} cannot be used: {damage}", hint) from None
    raise UsageError(
        f"{shown} has version {version}, and this program reads versions up to {VERSION}",
        "A newer batchrunner wrote it: use that version, or a newer one.",
    )


def is_lock(text: str) -> bool:
    """Return whether a text is a lock file of this program, or one that was damaged, by its beginning."""
    return not text.strip() or '"lock_version"' in text[:4096]


def newer_version(text: str) -> int | None:
    """Return the version of a lock file that a newer program wrote, or None."""
    found = re.search(r'"lock_version"\s*:\s*(\d{1,9})\b', text[:4096])
    return int(found[1]) if found and int(found[1]) > VERSION else None


def _decoded(text: str) -> Document:
    if not text.strip():
        raise _Damaged("it is empty")
    if conflict := re.search(r"^(<<<<<<<|=======|>>>>>>>)( |$)", text, re.MULTILINE):
        line = text.count("\n", 0, conflict.start()) + 1
        raise _Damaged(f"line {line} is a marker of an unresolved merge conflict")
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _Damaged(f"it is not valid JSON from line {error.lineno}, column {error.colno} on") from None
    except (ValueError, RecursionError):
        raise _Damaged("it is not valid JSON") from None
    if not isinstance(document, dict):
        raise _Damaged("it is not a JSON object")
    return document


def _version(document: Document) -> int:
    version = document.get("lock_version")
    if not isinstance(version, int) or version < 1:
        raise _Damaged("it has no lock_version")
    return version


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Damaged(f"the key {printable(twice, _MAX_VALUE)} is there twice")
    return found


def _check(document: Document) -> None:
    """Raise _Damaged if the content has not the shape that `build` gives it."""
    if type(document.get("fingerprint_recipe")) is not int:
        raise _Damaged("it has no fingerprint_recipe")
    for section, fits in _FITS.items():
        items = document.get(section)
        if not isinstance(items, dict):
            raise _Damaged(f"it has no section '{section}'")
        for name, value in items.items():
            if not fits(value):
                raise _Damaged(f"the section '{section}' has an invalid value for {printable(name, _MAX_VALUE)}")


def _fits_model(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("defaults"), dict)


def _fits_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("sha256"), str) and type(value.get("bytes")) is int


def _fits_input(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and not any(isinstance(item, list) or not _fits_input(item) for item in value)
    if not isinstance(value, dict) or _fits_file(value):
        return isinstance(value, dict)
    is_object = isinstance(value.get("etag"), str) and type(value.get("bytes")) is int
    return is_object or isinstance(value.get("url_sha256"), str)


def _fits_variable(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _fits_job(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("fingerprint"), str)
        and isinstance(value.get("model"), str)
        and all(isinstance(value.get(name, {}), dict) for name in ("params", "tags"))
        and isinstance(value.get("inputs"), dict)
        and all(isinstance(name, str) for name in value["inputs"].values())
    )


_FITS = {
    "models": _fits_model,
    "tables": _fits_file,
    "variables": _fits_variable,
    "inputs": _fits_input,
    "jobs": _fits_job,
}


def contents_of(document: Document) -> dict[str, Content]:
    """Return the contents of the local inputs and of objects, by name as written."""
    return {
        name: Content(value.get("sha256", ""), value["bytes"], value.get("etag", ""))
        for name, value in document["inputs"].items()
        if isinstance(value, dict) and "bytes" in value and not name.startswith("data:")
    }
