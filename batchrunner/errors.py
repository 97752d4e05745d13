"""Everything that can go wrong, as a tree split by whose fault it is. Imports nothing from the package.

::

    BatchrunnerError            message + hint, ready to be shown
    ├── UsageError              command line, environment, settings, a path that cannot be used      exit 2
    ├── ManifestError           the manifest does not validate; carries its diagnostics              exit 2
    ├── JournalError            the journal is damaged, or newer than this program                   exit 2
    ├── BatchLocked             another process is running this batch                                exit 4
    └── CallError               one call to the service or its file host did not do what was asked
        ├── JobFault            this request, its inputs or its content: the same call fails again
        ├── AccountFault        key, credits, permission: every call fails until a person acts
        ├── ServiceFault        the service: throttled, down, or talking nonsense
        ├── NetworkFault        the way to the service
        └── LocalFault          this machine: disk full, an input that changed under us

Rule: foreign exceptions (aiohttp, OSError, sqlite3) are turned into these at one border a room, never further in.
What the user did wrong in a manifest is data, not an exception: see `batchrunner.manifest.diagnostics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """Exit statuses of the command, as in the contract."""

    OK = 0
    FAILED = 1  # some jobs failed, or are held in doubt
    USAGE = 2  # usage, or a manifest that does not validate: nothing was submitted
    STOPPED = 3  # stopped before the end on purpose: run again to continue
    LOCKED = 4  # another process is running this batch
    SIGINT = 130
    SIGTERM = 143


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as it stands in the journal and the report: `kind` is a stable slug, the rest is for people.

    fault: whose it is: ``job``, ``account``, ``service``, ``network`` or ``local``.
    """

    kind: str
    message: str
    hint: str = ""
    fault: str = "job"


class BatchrunnerError(Exception):
    """Root of the tree. `message` says what happened, `hint` what to do about it (may be empty)."""

    exit_status = ExitStatus.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BatchrunnerError):
    """The command line, the environment, a setting or a path cannot be used."""


class ManifestError(BatchrunnerError):
    """A manifest does not validate. `diagnostics` holds every problem found, in order of place."""

    def __init__(self, message: str, diagnostics: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)


class JournalError(BatchrunnerError):
    """The journal cannot be trusted or understood. It is never replaced or repaired in silence.

    recoverable: whether ``run --recover`` continues what it still tells; a newer program's journal is left alone.
    """

    def __init__(self, message: str, hint: str = "", *, recoverable: bool = True) -> None:
        super().__init__(message, hint)
        self.recoverable = recoverable


class BatchLocked(BatchrunnerError):
    """Another process holds the run directory."""

    exit_status = ExitStatus.LOCKED


class CallError(BatchrunnerError):
    """One call failed.

    kind: stable slug (``rate_limited``, ``bad_request``, …), the same word in journal, log and report.
    status: the HTTP status, or None where no answer came.
    retry_after_s: seconds the service asked to wait, or None.
    in_doubt: for a submission, True if the service may have accepted it all the same: bytes left, and no answer
        that settles the matter came back. Such a submission is never repeated unasked.
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
        """The same as a fact for the journal."""
        return Problem(self.kind, self.message, self.hint, self.fault)


class JobFault(CallError):
    """The request itself: its parameters, inputs or content. Repeating it changes nothing."""


class AccountFault(CallError):
    """The account: key, credits, permission. Every job would fail the same way until a person acts."""

    fault = "account"


class ServiceFault(CallError):
    """The service: throttled, down, or an answer that makes no sense."""

    fault = "service"


class NetworkFault(CallError):
    """The way to the service: no connection, a cut, a time-out."""

    fault = "network"


class LocalFault(CallError):
    """This machine: disk full, a file that changed or vanished."""

    exit_status = ExitStatus.STOPPED
    fault = "local"
