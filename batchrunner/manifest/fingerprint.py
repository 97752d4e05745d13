"""The identity of a job: model, parameters and the content of its inputs. Pure.

A fingerprint depends only on the data that the service would be sent. Documented defaults are included, so a row with
an explicit default equals a row without it. Ids, tags, paths and places are not included. A changed fingerprint makes
users pay again, so the recipe has a version, and tests contain literal fingerprints.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text

from batchrunner.job import Media
from batchrunner.providers.models import Params


def fingerprint(model: str, inputs: Mapping[str, Media], params: Params) -> str:
    """Return ``sha256:<hex>`` of the job's canonical JSON: compact, ASCII, sorted keys; built from a template.

    inputs: by the names of the model's spec.
    """
    names, template = _template(model, *inputs)
    values = tuple([_identity(inputs[name]) if name in inputs else params.json for name in names])
    return "sha256:" + hashlib.sha256((template % values).encode()).hexdigest()


@lru_cache(maxsize=256)
def _template(model: str, *inputs: str) -> tuple[list[str], str]:
    """Return the keys whose values differ between jobs, in order, and the template of the JSON text."""
    constant = {"model": _text(model).replace("%", "%%"), "v": "1"}
    keys = sorted({*inputs, "params", *constant})
    text = ",".join(f"{_text(key)}:{constant.get(key, '%s')}" for key in keys)
    return [key for key in keys if key not in constant], f"{{{text}}}"


def _identity(media: Media) -> str:
    """Return the content's digest if known, otherwise the URL, as JSON. A renamed file is the same job."""
    return f'{{"sha256":"{media.sha256}"}}' if media.sha256 else f'{{"url":{_text(media.uri or "")}}}'
