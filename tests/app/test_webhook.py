"""The webhook's summary: its allowed addresses, its content, and the secrecy of its address."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web

from batchrunner.app import webhook as notify
from batchrunner.errors import Problem, UsageError
from batchrunner.events import Event, Noticed
from batchrunner.job import Snapshot, State
from batchrunner.report import writer
from tests.conftest import MEDIA, NOW, ROOT, make_entries, make_record, make_run, result_of
from tests.soak.processes import call

SECRET = "T0K3N-in-the-path"
FOLDER = Path("output/night")


def make_report(*, failed: int = 2, message: str = "no face", **run: Any) -> dict[str, Any]:
    names = [f"job{number}" for number in range(failed + 1)]
    problem = Problem("face_detection", message, "Use another image.")
    records = [make_record(names[0], State.SUCCEEDED, result=result_of(b"x"))]
    records += [make_record(name, State.FAILED, 1, error=problem) for name in names[1:]]
    ended = {"finished_at": NOW + 60, "exit_status": int(failed > 0)} | run
    snapshot = Snapshot(
        replace(make_run(), **ended), make_entries(*names), {record.job.fingerprint: record for record in records}
    )
    return writer.build(snapshot, "0.1.0")


@pytest.mark.parametrize(
    "url",
    [
        f"http://example.com/{SECRET}",
        f"http://127.0.0.1.example.com/{SECRET}",
        f"http://10.0.0.1/{SECRET}",
        f"ftp://example.com/{SECRET}",
        f"file:///etc/{SECRET}",
        f"https:///{SECRET}",
        f"https://example.com:port/{SECRET}",
        f"https://[::1/{SECRET}",
        f"https://example.com/{SECRET}\n",
        f"https://example.com/ {SECRET}",
        SECRET,
    ],
)
def test_a_forbidden_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        notify.check(url)
    assert SECRET not in caught.value.message + caught.value.hint
    assert "Nothing was submitted" in caught.value.hint


@pytest.mark.parametrize(
    "url", [None, "https://example.com/x", "http://localhost:8080/x", "http://127.0.0.1/x", "http://[::1]:9/{status}"]
)
def test_https_and_this_machine_are_allowed(url: str | None) -> None:
    notify.check(url)


def test_the_body_has_the_result_and_the_next_command() -> None:
    body = notify.body(make_report(failed=7), FOLDER)
    assert body["text"].splitlines() == [
        "night: 1 of 8 jobs succeeded in 1 min 0 s, 7 failed; 1 byte, 1 generation.",
        "7 failed: no face",
        "Report: output/night/report.html",
        "Next: The same request would fail again. Change the job first.",
    ]
    assert (body["ok"], body["exit_status"], body["name"], body["run_dir"]) == (False, 1, "night", "output/night")
    assert body["totals"]["failed"] == 7
    assert body["causes"] == [
        {
            "state": "failed",
            "kind": "face_detection",
            "message": "no face",
            "count": 7,
            "jobs": ["job1", "job2", "job3", "job4", "job5"],
        }
    ]
    json.dumps(body, allow_nan=False)


def test_a_successful_run_is_one_line() -> None:
    body = notify.body(make_report(failed=0), FOLDER)
    assert body["text"] == "night: 1 of 1 job succeeded in 1 min 0 s; 1 byte, 1 generation."
    assert body["ok"] is True


def test_text_from_the_service_mentions_nobody() -> None:
    body = notify.body(make_report(message="<!channel> & <https://evil.example|click>"), FOLDER)
    assert "<" not in body["text"]
    assert "&lt;!channel&gt; &amp; " in body["text"]
    assert len(notify.body(make_report(message="x" * 9999), FOLDER)["text"]) < 1000
    mentions = "@channel @here: @U123 x@everyone <@U123> <!here> (@team) mail me@example.com"
    text = notify.body(make_report(message=mentions), FOLDER)["text"]
    assert not re.search(r"@(channel|here|U123|everyone|team)", text)
    assert "me@example.com" in text
    assert "<" not in text


def test_the_page_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text("utf-8").partition("<!-- body -->")[2]
    documented = {field.strip(" `") for line in page.splitlines()[4:] for field in line.split("|")[1].split(",")}
    assert documented == set(notify.body(make_report(), FOLDER))


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def posted(reply: Reply, path: str = f"/{SECRET}", **more: Any) -> tuple[list[tuple[str, Any]], list[Event]]:
    """Post a summary; return the requests that the receiver got (path and body) and the announced events."""
    got: list[tuple[str, Any]] = []
    announced: list[Event] = []

    async def receive(request: web.Request) -> web.StreamResponse:
        got.append((request.path, await request.json()))
        assert request.content_type == "application/json"
        return await reply(request)

    async def exchange() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", receive)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await notify.notify(f"http://127.0.0.1:{port}{path}", make_report(**more), FOLDER, announced.append)
        await runner.cleanup()

    asyncio.run(exchange())
    return got, announced


async def fine(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


def test_the_summary_is_posted() -> None:
    got, announced = posted(fine)
    assert got == [(f"/{SECRET}", notify.body(make_report(), FOLDER))]
    assert announced == []


def test_the_exit_status_replaces_its_placeholder_in_the_address() -> None:
    assert posted(fine, "/ping/{status}")[0][0][0] == "/ping/1"
    assert posted(fine, "/ping/{status}", failed=0)[0][0][0] == "/ping/0"
    assert posted(fine, "/ping/{status}", exit_status=130)[0][0][0] == "/ping/130"


def policy_for(announced: list[Event]) -> str:
    (event,) = announced
    assert isinstance(event, Noticed)
    assert SECRET not in event.message
    assert event.at == NOW + 60
    return event.message


def test_a_refusal_of_the_receiver_is_one_line() -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text=SECRET)

    assert policy_for(posted(refuse)[1]) == "the summary was not posted: the webhook at 127.0.0.1 answered 500"


def test_redirects_are_not_followed() -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    got, announced = posted(elsewhere)
    assert len(got) == 1
    assert "answered 307, a redirect, which is not followed" in policy_for(announced)


def test_the_wait_for_the_receiver_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_WITHIN_S", 0.1)
    announced: list[Event] = []

    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel accepts the connection, and nobody answers
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/{SECRET}"
        asyncio.run(notify.notify(url, make_report(), FOLDER, announced.append))
    assert "did not answer within" in policy_for(announced)


def test_an_unreachable_receiver_is_one_line() -> None:
    announced: list[Event] = []
    asyncio.run(notify.notify(f"http://127.0.0.1:1/{SECRET}", make_report(), FOLDER, announced.append))
    assert "could not be reached: 127.0.0.1:1 refused the connection" in policy_for(announced)


def test_without_a_webhook_nothing_is_posted() -> None:
    asyncio.run(notify.notify(None, {}, FOLDER, lambda _: None))


# The whole command


class Receiver(BaseHTTPRequestHandler):
    got: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self) -> None:
        self.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


@pytest.fixture
def webhook() -> Iterator[str]:
    Receiver.got.clear()
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{SECRET}/{{status}}"
    server.shutdown()
    thread.join()
    server.server_close()


def batch(folder: Path, duration: str) -> list[str]:
    (folder / "night.yaml").write_text(
        f"provider: sandbox\njobs: [{{video: {MEDIA}/bunny.mp4, image: {MEDIA}/hopper.jpg}}]\n"
    )
    (folder / "faults.yaml").write_text(f"service: {{duration: {duration}, spread: 0, render: tiny}}\n")
    return ["run", "night.yaml", "--fast", "--faults", "faults.yaml"]


def assert_untold(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in "".join(texts)


def test_a_run_posts_its_summary_and_never_prints_the_address(tmp_path: Path, webhook: str) -> None:
    done = call(*batch(tmp_path, "10s"), "--quiet", "--notify", webhook, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "exit 0 prints nothing"
    ((path, body),) = Receiver.got
    assert path == f"/{SECRET}/0"
    assert (body["ok"], body["totals"]["succeeded"]) == (True, 1)
    assert_untold(tmp_path)


def test_an_address_with_the_event_gets_start_and_success(tmp_path: Path, webhook: str) -> None:
    address = webhook.replace("{status}", "{event}")
    done = call(*batch(tmp_path, "10s"), "--quiet", "--notify", address, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (start_path, start), (end_path, end) = Receiver.got
    assert [start_path, end_path] == [f"/{SECRET}/start", f"/{SECRET}/success"]
    assert (start["event"], start["name"], start["run_id"]) == ("start", "night", end["run_id"])
    assert start["text"] == "night: started"
    assert_untold(tmp_path)


@pytest.mark.parametrize(
    ("status", "event"),
    [(0, "success"), (3, "success"), (1, "failure"), (5, "failure"), (130, "failure"), (143, "failure")],
)
def test_the_event_of_a_run_that_has_ended(status: int, event: str) -> None:
    assert notify.event_of(status) == event


def test_an_interrupted_run_posts_its_summary(tmp_path: Path, webhook: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHRUNNER_NOTIFY": webhook}
    code = [
        sys.executable,
        "-c",
        "from batchrunner.cli import main; main()",
        *batch(tmp_path, "20h"),
        "--log-format",
        "json",
    ]
    with subprocess.Popen(code, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        lines = [next(running.stderr)]
        while json.loads(lines[-1]).get("move") != "accept":
            lines.append(next(running.stderr))
        running.terminate()
        lines += running.stderr.readlines()
    assert running.returncode == 143
    ((path, body),) = Receiver.got
    assert (path, body["exit_status"], body["ok"]) == (f"/{SECRET}/143", 143, False)
    assert "Next: batchrunner run night.yaml" in body["text"]
    assert_untold(tmp_path, *lines)


def test_a_forbidden_webhook_is_a_usage_error_before_the_run(tmp_path: Path) -> None:
    done = call(*batch(tmp_path, "10s"), "--notify", f"http://example.com/{SECRET}", cwd=tmp_path)
    assert done.returncode == 2
    assert_untold(tmp_path, done.stdout, done.stderr)
    assert not (tmp_path / "output").exists()
