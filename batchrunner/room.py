"""Whether the disk has room for what is bought: the clips that are paid for and not stored yet, and one more.

Rule: a job is submitted only where its clip will find room. A run on a disk that fills up would otherwise go on paying
for clips that wait at the service, where their links come to an end.
"""

from collections.abc import Iterable
from pathlib import Path

from batchrunner import disk
from batchrunner.clock import Clock
from batchrunner.events import Event, JobMoved, Listener
from batchrunner.job import Record
from batchrunner.text import size_text

_LIKELY_BYTES = 1 << 20  # of a clip, where none is known
_BESIDE_BYTES = 32 * 1024  # a clip's rows in the journal, its posters, its part of the report
_ASK_EVERY_S = 1.0


class Room:
    """The disk of one run directory. records: what is known of clips when a run starts."""

    def __init__(self, folder: Path, clock: Clock, records: Iterable[Record]) -> None:
        self._folder = folder
        self._clock = clock
        self._largest_bytes = max((each.result.size_bytes for each in records if each.result), default=0)
        self._free_bytes = 0
        self._asked_at = float("-inf")  # monotonic, s

    def beside(self, listener: Listener) -> Listener:
        """A listener that hands every event on, and learns how large clips are."""

        def listen(event: Event) -> None:
            listener(event)
            if isinstance(event, JobMoved) and event.record.result is not None:
                size_bytes = event.record.result.size_bytes
                self._largest_bytes = max(self._largest_bytes, size_bytes)
                self._free_bytes -= size_bytes  # until the disk is asked again

        return listen

    def lacks(self, clips: int) -> str:
        """Why so many more clips may find no room, in words; "" where they will. As of a second ago."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _ASK_EVERY_S:
            self._asked_at, self._free_bytes = now, disk.free_bytes(self._folder)
        wanted_bytes = clips * ((self._largest_bytes or _LIKELY_BYTES) + _BESIDE_BYTES)
        if self._free_bytes >= wanted_bytes:
            return ""
        told = f"the disk has {size_text(self._free_bytes)} left: too little for the clips in flight and one more"
        return f"{told} ({size_text(wanted_bytes)}); make room and run again to continue"
