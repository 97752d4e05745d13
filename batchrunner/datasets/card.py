"""The card of a data set: README.md with the YAML head that Hugging Face reads. Pure.

Rules: the head names the files of each split. Without that, a loader guesses splits from file names that contain
"train" or "test". Facts come from the batches and from the manifest's `dataset` block. What is missing is named, and no
licence or text is made up. A split without clips is left out of the head, because a loader fails on it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from batchrunner.datasets.details import WANTED, missing
from batchrunner.datasets.features import as_yaml
from batchrunner.datasets.items import Dataset, Dtype
from batchrunner.formatting import printable, redacted

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_TAGS = ("synthetic", "video")


class FormatOfCard(Protocol):
    """What the card says of a format."""

    name: str

    def data_files(self, split: str) -> str:
        """Return the pattern of a split's files."""
        ...

    def features(self, dataset: Dataset) -> Mapping[str, Dtype]:
        """Return the columns whose types the head states, if any."""
        ...


def card(dataset: Dataset, form: FormatOfCard) -> bytes:
    """Return README.md."""
    import yaml

    head = yaml.safe_dump(_head(dataset, form), allow_unicode=True, sort_keys=False, width=1_000_000)
    body = "\n".join(_body(dataset))
    return f"---\n{head}---\n\n{body}\n".encode("utf-8", "backslashreplace")


def _head(dataset: Dataset, form: FormatOfCard) -> dict[str, Any]:
    details = dataset.description.details
    known = _license(str(details.get("license") or ""))
    if details.get("pretty_name"):
        known["pretty_name"] = str(details["pretty_name"])
    tags = list(dict.fromkeys([*_TAGS, *map(str, details.get("keywords") or ())]))
    total = sum(map(dataset.count, dataset.splits))
    files = [{"split": split, "path": form.data_files(split)} for split in dataset.splits if dataset.count(split)]
    stated = form.features(dataset)
    return {
        **known,
        "tags": tags,
        "size_categories": [next((name for most, name in _SIZES if total < most), "n>10M")],
        "configs": [{"config_name": "default", "data_files": files}],
        **({"dataset_info": {"config_name": "default", "features": as_yaml(stated)}} if stated else {}),
    }


def _license(text: str) -> dict[str, str]:
    """Return the head's keys for a licence: Hugging Face takes an identifier, or an address beside "other"."""
    if "://" in text:
        return {"license": "other", "license_link": text}
    return {"license": text} if text else {}


def _further_texts(details: Mapping[str, Any]) -> Iterator[str]:
    """Yield what else the author states: creators, addresses, responsible-AI texts, citation."""
    creators = [item if isinstance(item, str) else item.get("name") for item in details.get("creators") or ()]
    lines = {
        "Creators": ", ".join(map(_text, creators)),
        "Homepage": str(details.get("homepage") or ""),
        "Version": _text(details.get("version")),
        "Published": _text(details.get("date_published")),
    }
    yield from (f"- {name}: {value}" for name, value in lines.items() if value)
    for name, value in (details.get("responsible_ai") or {}).items():
        text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield from ("", f"### {_text(name.replace('_', ' ').capitalize())}", "", text.strip())
    if details.get("citation"):
        yield from ("", "### Citation", "", *(f"    {line}" for line in str(details["citation"]).splitlines()))
    yield ""


def _body(dataset: Dataset) -> Iterator[str]:
    details = dataset.description.details
    yield f"# {_text(details.get('pretty_name') or dataset.description.name)}"
    yield ""
    if details.get("description"):
        yield from (str(details["description"]).strip(), "")
    yield from _further_texts(details)
    yield "The clips of this data set are synthetic: a generation service rendered them. batchrunner exported them."
    yield ""
    if lacking := missing(details):
        yield "Not stated by the author of this data set:"
        yield ""
        yield from (f"- `{name}`: {WANTED[name]}" for name in lacking)
        yield ""
    yield from ("## Splits", "", "| split | clips |", "|---|---|")
    yield from (f"| {split} | {dataset.count(split)} |" for split in dataset.splits if dataset.count(split))
    yield from ("", "## Columns", "", "| column | type |", "|---|---|")
    yield from (f"| `{_cell(name)}` | {_cell(_type_text(kind))} |" for name, kind in dataset.columns.items())
    yield from ("", "## Origin", "", "| batch | provider | service | manifest (SHA-256) |", "|---|---|---|---|")
    for report in dataset.description.reports:
        manifest = report["manifest"].get("sha256") or ""
        yield f"| {' | '.join(map(_cell, (report['name'], report['provider'], report.get('service'), manifest)))} |"
    yield ""
    yield "To check all files: `sha256sum -c SHA256SUMS`"


def _type_text(kind: Dtype) -> str:
    return kind if isinstance(kind, str) else ", ".join(f"{name}: {_type_text(item)}" for name, item in kind.items())


def _text(value: object) -> str:
    """Return a text from outside as one line of Markdown without markup."""
    plain = redacted(printable(str(value or "")))
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in plain)


def _cell(value: object) -> str:
    return redacted(printable(str(value or ""))).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
