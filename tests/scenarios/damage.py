"""Damage to the journal's own files, which SQLite writes without the simulated disk, and to files between two runs.

`JournalFiles` keeps them as they were at the moment of death: the clean-up code of a dead process, such as a checkpoint
of the write-ahead log, has no effect. A death in the middle of a commit leaves some of the commit's sectors.
`DiskFailure` makes operations fail for a while. `AtRest.damage` flips a bit, truncates, zeroes or removes, as a bad
disk or a careless person does; after that a run may be refused.
"""

import errno
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest.mock import patch

from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import RunDir

_SECTOR_BYTES = 512
_LOG_HEAD_BYTES = 32  # of the write-ahead log; SQLite flushes a new one before anything follows it
Content = dict[Path, bytes | None]


class JournalFiles:
    """The files of one journal: now, at a death, and as a death within a commit left them."""

    def __init__(self, rundir: RunDir, rng: Random) -> None:
        self._journal = rundir.journal
        self._log = rundir.journal.with_name(f"{rundir.journal.name}-wal")
        self._index = rundir.journal.with_name(f"{rundir.journal.name}-shm")
        self._rng = rng
        self._frozen: Content | None = None

    def now(self) -> Content:
        """Return the present content."""
        return {path: path.read_bytes() if path.exists() else None for path in (self._journal, self._log)}

    def freeze(self) -> None:
        """The process dies: later changes to these files do not take effect."""
        if self._frozen is None:
            self._frozen = self.now()

    def freeze_torn(self, before: Content) -> None:
        """The process dies in the middle of the commit that began at `before`, of which nothing was flushed yet."""
        self._frozen = self._torn(before, self.now())

    def thaw(self) -> None:
        """Restore the content at the death. The log's index exists in memory only and is lost."""
        if self._frozen is None:
            return
        self._index.unlink(missing_ok=True)
        for path, content in self._frozen.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        self._frozen = None

    def _torn(self, before: Content, after: Content) -> Content:
        old, new = before[self._log] or b"", after[self._log] or b""
        if before[self._journal] != after[self._journal] or not new:
            return before  # a checkpoint of the log, which has its own flushes; nothing of this commit is left
        content = bytearray(old.ljust(len(new), b"\0"))
        sectors = [at for at in range(0, len(new), _SECTOR_BYTES) if _at(old, at) != _at(new, at)]
        if sectors and old[:_LOG_HEAD_BYTES] != new[:_LOG_HEAD_BYTES]:
            content[:_LOG_HEAD_BYTES] = new[:_LOG_HEAD_BYTES]
        last = self._rng.randint(0, len(sectors))
        is_prefix = self._rng.random() < 0.5
        for number, at in enumerate(sectors):
            if number < last if is_prefix else self._rng.random() < 0.5:
                content[at : at + _SECTOR_BYTES] = _at(new, at)
        size_bytes = len(new) if self._rng.random() < 0.5 else max(len(old), self._rng.randrange(len(new) + 1))
        return {self._journal: before[self._journal], self._log: bytes(content[:size_bytes])}


def _at(content: bytes, at: int) -> bytes:
    return content[at : at + _SECTOR_BYTES]


@dataclass
class DiskFailure:
    """`count` operations fail, beginning with the `first`-th. error: EIO or ENOSPC."""

    first: int = 0
    count: int = 0
    error: int = errno.EIO
    passed: int = 0

    def next_error(self) -> int:
        """Count an operation; return its error, or 0."""
        self.passed += 1
        return self.error if self.first <= self.passed < self.first + self.count else 0

    @property
    def occurred(self) -> bool:
        """Whether any operation failed."""
        return bool(self.count) and self.passed >= self.first

    def fail(self) -> None:
        """Count an operation, and raise its error."""
        if error := self.next_error():
            raise OSError(error, "the simulated disk fails")


NO_FAILURE = DiskFailure()


@contextmanager
def files_end_at(size_bytes: int, *, visible: bool) -> Iterator[None]:
    """Refuse writes past this size: SQLite gets an I/O error after a partial write.

    visible: whether the program under test may see the limit, and so take it for missing disk space.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    seen = durable_files.largest_file_bytes() if visible else None
    try:
        with patch.object(durable_files, "largest_file_bytes", lambda: seen):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass
class AtRest:
    """What happens to files while no process runs, at most once a scenario. done: the damage, or "".

    copies: of the journal between earlier runs, for a person who puts an old one back.
    """

    rundir: RunDir
    rng: Random
    copies: list[Content] = field(default_factory=list)
    done: str = ""

    @property
    def has_log(self) -> bool:
        """Whether the last process left its log: there is none after a clean end."""
        return self.rundir.journal.with_name(f"{self.rundir.journal.name}-wal").exists()

    def keep(self) -> None:
        """Copy the journal, as a person might."""
        self.copies.append(JournalFiles(self.rundir, self.rng).now())

    def damage(self) -> str:
        """Damage one file, and return a description."""
        private, journal, witness = (
            self.rundir.internal_dir,
            self.rundir.journal,
            self.rundir.path / ".batchrunner.witness",
        )
        log = journal.with_name(f"{journal.name}-wal")
        ways = {
            "a bit of the journal flips": lambda: self._flip(journal),
            "a bit of the log flips": lambda: self._flip(log),
            "the log is cut": lambda: self._cut(log),
            "a part of the log is zeroed": lambda: self._zero(log),
            "the log is removed": log.unlink,
            "a bit of the witness flips": lambda: self._flip(witness),
            "the witness is removed": witness.unlink,
            "the journal is removed": journal.unlink,
            "the private folder is removed": lambda: shutil.rmtree(private),
            "an old copy of the journal is put back": self._put_back,
        }
        needs = {"log": log, "witness": witness, "journal": journal, "private folder": private}
        possible = [way for way in ways if all(needs[name].exists() for name in needs if name in way)]
        possible = [way for way in possible if "old copy" not in way or len(self.copies) > 1]
        subtle = [way for way in possible if "removed" not in way]
        self.done = self.rng.choice(subtle if subtle and self.rng.random() < 0.7 else possible) if possible else ""
        if self.done:
            ways[self.done]()
        return self.done

    def _flip(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            path.write_bytes(content)

    def _cut(self, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: self.rng.randrange(len(content) + 1)])

    def _zero(self, path: Path) -> None:
        content = path.read_bytes()
        start = self.rng.randrange(len(content) + 1)
        length = min(self.rng.choice([512, 4096, 65536]), len(content) - start)
        path.write_bytes(content[:start] + bytes(length) + content[start + length :])

    def _put_back(self) -> None:
        for path, content in self.rng.choice(self.copies[:-1]).items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)


def flip_a_clip(rundir: RunDir, rng: Random, names: Sequence[str]) -> Path:
    """Flip a bit of one of these delivered clips, and return its path."""
    path = rundir.path / rng.choice(names)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path
