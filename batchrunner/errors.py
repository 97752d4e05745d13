"""The exceptions of the package, as a tree by responsible party. Imports nothing from the package.

::

    BatchrunnerError            message + hint, ready to be shown
    ├── UsageError              command line, environment, settings, an unusable path                exit 2
    ├── ManifestError           the manifest does not validate; carries its diagnostics              exit 2
    ├── JournalError            the journal is damaged, or newer than this program                   exit 2
    ├── BatchLocked             another process is running this batch                                exit 4
    └── CallError               one call to the service or its file host failed
        ├── JobFault            this request, its inputs or its content: the same call fails again
        ├── AccountFault        key, credits, permission: every call fails until a person acts
        ├── ServiceFault        the service: throttled, down, or an invalid reply
        ├── NetworkFault        the connection to the service
        └── LocalFault          this machine: disk full, an input that changed during the run

Foreign exceptions (aiohttp, OSError, sqlite3) are converted to these at the border of each package, not further in.
Problems in a manifest are data, not exceptions: see `batchrunner.manifest.diagnostics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """Exit statuses of the command."""

    OK = 0
    FAILED = 1  # some jobs failed or are in doubt
    USAGE = 2  # usage error or invalid manifest: nothing was submitted
    STOPPED = 3  # stopped early as planned: the next run continues
    LOCKED = 4  # another process is running this batch
    NEEDS_ACTION = 5  # stopped early, and a person has to act
    SIGINT = 130
    SIGTERM = 143


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as stored in the journal and the report. `kind` is a stable slug; the other fields are for people.

    fault: the responsible party: ``job``, ``account``, ``service``, ``network`` or ``local``.
    """

    kind: str
    message: str
    hint: str = ""
    fault: str = "job"


class BatchrunnerError(Exception):
    """The root of the tree. `message` says what happened, `hint` what to do about it (may be empty)."""

    exit_status = ExitStatus.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BatchrunnerError):
    """The command line, the environment, a setting or a path is invalid."""


class ManifestError(BatchrunnerError):
    """A manifest is invalid. `diagnostics` contains all problems, in order of place."""

    def __init__(self, message: str, diagnostics: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)


class JournalError(BatchrunnerError):
    """The journal is damaged or has an unknown format. It is never replaced or repaired silently.

    recoverable: whether ``run --recover`` can continue from its remaining content. A newer program's journal is not.
    """

    def __init__(self, message: str, hint: str = "", *, recoverable: bool = True) -> None:
        super().__init__(message, hint)
        self.recoverable = recoverable


class BatchLocked(BatchrunnerError):
    """Another process is using the run directory."""

    exit_status = ExitStatus.LOCKED


class CallError(BatchrunnerError):
    """One call failed.

    kind: stable slug (``rate_limited``, ``bad_request``, …), the same in journal, log and report.
    status: the HTTP status, or None without a response.
    retry_after_s: seconds the service asked to wait, or None.
    in_doubt: for a submission, True if the service may have accepted it: bytes were sent, and no conclusive response
        arrived. Such a submission is never repeated without the user's consent.
    """

    exit_status = ExitStatus.FAILED
    fault = "job"

    def __init__(
        self,
        kind: str,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        in_doubt: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.in_doubt = in_doubt

    @property
    def problem(self) -> Problem:
        """This error as a record for the journal."""
        return Problem(self.kind, self.message, self.hint, self.fault)


class JobFault(CallError):
    """The request itself is invalid: its parameters, inputs or content. A repetition fails as well."""


class AccountFault(CallError):
    """The account refuses calls: key, credits, permission. Every job fails until a person acts."""

    fault = "account"


class ServiceFault(CallError):
    """The service failed: throttled, down, or an invalid reply."""

    fault = "service"


class NetworkFault(CallError):
    """The connection to the service failed: not established, interrupted, or timed out."""

    fault = "network"


class LocalFault(CallError):
    """This machine failed: disk full, or a file that changed or is missing."""

    exit_status = ExitStatus.NEEDS_ACTION
    fault = "local"
