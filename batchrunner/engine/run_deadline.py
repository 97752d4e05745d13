"""When a run has to end. Pure: the readings of both clocks are arguments.

`max_runtime` is measured with the monotonic clock. The deadline is a moment of the wall clock. It is converted at each
call, so a run ends in time even if the wall clock is set or the machine sleeps.
"""

from typing import NamedTuple

from batchrunner.plan.admission import TimeLeft
from batchrunner.plan.endings import StopReason

REACHED = "the deadline is reached"


class RunDeadline(NamedTuple):
    """The limits of time of one run.

    started_at: monotonic, s. deadline_at: wall time, s since the epoch. max_runtime_s: from the start. deadline: the
    message when the deadline is reached.
    """

    started_at: float
    deadline_at: float | None = None
    max_runtime_s: float | None = None
    deadline: str = REACHED

    def end(self, now: float, wall: float) -> tuple[float, StopReason] | None:
        """Return when this run has to end (monotonic, s) and why; None if it has no end."""
        if self.deadline_at is None and self.max_runtime_s is None:
            return None
        ends = []
        if self.deadline_at is not None:
            ends.append((now + self.deadline_at - wall, StopReason("deadline", self.deadline)))
        if self.max_runtime_s is not None:
            ends.append((self.started_at + self.max_runtime_s, StopReason("max_runtime", "max_runtime is reached")))
        return min(ends)

    def left(self, now: float, wall: float) -> TimeLeft | None:
        """Return the time until the end of this run; None if it has no end."""
        end = self.end(now, wall)
        return None if end is None else TimeLeft(end[0] - now, end[1].kind, self.max_runtime_s)
