"""When to repeat a call. Pure: the generator is an argument.

Backoff is exponential with full jitter: a wait drawn evenly from zero to a bound that doubles with each failure. A
submission in doubt is never repeated here; see `batchrunner.errors.CallError.in_doubt`.
"""

from typing import NamedTuple, Protocol

from batchrunner.errors import CallError, JobFault


class Rng(Protocol):
    """The part of a random generator that jitter needs."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number from `a` to `b`, all equally likely."""
        ...


class Backoff(NamedTuple):
    """base_s: the first bound. cap_s: the largest. tries: how many failures in a row end it; None: it never ends."""

    base_s: float = 2.0
    cap_s: float = 300.0
    tries: int | None = None


SUBMISSIONS = Backoff(tries=12)  # while other jobs are accepted
POLLS = Backoff(cap_s=120.0)  # a paid generation is polled to its end
DOWNLOADS = Backoff(cap_s=60.0, tries=6)
DELIVERIES = Backoff(cap_s=120.0, tries=12)  # to a bucket
_LONGEST_RETRY_AFTER_S = 900.0  # if the service asks for more, the call is still repeated


def wait_s(backoff: Backoff, failures: int, error: CallError, rng: Rng) -> float | None:
    """Return the seconds to wait after the `failures`-th failure in a row (from 1), or None to give up.

    A Retry-After is the minimum, up to fifteen minutes, with jitter on top, so that jobs do not return all at once.
    """
    if isinstance(error, JobFault) or (backoff.tries is not None and failures >= backoff.tries):
        return None
    bound = min(backoff.cap_s, backoff.base_s * 2.0 ** min(failures - 1, 30))
    return min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S) + rng.uniform(0.0, bound)
