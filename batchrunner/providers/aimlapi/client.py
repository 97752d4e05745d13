"""The calls to the service, on aiohttp. `call_fault` turns all exceptions of libraries into ours.

First, nothing is retried here: only the journal knows whether a call may be repeated. Second, the API key goes only
into the Authorization header of requests to the service's own base URL.
"""

import asyncio
import zlib
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from batchrunner.clock import Clock
from batchrunner.errors import AccountFault, CallError, JobFault, NetworkFault, ServiceFault
from batchrunner.formatting import size_text
from batchrunner.job import Job, Media
from batchrunner.media.encoded_inputs import EncodedInputs
from batchrunner.net.connections import NO_CONNECTION_HINT, settings_fault, unreachable_text
from batchrunner.net.proxies import Proxies
from batchrunner.providers import registry
from batchrunner.providers.aimlapi import billing, responses
from batchrunner.providers.aimlapi.framing import Head
from batchrunner.providers.aimlapi.submission_body import SubmissionBody
from batchrunner.providers.base import (
    Accepted,
    Balance,
    Capabilities,
    Charge,
    Charges,
    GenerationStatus,
    PriceList,
    Submissions,
)
from batchrunner.providers.endpoint import Endpoint
from batchrunner.redaction import Redactor, error_text

CAPABILITIES = Capabilities(
    find_submissions=True, balance=True, charges=True, prices=True, prepares=True, optional_suffix=":"
)
_PATH = "/v2/video/generations"
_LOG_PATH = "/v2/logs"
_BALANCE_PATH = "/v2/billing"
_CHARGES_PATH = "/v2/billing/transactions"
_PRICES_PATH = "/v1/models"
_CHARGES_PAGES = 100  # at most, of a hundred rows
_LOG_PAGES = 100  # at most: half a minute's allowance
_PERIODS = (("1h", 3500.0), ("24h", 86_000.0), ("7d", 600_000.0), ("30d", float("inf")))
_REACH_S = {"1h": 3600.0, "24h": 86_400.0, "7d": 604_800.0, "30d": 2_592_000.0}
_SLOWEST_UPLOAD_BYTES_PER_S = 32 * 1024
_QUOTED = {code: quote(chr(code), safe="") for code in range(128)}
_T = TypeVar("_T")
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class Timeouts(NamedTuple):
    """Time limits, seconds. Every wait for the network has one, so nothing can hang."""

    connect_s: float = 20.0
    answer_s: float = 120.0  # a POST: to the answer, from the last byte sent; from the start if that takes no time
    poll_s: float = 30.0  # a GET, in total


class _Handler(ResponseHandler):
    """aiohttp's protocol for a connection. A `Head` filters the bytes before aiohttp parses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: Head | None = None

    def set_response_params(self, **params: Any) -> None:
        """Begin a reply."""
        self._head = Head(responses.MAX_FIELD_BYTES)
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a reply."""
        for piece in [data] if self._head is None or not data else self._head.feed(data):
            super().data_received(piece)
            if self.exception() is not None and self._payload is not None and not self._payload.is_eof():
                # aiohttp fails the connection, but not a body that is already being read: its reader would wait.
                self._payload.feed_eof()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take in the end."""
        if self._head is not None and (remainder := self._head.remainder()):
            super().data_received(remainder)
        super().connection_lost(exc)


class _Connector(aiohttp.TCPConnector):
    """Connections whose replies are read with `_Handler`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: partial[Any] = partial(_Handler, loop=asyncio.get_running_loop())


