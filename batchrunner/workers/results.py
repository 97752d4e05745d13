"""Results by the content that they are about: a second result for one content has to equal the first. Pure.

Only digests are kept: 100,000 clips take some megabytes. Safe to use from several threads.
"""

import hashlib
import json
import threading
from typing import Any


class Results:
    """Compares and sets the results of tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[str, bytes] = {}

    def agrees(self, key: str, result: Any) -> bool:
        """Set the result of a content, or return whether it equals the one that is set. result: JSON values."""
        digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).digest()[:16]
        with self._lock:
            return self._digests.setdefault(key, digest) == digest
