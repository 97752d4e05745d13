"""The buckets that the user allows, from config.yaml and the command line."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batchrunner.account import config
from batchrunner.account.folders import config_file
from batchrunner.storage.objects.address import AllowedBuckets

if TYPE_CHECKING:
    from batchrunner.storage.objects.store import Access


def access_of(environment: Mapping[str, str], buckets: Sequence[str]) -> "Access":
    """Return how buckets may be reached: those of config.yaml and `buckets`. Raises UsageError, ManifestError."""
    from batchrunner.storage.objects.store import Access  # here, as most batches use no bucket

    allowed = AllowedBuckets.of(config.buckets(config_file(environment)), buckets)
    return Access(allowed, environment)
