"""What makes a job the same job: model, parameters and the content of its inputs. Pure.

Rule: a fingerprint depends on nothing but what the service would be sent. Documented defaults count as written out,
so a row that spells out a default is the row that leaves it out. Ids, tags, paths and places do not count. Whatever
changes a fingerprint makes people pay again: the recipe carries a version, and tests hold literal ones.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text

from batchrunner.job import Media
from batchrunner.providers.models import Params


def fingerprint(model: str, inputs: Mapping[str, Media], params: Params) -> str:
    """``sha256:<hex>`` over the canonical JSON of the job: compact, ASCII, keys sorted; put together from its parts.

    inputs: by the names of the model's spec.
    """
    names, template = _template(model, *inputs)
    parts = tuple([_identity(inputs[name]) if name in inputs else params.json for name in names])
    return "sha256:" + hashlib.sha256((template % parts).encode()).hexdigest()


@lru_cache(maxsize=256)
def _template(model: str, *inputs: str) -> tuple[list[str], str]:
    """The names of the parts that differ from job to job, in order, and the text around them."""
    constant = {"model": _text(model).replace("%", "%%"), "v": "1"}
    keys = sorted({*inputs, "params", *constant})
    text = ",".join(f"{_text(key)}:{constant.get(key, '%s')}" for key in keys)
    return [key for key in keys if key not in constant], f"{{{text}}}"


def _identity(media: Media) -> str:
    """Content where it is at hand, so that a renamed file is the same job; otherwise the URL. As JSON."""
    return f'{{"sha256":"{media.sha256}"}}' if media.sha256 else f'{{"url":{_text(media.uri or "")}}}'
