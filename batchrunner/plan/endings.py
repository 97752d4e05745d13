"""The table of early endings of a run, with exit statuses and next steps. Pure.

A run ends early for one reason. Each reason has a kind, a stable slug that journal and report store. `ENDINGS` gives
each kind its exit status and its advice. A reason of an unknown kind needs a person. `retry_of` says of a failed job
whether another submission can succeed. Console, report, `status` and webhook read both tables.

Rule: a command is offered only if it makes progress. It is not offered if it would stop again immediately
or would pay for nothing.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Self

from batchrunner.errors import ExitStatus, LocalFault


class Next(Enum):
    """The effect of the same command right after the run."""

    CONTINUES = "continues"  # it submits the remaining jobs
    FETCHES = "fetches"  # it only downloads jobs in flight, because the same limit applies
    STOPS = "stops"  # it stops again immediately


class Ending(NamedTuple):
    """One row of the table. advice: the first step for a person; "" if there is none."""

    status: ExitStatus
    next: Next
    advice: str = ""


class StopReason(str):
    """Why a run makes no more submissions: a message for people with a kind, a key of `ENDINGS`."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, kind: str, message: str) -> Self:
        """Create a reason."""
        reason = super().__new__(cls, message)
        reason.kind = kind
        return reason

    @property
    def ending(self) -> Ending:
        """The row of its kind."""
        return ending_of(self.kind)


NO_REASON = StopReason("", "")  # nothing stops the run; it is false


def _planned(next_: Next, advice: str = "") -> Ending:
    return Ending(ExitStatus.STOPPED, next_, advice)


def _person(advice: str, next_: Next = Next.STOPS) -> Ending:
    return Ending(ExitStatus.NEEDS_ACTION, next_, advice)


_NEXT_WINDOW = "The next scheduled run continues. To continue now, give another --deadline."
_DISK = "Free space on the disk of the run directory, then run the same command again."
_STATE_DISK = "Free space on the disk of the state folder, which the reason names, then run the same command again."
LEASE_LOST = "lease_lost"
_SERVICE = "Wait until the service answers again, then run the same command again."

ENDINGS: Mapping[str, Ending] = {
    # Planned: exit status 3.
    "deadline": _planned(Next.STOPS, _NEXT_WINDOW),
    "max_runtime": _planned(Next.CONTINUES),
    "max_runtime_too_short": _planned(Next.STOPS, "Raise --max-runtime above the time that one generation takes."),
    "max_cost": _planned(Next.FETCHES, "Raise max_cost to submit more."),
    "max_credits": _planned(Next.FETCHES, "Raise max_credits to submit more."),
    "max_generations": _planned(Next.FETCHES, "Raise max_generations to submit more."),
    "max_cost_per_day": _planned(
        Next.FETCHES,
        "The limit starts again at 00:00 UTC. To submit more today, raise max_cost_per_day in config.yaml.",
    ),
    "max_cost_per_month": _planned(
        Next.FETCHES,
        "The limit starts again with the next month (UTC). To submit more, raise max_cost_per_month in config.yaml.",
    ),
    "price_unknown": _planned(Next.FETCHES, "Give these jobs a price with assume_length or prices in the manifest."),
    "stop_after_failures": _planned(Next.CONTINUES, "Look at the failed jobs before you continue."),
    "job_timeout": _planned(Next.CONTINUES),
    "interrupted": _planned(Next.CONTINUES),
    # A person has to act: exit status 5.
    "unauthorized": _person("Set AIMLAPI_KEY to a valid key, then run the same command again."),
    "out_of_credits": _person("Top up the account, then run the same command again."),
    "forbidden": _person("Check the key's permissions and the account, then run the same command again."),
    "wrong_address": _person("Check AIMLAPI_BASE_URL, then run the same command again."),
    "proxy_refused": _person("Check the user name and password of the proxy, then run the same command again."),
    "certificate": _person("Set SSL_CERT_FILE to the certificate of your network, then run the same command again."),
    "service_down": _person(_SERVICE),
    "rate_limited": _person("Lower the concurrency or wait, then run the same command again."),
    "network_down": _person("Restore the connection to the service, then run the same command again."),
    "bucket_unreachable": _person(
        "The clips wait in the run directory. When the bucket can be reached, run the same command again: it copies "
        "them, at no charge."
    ),
    "disk_full": _person(_DISK),
    "state_disk_full": _person(_STATE_DISK),
    "disk_error": _person("Check the disk of the run directory, then run the same command again."),
    "inodes": _person("Remove files from the disk of the run directory, then run the same command again."),
    "file_limit": _person("Raise the limit of file sizes (ulimit -f), then run the same command again."),
    "too_little": _person("Allow more memory or open files, or lower --downloads, then run the same command again."),
    "run_directory_gone": _person("Bring the run directory back, then run the same command again."),
    LEASE_LOST: _person("Let the other run end; then run the same command again to see what is left."),
    "journal_damaged": _person("See the message; run with --recover to continue what the journal knows."),
    "account_index": _person("Make the state folder writable (BATCHRUNNER_STATE), then run the same command again."),
    "defect": _person("Report this defect with the message above."),
}
_UNKNOWN = _person("Remove the cause named above, then run the same command again.")


def ending_of(kind: str) -> Ending:
    """Return the row of a kind. An unknown kind needs a person."""
    return ENDINGS.get(kind, _UNKNOWN)


def stop_for(fault: LocalFault) -> StopReason:
    """Return the reason that stops a run whose machine failed."""
    return StopReason(fault.kind, fault.message)


def more_severe(first: StopReason, second: StopReason) -> StopReason:
    """Return the reason to keep when a second one follows: one that needs a person outranks a planned one."""
    if not first:
        return second
    outranks = second.ending.status is ExitStatus.NEEDS_ACTION and first.ending.status is ExitStatus.STOPPED
    return second if outranks else first


class Retry(Enum):
    """The possible effect of another submission of a failed job."""

    MAY_SUCCEED = "may_succeed"  # the cause was not in the job
    CHANGE_FIRST = "change_first"  # the same request fails again: change the job, its inputs or the account first


def retry_of(fault: str) -> Retry:
    """Return what a second submission can bring to a failed job. fault: the responsible party (`Problem.fault`)."""
    return Retry.CHANGE_FIRST if fault in {"job", "account"} else Retry.MAY_SUCCEED
