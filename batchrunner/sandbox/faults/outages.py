"""Scripted conditions of the service at fixed times: outages, limits, slowness, account failures, top-ups. Pure.

Times are seconds since the sandbox was started. Nothing is random. Outages and account failures become ordinary rules
of `rules` that match every call in their window. Limits, slowness and top-ups are looked up by time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from batchrunner.sandbox.faults.rules import KINDS, Fault
from batchrunner.sandbox.world import Rules, TopUp

# What an outage shows, as the kind of fault that each call meets. A submission that meets one is not accepted.
SHOWS: Mapping[str, str] = {
    "unavailable": "unavailable",
    "server_error": "server_error",
    "html_502": "edge_502_html",
    "html_524": "edge_524_html",
    "empty_503": "empty_503",
    "reset": "cut",
    "black_hole": "hang",
    "refused": "",  # nobody listens: not a reply, see `server`
}
CALLS = ("submit", "poll", "logs", "billing", "transactions", "models", "download")
_BEFORE = {"cut": "cut_before", "hang": "hang_before"}  # of submissions: before they are accepted
# Account failures: the kind of fault, and the calls that meet it.
ACCOUNT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "out_of_credits": ("out_of_credits", ("submit",)),
    "locked": ("locked", ("submit",)),
    "revoked": ("unauthorized", ("submit", "poll", "logs", "billing", "transactions")),
}


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time: begins at `from_s` and lasts `for_s` seconds."""

    from_s: float = 0.0
    for_s: float = math.inf

    @property
    def between_s(self) -> tuple[float, float]:
        """From (inclusive) and to (exclusive)."""
        return self.from_s, self.from_s + self.for_s

    def holds(self, at_s: float) -> bool:
        """Return whether `at_s` is in the window."""
        return self.between_s[0] <= at_s < self.between_s[1]


@dataclass(frozen=True, slots=True)
class Outage(Window):
    """Every call of `calls` (one of CALLS, or ``all``) shows `shows` (of SHOWS).

    retry_after_s: with ``unavailable``, sent as Retry-After.
    """

    shows: str = "unavailable"
    calls: str = "all"
    retry_after_s: float | None = None

    def rules(self) -> Iterator[Fault]:
        """Return the equivalent fault rules."""
        kind = SHOWS[self.shows]
        if kind == "unavailable" and self.retry_after_s is not None:
            kind = "unavailable_retry_after"
        for call in CALLS if self.calls == "all" else (self.calls,):
            befallen = _BEFORE.get(kind, kind) if call == "submit" else kind
            if befallen in KINDS[call]:
                yield Fault(call, befallen, between_s=self.between_s, delay_s=self.retry_after_s)


@dataclass(frozen=True, slots=True)
class Throttle(Window):
    """Tighter limits. concurrency: unfinished generations. requests_per_second: of all calls to the API."""

    concurrency: int | None = None
    requests_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Slow(Window):
    """Generations accepted now wait `queue_wait_s` and take `duration_s` (medians); replies come after `reply_s`."""

    queue_wait_s: float | None = None
    duration_s: float | None = None
    reply_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AccountFailure(Window):
    """The account fails: `shows` is of ACCOUNT. Out of credits ends with the next top-up at the latest."""

    shows: str = "out_of_credits"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The script of one run."""

    outages: tuple[Outage, ...] = ()
    throttled: tuple[Throttle, ...] = ()
    slow: tuple[Slow, ...] = ()
    account: tuple[AccountFailure, ...] = ()
    top_ups: tuple[TopUp, ...] = ()

    def rules(self) -> tuple[Fault, ...]:
        """Return outages and account failures as faults. An outage hides the account."""
        found = [rule for outage in self.outages for rule in outage.rules()]
        for failure in self.account:
            kind, calls = ACCOUNT[failure.shows]
            start_s, end_s = failure.between_s
            if failure.shows == "out_of_credits":
                end_s = min([end_s, *(one.at_s for one in self.top_ups if one.at_s > start_s)])
            found += [Fault(call, kind, between_s=(start_s, end_s)) for call in calls]
        return tuple(found)

    def limits(self, at_s: float, concurrency: int | None, rate: float | None) -> tuple[int | None, float | None]:
        """Return the limits in force: the arguments (None: no limit), or tighter ones."""
        now = [window for window in self.throttled if window.holds(at_s)]
        return (
            min((n for n in (concurrency, *(one.concurrency for one in now)) if n is not None), default=None),
            min(
                (n for n in (rate, *(one.requests_per_second for one in now)) if n is not None),
                default=None,
            ),
        )

    def pace(self, at_s: float, rules: Rules) -> Rules:
        """`rules` with the durations in force."""
        for window in self.slow:
            if window.holds(at_s):
                wait_s, duration_s = window.queue_wait_s, window.duration_s
                rules = replace(
                    rules,
                    queue_wait_s=rules.queue_wait_s if wait_s is None else wait_s,
                    duration_s=rules.duration_s if duration_s is None else duration_s,
                )
        return rules

    def reply_s(self, at_s: float) -> float:
        """Return how long a reply takes now."""
        return max((window.reply_s for window in self.slow if window.holds(at_s)), default=0.0)

    def refusing(self) -> tuple[tuple[float, float], ...]:
        """Return the windows in which the server does not listen."""
        return tuple(sorted(outage.between_s for outage in self.outages if outage.shows == "refused"))
