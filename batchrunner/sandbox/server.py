"""The sandbox as an HTTP server: it receives requests and sends replies, or none if a fault says so.

`service` and the pure modules below it decide; this module only speaks HTTP. It is the only module of the sandbox that
creates tasks.
"""

import asyncio
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from batchrunner.clock import Clock, FastClock, LoopClock
from batchrunner.errors import UsageError
from batchrunner.formatting import rfc3339
from batchrunner.sandbox import billing, file_host, logs
from batchrunner.sandbox.clips.placeholder import tiny
from batchrunner.sandbox.clips.render_pool import RenderPool
from batchrunner.sandbox.config import SandboxConfig
from batchrunner.sandbox.faults.rules import OTHERS, REFUSED, UNREPLIED, Fault
from batchrunner.sandbox.replies import (
    BENT,
    INSTEAD,
    NOT_FOUND,
    UNAUTHORIZED,
    Call,
    Reply,
    invalid,
    polled,
    problem,
    submitted,
    too_many,
)
from batchrunner.sandbox.service import Renderer, Service, aside
from batchrunner.sandbox.validation import check, missing
from batchrunner.sandbox.world import Generation

GENERATIONS = "/v2/video/generations"
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HANGS = frozenset({"hang", "hang_before"})
_CUTS = frozenset({"cut", "cut_before", "lost_reply"})
# Requests under way at the end are mostly ones that a fault keeps hanging.
_CLOSE_GRACE_S = 0.5

_T = TypeVar("_T")
Handler = Callable[[web.Request, Call], Awaitable[tuple[Reply, Fault | None]]]


async def start(config: SandboxConfig, *, clock: Clock | None = None, render: Renderer | None = None) -> "Sandbox":
    """Start a sandbox with its stored state. See `batchrunner.sandbox.start`."""
    clock = clock or (LoopClock() if config.speed == 1 else FastClock(config.speed))
    sandbox = Sandbox(config, clock, render)
    try:
        await sandbox.listen()
    except (OSError, OverflowError) as error:
        await sandbox.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the sandbox cannot listen on {config.host}:{config.port}: {reason}") from None
    return sandbox


