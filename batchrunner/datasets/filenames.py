"""File names of clips in a data set: safe on every file system and in every loader, and unique. Pure."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import count

from batchrunner.manifest.safe_names import folded

_UNSAFE = re.compile(r"[^\w.\-]+")
_MOST_BYTES = 150  # of UTF-8; a key and a suffix follow, and file systems allow 255
_HIDDEN = "._-"  # a loader skips a file whose name starts with one of the first two


def safe_stem(name: str) -> str:
    """Return the nearest name in composed form (NFC) of letters, digits, ``_``, ``-`` and ``.``; "" if none is left."""
    clean = _UNSAFE.sub("-", unicodedata.normalize("NFC", name)).lstrip(_HIDDEN)
    return clean.encode("utf-8", "ignore")[:_MOST_BYTES].decode("utf-8", "ignore").rstrip("._- ")


class ClipNames:
    """Gives each clip a name of its own. Names that some file system takes for one get their key's first digits."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str, key: str) -> str:
        """Return the stem for the clip of the job `name`. key: its fingerprint in hex."""
        for stem in _candidates(safe_stem(name), key):
            if (plain := folded(stem)) not in self._taken:
                self._taken.add(plain)
                return stem
        raise AssertionError("candidates have no end")


def _candidates(stem: str, key: str) -> Iterator[str]:
    if stem:
        yield stem
    start = f"{stem}-" if stem else "clip-"
    yield f"{start}{key[:8]}"
    yield f"{start}{key}"
    yield from (f"{start}{key}-{number}" for number in count(2))  # another job has that name as its id
