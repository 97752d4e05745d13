"""When a run has to be over. Pure: both clocks' readings are arguments.

The longest runtime is counted on the clock that never jumps. The deadline is a moment of the wall clock, so it is asked
for anew each time: if that clock is set, or the machine slept, the run still ends when the deadline is there.
"""

from dataclasses import dataclass

REACHED = "the deadline is reached"


@dataclass(frozen=True, slots=True)
class RunDeadline:
    """The ends of one run, as far as any are set.

    started_at: monotonic, s. deadline_at: wall time, s since the epoch. max_runtime_s: from the start. deadline: what
    is said when it is there.
    """

    started_at: float
    deadline_at: float | None = None
    max_runtime_s: float | None = None
    deadline: str = REACHED

    def end(self, now: float, wall: float) -> tuple[float, str] | None:
        """When this run has to be over (monotonic, s), and why; None where no end is set."""
        ends = []
        if self.deadline_at is not None:
            ends.append((now + self.deadline_at - wall, self.deadline))
        if self.max_runtime_s is not None:
            ends.append((self.started_at + self.max_runtime_s, "the longest runtime is reached"))
        return min(ends, default=None)
