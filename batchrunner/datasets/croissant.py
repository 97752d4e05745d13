"""The Croissant file of a data set (croissant.json, version 1.1): files, columns, origin. Pure.

Rules: a split with clips is one record set. Facts come from the batches and from the manifest's `dataset` block; what
that lacks is named in the description, and never made up. Origin is stated with `prov:` at three levels: activities of
the data set (the runs, with service, models and manifest), the files of inputs, and the columns of each clip.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote as percent_encoded

from batchrunner.datasets.details import missing, texts
from batchrunner.datasets.filenames import ClipNames
from batchrunner.datasets.inferred_types import inferred_types
from batchrunner.datasets.items import CHARACTER, REFERENCE, Dataset, Dtype
from batchrunner.formatting import redacted

_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_VIDEO, _IMAGE = "video", "image"  # types of columns with files
_MEDIA = {REFERENCE: _VIDEO, CHARACTER: _IMAGE}
# Types of columns; others are text.
_TYPES: Mapping[str, str] = {
    "int64": "cr:Int64",
    "float64": "cr:Float64",
    "bool": "sc:Boolean",
    _VIDEO: "sc:VideoObject",
    _IMAGE: "sc:ImageObject",
}
_TIMES = {"completed_at"}
# What a column says of the origin of its clip.
_ORIGIN: Mapping[str, str] = {
    "service": "prov:wasAttributedTo",
    "model": "prov:wasAttributedTo",
    "run_id": "prov:wasGeneratedBy",
    "generation_id": "prov:wasGeneratedBy",
    "completed_at": "prov:generatedAtTime",
    "reference_sha256": "prov:wasDerivedFrom",
    "character_sha256": "prov:wasDerivedFrom",
}
_ID_IN_NAME = {"id": r"clips/(.+)\.mp4$", "job": r"clips/(.+?)(?:\.t[0-9]+)?\.mp4$"}
_NAME_WITHOUT_QUOTES = re.compile(r"[^\"'\\\x00-\x1f]+")
_MEDIA_TYPES = {
    ".jsonl": "application/jsonlines",
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}

JSON = dict[str, Any]


class NamedFile(Protocol):
    """A file of the data set."""

    @property
    def name(self) -> str:
        """The path inside the data set."""
        ...

    @property
    def sha256(self) -> str:
        """The hash in hex."""
        ...

    @property
    def bytes(self) -> int:
        """The size."""
        ...


class _Source(NamedTuple):
    """Where the values of a split are. distribution: its files. columns: names and types.

    of: returns the source of a column.
    """

    distribution: list[JSON]
    columns: Mapping[str, Dtype]
    of: Callable[[str], JSON]


def _from_columns(reference: JSON) -> Callable[[str], JSON]:
    return lambda name: {**reference, "extract": {"column": name}}


def croissant(dataset: Dataset, format_name: str, files: Mapping[str, NamedFile]) -> bytes:
    """Return croissant.json. files: the files of the data set's format, by name."""
    details = dataset.description.details
    splits = [split for split in dataset.splits if dataset.count(split)]
    sources = {split: _SOURCES[format_name](dataset, split, files) for split in splits}
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": str(details.get("pretty_name") or dataset.description.name),
        "description": _description(dataset),
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        **_stated(details),
        "keywords": list(dict.fromkeys(["synthetic", "video", *texts(details.get("keywords") or [])])),
        **_origin(dataset),
        "distribution": [entry for source in sources.values() for entry in source.distribution],
        "recordSet": [_splits(splits), *(_record_set(split, sources[split]) for split in splits)],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _description(dataset: Dataset) -> str:
    details = dataset.description.details
    sentences = [str(details["description"]).strip()] if details.get("description") else []
    sentences.append("The clips of this data set are synthetic: a generation service rendered them.")
    if any(report["provider"] == "sandbox" for report in dataset.description.reports):
        sentences.append("Some of them are stand-ins of a rehearsal, which no model rendered.")
    if lacking := missing(details):
        sentences.append(f"Not stated by the author of this data set: {', '.join(lacking)}.")
    return "\n\n".join(sentences)


def _stated(details: Mapping[str, Any]) -> JSON:
    """Return the properties that the manifest states."""
    names = {"license": "license", "homepage": "url", "citation": "citeAs", "version": "version"}
    names["date_published"] = "datePublished"
    stated: JSON = {name: str(details[key]) for key, name in names.items() if details.get(key)}
    if details.get("creators"):
        stated["creator"] = [_creator(item) for item in details["creators"]]
    for key, value in sorted((details.get("responsible_ai") or {}).items()):
        first, *others = key.split("_")
        stated[f"rai:{first}{''.join(map(str.capitalize, others))}"] = value
    return stated


