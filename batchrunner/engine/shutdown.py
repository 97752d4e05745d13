"""How a run ends early: it stops (submits nothing more), closes (ends soon), or is aborted (ends now). Pure."""

from batchrunner.plan.endings import NO_REASON, StopReason, more_severe


class Shutdown:
    """The end of a run, as far as it was asked for.

    reason: why nothing more is submitted, for people; "" while submissions go on. closing_until: the end of the grace
    for downloads (monotonic, s); None while the run is not closing. aborted: the run ends without waiting.
    """

    def __init__(self) -> None:
        self.reason = NO_REASON
        self.closing_until: float | None = None
        self.aborted = False
        self._signalled = False

    @property
    def closing(self) -> bool:
        """Whether no more calls are started."""
        return self.closing_until is not None

    def stop(self, reason: StopReason) -> bool:
        """Submit nothing more. Returns whether this is new.

        The first reason stays, unless it was planned and the new one needs a person.
        """
        before = self.reason
        self.reason = more_severe(before, reason)
        return self.reason is not before

    def close(self, until: float) -> None:
        """Start no more calls. until: the end of the grace, if the run was not closing already."""
        if self.closing_until is None:
            self.closing_until = until

    def signal(self) -> None:
        """Take in a signal. The second one aborts the run."""
        self.aborted, self._signalled = self._signalled, True
