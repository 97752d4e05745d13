"""A second provider for tests: another wire format, another model, other capabilities.

`Studio` is the service: an HTTP server with a ledger in memory and faults by a seeded generator. `StudioClient` is the
provider for it. Nothing here is shared with the provider ``aimlapi`` or with the sandbox, apart from the mark in clips.
"""

import json
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Self

import aiohttp
from aiohttp import web

from batchrunner.clock import Clock
from batchrunner.errors import AccountFault, CallError, JobFault, NetworkFault, Problem, ServiceFault
from batchrunner.job import Job, Media
from batchrunner.media import probe
from batchrunner.net.proxies import Proxies
from batchrunner.providers import registry
from batchrunner.providers.base import (
    Accepted,
    Capabilities,
    GenerationStatus,
    OptionalCalls,
    Phase,
    Provider,
    Submissions,
)
from batchrunner.providers.endpoint import Endpoint
from batchrunner.providers.models import read_spec
from batchrunner.sandbox.clips import marks
from tests.conftest import encoded

SPEC = read_spec(Path(__file__).with_name("dummy_model.json"))
LISTING = Capabilities(find_submissions=True, lists_on_acceptance=True)
SILENT = Capabilities()
_PHASES = {
    "waiting": Phase.QUEUED,
    "drawing": Phase.GENERATING,
    "ready": Phase.COMPLETED,
    "broken": Phase.FAILED,
}
_TIMEOUT = aiohttp.ClientTimeout(total=60.0)


@dataclass
class Render:
    """One accepted request. mark: the client's request id. order: the request's content as canonical JSON."""

    number: int
    mark: str
    order: str
    at: float
    ready_at: float
    is_broken: bool = False

    def state(self, now: float) -> str:
        if now >= self.ready_at:
            return "broken" if self.is_broken else "ready"
        return "waiting" if now < (self.at + self.ready_at) / 2 else "drawing"


