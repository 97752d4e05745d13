"""The review server: the page, the batch as JSON, changes as server-sent events, files, and verdicts.

Rules: each request passes the guard (`batchrunner.review.guard`). A verdict is answered when its line is on the disk.
Only files that the catalogue names are sent. The server never writes to the journal and never takes the run's lock.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from batchrunner.clock import Clock, LoopClock
from batchrunner.errors import BatchrunnerError, UsageError
from batchrunner.formatting import printable, rfc3339
from batchrunner.media.posters import SIZE_NAMES, poster_name
from batchrunner.review import clips, guard
from batchrunner.review.board import PAGE_ROWS, REASONS, Board, reasons_of
from batchrunner.review.bucket_clips import OnlyInBucket
from batchrunner.review.clips import Changed, Digests, Source
from batchrunner.review.source import BatchSource
from batchrunner.review.verdicts import HIGHEST_RATING, LOWEST_RATING, NONE, VERDICTS, Verdict, VerdictLog

_PAGE = Path(__file__).with_name("page")
_PAGE_FILES: Mapping[str, tuple[str, str]] = {
    "": ("index.html", "text/html"),
    **{
        name: (name, "text/javascript") for name in ("app.js", "dom.js", "list.js", "player.js", "sheet.js", "store.js")
    },
    "review.css": ("review.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_MOST_BODY_BYTES = 64 * 1024
_MOST_NOTE = 2000
_MOST_REASONS, _MOST_REASON = 20, 60
_LEAST_COMPRESSED_BYTES = 4096
_CLOSE_GRACE_S = 1.0
_ALIVE_EVERY_S = 15.0
_READ_EVERY_S = 1.0
_REST_PER_READ = 9.0  # reading a large batch takes a tenth of the time at most
_KEEP_S = 3600


# Broken requests and clients that leave are no errors of the server, so they are not logged.
_LOG = logging.getLogger("batchrunner.review")
_LOG.addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))
)


class Refused(Exception):
    """A verdict cannot be stored. status: of the HTTP response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. port: 0 for any free one. names: host names of this machine, besides localhost."""

    host: str = "127.0.0.1"
    port: int = 0
    names: frozenset[str] = frozenset()


class ReviewServer:
    """A server for one batch. url: the address to open. log: an open log; reviewer: the name in each verdict."""

    def __init__(self, source: BatchSource, board: Board, log: VerdictLog, reviewer: str) -> None:
        self.url = ""
        self.board = board
        self._source = source
        self._log = log
        self._reviewer = reviewer
        self._clock: Clock = LoopClock()
        self._batch = hashlib.sha256(os.fsencode(source.rundir.path.resolve())).hexdigest()[:16]
        self._boot = secrets.token_hex(8)
        self._token = secrets.token_urlsafe(24)
        self._guard: guard.Guard | None = None
        self._problem = ""
        self._digests = Digests()
        self._waiting: set[asyncio.Event] = set()
        self._closing = False
        self._writing = asyncio.Lock()
        self._journal_thread = ThreadPoolExecutor(1, "review-journal")
        self._verdict_thread = ThreadPoolExecutor(1, "review-verdicts")  # one: lines are read in the order of appends
        self._poster_thread = ThreadPoolExecutor(1, "review-posters")
        self._tasks: list[asyncio.Task[None]] = []
        self._runner = web.AppRunner(self._app(), access_log=None, logger=_LOG, shutdown_timeout=_CLOSE_GRACE_S)

    async def listen(self, address: Address) -> None:
        """Begin to serve. Raises OSError or OverflowError if the address cannot be bound."""
        await self._runner.setup()
        await web.TCPSite(self._runner, address.host or None, address.port).start()
        port = self._runner.addresses[0][1]
        self._guard = guard.Guard(self._token, address.host, port, address.names)
        shown = next(iter(sorted(address.names)), "127.0.0.1") if address.host in guard.WILDCARDS else address.host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{self._token}/"
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._make_posters())]

    async def close(self) -> None:
        """Stop. Open streams end; a verdict that is being written is finished."""
        self._closing = True
        self._notify()
        for task in self._tasks:
            task.cancel()
        await self._runner.cleanup()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._writing:
            for thread in (self._journal_thread, self._verdict_thread, self._poster_thread):
                thread.shutdown(cancel_futures=True)

    # The batch

    async def _follow(self) -> None:
        """Read the journal again when it has changed."""
        while True:
            started = self._clock.monotonic()
            await self.refresh()
            took_s = self._clock.monotonic() - started
            await self._clock.sleep(max(_READ_EVERY_S, _REST_PER_READ * took_s))

    async def refresh(self) -> None:
        """Read journal and verdicts if they have changed, and send what is new to the open pages."""
        problem, is_new = "", False
        try:
            if (verdicts := await self._in(self._verdict_thread, self._source.read_verdicts)) is not None:
                is_new = self.board.put_all(verdicts)
            if (found := await self._in(self._journal_thread, self._source.read)) is not None:
                is_new = self.board.update(found) or is_new
        except (BatchrunnerError, OSError) as error:
            problem = printable(f"The batch cannot be read: {error}")
        if is_new or problem != self._problem:
            self._problem = problem
            self._notify()

    async def _make_posters(self) -> None:
        seen = -1
        while True:
            if self.board.list_version != seen:
                seen = self.board.list_version
                await self._in(self._poster_thread, partial(self._source.make_posters, lambda: self._closing))
            await self._clock.sleep(_READ_EVERY_S)

    def _in(self, thread: ThreadPoolExecutor | None, work: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(thread, work)

    def _notify(self) -> None:
        for event in self._waiting:
            event.set()

    # Requests

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MOST_BODY_BYTES, middlewares=[self._guarded])
        app.router.add_get("/{token}/api/batch", self._send_batch)
        app.router.add_get("/{token}/api/rows", self._send_rows)
        app.router.add_get("/{token}/api/events", self._send_events, allow_head=False)
        app.router.add_post("/{token}/api/verdict", self._take_verdict)
        app.router.add_get("/{token}/file/{key}", self._send_file)
        app.router.add_get("/{token}/poster/{size}/{key}", self._send_poster)
        app.router.add_get("/{token}/{name:[a-z.]*}", self._send_page)
        return app

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        assert self._guard is not None
        refusal = self._guard.refusal(request.method, request.path, request.headers)
        if refusal is not None:
            return web.Response(status=refusal[0], text=refusal[1] + "\n", headers=_plain_headers())
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n", headers=_plain_headers())

    async def _send_page(self, request: web.Request) -> web.StreamResponse:
        file = _PAGE_FILES.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        name, content_type = file
        headers = {**guard.HEADERS, "Content-Security-Policy": guard.PAGE_POLICY, "Cache-Control": "no-store"}
        body = (_PAGE / name).read_bytes()
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def _send_batch(self, request: web.Request) -> web.StreamResponse:
        return _json(request, {**self._state(), "batch": self._batch, "reasons": REASONS})

    def _state(self) -> dict[str, Any]:
        board = self.board
        return {
            "boot": self._boot,
            "version": board.version,
            "list_version": board.list_version,
            "head": board.head(),
            "problem": self._problem,
        }

    async def _send_rows(self, request: web.Request) -> web.StreamResponse:
        start = _number(request.query.get("start", "0"))
        return _json(request, {**self._state(), "rows": self.board.page(start)})

    async def _send_events(self, request: web.Request) -> web.StreamResponse:
        """Send changes until the page or the server closes."""
        headers = {**_plain_headers(), "Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        version = _number(request.query.get("version", "0")) if request.query.get("boot") == self._boot else 0
        problem = ""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await response.prepare(request)
            await response.write(b"retry: 1000\n: open\n\n")
            while not self._closing:
                event.clear()
                if self.board.version > version or problem != self._problem:
                    await response.write(self._change_since(version))
                    version, problem = self.board.version, self._problem
                await self._clock.wait(event, self._clock.monotonic() + _ALIVE_EVERY_S)
                if not event.is_set():
                    await response.write(b": open\n\n")
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._waiting.discard(event)
        return response

    def _change_since(self, version: int) -> bytes:
        """Return an event with the rows that changed, or one that asks the page to load the list again."""
        rows = self.board.since(version) if version >= self.board.list_version else None
        change = {**self._state(), "rows": rows if rows is None or len(rows) <= PAGE_ROWS else None}
        return f"data: {_text(change)}\n\n".encode()

    async def _take_verdict(self, request: web.Request) -> web.StreamResponse:
        try:
            verdict = _verdict_of(await request.read(), rfc3339(self._clock.now()), self._reviewer)
            async with self._writing:
                await self._store(verdict)
        except Refused as refused:
            return _json(request, {"error": printable(str(refused))}, refused.status)
        self._notify()
        return _json(request, {"row": self.board.row(verdict.id)})

    async def _store(self, sent: Verdict) -> None:
        """Return when the verdict is on the disk. Raises Refused."""
        row = self.board.catalogue.rows.get(sent.id)
        if row is None or row.get("sha256") != sent.sha256:
            raise Refused(409, "This job has another clip now. Load the page again.")
        verdict = replace(sent, take=row["take"], fingerprint=row["fingerprint"])
        try:
            if verdict.verdict != NONE:
                source = self.board.catalogue.sources[f"clip-{verdict.sha256}"]
                await self._in(None, lambda: clips.require_unchanged(self._source.local(source), self._digests))
            await self._in(self._verdict_thread, partial(self._log.append, verdict))
        except Changed as error:
            message = f"The clip is not the one that was delivered: {error.strerror}. batchrunner verify tells more."
            raise Refused(409, message) from None
        except OnlyInBucket as error:
            raise Refused(409, error.message) from None
        except FileNotFoundError:
            message = "The clip is missing. The next run downloads it again, at no charge."
            raise Refused(409, message) from None
        except OSError as error:
            raise Refused(507, f"The clip cannot be read: {error.strerror or error}.") from None
        except BatchrunnerError as error:
            raise Refused(507, f"{error.message}. {error.hint}") from None
        self.board.put(verdict)

    # Files

    async def _send_file(self, request: web.Request) -> web.StreamResponse:
        source = self.board.catalogue.sources.get(request.match_info["key"])
        if source is None:
            raise web.HTTPNotFound
        try:
            local = await self._in(None, partial(self._source.local, source))
        except OnlyInBucket as error:
            raise web.HTTPNotFound(reason=printable(error.message)) from None
        except OSError as error:
            raise web.HTTPNotFound(reason=f"The clip cannot be copied: {error.strerror or error}") from None
        return await self._send(request, local, f'"{source.sha256}"')

    async def _send_poster(self, request: web.Request) -> web.StreamResponse:
        key, size = request.match_info["key"], request.match_info["size"]
        if key not in self.board.catalogue.posters or size not in SIZE_NAMES:
            raise web.HTTPNotFound
        root = self._source.rundir.path
        path = self._source.rundir.posters / poster_name(key, size)
        try:
            return await self._send(request, Source(path, "", None, root), f'"{key}.{size}"')
        except web.HTTPNotFound:  # not made yet: the page asks again
            return web.Response(status=204, headers=_plain_headers())

    async def _send(self, request: web.Request, source: Source, etag: str) -> web.StreamResponse:
        """Send a file, or the part that Range asks for."""
        headers = {
            **guard.HEADERS,
            "Content-Security-Policy": guard.FILE_POLICY,
            "Content-Type": source.content_type,
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Cache-Control": f"private, max-age={_KEEP_S}",
        }
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        try:
            opening = clips.opened(source)
            file = await self._in(None, opening.__enter__)
        except OSError as error:
            raise web.HTTPNotFound(reason="The file is missing or has changed") from error
        try:
            size_bytes = await self._in(None, partial(file.seek, 0, 2))
            piece = clips.sliced(size_bytes, request.headers.get("Range"), request.headers.get("If-Range"), etag)
            if piece.status == 416:
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
            if piece.status == 206:
                headers["Content-Range"] = f"bytes {piece.start}-{piece.start + piece.length - 1}/{size_bytes}"
            response = web.StreamResponse(status=piece.status, headers=headers)
            response.content_length = piece.length
            with suppress(ConnectionError):  # a player that seeks leaves a transfer
                await response.prepare(request)
                await self._in(None, partial(file.seek, piece.start))
                await self._copy(file, response, 0 if request.method == "HEAD" else piece.length)
            return response
        finally:
            file.close()

    async def _copy(self, file: Any, response: web.StreamResponse, left_bytes: int) -> None:
        while left_bytes > 0:
            chunk = await self._in(None, partial(file.read, min(clips.CHUNK_BYTES, left_bytes)))
            if not chunk:
                raise ConnectionAbortedError("the file has become shorter")
            await response.write(chunk)
            left_bytes -= len(chunk)
        await response.write_eof()


async def start(source: BatchSource, board: Board, log: VerdictLog, reviewer: str, address: Address) -> ReviewServer:
    """Start a server. Raises UsageError if the address cannot be used."""
    server = ReviewServer(source, board, log, reviewer)
    try:
        await server.listen(address)
    except (OSError, OverflowError) as error:
        await server.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"the review page cannot be served on {address.host}:{address.port}: {reason}",
            "Choose another --port (0 takes a free one) or another --host. Nothing was changed.",
        ) from None
    return server


def _verdict_of(body: bytes, at: str, by: str) -> Verdict:
    """Return the verdict in the body of a request, without the job's own values. Raises Refused."""
    try:
        sent = json.loads(body)
        verdict = Verdict(
            id=_string(sent["id"]),
            take=1,
            fingerprint="",
            sha256=_string(sent["sha256"]),
            verdict=_string(sent["verdict"]),
            reasons=reasons_of(map(_string, _list(sent.get("reasons") or []))),
            rating=sent.get("rating"),
            note=_string(sent.get("note") or "")[:_MOST_NOTE],
            at=at,
            by=by,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(400, f"The verdict could not be read: {printable(str(error), 200)}") from None
    if verdict.verdict not in VERDICTS:
        raise Refused(400, "A verdict is accept, reject or none.")
    if len(verdict.reasons) > _MOST_REASONS or any(len(reason) > _MOST_REASON for reason in verdict.reasons):
        raise Refused(400, "There are too many reasons, or one is too long.")
    ratings = range(LOWEST_RATING, HIGHEST_RATING + 1)
    if verdict.rating is not None and (type(verdict.rating) is not int or verdict.rating not in ratings):
        raise Refused(400, f"A rating is a number from {LOWEST_RATING} to {HIGHEST_RATING}.")
    return verdict


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    value.encode()  # raises for a lone surrogate, which no file can store
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _plain_headers() -> dict[str, str]:
    return {**guard.HEADERS, "Content-Security-Policy": guard.FILE_POLICY, "Cache-Control": "no-store"}


def _json(request: web.Request, value: object, status: int = 200) -> web.Response:
    text = _text(value)
    response = web.Response(status=status, text=text, content_type="application/json", headers=_plain_headers())
    if len(text) > _LEAST_COMPRESSED_BYTES and request.remote not in {"127.0.0.1", "::1"}:
        response.enable_compression()
    return response
