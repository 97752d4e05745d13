"""The limits and waits that the engine works within. Pure."""

from typing import NamedTuple

from batchrunner.engine.run_deadline import REACHED


class Policy(NamedTuple):
    """Limits and waits of a run. Waits are in seconds.

    concurrency: generations in flight. submissions, polls, downloads: calls of each kind at once.
    calls_per_s: the most calls to the service per second, or None.
    deadline_at: wall time at which the run closes, or None. deadline: the reason that is given then.
    max_runtime_s: when the run closes, counted from its start.
    account_wait_s, outage_wait_s: how long a circuit breaker may stay open: because of the account, or for any other
        reason.
    most_failures: jobs that may fail by their own fault before no more are submitted, or None.
    generation_retries: new generations for one that the service failed to make.
    not_found_grace_s: how long the service may deny a generation (404), counted from the first time in a row, before
        the denial is believed: a new generation may not be visible yet, and one wrong answer must not lose a paid clip.
    confirm_s: the wait between two polls that must show the same terminal status before it is believed.
    linkless_polls: how often a completed generation without a link is polled again before it counts as failed.
    in_doubt: what may free a submission in doubt: nothing (``hold``), the log's ``evidence``, or the user, who asked to
        ``resubmit`` those of earlier runs.
    reconcile_s: the wait between the first two searches for submissions in doubt; it doubles up to reconcile_cap_s.
    settle_s: how old a submission in doubt must be before a search that does not find it counts.
    doubt_s: how long a submission in doubt keeps its slot at most, because it may be in flight.
    closing_grace_s: how long downloads may go on after the first signal.
    record_retry_s: how long storing a generation id is repeated while the disk refuses.
    """

    concurrency: int
    poll_interval_s: float
    job_timeout_s: float = 3600.0
    calls_per_s: float | None = None
    deadline_at: float | None = None
    deadline: str = REACHED
    max_runtime_s: float | None = None
    account_wait_s: float = 1800.0
    outage_wait_s: float = 14_400.0
    most_failures: int | None = None
    generation_retries: int = 1
    submissions: int = 8
    polls: int = 16
    downloads: int = 4
    not_found_grace_s: float = 600.0
    confirm_s: float = 2.0
    linkless_polls: int = 5
    in_doubt: str = "hold"
    reconcile_s: float = 15.0
    reconcile_cap_s: float = 600.0
    settle_s: float = 10.0
    doubt_s: float = 1800.0
    closing_grace_s: float = 30.0
    record_retry_s: float = 60.0