def _creator(creator: Any) -> JSON:
    known = creator if isinstance(creator, Mapping) else {"name": creator}
    kind = "sc:Organization" if known.get("type") == "organization" else "sc:Person"
    return {"@type": kind, **{name: str(known[name]) for name in ("name", "url", "email") if known.get(name)}}


def _origin(dataset: Dataset) -> JSON:
    """Return the runs that rendered the clips, with service, models, times and manifest."""
    activities = [activity for report in dataset.description.reports for activity in _activities(report)]
    manifests = [entity for report in dataset.description.reports for entity in _manifest_files(report)]
    return {
        "prov:wasGeneratedBy": activities,
        "prov:wasDerivedFrom": list({json.dumps(entity): entity for entity in manifests}.values()),
    }


def _activities(report: Mapping[str, Any]) -> Iterator[JSON]:
    models = [str(model) for model in report.get("models") or ()]
    for run in report.get("runs") or ():
        service = str(run.get("service") or report.get("service") or report["provider"])
        rendered = () if run.get("provider", report["provider"]) == "sandbox" else models  # it renders stand-ins itself
        agents = [{"@type": "prov:SoftwareAgent", "prov:label": name} for name in (service, *rendered)]
        program = f"batchrunner {report.get('batchrunner_version') or ''}".rstrip()
        known = {"prov:startedAtTime": run.get("started_at"), "prov:endedAtTime": run.get("finished_at")}
        yield {
            "@type": "prov:Activity",
            "@id": f"urn:batchrunner:run:{_id(str(run['run_id']), '')}",
            "prov:label": f"Run {run['run_id']} of the batch {report['name']}",
            **{name: value for name, value in known.items() if value},
            "prov:wasAssociatedWith": [*agents, {"@type": "prov:SoftwareAgent", "prov:label": program}],
        }


def _manifest_files(report: Mapping[str, Any]) -> Iterator[JSON]:
    manifest = report["manifest"]
    for file in manifest.get("files") or ([manifest] if manifest.get("sha256") else []):
        name = redacted(str(file["path"])).replace("\\", "/").rpartition("/")[2]
        yield {
            "@type": "prov:Entity",
            "@id": f"urn:sha256:{file['sha256']}",
            "prov:label": f"{name} (SHA-256 {file['sha256']})",
        }


def _splits(splits: list[str]) -> JSON:
    """Return the record set that names the splits."""
    kinds = {"train": "cr:TrainingSplit", "validation": "cr:ValidationSplit", "val": "cr:ValidationSplit"}
    kinds |= {"dev": "cr:ValidationSplit", "test": "cr:TestSplit"}
    rows = [{"splits/name": split, "splits/url": kinds.get(split)} for split in splits]
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "The splits.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/url", "name": "url", "dataType": "sc:URL"},
        ],
        "data": rows,
    }


def _record_set(split: str, source: _Source) -> JSON:
    name = f"{split}-clips"
    fields = (_field(f"{_id(name)}", column, kind, source) for column, kind in source.columns.items())
    return {
        "@type": "cr:RecordSet",
        "@id": _id(name),
        "name": name,
        "description": f"The clips of the split {split}, one record each.",
        "key": {"@id": f"{_id(name)}/{'id' if 'id' in source.columns else 'key'}"},
        "field": [field for field in fields if field is not None],
    }


def _field(parent: str, column: str, kind: Dtype, source: _Source) -> JSON | None:
    """Return a column as a field; None for a nested column without a value that a JSONPath can name."""
    own = f"{parent}/{_id(column, '')}"
    head: JSON = {"@type": "cr:Field", "@id": own, "name": column}
    if column in _ORIGIN:
        head["equivalentProperty"] = _ORIGIN[column]
    if isinstance(kind, str):
        data_type = "sc:DateTime" if column in _TIMES and kind == "string" else _data_type(kind)
        array = {"isArray": True, "arrayShape": "-1"} if kind == "strings" else {}
        return {**head, "dataType": data_type, **array, "source": source.of(column)}
    nested = [
        {
            "@type": "cr:Field",
            "@id": f"{own}/{_id(name, '')}",
            "name": name,
            "dataType": _data_type(one if isinstance(one, str) else "string"),
            "source": {**source.of(column), "transform": {"jsonPath": f'"{name}"'}},
        }
        for name, one in kind.items()
        if _NAME_WITHOUT_QUOTES.fullmatch(name)
    ]
    return {**head, "subField": nested} if nested else None


def _id(text: str, safe: str = "/") -> str:
    """Return a text as an identifier."""
    return percent_encoded(text, safe, errors="backslashreplace")


