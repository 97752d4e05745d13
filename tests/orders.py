"""What a job asks of the service, computed with the sandbox's reading of a request.

Tests compare it with the mark in a delivered clip (`batchrunner.sandbox.clips.marks`).
"""

import base64
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchrunner.job import Job
from batchrunner.sandbox.validation import Order, check


def fingerprint_of(fields: Mapping[str, Any], *, video: str, image: str) -> str:
    """Return the service's fingerprint of a request. fields: model and parameters. video, image: addresses."""
    order = check(json.dumps({**fields, "video_url": video, "image_url": image}).encode())
    assert isinstance(order, Order), order
    return order.fingerprint


def order_of(job: Job) -> str:
    """Return the same for a job whose inputs are addresses."""
    assert job.inputs["video"].uri is not None
    assert job.inputs["image"].uri is not None
    return fingerprint_of(
        {"model": job.model, **job.params}, video=job.inputs["video"].uri, image=job.inputs["image"].uri
    )


@lru_cache(maxsize=64)
def data_uri(path: Path, kind: str) -> str:
    """Return a data URI that holds a file. kind: ``video`` or ``image``."""
    return f"data:{kind}/x;base64," + base64.b64encode(path.read_bytes()).decode()
