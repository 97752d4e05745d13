"""A whole run against a service that leaks secrets and control codes: none of them is left anywhere."""

import asyncio
import html
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.test_cli import KEY, Shell

SECRETS = ["INPUTSECRET", "LINKSECRET", "hunter2", KEY]
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egpj.exe\r\nroot# <script>alert(1)</script><img src=x onerror=a()>\ud800\x00"
MANIFEST = """
name: night
poll_interval: 20ms
jobs:
  - {id: refused, video: "https://e.com/a.mp4?sig=INPUTSECRET", image: "https://e.com/a.png?sig=INPUTSECRET"}
  - {id: spoiled, video: "https://e.com/b.mp4?sig=INPUTSECRET", image: "https://e.com/b.png#INPUTSECRET"}
  - {id: done, video: "https://e.com/c.mp4?sig=INPUTSECRET", image: "https://e.com/c.png"}
"""


class Blabber:
    """Refuses the first job, fails the second, and delivers the third by a link with credentials and a redirect."""

    def __init__(self, clip: bytes) -> None:
        self.clip = clip
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="blabber")
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._up.set()
        await self._over.wait()
        await runner.cleanup()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.heads.append((request.path, dict(request.headers)))
        if request.method == "POST":
            job = await request.json()
            return self._submitted(job["video_url"])
        if request.path == "/clip.mp4":
            raise web.HTTPFound(f"{self.url}/moved.mp4?sig=LINKSECRET")
        if request.path == "/moved.mp4":
            return web.Response(body=self.clip)
        if request.path.startswith("/v2/video"):
            return self._seen(request.query.get("generation_id", ""))
        return web.json_response({"message": "no"}, status=404)

    def _said(self, url: str) -> str:
        return f"cannot fetch {url} for key {KEY}: https://user:hunter2@e.com/x {EVIL}"

    def _submitted(self, url: str) -> web.Response:
        if "/a.mp4" in url:
            return web.json_response({"message": self._said(url)}, status=422)
        return web.json_response({"id": f"gen{EVIL.replace(chr(0xD800), '')}:{url[14]}", "status": "queued"})

    def _seen(self, generation_id: str) -> web.Response:
        if generation_id.endswith(":b"):
            error = {"name": f"kind{EVIL}", "message": self._said("https://e.com/b.mp4?sig=INPUTSECRET")}
            return web.json_response({"status": "error", "error": error})
        if generation_id.endswith(":c"):
            host = self.url.removeprefix("http://")
            link = f"http://user:hunter2@{host}/clip.mp4?sig=LINKSECRET"
            return web.json_response({"status": "completed", "video": {"url": link}})
        return web.json_response({"message": EVIL}, status=404)


@pytest.fixture(scope="module")
def blabber(clip: bytes) -> Iterator[Blabber]:
    service = Blabber(clip)
    yield service
    service.close()


@pytest.fixture
def ran(tmp_path: Path, blabber: Blabber, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    shell = Shell(tmp_path, blabber.url, monkeypatch, capsys)
    (tmp_path / "night.yaml").write_text(MANIFEST)
    done = shell("run", "night.yaml")
    assert done.status == 1, done.err
    clean(done.out + done.err)
    return shell


def clean(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)


def test_a_run_leaves_no_secret_and_no_control_code(ran: Shell, blabber: Blabber) -> None:
    assert (ran.run_dir / "done.mp4").read_bytes() == blabber.clip
    files = [path for path in ran.run_dir.rglob("*") if path.is_file()]
    assert {"journal.db", "report.json", "report.html"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert [secret for secret in SECRETS if secret.encode() in content] == [], path
    for arguments in (["plan", "night.yaml"], ["status", "night.yaml"], ["status", "output/night"],
                      ["report", "output/night"], ["verify", "output/night"], ["status", "--json", "night.yaml"],
                      ["plan", "--json", "night.yaml"], ["validate", "night.yaml"]):  # fmt: skip
        result = ran(*arguments)
        assert [secret for secret in SECRETS if secret in result.out + result.err] == []
        if "--json" not in arguments:
            clean(result.out + result.err)
    page = (ran.run_dir / "report.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "\\x1b[2J" in html.unescape(page)
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\x00"} & set(page)


def test_only_the_service_received_the_key(ran: Shell, blabber: Blabber) -> None:
    assert ran.run_dir.exists()
    for path, headers in blabber.heads:
        assert (headers.get("Authorization") == f"Bearer {KEY}") == path.startswith("/v2/")
        assert KEY not in "".join(value for name, value in headers.items() if name != "Authorization")
