"""What follows from a reply or a failed call: the next step of a job, and the failure policy. Pure.

The functions get the error, and what is known of the job, as arguments. They make no move and no call: the steps
(`batchrunner.engine.steps`) do both. `NextStep` is what a step returns to the engine.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from batchrunner.engine.backoff import DOWNLOADS, POLLS, SUBMISSIONS, Backoff
from batchrunner.engine.policy import Policy
from batchrunner.engine.poll_history import PollHistory
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, Problem, ServiceFault
from batchrunner.job import Record, State

REFUSED_POLLS = 3  # refusals of the polls of one generation before it counts as failed
FOREIGN_POLLS = 40  # replies in a row about another generation, before the generation is left for the next run
REFUSALS_ALONE = 3  # of one job by the account, with another job accepted between each two: the job itself is at fault
_CLEARLY_THE_ACCOUNT = {"out_of_credits", "unauthorized"}
POLL_REFUSED_HINT = (
    "It is paid for, and every run polls it again, at no charge. Ask the service's support with this id; "
    "--retry-failed pays for another generation."
)
REFUSED_HINT = "Nothing was charged for it. Check what is special about this job; --retry-failed submits it again."


class Submit(NamedTuple):
    """Nothing is in flight: submit the job in `wait_s` seconds. last: behind all other jobs that wait."""

    wait_s: float = 0.0
    last: bool = False


class PollAgain(NamedTuple):
    """In flight: poll again in `wait_s` seconds, or by the poll schedule (None).

    over: the service has ended the generation, so its slot is free.
    """

    wait_s: float | None = None
    over: bool = False


class Download(NamedTuple):
    """Complete: download the clip at `url`."""

    url: str


class CopyToBucket(NamedTuple):
    """The clip is in the run directory: copy it to the bucket in `wait_s` seconds."""

    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HoldInDoubt:
    """The job may be in flight, and its generation id is unknown."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The job has succeeded or failed."""


class LeaveInFlight(NamedTuple):
    """The job is still in flight, and this run does nothing more about it. why: for people."""

    why: str


class WaitForAccount(NamedTuple):
    """Nothing was sent: a limit of the account does not allow a submission now. why: for people.

    wait_s: until the limit may allow one; None if unknown. budget: the kind of the budget that is reached, or "".
    orphans: generations that hold slots of the account and that no process polls.
    """

    why: str
    wait_s: float | None = None
    budget: str = ""
    orphans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldForBatch:
    """Nothing was sent: another batch of the account has the job. Its record says which."""


NextStep = (
    Submit | PollAgain | Download | CopyToBucket | HoldInDoubt | Finish | LeaveInFlight | WaitForAccount | HoldForBatch
)


class AfterRefusal(Enum):
    """What to do with a job whose submission was refused."""

    BACK_OFF = "back_off"  # submit it again after a wait, or give it up after too many
    LAST = "last"  # submit it again behind all others, as soon as the account is accepted again
    GIVE_UP = "give_up"
    STOP_BATCH = "stop_batch"  # this machine failed: no other job would fare better


def is_own_fault(error: AccountFault, refusals: int, other_jobs: int) -> bool:
    """Return whether a refusal by the account concerns this job alone.

    refusals: of this job, with another job accepted between each two. other_jobs: waiting jobs that were refused less
    often: if one of them is accepted, the account is not at fault. Without any, one refusal less is enough, unless the
    error names credits or the key.
    """
    if refusals >= REFUSALS_ALONE:
        return True
    if refusals < REFUSALS_ALONE - 1 or error.kind in _CLEARLY_THE_ACCOUNT:
        return False
    return other_jobs <= 0


def after_refusal(error: CallError, *, own_fault: bool) -> AfterRefusal:
    """Decide about a job that was certainly not accepted. own_fault: of a refusal by the account (`is_own_fault`)."""
    if isinstance(error, AccountFault):
        return AfterRefusal.GIVE_UP if own_fault else AfterRefusal.LAST
    if isinstance(error, LocalFault):
        # An input that changed or is missing concerns this job alone.
        return AfterRefusal.GIVE_UP if error.kind == "input_changed" else AfterRefusal.STOP_BATCH
    return AfterRefusal.BACK_OFF


def refused_for_good(error: CallError) -> Problem:
    """Return the problem of a job that is not submitted again."""
    if isinstance(error, AccountFault):
        message = f"{error.message}; it was refused again and again while other jobs were accepted"
        return Problem(error.kind, message, REFUSED_HINT)
    if isinstance(error, ServiceFault | NetworkFault):
        message = f"{error.message}; it was refused {SUBMISSIONS.tries} times while other jobs were accepted"
        return replace(error.problem, message=message, hint=REFUSED_HINT)
    return error.problem


def after_failed_poll(
    error: CallError, history: PollHistory, now: float, policy: Policy, generation_id: str, own_failures: int
) -> Backoff | Problem | LeaveInFlight:
    """Decide about a generation whose poll failed: poll again with a backoff, fail it with a problem, or leave it.

    history: with this failure. own_failures: failures in a row that concern this generation alone.
    """
    name = f"(generation {generation_id})"
    if error.kind == "foreign_reply":
        return _after_foreign_reply(error, history, policy)
    if error.kind == "unknown_generation":
        missing_s = now - (now if history.missing_since is None else history.missing_since)
        if missing_s > policy.not_found_grace_s:
            return replace(error.problem, message=f"{error.message}, for {missing_s:.0f} s now {name}")
        return POLLS
    if history.refusals >= REFUSED_POLLS and isinstance(error, JobFault | AccountFault):
        message = f"{error.message}; {REFUSED_POLLS} polls were refused that way {name}"
        return Problem("poll_refused", message, POLL_REFUSED_HINT, "service")
    failing_s = now - (now if history.failing_since is None else history.failing_since)
    if failing_s > policy.job_timeout_s and own_failures > REFUSED_POLLS:
        message = f"{error.message}; no usable reply for {failing_s:.0f} s {name}: the next run polls it again"
        return LeaveInFlight(message)
    return POLLS


def _after_foreign_reply(error: CallError, history: PollHistory, policy: Policy) -> Backoff | LeaveInFlight:
    """Ignore the reply and poll again soon: a proxy or cache on the way mixes up replies."""
    if history.foreign_replies >= FOREIGN_POLLS:
        return LeaveInFlight(f"{error.message}, {FOREIGN_POLLS} times in a row; the next run polls it again")
    interval_s = max(policy.confirm_s, policy.poll_interval_s)
    return Backoff(interval_s, interval_s)


def may_generate_again(record: Record, problem: Problem | None, policy: Policy) -> bool:
    """Return whether a failed generation is replaced by another one: the service's fault, and retries are left."""
    if record.state is not State.FAILED or problem is None or problem.fault != "service":
        return False
    failed = sum(attempt.outcome == "failed" for attempt in record.attempts)
    return failed <= policy.generation_retries


def download_backoff(error: CallError) -> Backoff | None:
    """Return how a failed download is repeated, None for never: the same bytes exceed the same limit of a check."""
    return None if error.kind == "check_limit" else DOWNLOADS


def after_last_download(error: CallError) -> Problem | LeaveInFlight:
    """Decide about a clip whose download is not repeated in this run: fail the job, or leave it for the next run."""
    if error.kind in {"check_limit", "bad_file"}:
        return error.problem
    return LeaveInFlight(f"{error.message}; it is paid for, and the next run fetches it")
