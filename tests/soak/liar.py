"""A proxy that lies: it forwards calls to the real sandbox and changes some of the answers.

It serves HTTP in its own thread, one call a connection. A seed selects the lies; the ledger behind it stays true.
`lies` counts them by name.
"""

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from types import TracebackType
from typing import Any, Self

Reply = tuple[int, dict[str, str], bytes]
_ANSWER_S = 30.0
_KEPT = ("Content-Type", "Retry-After", "ETag", "Accept-Ranges", "Content-Range", "x-inference-id")
_REFUSALS = ((500, "Internal server error"), (502, "Bad gateway"), (503, "Service unavailable"), (408, "Timeout"))
_FAILED = {"status": "error", "error": {"name": "Error", "message": "Something wrong with the server."}}


class Liar:
    """Falsifies a share `rate` of the answers. A context manager; `url` is its address."""

    def __init__(self, service_url: str, seed: int, rate: float = 0.3) -> None:
        self.lies: Counter[str] = Counter()
        self._service_url = service_url
        self._rng = Random(seed)
        self._rate = rate
        self._lock = threading.Lock()
        self._polls: dict[str, Reply] = {}  # the latest true one of each generation
        self._spared: set[str] = set()  # generations that were reported as failed, once each
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                liar._answer(self)

            def do_POST(self) -> None:
                liar._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="liar", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def be_honest(self) -> None:
        """Tell the truth from now on."""
        self._rate = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        reply = self._true(handler, body)
        with self._lock:
            status, headers, content = self._bent(handler.command, handler.path, reply)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        with suppress(ConnectionError):  # a killed run receives nothing more
            handler.end_headers()
            handler.wfile.write(content)

    def _true(self, handler: BaseHTTPRequestHandler, body: bytes) -> Reply:
        """Return the service's answer with the proxy's address in place of its own."""
        passed = {name: value for name, value in handler.headers.items() if name not in {"Host", "Connection"}}
        request = urllib.request.Request(self._service_url + handler.path, body or None, passed, method=handler.command)
        try:
            answer = urllib.request.urlopen(request, timeout=_ANSWER_S)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            headers = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
        if "json" in headers.get("Content-Type", ""):
            content = content.replace(self._service_url.encode(), self.url.encode())
        return answer.status, headers, content

    def _bent(self, method: str, path: str, reply: Reply) -> Reply:
        status = reply[0]
        if status != 200 or not path.startswith("/v2/") or self._rng.random() >= self._rate:
            if path.startswith("/v2/video/generations?") and status == 200:
                self._polls[path] = reply
            return reply
        lies = self._about_submissions() if method == "POST" else self._about_polls(path, reply)
        if path.startswith("/v2/logs") or not lies:
            return reply
        name = self._rng.choice(sorted(lies))
        bent = lies[name](reply)
        if bent is not reply:
            self.lies[name] += 1
        return bent

    def _about_submissions(self) -> dict[str, Callable[[Reply], Reply]]:
        code, message = self._rng.choice(_REFUSALS)
        content = json.dumps({"status": code, "message": message, "error": {"message": message}}).encode()
        refused: Reply = (code, {"Content-Type": "application/problem+json"}, content)
        return {"refused after accepting": lambda _: refused, "no id in a submission's reply": _without_id}

    def _about_polls(self, path: str, reply: Reply) -> dict[str, Callable[[Reply], Reply]]:
        others = [other for name, other in self._polls.items() if name != path]
        other = self._rng.choice(others) if others else None
        before = self._polls.get(path)
        lies: dict[str, Callable[[Reply], Reply]] = {"no id in a poll": _without_id}
        if other:
            lies["another generation's poll"] = lambda _: other
        if before:
            lies["an earlier poll again"] = lambda _: before
        if path not in self._spared:
            lies["failed, and then not"] = self._failed(path)
        return lies

    def _failed(self, path: str) -> Callable[[Reply], Reply]:
        def failed(reply: Reply) -> Reply:
            self._spared.add(path)
            answer: dict[str, Any] = json.loads(reply[2])
            return reply[0], reply[1], json.dumps({"id": answer["id"], **_FAILED}).encode()

        return failed


def _without_id(reply: Reply) -> Reply:
    answer = json.loads(reply[2])
    answer.pop("id", None)
    headers = {name: value for name, value in reply[1].items() if name != "x-inference-id"}
    return reply[0], headers, json.dumps(answer).encode()
