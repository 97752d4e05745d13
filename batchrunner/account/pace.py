"""The pace that all processes of an account share: one small file, which each call moves on by its share of a second.

The file holds the moment (monotonic, s) up to which calls are used up. It lies on this machine only, and the system's
monotonic clock is the same for all processes. A process that dies has nothing to give back. Without a usable file, each
process keeps the pace alone.
"""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

_FORM = struct.Struct("<d")
_AHEAD = 8  # calls that processes may make at the same moment, each before it sees the others


class SharedPace:
    """At most `calls_per_s` calls a second over all processes, with bursts of one second's worth at most.

    It has the methods of `batchrunner.engine.job_queue.Pace`.
    """

    def __init__(self, path: Path, calls_per_s: float) -> None:
        self._interval_s = 1.0 / calls_per_s
        self._burst_s = max(1.0, calls_per_s) * self._interval_s
        self._alone = 0.0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            self._descriptor = -1

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def next_at(self, now: float) -> float:
        """Return when the next call may be made: `now`, or a moment to come (monotonic, s)."""
        return max(now, self._used_until(now) + self._interval_s - self._burst_s)

    def take(self, now: float) -> None:
        """Count a call that is made now."""
        if self._descriptor < 0:
            self._alone = self._used_until(now) + self._interval_s
            return
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._alone = self._used_until(now) + self._interval_s
        with suppress(OSError):
            os.pwrite(self._descriptor, _FORM.pack(self._alone), 0)
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _used_until(self, now: float) -> float:
        """Return the time until which calls are used up: at least `now`, and not far ahead.

        A restart of the machine sets the clock back; values in the file from before the restart are then ignored.
        """
        until = self._alone
        with suppress(OSError, struct.error, OverflowError):
            until = max(until, _FORM.unpack(os.pread(self._descriptor, _FORM.size, 0))[0])
        most = now + self._burst_s + _AHEAD * self._interval_s
        return until if now < until <= most else now
