"""Which local inputs are staged, and the names of their objects. Pure."""

import re
from collections.abc import Iterable

from batchrunner.job import Job, Media

_SUFFIXES = {  # by content, not by file name: equal contents have one name
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/bmp": "bmp",
}
_STAGED = re.compile(rf"([0-9a-f]{{64}})\.({'|'.join(_SUFFIXES.values())}|bin)")


def is_staged(media: Media, above_bytes: int) -> bool:
    """Return whether an input is uploaded: a local file of at least so many bytes."""
    return media.path is not None and media.sha256 is not None and (media.size_bytes or 0) >= above_bytes


def name_of(media: Media) -> str:
    """Return the name of a staged input: ``<sha256>.<suffix>``."""
    return f"{media.sha256}.{_SUFFIXES.get(media.mime or '', 'bin')}"


def digest_of(key: str) -> str | None:
    """Return the hex SHA-256 in the key of a staged input, or None for another object."""
    found = _STAGED.fullmatch(key.rpartition("/")[2])
    return found[1] if found else None


def uploads(jobs: Iterable[Job], above_bytes: int) -> dict[str, Media]:
    """Return the inputs of `jobs` that are uploaded, each content once, by object name."""
    return {name_of(media): media for job in jobs for media in job.inputs.values() if is_staged(media, above_bytes)}
