"""Sign the inputs in buckets: a provider that submits a fresh link in place of each address.

A link is a secret while it is valid. It exists only in the request's body: the job keeps the address. Each submission
checks first that the object is the one that the manifest's load found.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

from batchrunner.clock import wall_time
from batchrunner.errors import CallError, LocalFault, UsageError
from batchrunner.formatting import length_text
from batchrunner.job import Job, Media
from batchrunner.providers.base import Accepted, Capabilities, Charges, GenerationStatus, Provider, Submissions
from batchrunner.providers.endpoint import on_this_machine
from batchrunner.providers.forwarding import ForwardingProvider
from batchrunner.redaction import Redactor
from batchrunner.storage.objects.address import ObjectAddress, is_address
from batchrunner.storage.objects.store import Access, Objects, open_store

_SHORTEST_S = 60.0  # a link that ends sooner is of no use
_FRESH_S, _FRESH_SHARE = 300.0, 0.1  # how old a prepared link may be, also as a share of its lifetime
Open = Callable[[ObjectAddress, Access], Objects]


@dataclass(frozen=True, slots=True)
class Links:
    """How links are made. lifetime_s: as the user wants it. notify: shows a warning to the user."""

    access: Callable[[], Access] = field(repr=False)  # holds the environment
    lifetime_s: float
    redactor: Redactor
    notify: Callable[[str], None]
    now: Callable[[], float] = wall_time  # also in a rehearsal: the stores have the real time
    open: Open = open_store


def with_signed_inputs(provider: Provider, links: Links, jobs: Iterable[Job], further: Iterable[str] = ()) -> Provider:
    """Return a provider that signs the inputs in buckets: `provider` itself if there are none.

    Arguments: see `SignedInputs`.
    """
    jobs, further = list(jobs), list(further)
    has_addresses = bool(further) or any(is_address(media.source) for job in jobs for media in job.inputs.values())
    return SignedInputs(provider, links, jobs, further) if has_addresses else provider


class SignedInputs(ForwardingProvider):
    """A provider whose jobs may have inputs in buckets. It passes its calls on to another provider.

    jobs: those of the batch. further: addresses in other buckets. Before the first call, the redactor learns the links
    of all these buckets.
    """

    def __init__(self, provider: Provider, links: Links, jobs: Iterable[Job], further: Iterable[str] = ()) -> None:
        super().__init__(provider)
        self._links = links
        self._stores: dict[str, Objects] = {}
        self._plain: dict[str, str] = {}  # the link without its query, by address
        addresses = (media.source for job in jobs for media in job.inputs.values() if is_address(media.source))
        texts = chain(addresses, further)
        self._unknown = {(address := ObjectAddress.parse(text)).place: address for text in texts}
        self._warned = False
        self._signed_ahead: dict[str, tuple[float, Job]] = {}  # until when, by fingerprint

    @cached_property
    def capabilities(self) -> Capabilities:
        """The capabilities of the wrapped provider. Links can be made before a submission."""
        return self._provider.capabilities._replace(prepares=True)

    def prepare(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """Return the work that can be done before a submission: links, and the work of the wrapped provider."""
        if any(is_address(media.uri or "") for media in job.inputs.values()):
            return self._prepare(job)
        return super().prepare(job)

    async def _prepare(self, job: Job) -> None:
        await self._learn()
        now = self._links.now()
        signed = await self._with_links(job)
        self._signed_ahead = {name: item for name, item in self._signed_ahead.items() if now < item[0]}
        self._signed_ahead[job.fingerprint] = now + self._fresh_s(), signed
        if (work := super().prepare(job)) is not None:
            await work

    async def _with_links(self, job: Job) -> Job:
        return replace(job, inputs={name: await self._signed(media) for name, media in job.inputs.items()})

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit once, with a link in place of each address. Raises CallError, before anything is sent if a link fails.

        An object that is missing or has changed is ``input_changed``: it concerns this job alone.
        """
        await self._learn()
        if any(is_address(media.uri or "") for media in job.inputs.values()):
            until, signed = self._signed_ahead.pop(job.fingerprint, (0.0, job))
            job = signed if self._links.now() < until else await self._with_links(job)
        return await self._provider.submit(job, request_id)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        """Poll a generation once. inputs: addresses are replaced by their links without a query. Raises CallError."""
        await self._learn()
        plain = [await self._without_query(item) if is_address(item) else item for item in inputs]
        return await self._provider.status(generation_id, plain)

    async def charges(self, since: float) -> Charges | None:
        """List the settled charges. Raises CallError."""
        await self._learn()
        return await self._provider.charges(since)

    async def find_submissions(self, since: float) -> Submissions:
        """List the submissions. Raises CallError."""
        await self._learn()
        return await self._provider.find_submissions(since)

    async def _signed(self, media: Media) -> Media:
        """Return an input with a fresh link in place of its address. Raises CallError."""
        if media.uri is None or not is_address(media.uri):
            return media
        address = ObjectAddress.parse(media.uri)
        objects = self._open(address)
        state = await objects.head(address.key)
        found = (state.etag or state.version or "").strip('"') if state else None
        if found != media.etag:
            what = "no longer exists" if found is None else "is not the object that was checked when the run began"
            hint = "as it was, --retry-failed submits it; changed, it counts as another job in the next run"
            raise LocalFault("input_changed", f"{address} {what}", hint)
        link = await objects.sign(address.key, self._lifetime(objects, address))
        if not link.startswith("https:") and not on_this_machine(link):
            message = f"links to {address.place} begin with http:, and the service fetches only https links"
            raise LocalFault("bucket_refused", message, "Set AWS_ENDPOINT_URL to the https address of the store.")
        self._remember(address, link, objects)
        return media._replace(uri=link)

    def _lifetime(self, objects: Objects, address: ObjectAddress) -> float:
        """Return how long a link may be valid: no longer than the credentials. Raises LocalFault if they end now."""
        wanted, keys = self._links.lifetime_s, objects.credentials()
        if keys is None or keys.expires_at is None:
            if keys is not None and keys.token:
                self._warn(f"the credentials for {address.place} are temporary: links to inputs end with them")
            return wanted
        left = keys.expires_at - self._links.now()
        if left < _SHORTEST_S:
            message = f"the credentials for {address.place} have expired"
            raise LocalFault("bucket_credentials", message, "Log in again, then run the same command again.")
        if left < wanted:
            self._warn(
                f"links to inputs in {address.place} are valid for {length_text(left)}, not {length_text(wanted)}: the "
                "credentials end then. A job that waits longer in the service's queue fails."
            )
        return min(left, wanted)

    def _fresh_s(self) -> float:
        """Return how long links may be used after they were made."""
        lifetimes = [self._links.lifetime_s]
        for objects in self._stores.values():
            keys = objects.credentials()
            if keys is not None and keys.expires_at is not None:
                lifetimes.append(keys.expires_at - self._links.now())
        return min(_FRESH_S, _FRESH_SHARE * min(lifetimes))

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            self._links.notify(message)

    async def _without_query(self, text: str) -> str:
        """Return the link to an address without its query, or the address if no link can be made."""
        address = ObjectAddress.parse(text)
        if text not in self._plain:
            with suppress(CallError, UsageError):
                await self._sign_unchecked(address)
        return self._plain.get(text, text)

    async def _learn(self) -> None:
        """Let the redactor know the links of every bucket of the batch: a reply may quote one of an earlier run."""
        while self._unknown:
            _, address = self._unknown.popitem()
            with suppress(CallError, UsageError):  # without credentials, no link is made either
                await self._sign_unchecked(address)

    async def _sign_unchecked(self, address: ObjectAddress) -> None:
        objects = self._open(address)
        self._remember(address, await objects.sign(address.key, _SHORTEST_S), objects)

    def _remember(self, address: ObjectAddress, link: str, objects: Objects) -> None:
        plain = link.partition("?")[0]
        self._plain[str(address)] = plain
        keys = objects.credentials()
        self._links.redactor.learn(keys.secrets if keys else (), [_bucket_link(plain, address)])

    def _open(self, address: ObjectAddress) -> Objects:
        """Return the bucket of an address. Raises LocalFault."""
        if address.place not in self._stores:
            try:
                self._stores[address.place] = self._links.open(address, self._links.access())
            except UsageError as error:
                raise LocalFault("bucket_refused", error.message, error.hint) from None
        return self._stores[address.place]


def _bucket_link(plain: str, address: ObjectAddress) -> str:
    """Return the start of all links into the bucket. A key has as many slashes as its link."""
    for _ in range(address.key.count("/") + 1):
        plain = plain.rpartition("/")[0]
    return f"{plain}/"