def _data_type(kind: str) -> str:
    return _TYPES.get(kind, "sc:Text")


def _file_object(file: NamedFile) -> JSON:
    return {
        "@type": "cr:FileObject",
        "@id": _id(file.name),
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _media_type(file.name),
        "sha256": file.sha256,
    }


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(f".{name.rpartition('.')[2].lower()}", "application/octet-stream")


def _file_set(name: str, files: list[str], pattern: str) -> JSON:
    """Return a set of files. files: their names, for their types."""
    return {
        "@type": "cr:FileSet",
        "@id": _id(name),
        "name": name,
        "encodingFormat": sorted({_media_type(file) for file in files}),
        "includes": pattern,
    }


def _folder(dataset: Dataset, split: str, files: Mapping[str, NamedFile]) -> _Source:
    table = files[f"{split}/metadata.jsonl"]
    distribution = [_file_object(table)]
    for kind in ("clips", "inputs"):
        names = [name for name in files if name.startswith(f"{split}/{kind}/")]
        if names:
            distribution.append(_file_set(f"{split}-{kind}-files", names, f"{split}/{kind}/*"))
    if len(distribution) > 2:
        distribution[1]["prov:wasDerivedFrom"] = {"@id": distribution[2]["@id"]}
    names = ["file_name"]
    names += [name for role, name in ((REFERENCE, "control_path"), (CHARACTER, "character")) if role in dataset.roles]
    columns = {**dict.fromkeys(names, "string"), **inferred_types(dataset)}
    reference = {"fileObject": {"@id": _id(table.name)}}
    from_names = _read_from_names(dataset, split)

    def source(column: str) -> JSON:
        name = "file_name" if column in from_names else column
        regex = {"transform": {"regex": from_names[column]}} if column in from_names else {}
        return {**reference, "extract": {"column": name}, **regex}

    return _Source(distribution, columns, source)


def _read_from_names(dataset: Dataset, split: str) -> Mapping[str, str]:
    """Return the columns to be read from `file_name`, with the pattern. pandas reads ids such as 0012 as numbers."""
    fits = dict(_ID_IN_NAME)
    names = ClipNames()
    for item in dataset.items(split):
        if not _is_number(item.id) and not _is_number(str(item.values["job"])):
            return {}
        name = f"clips/{names.take(item.id, item.key)}{item.clip.suffix}"
        for column, pattern in _ID_IN_NAME.items():
            if (found := re.match(pattern, name)) is None or found[1] != item.values[column]:
                fits.pop(column, None)
    return fits


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _webdataset(dataset: Dataset, split: str, files: Mapping[str, NamedFile]) -> _Source:
    """Return the JSON members of a split's shards: mlcroissant opens no JSON in a tar."""
    shards = [file for name, file in sorted(files.items()) if re.fullmatch(rf"(.*/)?{re.escape(split)}-\d+\.tar", name)]
    name = f"{split}-rows"
    rows = {
        "@type": "cr:FileSet",
        "@id": _id(name),
        "name": name,
        "containedIn": [{"@id": _id(shard.name)} for shard in shards],
        "encodingFormat": "application/json",
        "includes": "*.json",
    }
    reference = {"fileSet": {"@id": _id(name)}}
    columns: dict[str, Dtype] = {"key": "string", "json": "string"}
    key = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"([^.]+)\..*"}}
    sources = {"key": {**reference, **key}, "json": {**reference, "extract": {"fileProperty": "content"}}}
    return _Source([*map(_file_object, shards), rows], columns, sources.__getitem__)


def _parquet(dataset: Dataset, split: str, files: Mapping[str, NamedFile]) -> _Source:
    """Return the columns of a split's Parquet files."""
    pattern = re.compile(rf"((?:.*/)?){re.escape(split)}-\d+-of-\d+\.parquet")
    names = sorted(name for name in files if pattern.fullmatch(name))
    folder = names[0].rpartition("/")[0]
    name = f"{split}-rows"
    table = _file_set(name, names, f"{folder}/{split}-*-of-*.parquet".lstrip("/"))
    source = _from_columns({"fileSet": {"@id": _id(name)}})
    media = {"video": _VIDEO} | {role: kind for role, kind in _MEDIA.items() if role in dataset.roles}
    own = {name: kind for name, kind in media.items() if name not in dataset.columns}

    def of(column: str) -> JSON:
        return {**source(column), **({"transform": {"jsonPath": "bytes"}} if column in own else {})}

    return _Source([table], {**own, **dataset.columns}, of)


_SOURCES: Mapping[str, Callable[[Dataset, str, Mapping[str, NamedFile]], _Source]] = {
    "folder": _folder,
    "webdataset": _webdataset,
    "parquet": _parquet,
}
