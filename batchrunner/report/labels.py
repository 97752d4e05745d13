"""Names of jobs for people: a typed id as it is, and the inputs instead of a derived id. Pure."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from batchrunner.providers import registry

_DERIVED = re.compile(r".*-[0-9a-f]{10}(-[0-9]+)?")  # an id that ends with a hash, see batchrunner.manifest.ids
_MOST = 80
_TIMES = " \N{MULTIPLICATION SIGN} "


def label(job: Mapping[str, Any], stems: Iterable[str]) -> tuple[str, str]:
    """Return title and subtitle of a job: its id and its inputs, or its inputs and its unusual parameters.

    stems: the names of the job's inputs (`stem`), in the order of its model.
    """
    pair = _TIMES.join(filter(None, stems))
    if not pair or not _DERIVED.fullmatch(job["job"]):
        return job["job"], pair
    return pair, ", ".join(unusual(job["request"]))


@lru_cache(4096)  # many jobs share an input
def stem(source: str) -> str:
    """Return the name of an input without folders and extension, or "" for a data URI."""
    if source[:5].lower() == "data:":
        return ""
    _, mark, address = source.partition("://")
    path = unquote(address.partition("/")[2].partition("?")[0]) if mark else source
    name = path.rstrip("/").rpartition("/")[2]
    before = name.rpartition(".")[0]
    name = before if before.strip(".") else name  # an extension has a name before it
    return name if len(name) <= _MOST else f"{name[: _MOST - 1]}…"


def unusual(request: Mapping[str, Any]) -> list[str]:
    """Return the parameters that differ from the model's defaults, but the resolution, as text."""
    spec = registry.models().get(request["model"])
    defaults = spec.defaults if spec else {}
    known = (item for item in request.items() if item[0] in defaults and item[0] != "resolution")
    return [f"{name.replace('_', ' ')} {value}" for name, value in known if value != defaults[name]]
