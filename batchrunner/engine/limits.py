"""Two limits of a run: how many generations may be in flight, and how many calls a second may be made. Pure.

The working cap follows from two numbers: the limit that the user set, and the allowance, which says how many
generations the service takes. A throttled submission halves the allowance, and each accepted one raises it by a
fraction (additive increase, multiplicative decrease, as TCP does it). `batchrunner.engine.calls` keeps the allowance.
"""

import math

NO_LIMIT = math.inf  # the allowance of a service that has not asked for fewer generations


def working_cap(limit: int, allowance: float) -> int:
    """Return how many generations may be in flight: at least one, and never more than `limit`."""
    return max(1, int(min(float(limit), allowance)))


def allowance_after_throttling(limit: int, allowance: float, in_flight: int) -> float:
    """Return the allowance after a throttled submission: half of what was allowed or in flight, whichever is less."""
    return max(1.0, min(float(limit), allowance, float(in_flight)) / 2)


def allowance_after_acceptance(allowance: float) -> float:
    """Return the allowance after an accepted submission. As many acceptances as the allowance raise it by one."""
    return allowance + 1 / allowance


class Pace:
    """How many calls a second may be made, on average. A burst is at most one second's worth."""

    def __init__(self, calls_per_s: float) -> None:
        self._rate = calls_per_s
        self._burst = max(1.0, calls_per_s)
        self._tokens = self._burst
        self._at = 0.0  # monotonic, s: when the tokens were counted

    def next_at(self, now: float) -> float:
        """Return when the next call may be made: `now`, or a later moment (monotonic, s)."""
        self._refill(now)
        return now if self._tokens >= 1.0 else now + (1.0 - self._tokens) / self._rate

    def take(self, now: float) -> None:
        """Count a call that is made at `now`."""
        self._refill(now)
        self._tokens -= 1.0

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
