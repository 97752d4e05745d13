"""The functions that workers run: module-level, with plain arguments and results, repeatable, without secrets.

Each runs in a thread or process of this machine, or in a worker of a cluster that has batchrunner and sees the files
under the same paths. Media are decoded in a process of their own there too. A result that is not good decides
nothing: the machine that sent the task repeats it, and its own result counts.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchrunner.errors import BatchrunnerError
from batchrunner.media import decoder_pool
from batchrunner.storage import durable_files

DONE, FAILED = "done", "failed"


def perform(task: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task of `batchrunner.media.decode_worker` for one item. Return {"done": result} or {"failed": why}.

    An item with ``sha256`` is decoded only if its file has this content here: another machine may see an older file.
    """
    try:
        if "sha256" in item:
            with durable_files.open_plain(Path(item["path"])) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != item["sha256"]:
                    return {FAILED: "the file has other content there"}
        return {DONE: decoder_pool.one(decoder_pool.pool(), task, item)}
    except (BatchrunnerError, OSError, ValueError) as error:
        return {FAILED: str(error)}


def is_whole(path: str, size_bytes: int, sha256: str) -> bool | None:
    """Hash and decode a clip. Return True, or None if it is not as recorded or cannot be checked there."""
    reply = perform("clip", {"path": path, "size_bytes": size_bytes, "sha256": sha256})
    return True if DONE in reply else None


def content_key(name: str, arguments: Any) -> str:
    """Return the key of a task: a digest of its function and its arguments. Equal contents have equal keys."""
    return hashlib.sha256(json.dumps([name, arguments], sort_keys=True, default=str).encode()).hexdigest()
