"""``stage --clean``: list the staged inputs that no batch needs any more, then remove them.

A batch needs the inputs of its jobs that have not ended. The batches are those whose run directories the account's
``runs.jsonl`` lists, and the one of the given manifest. Batches of other machines are not known here.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from batchrunner.account import runs_log
from batchrunner.account.folders import state_folder
from batchrunner.account.run_directories import find
from batchrunner.app.setup import Setup
from batchrunner.errors import LocalFault, UsageError
from batchrunner.formatting import count_text, size_text
from batchrunner.job import Record, State
from batchrunner.journal import journal
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.staging import StagedObject, unneeded
from batchrunner.storage.objects.store import Access, Objects, open_store

_OPEN = {State.PENDING, State.SUBMITTING, State.IN_FLIGHT, State.IN_DOUBT}
_MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class Needed:
    """The digests of the inputs that batches need. gone: run directories that are not found, as text."""

    digests: frozenset[str]
    gone: tuple[str, ...] = ()


def needed(environment: Mapping[str, str], setup: Setup | None) -> Needed:
    """Return what the batches of this machine's user need. Raises JournalError, LocalFault."""
    state = state_folder(environment)
    digests, gone = set[str](), list[str]()
    try:
        lines = runs_log.read(state)
    except OSError as error:
        raise LocalFault("account_index", f"{state} cannot be read: {error.strerror or error}") from error
    for line in lines:
        _, stored = find(line)
        if stored is None:
            gone.append(line.directory)
        elif stored.snapshot is not None:
            digests |= _digests(stored.snapshot.records.values())
    if setup is not None:
        snapshot = journal.read(setup.rundir.journal)
        records = snapshot.records if snapshot else {}
        digests |= _digests(records.values())
        digests |= _digests(Record(entry.job) for entry in setup.batch.entries if entry.job.fingerprint not in records)
    return Needed(frozenset(digests), tuple(dict.fromkeys(gone)))


def _digests(records: Iterable[Record]) -> set[str]:
    media = (item for record in records if record.state in _OPEN for item in record.job.inputs.values())
    return {item.sha256 for item in media if item.sha256}


def clean(prefix: str, access: Access, known: Needed, say: Callable[[str], None], agree: Callable[[str], bool]) -> None:
    """List the staged inputs that are not needed, and remove them if the user agrees. Raises UsageError, CallError."""
    address = ObjectAddress.parse(prefix)
    objects = open_store(address, access)
    for directory in known.gone:
        say(f"not found: the run directory {directory}; what it needs counts as not needed")
    found = asyncio.run(unneeded(objects, address, known.digests))
    if not found:
        say(f"{address}: every staged input is needed, or there is none")
        return
    for item in found[:_MOST_LISTED]:
        say(f"{address.place}/{item.key}  {size_text(item.size_bytes)}")
    if len(found) > _MOST_LISTED:
        say(f"… and {len(found) - _MOST_LISTED:,} more")
    total = f"{count_text(len(found), 'staged input')}, {size_text(sum(item.size_bytes for item in found))}"
    if not agree(f"Remove {total}? Batches of other machines may need them; they would upload them again."):
        say("Nothing was removed.")
        return
    asyncio.run(_remove(objects, found))
    say(f"Removed {total}.")


async def _remove(objects: Objects, found: Iterable[StagedObject]) -> None:
    for item in found:
        await objects.delete(item.key)


def prefix_in(setup: Setup | None, flag: str | None, environment: Mapping[str, str]) -> str:
    """Return the prefix of the flag, the environment or the manifest. Raises UsageError."""
    text = flag or environment.get("BATCHRUNNER_STAGE") or (setup.settings.stage if setup else None)
    if not text:
        raise UsageError(
            "no bucket is named", "Name a manifest with the key 'stage', or add --stage s3://BUCKET/PREFIX/."
        )
    return text