class Sandbox:
    """A running sandbox. url: where it listens, without a trailing slash."""

    def __init__(self, config: SandboxConfig, clock: Clock, render: Renderer | None) -> None:
        self.url = ""
        self.port = config.port
        self._config = config
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        root = config.state_dir
        if root is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="batchrunner-sandbox-")
            root = Path(self._temporary.name)
        self._pool = RenderPool(config.workers)  # starts no process before it is asked
        render = render or (tiny if config.render in {"stub", "tiny"} else self._pool)
        try:
            self._service = Service(config, root, clock, render, self._spawn)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UsageError(f"{root}: the sandbox's state directory cannot be used: {error}") from None
        self._requests = 0
        self._log_rate = logs.CallRate()
        self._closed = False
        self._last_ledger: str | None = None  # of a temporary directory that is gone
        self._runner = web.AppRunner(
            self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_GRACE_S
        )

    async def listen(self) -> None:
        """Begin to serve. Raises OSError or OverflowError if the address cannot be bound."""
        await self._runner.setup()
        site = await self._open()
        self.port = self._runner.addresses[0][1]
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        self.url = f"http://{host}:{self.port}"
        self._spawn(self._service.drive())
        if self._config.conditions.refusing():
            self._spawn(self._refuse(site))

    async def _open(self) -> web.TCPSite:
        site = web.TCPSite(self._runner, self._config.host, self.port)
        await site.start()
        return site

    async def _refuse(self, site: web.TCPSite) -> None:
        """Stop listening at the scripted times: the address is free then, and calls are cut."""
        for start_s, end_s in self._config.conditions.refusing():
            await self._clock.sleep(max(0.0, start_s - self._service.elapsed()))
            await site.stop()
            for connection in self._runner.server.connections if self._runner.server else []:
                if connection.transport:
                    connection.transport.abort()
            if math.isinf(end_s):
                return
            await self._clock.sleep(max(0.0, end_s - self._service.elapsed()))
            site = await self._open()

    async def close(self) -> None:
        """Stop. The next sandbox with the same state directory knows everything that was accepted."""
        if self._closed:
            return
        self._closed = True
        await self._runner.cleanup()
        self._pool.close()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._service.close()
        if self._temporary:
            self._last_ledger = self._service.store.text()
            self._temporary.cleanup()
        for result in results:
            if isinstance(result, Exception):
                raise result  # a bug in the sandbox must not look like a slow service

    def ledger(self) -> list[dict[str, Any]]:
        """Return every event so far, oldest first; also after `close`."""
        text = self._service.store.text() if self._last_ledger is None else self._last_ledger
        return [json.loads(line) for line in text.splitlines()]

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        # A failed task is kept: close() raises its error.
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    # Calls

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self._config.body_limit_bytes)
        app.router.add_post(GENERATIONS, self._guarded("submit", self._submit))
        app.router.add_get(GENERATIONS, self._guarded("poll", self._poll), allow_head=False)
        if self._config.logs:
            app.router.add_get("/v2/logs", self._guarded("logs", self._logs), allow_head=False)
        if self._config.billing:
            app.router.add_get("/v2/billing", self._guarded("billing", self._billing), allow_head=False)
            transactions = self._guarded("transactions", self._transactions)
            app.router.add_get("/v2/billing/transactions", transactions, allow_head=False)
        if self._config.price_list:
            app.router.add_get("/v1/models", self._guarded("models", self._models, is_open=True), allow_head=False)
        app.router.add_get("/sandbox/ledger", self._show_ledger, allow_head=False)
        app.router.add_get("/files/{name}", self._download)
        app.router.add_route("*", "/{path:.*}", self._nowhere)
        return app

    def _guarded(
        self, name: str, handler: Handler, *, is_open: bool = False
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Handle a call: check key (unless `is_open`) and rate limit, call the handler, apply the fault."""

        async def handle(request: web.Request) -> web.StreamResponse:
            call = self._call(request)
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            if not is_open and (scheme.lower() != "bearer" or not key.strip()):
                return _response(problem(call, 401, UNAUTHORIZED), call)
            refusal = await self._service.admit(call)
            reply, fault = (refusal, None) if refusal else await handler(request, call)
            self._note(name, request, call, reply, fault)
            return await self._speak(request, call, reply, fault)

        return handle

    def _note(self, name: str, request: web.Request, call: Call, reply: Reply, fault: Fault | None) -> None:
        """Record a call without effect in the ledger. An acceptance without a reply has an effect."""
        kind = fault.kind if fault else ""
        if kind in INSTEAD and fault:
            reply = INSTEAD[kind](call, fault)
        unanswered = kind in _HANGS or kind in _CUTS
        spoiled = kind in INSTEAD or unanswered
        if (name == "submit" and kind in UNREPLIED) or not (spoiled or reply.status >= 400):
            return
        event = {
            "event": "refused",
            "call": name,
            "status": None if unanswered else reply.status,
            "why": kind or reply.body["message"],
            "client_request_id": call.client_request_id,
        }
        if generation_id := request.query.get("generation_id"):
            event["generation_id"] = generation_id
        self._service.record(event)

    def _call(self, request: web.Request) -> Call:
        self._requests += 1
        number = f"{self._config.seed} {self._requests} {self._service.now()}"
        sent = request.headers.get("X-Client-Request-Id", "")
        return Call(
            instance=f"{request.path}?{request.query_string}",
            request_id=hashlib.sha256(number.encode()).hexdigest()[:32],
            at=rfc3339(self._service.now()),
            # Everything else is dropped without an error, as documented.
            client_request_id=sent if _CLIENT_REQUEST_ID.fullmatch(sent) else None,
        )

    async def _submit(self, request: web.Request, call: Call) -> tuple[Reply, Fault | None]:
        too_large = problem(call, 413, "request entity too large")
        if (request.content_length or 0) > self._config.body_limit_bytes:
            return too_large, None  # by the declared length, as servers do: the body is not read
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return too_large, None
        identity = call.client_request_id or hashlib.sha256(body).hexdigest()
        fault = self._service.befalls("submit", identity)
        if fault and fault.kind in REFUSED:
            return Reply(200, ""), fault
        # The service's framework is taken to read no body without its content type.
        body = body if request.content_type == "application/json" else b"{}"
        # Shielded: a received request is processed even if its client leaves.
        return await asyncio.shield(self._spawn(self._take(body, call, fault)))

    async def _take(self, body: bytes, call: Call, fault: Fault | None) -> tuple[Reply, Fault | None]:
        order = await aside(len(body), check, body)
        if isinstance(order, list):
            return invalid(call, order), None
        frames = await self._service.take_in(order)
        answer = self._service.accept(order, call, frames, fault)
        if isinstance(answer, Reply):
            return answer, None
        return submitted(self._meant(answer, fault), quoted=self._config.quotes), fault

    def _meant(self, generation: Generation, fault: Fault | None) -> Generation:
        """Return the generation for the reply: another one if `fault` says so and there is one."""
        is_other = fault is not None and fault.kind in OTHERS
        return (self._service.world.other_than(generation) if is_other else None) or generation

    async def _poll(self, request: web.Request, call: Call) -> tuple[Reply, Fault | None]:
        generation_id = request.query.get("generation_id")
        if not generation_id:
            return invalid(call, [missing("generation_id")]), None
        self._service.settle()
        generation = self._service.world.generations.get(generation_id)
        status = generation.status if generation else "unknown"
        state = "pending" if status in {"queued", "generating"} else status
        fault = self._service.befalls("poll", generation_id, state)
        if generation is None:
            return problem(call, 404, NOT_FOUND), fault
        return polled(self._meant(generation, fault), f"{request.scheme}://{request.host}/files/"), fault

    async def _logs(self, request: web.Request, call: Call) -> tuple[Reply, Fault | None]:
        now = self._service.elapsed()
        if not self._log_rate.take(now):
            return too_many(call), None
        fault = self._service.befalls("logs", request.query.get("client_request_id", ""))
        self._service.settle()
        generations = list(self._service.world.generations.values())
        query = dict(request.query)
        if fault and fault.kind == "unfiltered":
            query.pop("client_request_id", None)
        try:
            rows, more = logs.page(generations, query, self._service.now(), self._config)
        except logs.BadQuery as bad:
            return invalid(call, [{"code": "custom", "path": [str(bad)], "message": "Invalid value"}]), fault
        data = [logs.row(one, rfc3339(one.accepted["at"])) for one in rows]
        return Reply(200, {"data": data, "has_more": more, "next_cursor": rows[-1].id if more else None}), fault

    async def _billing(self, _request: web.Request, _call: Call) -> tuple[Reply, Fault | None]:
        fault = self._service.befalls("billing", "")
        self._service.settle()
        return billing.balance(self._service.world.available), fault

    async def _transactions(self, request: web.Request, call: Call) -> tuple[Reply, Fault | None]:
        fault = self._service.befalls("transactions", request.query.get("cursor", ""))
        self._service.settle()
        movements, now = self._service.world.movements, self._service.now()
        try:
            return billing.transactions(movements, request.query, now, self._config.settle_delay_s), fault
        except billing.BadQuery as bad:
            return invalid(call, [{"code": "custom", "path": [str(bad)], "message": "Invalid value"}]), fault

    async def _models(self, request: web.Request, _call: Call) -> tuple[Reply, Fault | None]:
        fault = self._service.befalls("models", "")
        return billing.models(request.query, self._config, request.headers.get("If-None-Match", "")), fault

    async def _download(self, request: web.Request) -> web.StreamResponse:
        service, call, name = self._service, self._call(request), request.match_info["name"]
        if "Authorization" in request.headers:
            service.record({"event": "leak", "file": name})
        service.settle()
        generation = service.world.by_file.get(name)
        if generation is None or generation.status != "completed" or not generation.outcome:
            return await self._nowhere(request)
        fault = service.befalls("download", name)
        kind = fault.kind if fault else ""
        if kind in INSTEAD or kind in _HANGS or kind in _CUTS:
            self._note("download", request, call, Reply(200, ""), fault)
            return await self._speak(request, call, Reply(200, ""), fault)
        if (detour := file_host.detour(request, kind)) is not None:
            return detour
        etag = call.request_id if kind == "changed_etag" else generation.outcome["sha256"][:32]
        fetched = {"event": "fetched", "generation_id": generation.id, "file": name}
        if kind in file_host.CHANGED:
            response = await file_host.changed(service.store.result(name), kind, f'"{etag}"')
            service.record({**fetched, "status": response.status, "bytes": generation.outcome["bytes"]})
            return response
        wanted = None if kind == "no_range" else request.headers.get("Range")
        what = file_host.plan(generation.outcome["bytes"], f'"{etag}"', wanted, request.headers.get("If-Range"))
        transfer = file_host.Transfer(service.store.result(name), what, fault, self._clock)
        try:
            return await transfer.send(request)
        finally:
            service.record({**fetched, "status": what.status, "bytes": transfer.sent_bytes})

    async def _show_ledger(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._service.store.text(), content_type="application/x-ndjson")

    async def _nowhere(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request)
        return _response(problem(call, 404, f"Cannot {request.method} {request.path}"), call)

    async def _speak(self, request: web.Request, call: Call, reply: Reply, fault: Fault | None) -> web.StreamResponse:
        """Return the reply, changed by `fault`."""
        kind = fault.kind if fault else ""
        if fault and kind in INSTEAD:
            reply = INSTEAD[kind](call, fault)
        elif kind in BENT and reply.status < 300:
            reply = BENT[kind](reply)
        elif kind in _HANGS:
            if self._config.hang_s is None:
                await asyncio.get_running_loop().create_future()  # until the client leaves and cancels it
            else:
                await self._clock.sleep(self._config.hang_s)
        if kind in _HANGS | _CUTS and request.transport:
            request.transport.abort()
        date = formatdate(self._service.now(), usegmt=True)
        return _response(replace(reply, headers={"Date": date, **reply.headers}), call)


def _response(reply: Reply, call: Call) -> web.Response:
    headers = {**reply.headers, "x-request-id": call.request_id}
    if call.client_request_id:
        headers["x-client-request-id"] = call.client_request_id
    return web.Response(
        status=reply.status,
        body=reply.encode(),
        content_type=reply.content_type,
        charset="utf-8",
        headers=headers,
    )
