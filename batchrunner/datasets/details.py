"""What a published data set should say of itself, and which of it the manifest's `dataset` block lacks. Pure.

Rule: what is missing is named on the console, in the card and in the Croissant file. It is never made up.
"""

from collections.abc import Mapping
from typing import Any

# Keys of the `dataset` block, in the order in which they are named. A dot separates nested keys.
WANTED: Mapping[str, str] = {
    "license": "the licence under which the clips may be used",
    "pretty_name": "the name of the data set for people",
    "description": "what the data set shows and what it is for",
    "creators": "who made the data set",
    "citation": "how to cite the data set",
    "homepage": "the page of the data set",
    "version": "the version of the data set",
    "date_published": "the date of publication",
    "responsible_ai.data_collection": "how the references and characters were collected",
    "responsible_ai.data_biases": "known biases",
    "responsible_ai.data_limitations": "known limitations",
    "responsible_ai.personal_sensitive_information": "people who can be recognized, and other sensitive content",
}


def missing(details: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of WANTED that the `dataset` block lacks."""
    return tuple(name for name in WANTED if not _value(details, name))


def _value(details: Mapping[str, Any], name: str) -> Any:
    value: Any = details
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def texts(value: Any) -> list[str]:
    """Return a value that may be a text or a list of texts, as a list."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
