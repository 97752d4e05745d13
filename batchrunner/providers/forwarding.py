"""A provider that passes every call on to another provider: the base of those that change some of the calls."""

from collections.abc import Collection, Coroutine
from typing import Any

from batchrunner.job import Job
from batchrunner.providers.base import (
    Accepted,
    Balance,
    Capabilities,
    Charges,
    GenerationStatus,
    PriceList,
    Provider,
    Submissions,
    preparation,
)


class ForwardingProvider:
    """A provider that passes its calls on. A subclass overrides the calls that it changes. All raise CallError."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the wrapped provider."""
        return self._provider.capabilities

    def prepare(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """Return the work that can be done before a submission."""
        return preparation(self._provider, job)

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit once."""
        return await self._provider.submit(job, request_id)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        """Poll a generation once."""
        return await self._provider.status(generation_id, inputs)

    async def ping(self) -> None:
        """Make a free call."""
        await self._provider.ping()

    async def find_submissions(self, since: float) -> Submissions:
        """List the submissions since `since` (wall time, s)."""
        return await self._provider.find_submissions(since)

    async def balance(self) -> Balance | None:
        """Read the account's balance."""
        return await self._provider.balance()

    async def charges(self, since: float) -> Charges | None:
        """List the charges settled since `since` (wall time, s)."""
        return await self._provider.charges(since)

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        """Read the service's price list."""
        return await self._provider.prices(known)
