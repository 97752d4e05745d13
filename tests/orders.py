"""What a job asks the service for, told apart from the program under test: by the sandbox's own reading of a request.

A judge compares it with the mark in a delivered clip (`batchrunner.sandbox.clips.marks`).
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
    """The service's fingerprint of a request. fields: model and parameters. video, image: addresses."""
    order = check(json.dumps({**fields, "video_url": video, "image_url": image}).encode())
    assert isinstance(order, Order), order
    return order.fingerprint


def order_of(job: Job) -> str:
    """The same of a job whose inputs are addresses."""
    assert job.inputs["video"].uri is not None
    assert job.inputs["image"].uri is not None
    return fingerprint_of(
        {"model": job.model, **job.params}, video=job.inputs["video"].uri, image=job.inputs["image"].uri
    )


@lru_cache(maxsize=64)
def data_uri(path: Path, kind: str) -> str:
    """A file as an address that holds it. kind: ``video`` or ``image``."""
    return f"data:{kind}/x;base64," + base64.b64encode(path.read_bytes()).decode()
