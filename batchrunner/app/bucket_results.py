"""The delivery of a batch to a bucket: check its settings, and open its store.

Rule: a manifest alone cannot choose a bucket, and a batch whose clips are only in a bucket never runs without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from batchrunner.errors import LocalFault, UsageError
from batchrunner.job import Entry, PlacedFile, Record, Snapshot, State
from batchrunner.settings import Settings
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.run_directory import RunDirectoryClips

if TYPE_CHECKING:
    from batchrunner.app.environment import Environment
    from batchrunner.app.setup import Setup
    from batchrunner.storage.objects.store import Access
    from batchrunner.transfer.bucket_delivery import BucketStore
    from batchrunner.transfer.delivery import ResultStore


def check(settings: Settings, entries: Sequence[Entry], access: "Callable[[], Access]") -> None:
    """Refuse a bucket that only the manifest names, and names that no object can have. Raises UsageError."""
    for text in (settings.stage, settings.deliver):
        if text is not None:
            access().allowed.check(ObjectAddress.parse(text))
    if settings.deliver is None:
        if not settings.keep_local:
            hint = "Add deliver: s3://BUCKET/PREFIX/, or remove keep_local. Nothing was submitted."
            raise UsageError("keep_local: off needs the setting deliver: no other place keeps the clips", hint)
        return
    prefix = ObjectAddress.parse(settings.deliver)
    for entry in entries:
        ObjectAddress.parse(str(prefix.child(entry.file)))


def delivered_names(snapshot: Snapshot | None) -> frozenset[str]:
    """Return the jobs whose clips have a confirmed copy in a bucket, by fingerprint."""
    records = snapshot.records if snapshot else {}
    return frozenset(name for name, record in records.items() if record.result and record.result.objects)


def undelivered(deliver: str, entries: Sequence[Entry], records: Mapping[str, Record]) -> int:
    """Return how many clips of the entries have no confirmed copy below `deliver` yet."""
    prefix, missing = ObjectAddress.parse(deliver), 0
    for entry in entries:
        record = records.get(entry.job.fingerprint)
        objects = (record.result.objects if record and record.result else None) or {}
        missing += str(prefix.child(entry.file)) not in objects
    return missing


def store_of(setup: "Setup", local: "ResultStore", outside: "Environment") -> "BucketStore | None":
    """Return the store of a run that delivers to a bucket; None for another run.

    Raises UsageError if the library for buckets is not installed.
    """
    settings, access = setup.settings, setup.access
    if settings.deliver is None or access is None:
        return None
    from batchrunner.media.posters import SIZE_NAMES, poster_name
    from batchrunner.report import writer
    from batchrunner.storage.objects.store import open_store
    from batchrunner.transfer.bucket_delivery import BucketStore, BucketTarget
    from batchrunner.transfer.delivery import Store

    on_page = {entry.job.fingerprint for entry in setup.batch.entries[: writer.MOST_CARDS]}

    def is_needed(record: Record) -> bool:
        """The hook reads clips, and the report shows pictures of them."""
        if outside.on_clip is not None:
            return True
        if outside.posters is None or record.job.fingerprint not in on_page or record.result is None:
            return False
        return not (setup.rundir.posters / poster_name(f"strip-{record.result.sha256}", SIZE_NAMES[0])).exists()

    prefix = ObjectAddress.parse(settings.deliver)
    with suppress(LocalFault):  # the run says it, and fetches what is paid for
        open_store(prefix, access())
    name = setup.batch.name
    target = BucketTarget(prefix, lambda address: open_store(address, access()), settings.keep_local, is_needed, name)
    return BucketStore(cast("Store", local), setup.rundir, target)


def require_bucket(setup: "Setup", before: Snapshot | None, read_files: Callable[[], Mapping[str, PlacedFile]]) -> None:
    """Refuse a run without a bucket if clips are only in one: they would be fetched again, or even made again.

    before: the batch as the last run left it. read_files: returns the files that were placed in the run directory, by
    name. Raises UsageError. Call it before the start of the run is stored.
    """
    delivered = delivered_names(before)
    if before is None or not delivered or setup.settings.deliver is not None:
        return
    clips, files = RunDirectoryClips(setup.rundir), read_files()
    here = {placed.fingerprint for name, placed in files.items() if clips.size_bytes(name) == placed.size_bytes}
    for name in sorted(delivered - here):
        record = before.records[name]
        if record.state is State.SUCCEEDED and record.result is not None:
            own_names = [file for file, placed in files.items() if placed.fingerprint == name]
            prefix = _prefix_of(list(record.result.objects or ())[-1], own_names)
            if setup.shard is not None:
                prefix = prefix.removesuffix(f"{setup.shard.folder}/")  # the run adds it again
            hint = f"Keep deliver: {prefix} in the manifest or the command. Nothing was submitted."
            raise UsageError(f"clips of this batch are only in {prefix}", hint)


def _prefix_of(address: str, names: Iterable[str]) -> str:
    """Return the address of a delivered clip without its name in the run directory."""
    found = (address.removesuffix(name) for name in names if address.endswith(f"/{name}"))
    return min(found, key=len, default=f"{address.rpartition('/')[0]}/")
