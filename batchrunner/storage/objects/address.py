"""The addresses of objects, and the buckets that the user allows. Pure.

A manifest alone cannot choose a bucket: config.yaml (``buckets:``) or ``--allow-bucket`` has to name it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from batchrunner.errors import UsageError

SCHEMES = ("s3", "gs", "az")
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://([^/]*)(?:/(.*))?", re.DOTALL | re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MOST_KEY_BYTES = 1024
_FORM = "write s3://bucket/key, gs://bucket/key or az://container/key"


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """An object, a prefix or, with an empty key, a bucket.

    scheme: ``s3``, ``gs`` or ``az``. key: the object's name as it is stored, not percent-encoded, without a slash in
    front.
    """

    scheme: str
    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that `text` names. Raises UsageError, which has no part of a user name or password."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UsageError("not the address of an object", _FORM)
        scheme, bucket, key = found[1].lower(), found[2], found[3] or ""
        if "@" in bucket:
            raise UsageError(
                f"the {scheme} address contains a user name or a password",
                "Set credentials in the environment or in a profile, never in an address.",
            )
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"{bucket!a} is not the name of a bucket", _FORM)
        if problem := _problem(key):
            raise UsageError(f"{scheme}://{bucket}/{key!a:.200}: {problem}", "Copy the object to another key.")
        return cls(scheme, bucket, key)

    @property
    def place(self) -> str:
        """The bucket with its scheme: ``s3://bucket``."""
        return f"{self.scheme}://{self.bucket}"

    def __str__(self) -> str:
        return f"{self.place}/{self.key}"

    def child(self, name: str) -> "ObjectAddress":
        """Return the address of `name` below this prefix."""
        prefix = self.key.rstrip("/")
        return ObjectAddress(self.scheme, self.bucket, f"{prefix}/{name}" if prefix else name)


def is_address(text: str) -> bool:
    """Return whether `text` begins as the address of an object does."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def _problem(key: str) -> str | None:
    """Return why the library cannot address `key`, or None."""
    if _CONTROL.search(key):
        return "the key contains control characters"
    if len(key.encode()) > _MOST_KEY_BYTES:
        return f"the key has more than {_MOST_KEY_BYTES:,} bytes"
    segments = key.removesuffix("/").split("/")
    if key and any(segment in {"", ".", ".."} for segment in segments):
        return "the key has an empty segment, '.' or '..'"
    return None


@dataclass(frozen=True, slots=True)
class AllowedBuckets:
    """The buckets that the user allows: ``s3://bucket``; a name alone means S3."""

    places: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *sources: Iterable[str]) -> Self:
        """Return the buckets that config.yaml and the flags name. Raises UsageError for a name that is none."""
        return cls(frozenset(allowed_place(name) for names in sources for name in names))

    def check(self, address: ObjectAddress) -> None:
        """Raise UsageError if the user does not allow the bucket."""
        if address.place not in self.places:
            raise UsageError(
                f"the bucket {address.place} is not allowed",
                f"A manifest alone cannot choose a bucket. If you trust it, add --allow-bucket {address.place}, or "
                f"'buckets: [{address.place}]' to config.yaml.",
            )


def allowed_place(name: str) -> str:
    """Return the bucket that `name` allows, with its scheme. Raises UsageError."""
    address = ObjectAddress.parse(name if "://" in name else f"s3://{name}")
    if address.key:
        raise UsageError(f"{address} is not a bucket, but a place in one", f"Allow the whole bucket: {address.place}")
    return address.place
