"""What makes a job the same job: model, parameters and the content of its inputs. Pure.

Rule: a fingerprint depends on nothing but what the service would be sent. Documented defaults count as written out,
so a row that spells out a default is the row that leaves it out. Ids, tags, paths and places do not count. Whatever
changes a fingerprint makes people pay again: the recipe carries a version, and a test holds a literal one.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text
from types import MappingProxyType
from typing import Any

from batchrunner.job import Media

MODEL = "alibaba/wan2.2-14b-animate-replace"

# The model's parameters in documented order, with their documented defaults (the model's page of the API reference).
# None: no default is documented, and nothing is sent unless the user set it.
PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {
        "resolution": "480p",
        "num_inference_steps": 20,
        "enable_safety_checker": None,
        "shift": 5.0,
        "video_quality": "high",
        "video_write_mode": "balanced",
    }
)
_DEFAULTS = tuple(PARAMETERS.values())
_NAMES = frozenset(PARAMETERS)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
_TYPES = {"num_inference_steps": int, "shift": float}


class Params(dict[str, Any]):
    """Parameters as they are sent, with their canonical JSON."""

    __slots__ = ("json",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.json = _canonical(given)


def values(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of the parameters in documented order, defaults for those that are not in `fields`."""
    if _NAMES.isdisjoint(fields):
        return _DEFAULTS
    return tuple([fields.get(name, default) for name, default in PARAMETERS.items()])


def complete(fields: Mapping[str, Any]) -> Params:
    """The parameters as they are sent: those in `fields`, the documented defaults for the rest, in documented order.

    The same object for the same parameters: do not change it.
    """
    return _completed(*values(fields))


@lru_cache(maxsize=1024, typed=True)  # typed: True, 1 and 1.0 are not the same
def _completed(*given: Any) -> Params:
    named = zip(PARAMETERS, given, strict=True)
    return Params(
        {name: _TYPES[name](value) if name in _TYPES else value for name, value in named if value is not None}
    )


def fingerprint(model: str, video: Media, image: Media, params: Params) -> str:
    """``sha256:<hex>`` over the canonical JSON of the job: compact, ASCII, keys sorted; put together from its parts."""
    inputs = (
        f'"image":{_identity(image)},"model":{_text(model)},"params":{params.json},"v":1,"video":{_identity(video)}'
    )
    return "sha256:" + hashlib.sha256(f"{{{inputs}}}".encode()).hexdigest()


def _identity(media: Media) -> str:
    """Content where it is at hand, so that a renamed file is the same job; otherwise the URL. As JSON."""
    return f'{{"sha256":"{media.sha256}"}}' if media.sha256 else f'{{"url":{_text(media.uri or "")}}}'