class ApiClient:
    """The service at one endpoint: a `batchrunner.providers.base.Provider`. Use as an async context manager.

    endpoint: address and key, and the redactor for every text that is received. executor: where local files are read
    and encoded, off the loop. proxies: one of them may lead to the service.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        executor: Executor,
        timeouts: Timeouts | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._base = str(URL(endpoint.base_url.rstrip("/")))
        self._authorization = {"Authorization": f"Bearer {endpoint.key}"}
        self._redactor = endpoint.redactor
        self._capabilities = CAPABILITIES._replace(lists_on_acceptance=endpoint.lists_on_acceptance)
        self._clock = clock
        self._executor = executor
        self._inputs = EncodedInputs(executor)
        self._timeouts = timeouts or Timeouts()
        self._proxy = proxies.for_url(endpoint.base_url) if proxies else None
        self._submissions: aiohttp.ClientSession | None = None
        self._lookups: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A submission gets a connection of its own. The server may close a kept-alive one while we send, and then
        # the job would be in doubt. The price is one handshake a job.
        waits = self._timeouts
        answers = aiohttp.ClientTimeout(total=waits.answer_s, sock_connect=waits.connect_s)
        self._submissions = self._session(_Connector(limit=0, force_close=True), answers)
        # Polls are repeatable, so they share kept-alive connections.
        polls = aiohttp.ClientTimeout(total=waits.poll_s, sock_connect=waits.connect_s)
        self._lookups = self._session(_Connector(limit=64), polls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._submissions, self._lookups):
            if session is not None:
                await session.close()

    @property
    def capabilities(self) -> Capabilities:
        """What the endpoint's service offers."""
        return self._capabilities

    def _session(self, connector: aiohttp.TCPConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Replies are small, so compression gains nothing. `_read` decompresses replies that are compressed anyway.
            headers={"User-Agent": "batchrunner", "Accept-Encoding": "identity"},
            auto_decompress=False,
            proxy=self._proxy.url if self._proxy else None,
            max_line_size=responses.MAX_FIELD_BYTES,
            max_field_size=responses.MAX_FIELD_BYTES,
        )

    def prepare(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """Return the work of encoding the local inputs of `job`; None if all of them are encoded. Raises LocalFault."""
        local = [media for media in job.inputs.values() if media.path is not None]
        return None if all(map(self._inputs.has, local)) else self._encode(local)

    async def _encode(self, inputs: list[Media]) -> None:
        for media in inputs:
            async with self._inputs.use(media):
                """It stays encoded, as far as there is space."""

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit `job` once, marked with `request_id` (X-Client-Request-Id: 1 to 128 of ``A-Za-z0-9._:-``).

        Local inputs are in the body as base64 data URIs, which are never in memory as a whole. Raises CallError; its
        `in_doubt` says whether the service may have accepted the job.
        """
        local = {name: media for name, media in job.inputs.items() if media.path is not None}
        if not local:
            return await self._send(SubmissionBody(job, self._executor), request_id)
        async with AsyncExitStack() as stack:
            inputs = {name: await stack.enter_async_context(self._inputs.use(media)) for name, media in local.items()}
            accepted = await self._send(SubmissionBody(job, self._executor, inputs), request_id)
        return accepted._replace(notice=self._inputs.problem) if self._inputs.problem else accepted

    async def _send(self, body: SubmissionBody, request_id: str) -> Accepted:
        assert self._submissions is not None
        try:
            async with self._submissions.post(
                URL(f"{self._base}{_PATH}", encoded=True),
                data=body,
                headers={**self._authorization, "X-Client-Request-Id": request_id},
                timeout=self._upload_timeout(body) if body.has_files else self._submissions.timeout,
                allow_redirects=False,
            ) as reply:
                read = await _read(reply, self._redactor)
        except FOREIGN as error:
            raise self._fault(error, body) from error
        try:
            return self._parsed(responses.read_submission, read, body=body)
        except JobFault as error:
            if error.kind != "too_large":
                raise
            message = f"{error.message}; the request has {size_text(body.length_bytes)}"
            raise JobFault(error.kind, message, error.hint, status=error.status) from None

    def _upload_timeout(self, body: SubmissionBody) -> aiohttp.ClientTimeout:
        """Return the limits of a submission that takes time to send. Its answer has its own limit."""
        waits = self._timeouts
        total_s = waits.connect_s + waits.answer_s + body.length_bytes / _SLOWEST_UPLOAD_BYTES_PER_S
        return aiohttp.ClientTimeout(total=total_s, sock_connect=waits.connect_s, sock_read=waits.answer_s)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        """Poll a generation once. inputs: the URLs that its job submitted. Raises CallError."""
        # Ids hold ':' and '/' and must travel percent-encoded; yarl leaves both as they are in a query.
        read = await self._get(f"{_PATH}?generation_id={_quoted(generation_id)}")
        return self._parsed(responses.read_status, read, generation_id, inputs, self._base)

    async def ping(self) -> None:
        """Poll a generation that does not exist: any answer of a working service will do. Raises CallError."""
        try:
            await self.status("batchrunner")
        except (JobFault, AccountFault):
            return
        except ServiceFault as error:
            if error.kind not in {"unknown_generation", "foreign_reply"}:
                raise

    async def find_submissions(self, since: float) -> Submissions:
        """Return all submissions since `since` (wall time, s) in the service's log.

        GET /v2/logs is documented to carry inference_id and client_request_id and to allow 200 requests a minute; one
        walk over its pages serves all submissions in doubt. Raises CallError.
        """
        age_s = self._clock.now() - since
        period = next((name for name, longest_s in _PERIODS if age_s < longest_s), _PERIODS[-1][0])
        query = {"period": period}
        rows: list[dict[str, Any]] = []
        ended, complete, is_whole = False, False, True
        date: str | None = None
        for _ in range(_LOG_PAGES):
            read = await self._get(_target(_LOG_PATH, query))
            page = self._parsed(responses.read_log, read)
            rows += page.rows
            date = date or read.headers.get("date", "")  # of the first page: the others are no older
            is_whole = is_whole and page.is_whole and read.broken is None
            if not page.cursor or query.get("cursor") == page.cursor:
                ended = is_whole and not page.cursor
                complete = ended and page.is_last and age_s < _PERIODS[-2][1]  # the longest period is bounded too
                break
            query = {"period": period, "cursor": page.cursor}
        listed = responses.read_log_rows(rows, ended=ended, complete=complete)
        return listed._replace(now=responses.service_time(date, listed.created), reaches_back_s=_REACH_S[period])

    async def balance(self) -> Balance | None:
        """Return the account's balance; None where the service does not show it to this key. Raises CallError."""
        read = await self._get(_BALANCE_PATH)
        return self._parsed(billing.read_balance, read)

    async def charges(self, since: float) -> Charges | None:
        """Return the charges settled since `since` (wall time, s); None where they are not listed. Raises CallError."""
        query = {"from": billing.period(since), "limit": "100"}
        rows: list[Charge] = []
        for _ in range(_CHARGES_PAGES):
            read = await self._get(_target(_CHARGES_PATH, query))
            page = self._parsed(billing.read_charges, read)
            if page is None:
                return Charges(tuple(rows), complete=False) if rows else None
            rows += page.charges
            if not page.cursor or page.cursor == query.get("cursor"):
                return Charges(tuple(rows), complete=not page.cursor and read.broken is None)
            query["cursor"] = page.cursor
        return Charges(tuple(rows), complete=False)

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        """Return the service's price list; None if it has none. known: see `Provider.prices`. Raises CallError."""
        query = {"id": ",".join(registry.models()), "include": "pricing"}
        version = known.version if known else ""
        # The list is public, so the key is not sent.
        read = await self._get(_target(_PRICES_PATH, query), {"If-None-Match": version} if version else {})
        if known and read.status == billing.NOT_MODIFIED:
            return known._replace(as_of=self._clock.now())
        return self._parsed(billing.read_prices, read, URL(self._base).host or "")

    async def _get(self, target: str, headers: dict[str, str] | None = None) -> "_Read":
        """Look something up. target: path and query. headers: sent instead of the key."""
        url = URL(f"{self._base}{target}", encoded=True)
        sent = self._authorization if headers is None else headers
        assert self._lookups is not None
        try:
            async with self._lookups.get(url, headers=sent, allow_redirects=False) as reply:
                return await _read(reply, self._redactor)
        except FOREIGN as error:
            raise self._fault(error) from error

    def _parsed(self, parse: Callable[..., _T], read: "_Read", *further: Any, body: SubmissionBody | None = None) -> _T:
        """Parse a reply. A truncated one without the needed content is a broken connection. Raises CallError."""
        try:
            return parse(read.status, read.headers, read.body, self._clock.now(), *further)
        except CallError as error:
            if read.broken is None or error.kind not in {"no_id", "bad_reply"}:
                raise
            raise self._fault(read.broken, body) from read.broken

    def _fault(self, error: Exception, body: SubmissionBody | None = None) -> CallError:
        settings = settings_fault(error, self._proxy, "certificate", "proxy_refused")
        return settings or call_fault(error, body, self._redactor)


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{'&'.join(f'{name}={_quoted(value)}' for name, value in query.items())}"


@lru_cache(1024)  # a generation is polled many times
def _quoted(value: str) -> str:
    return value.translate(_QUOTED) if value.isascii() else quote(value, safe="")


class _Read(NamedTuple):
    """A received reply. headers: names in lower case. broken: why the body ended early, or None."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: Exception | None = None


async def _read(reply: aiohttp.ClientResponse, redactor: Redactor) -> _Read:
    """Read the reply without secrets, up to the size limit of a body.

    Some services quote the refused key, and their messages go into journal, log and report. A truncated body is kept:
    it may hold an id.
    """
    broken: Exception | None = None
    content = bytearray()
    stream = reply.content
    try:
        while not (stream.at_eof() and stream.exception() is None):
            content += await stream.readany()
            if len(content) > responses.MAX_REPLY_BYTES:
                break
    except FOREIGN as error:
        broken = error
    headers, body = redactor.headers(reply.headers), bytes(content)
    if "content-encoding" in headers:
        body = _unpacked(body, headers["content-encoding"])
    return _Read(reply.status, headers, redactor.reply(body[: responses.MAX_REPLY_BYTES]), broken)


def _unpacked(content: bytes, coding: str) -> bytes:
    """Decompress a body that was compressed without request, up to the size limit. Return it unchanged on an error."""
    if coding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        return content
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, responses.MAX_REPLY_BYTES)
    except zlib.error:
        return content


def call_fault(error: Exception, body: SubmissionBody | None, redactor: Redactor) -> CallError:
    """Return the fault for an exception of aiohttp or the system. It depends on whether all of `body` was sent."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        # No connection, so no byte of the request left: DNS, refused, unreachable, TLS.
        message = f"the service could not be reached: {redactor.text(unreachable_text(error))}"
        return NetworkFault("no_connection", message, NO_CONNECTION_HINT)
    if body is not None and body.fault is not None:
        return body.fault
    late = isinstance(error, TimeoutError)
    cause = redactor.text(error_text(error))
    kind, what = ("timed_out", "no answer in time") if late else ("cut", f"the connection broke: {cause}")
    return NetworkFault(kind, what, in_doubt=body is not None and body.complete)