@dataclass
class Studio:
    """The service. Rates are chances of a fault, 0 to 1, of each submission.

    busy: refused. cut: the connection ends before the request counts. lost: accepted, and the connection ends.
    broken: the generation fails. next_faults: kinds for the next submissions, before any chance; "" for none.
    calls: method and path of every request that arrived.
    """

    clock: Clock
    rng: Random = field(default_factory=lambda: Random(1))
    busy: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    broken: float = 0.0
    takes_s: float = 60.0
    key: str = "k"
    lists: bool = True
    next_faults: list[str] = field(default_factory=list)
    renders: list[Render] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    lost_replies: int = 0
    cut_requests: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serve on loopback and yield the base URL."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/ping", self._ping)
        app.router.add_post("/renders/{mark}", self._submit)
        app.router.add_get("/renders/{number}", self._status, allow_head=False)
        app.router.add_get("/clips/{name}", self._clip)
        if self.lists:
            app.router.add_get("/renders", self._list)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def clip(self, render: Render) -> bytes:
        """Return the clip of a render, which names its order."""
        return _picture() + marks.mark(str(render.number), render.order, render.mark)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        if not request.path.startswith("/clips/") and request.headers.get("X-Studio-Key") != self.key:
            return web.json_response({"refused": "unknown key", "whose": "account"}, status=403)
        response: web.StreamResponse = await handler(request)
        return response

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    def _fault(self) -> str:
        if self.next_faults:
            return self.next_faults.pop(0)
        chances = {"busy": self.busy, "cut": self.cut, "lost": self.lost, "broken": self.broken}
        return next((kind for kind, rate in chances.items() if self.rng.random() < rate), "")

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self._fault()
        if fault == "busy":
            return web.json_response({"refused": "all artists are busy", "whose": "studio"}, status=409)
        if fault == "cut":
            self.cut_requests += 1
            return _cut(request)
        if not body["picture"]["href"] or body["use"] != SPEC.name:
            return web.json_response({"refused": "no picture", "whose": "request"}, status=409)
        now = self.clock.now()
        order = json.dumps(body, sort_keys=True)
        took_s = self.takes_s * self.rng.uniform(0.5, 1.5)
        render = Render(len(self.renders) + 1, request.match_info["mark"], order, now, now + took_s, fault == "broken")
        self.renders.append(render)
        if fault == "lost":
            self.lost_replies += 1
            return _cut(request)
        return web.json_response({"render": render.number}, status=202)

    async def _status(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        if not number.isdecimal() or not 0 < int(number) <= len(self.renders):
            return web.json_response({"refused": "no such render", "whose": "request"}, status=410)
        render = self.renders[int(number) - 1]
        state = render.state(self.clock.now())
        reply: dict[str, Any] = {"render": render.number, "state": state}
        if state == "ready":
            reply["file"] = f"/clips/{render.number}.mp4"
        elif state == "broken":
            reply["why"] = "the pencil broke"
        return web.json_response(reply)

    async def _list(self, request: web.Request) -> web.Response:
        now, since = self.clock.now(), float(request.query["after"])
        rows = [
            {"mark": item.mark, "render": item.number, "at": item.at, "state": item.state(now)}
            for item in self.renders
            if item.at >= since
        ]
        return web.json_response({"renders": rows, "now": now})

    async def _clip(self, request: web.Request) -> web.Response:
        number = int(request.match_info["name"].removesuffix(".mp4"))
        return web.Response(body=self.clip(self.renders[number - 1]), content_type="video/mp4")


def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@cache
def _picture() -> bytes:
    return encoded(3)


class StudioClient(OptionalCalls):
    """The provider for a `Studio`."""

    def __init__(self, endpoint: Endpoint, clock: Clock, executor: Executor, capabilities: Capabilities) -> None:
        self._base = endpoint.base_url
        self._key = endpoint.key
        self._clock = clock
        self._executor = executor
        self._capabilities = capabilities
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, headers={"X-Studio-Key": self._key}, timeout=_TIMEOUT
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def submit(self, job: Job, request_id: str) -> Accepted:
        fields = {item.name: item.field for item in registry.models()[job.model].inputs}
        inputs = {fields[name]: {"href": await self._href(media)} for name, media in job.inputs.items()}
        body = {"use": job.model, "options": dict(job.params), **inputs}
        # Not PUT: aiohttp repeats such a request automatically if the connection breaks.
        reply = await self._call("POST", f"/renders/{request_id}", body)
        return Accepted(str(reply["render"]), None)

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        reply = await self._call("GET", f"/renders/{generation_id}")
        if str(reply["render"]) != generation_id:
            raise ServiceFault("foreign_reply", f"the studio answered about render {reply['render']}")
        phase, state = _PHASES[reply["state"]], reply["state"]
        if phase is Phase.FAILED:
            problem = Problem("broken", reply["why"], "Run again with --retry-failed.", "service")
            return GenerationStatus(phase, state, error=problem)
        return GenerationStatus(phase, state, result_url=self._base + reply["file"] if "file" in reply else None)

    async def ping(self) -> None:
        await self._call("GET", "/ping")

    async def find_submissions(self, since: float) -> Submissions:
        if not self._capabilities.find_submissions:
            return await super().find_submissions(since)
        reply = await self._call("GET", f"/renders?after={since}")
        rows = reply["renders"]
        return Submissions(
            ids={row["mark"]: str(row["render"]) for row in rows},
            requests=frozenset(row["mark"] for row in rows),
            finished=frozenset(row["mark"] for row in rows if row["state"] in {"ready", "broken"}),
            created={row["mark"]: row["at"] for row in rows},
            now=reply["now"],
            reaches_back_s=float("inf"),
        )

    async def _href(self, media: Media) -> str:
        if media.uri is not None:
            return media.uri
        chunks = [chunk async for chunk in probe.read_data_uri(media, self._executor)]
        return b"".join(chunks).decode()

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        assert self._session is not None
        try:
            async with self._session.request(method, self._base + path, json=body) as reply:
                content = await reply.json() if reply.status != 204 else None
                if reply.status >= 400:
                    raise _refusal(reply.status, content)
                return content
        except aiohttp.ClientConnectorError as error:
            raise NetworkFault("no_connection", f"the studio could not be reached: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NetworkFault("cut", f"the connection broke: {error}", in_doubt=body is not None) from error


def _refusal(status: int, content: Any) -> CallError:
    message = f"the studio refused: {content['refused']}"
    if status == 410:
        return ServiceFault("unknown_generation", message, status=status)
    kinds = {"account": AccountFault, "request": JobFault, "studio": ServiceFault}
    kind = "rate_limited" if content["whose"] == "studio" else "refused"
    return kinds[content["whose"]](kind, message, "Ask the studio.", status=status)


@dataclass(frozen=True)
class Connector:
    """Make clients with these capabilities: a `batchrunner.providers.registry.Connect`."""

    capabilities: Capabilities

    def __call__(
        self, endpoint: Endpoint, clock: Clock, executor: Executor, proxies: Proxies | None = None
    ) -> AbstractAsyncContextManager[Provider]:
        return StudioClient(endpoint, clock, executor, self.capabilities)


@contextmanager
def offered() -> Iterator[None]:
    """Offer the studio's model within the block."""
    with registry.with_models(SPEC):
        yield
