"""What the engine needs from a generation service, in neutral terms: `Provider`, its replies, its `Capabilities`. Pure.

A provider's own vocabulary (field names, statuses, HTTP statuses) stays in its package. It converts replies to the
types here and errors to `batchrunner.errors.CallError`. The engine imports no other module of `batchrunner.providers`.
"""

from collections.abc import Collection, Coroutine, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, cast

from batchrunner.errors import Problem
from batchrunner.job import Job

# The tool's unit of money in journal, ledger and report: a provider that quotes in dollars converts.
CREDITS_PER_USD = 2_000_000


class Phase(StrEnum):
    """The state of a generation, independent of the service's own statuses."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"


class Accepted(NamedTuple):
    """A submission was accepted.

    generation_id: the handle of the generation: opaque text that the provider made.
    credits: the quoted charge (a hold, not the ledger), or None if the reply has none. notice: a harmless peculiarity
    of the submission, or "".
    """

    generation_id: str
    credits: float | None
    notice: str = ""

    @property
    def usd(self) -> float | None:
        """The quoted charge in US dollars, or None if the reply has none."""
        return None if self.credits is None else self.credits / CREDITS_PER_USD


class GenerationStatus(NamedTuple):
    """The state of a generation as one poll saw it.

    status_text: the service's own status. known: whether the status, a link or an error determines the phase; any other
    unknown status counts as pending. result_url: with COMPLETED, if there is one. error: with FAILED, and with
    COMPLETED without a link. named: whether the reply contains the id of the polled generation. A reply without an id
    may belong to another generation. notice: a harmless peculiarity of the reply, or "".
    """

    phase: Phase
    status_text: str
    known: bool = True
    result_url: str | None = None
    error: Problem | None = None
    credits: float | None = None
    named: bool = True
    notice: str = ""


class Submissions(NamedTuple):
    """The submissions that the service lists, by request id.

    ids: generation ids by request id. requests: all listed request ids, including those without a usable generation id.
    finished: request ids whose generation has ended. ended: whether the list was read to its end.
    complete: whether the list is certain to lack nothing. Only then does a missing request id mean anything.
    created: the time of each submission, by request id. now: the time of the list. Both are by the service's clock
    (s since the epoch) and absent or None if the service does not give them. reaches_back_s: age of the oldest
    submissions that the service lists, s.
    """

    ids: Mapping[str, str]
    requests: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()
    ended: bool = True
    complete: bool = True
    created: Mapping[str, float] = {}
    now: float | None = None
    reaches_back_s: float = 0.0


class Balance(NamedTuple):
    """The money in the account, which all its keys share. usd: may be below 0. as_of: when, s since the epoch."""

    usd: float
    as_of: float

    @property
    def credits(self) -> float:
        """The balance in credits."""
        return self.usd * CREDITS_PER_USD


class Charge(NamedTuple):
    """A settled charge for one generation. credits: below 0 for a refund. recorded_at: s since the epoch."""

    generation_id: str
    credits: float
    recorded_at: float
    model: str = ""

    @property
    def usd(self) -> float:
        """The charge in US dollars."""
        return self.credits / CREDITS_PER_USD


class Charges(NamedTuple):
    """The settled charges that the service lists, newest first.

    complete: whether the list was read to its end. A charge may be listed minutes after its generation has ended, so
    a missing one means nothing.
    """

    charges: tuple[Charge, ...]
    complete: bool = True


class Rate(NamedTuple):
    """The price of a second of video, in credits. when: the parameters that it is for; empty for all."""

    credits_per_s: float
    when: Mapping[str, str] = {}

    def applies(self, params: Mapping[str, object]) -> bool:
        """Whether it is the rate of a job with these parameters. Case does not count: services are not consistent."""
        return all(name in params and str(params[name]).lower() == value.lower() for name, value in self.when.items())


class PriceList(NamedTuple):
    """The service's own price list. rates: by every name of a model. as_of: when it was confirmed, s since the epoch.

    source: where it comes from, for people. version: the service's mark for this content (an ETag), or "".
    """

    rates: Mapping[str, tuple[Rate, ...]]
    as_of: float
    source: str
    version: str = ""


class Capabilities(NamedTuple):
    """The optional calls of a provider and what it promises, so that nothing is guessed from an HTTP status.

    find_submissions, balance, charges, prices: whether these calls exist. prepares: whether `prepare` exists.
    lists_on_acceptance: the service lists a submission as soon as it accepts it. One that is not listed was not
    accepted.
    optional_suffix: the character that begins an optional suffix of a generation id: with ``":"``, ``a:model`` and
    ``a`` are one generation. "" if ids have no optional suffix.
    """

    find_submissions: bool = False
    balance: bool = False
    charges: bool = False
    prices: bool = False
    prepares: bool = False
    lists_on_acceptance: bool = False
    optional_suffix: str = ""


class Provider(Protocol):
    """A generation service. Each call is made once and never repeated inside; all raise CallError."""

    @property
    def capabilities(self) -> Capabilities:
        """The optional calls that exist, and what the service promises."""
        ...

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit `job`, marked with `request_id`.

        The error's `in_doubt` is False only if it is certain that the service did not accept the job.
        """
        ...

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        """Read the state of a generation. inputs: the URLs that its job submitted, which are no result.

        Raises ServiceFault `unknown_generation` if the service does not know it, and `foreign_reply` if the reply is
        about another generation.
        """
        ...

    async def ping(self) -> None:
        """Make a call that costs nothing. It succeeds if the service answers."""
        ...

    async def find_submissions(self, since: float) -> Submissions:
        """List the submissions since `since` (wall time, s). Called only with `Capabilities.find_submissions`."""
        ...

    async def balance(self) -> Balance | None:
        """Read the account's balance; None if the service does not show it. Called only with the capability."""
        ...

    async def charges(self, since: float) -> Charges | None:
        """List the charges settled since `since` (wall time, s); None if the service does not list them.

        Called only with the capability. A charge names its generation as `submit` did.
        """
        ...

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        """Read the price list of the models that the tool knows; None if the service has none.

        known: the list of an earlier call, which is returned with a new date if it has not changed. Called only with
        the capability.
        """
        ...


class OptionalCalls:
    """The optional calls of a provider that has none of them. A provider overrides those that it declares."""

    async def find_submissions(self, since: float) -> Submissions:
        """Not offered."""
        raise NotImplementedError("the provider lists no submissions: see its capabilities")

    async def balance(self) -> Balance | None:
        """Not offered."""
        raise NotImplementedError("the provider shows no balance: see its capabilities")

    async def charges(self, since: float) -> Charges | None:
        """Not offered."""
        raise NotImplementedError("the provider lists no charges: see its capabilities")

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        """Not offered."""
        raise NotImplementedError("the provider has no price list: see its capabilities")


class PreparingProvider(Protocol):
    """A provider with `Capabilities.prepares`."""

    def prepare(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """Return the work that makes a later submission of `job` start sooner; None if there is none.

        It sends nothing to the service. It may raise CallError.
        """
        ...


def preparation(provider: Provider, job: Job) -> Coroutine[Any, Any, None] | None:
    """Return the work that can be done for a job before its submission; None if there is none. Raises CallError."""
    return cast(PreparingProvider, provider).prepare(job) if provider.capabilities.prepares else None
