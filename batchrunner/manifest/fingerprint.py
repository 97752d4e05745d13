"""The identity of a job: model, parameters and the content of its inputs. Pure.

A fingerprint depends on the data that the service would be sent, and on the take above 1. Documented defaults are
included, so a row with an explicit default equals a row without it. Ids, tags, paths and places are not included. A
changed fingerprint makes users pay again, so the recipe has a version, and tests contain literal fingerprints.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text

from batchrunner.job import Job, Media
from batchrunner.providers.models import Params

RECIPE = 1  # the version of the canonical JSON


def fingerprint(model: str, inputs: Mapping[str, Media], params: Params, take: int = 1) -> str:
    """Return ``sha256:<hex>`` of the job's canonical JSON: compact, ASCII, sorted keys; built from a template.

    inputs: by the names of the model's spec. take: included above 1 only, so a first take is what a job was before
    takes existed.
    """
    names, template = _template(model, params.json, take, *inputs)
    text = template % tuple([_identity(inputs[name]) for name in names])
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def take_of(job: Job, take: int) -> Job:
    """Return another take of a job. Its inputs must be those of a manifest: a journal stores no complete URLs."""
    params = job.params if isinstance(job.params, Params) else Params(job.params)
    return replace(job, fingerprint=fingerprint(job.model, job.inputs, params, take), take=take)


@lru_cache(maxsize=1024)
def _template(model: str, params: str, take: int, *inputs: str) -> tuple[list[str], str]:
    """Return the names of the inputs, sorted, and the template of the JSON text. params: as JSON."""
    constant = {"model": _text(model), "params": params, "v": str(RECIPE)} | ({"take": str(take)} if take > 1 else {})
    values = {key: value.replace("%", "%%") for key, value in constant.items()}
    text = ",".join(f"{_text(key)}:{values.get(key, '%s')}" for key in sorted({*inputs, *values}))
    return sorted(inputs), f"{{{text}}}"


def _identity(media: Media) -> str:
    """Return the content's digest if known, otherwise the URL, as JSON. A renamed file is the same job.

    An object in a bucket is its address and its ETag, never a signed link.
    """
    if media.etag is not None:
        return f'{{"etag":{_text(media.etag)},"object":{_text(media.uri or "")}}}'
    return f'{{"sha256":"{media.sha256}"}}' if media.sha256 else f'{{"url":{_text(media.uri or "")}}}'
