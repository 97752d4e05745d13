"""Faults in which a service quotes a secret, by the places that a run writes to: no place contains it."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.test_cli import Shell

KEY = "sk/live/AbCdEf0123456789+xyz"
HOOK = "HOOKSECRET99"
PASSWORD = "hunter2hunter2"
# No usable fragment of the key may be left either.
NEEDLES = [KEY[:14], KEY[-14:], quote(KEY, safe="")[:16], base64.b64encode(KEY.encode()).decode()[:16], HOOK, PASSWORD]
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "bearer": lambda text: f"Bearer {text}",
    "percent": lambda text: quote(text, safe=""),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "every byte": lambda text: "".join(f"%{octet:02X}" for octet in text.encode()),
    "entities": lambda text: "".join(f"&#{ord(octet)};" for octet in text),
    "escapes": lambda text: "".join(f"\\u{ord(octet):04x}" for octet in text),
    "hex escapes": lambda text: "".join(f"\\x{ord(octet):02x}" for octet in text),
    "slashes": lambda text: text.replace("/", "\\/"),
    "basic": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "upper case": str.upper,
    "in a URL": lambda text: f"https://user:{PASSWORD}@e.com/{text}?sig={text}",
}


def head(status: int, body: bytes = b"", *lines: str) -> bytes:
    first = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(first).encode() + b"\r\n\r\n" + body


def answer(status: int, value: object, *lines: str) -> bytes:
    return head(status, json.dumps(value).encode(), "Content-Type: application/json", *lines)


def escaped(status: int, value: object) -> bytes:
    """Return JSON in which each character of a text is an escape."""
    text = json.dumps(value)
    return head(status, text.replace(KEY, "".join(f"\\u{ord(octet):04X}" for octet in KEY)).encode())


Quotation = Callable[[str], list[bytes]]  # a reply that contains a quotation: segments, sent one after the other
SUBMITTED: dict[str, Quotation] = {
    "refused": lambda said: [answer(422, {"message": f"bad key {said}"})],
    "refused, escaped": lambda said: [escaped(422, {"error": {"message": said, "name": said}})],
    "refused, by issue": lambda said: [answer(400, {"error": {"data": [{"path": [said], "message": said}]}})],
    "refused, in another encoding": lambda said: [head(400, json.dumps({"message": said}).encode("utf-16"))],
    "the key refused": lambda said: [answer(401, {"message": said, said: said})],
    "no JSON": lambda said: [head(500, f"<html>{said}</html>".encode())],
    "no id": lambda said: [answer(200, {"ok": said})],
    "an id": lambda said: [answer(200, {"id": said}, f"x-inference-id: {said}")],
    "moved": lambda said: [head(302, b"", f"Location: https://{said}/")],
    "asks for patience": lambda said: [answer(429, {"message": said}, f"Retry-After: {said}")],
    "a header that is none": lambda said: [f"HTTP/1.1 401 X\r\nX-Echo: {said}\0\r\n\r\n".encode()],
    "the same in two segments": lambda said: [
        f"HTTP/1.1 401 X\r\nX-Echo: {said[: len(said) // 2]}".encode(),
        f"{said[len(said) // 2 :]}\0\r\n\r\n".encode(),
    ],
    "no status line": lambda said: [f"{said}\r\n\r\n".encode()],
    "a status that is none": lambda said: [f"HTTP/1.1 {said} X\r\n\r\n".encode()],
    "a length that is none": lambda said: [f"HTTP/1.1 200 X\r\nContent-Length: {said}\r\n\r\n".encode()],
    "a chunk that is none": lambda said: [f"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n{said}\r\n".encode()],
}
POLLED: dict[str, Quotation] = {
    "failed": lambda said: [answer(200, {"status": "error", "error": {"message": said, "name": said}})],
    "failed, with a word": lambda said: [answer(200, {"status": "failed", "detail": [{"msg": said, "type": said}]})],
    "a status word": lambda said: [answer(200, {"status": said})],
    "a link to a host": lambda said: [
        answer(200, {"status": "completed", "video": {"url": f"https://{said}.e.com/x"}})
    ],
    "a link to a private host": lambda said: [answer(200, {"status": "completed", "video": f"http://10.0.0.1/{said}"})],
    "no reply": lambda said: [f"{said}\r\n\r\n".encode()],
}


@dataclass
class Quoting:
    """A service that quotes a secret in its replies to one kind of call and answers the others normally."""

    submitted: Quotation | None
    polled: Quotation | None
    url: str = ""
    posted: list[bytes] = field(default_factory=list)  # to the webhook

    def __post_init__(self) -> None:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="quoting")
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._up.set()
        await self._over.wait()
        server.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            for segment in self._answer(lines[0], body):
                writer.write(segment)
                await writer.drain()
                await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, line: str, body: bytes) -> list[bytes]:
        if HOOK in line:
            self.posted.append(body)
            return [head(200)]
        if line.startswith("POST"):
            form = json.loads(body)["video_url"].rpartition("/")[2].removesuffix(".mp4").replace("-", " ")
            said = FORMS[form](KEY)
            return [answer(200, {"id": form})] if self.submitted is None else self.submitted(said)
        if line.startswith("GET /v2/video"):
            form = line.partition("generation_id=")[2].partition(" ")[0].replace("%20", " ")
            if self.polled is not None and form in FORMS:
                return self.polled(FORMS[form](KEY))
        return [answer(404, {"message": f"no such thing, {KEY}"})]


FAULTS = [*(("submitted", name) for name in SUBMITTED), *(("polled", name) for name in POLLED)]


@pytest.fixture(params=FAULTS, ids=": ".join)
def service(request: pytest.FixtureRequest) -> Iterator[Quoting]:
    when, name = request.param
    service = Quoting(SUBMITTED[name] if when == "submitted" else None, POLLED[name] if when == "polled" else None)
    yield service
    service.close()


def manifest() -> str:
    names = (name.replace(" ", "-") for name in FORMS)
    jobs = [f'  - {{id: {name}, video: "https://e.com/{name}.mp4", image: "https://e.com/a.png"}}' for name in names]
    waits = "poll_interval: 20ms\noutage_wait: 50ms\naccount_wait: 50ms\nmax_runtime: 1s\n"
    return f"name: night\n{waits}jobs:\n" + "\n".join(jobs)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_place_contains_a_secret(
    service: Quoting, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, service.url, monkeypatch, capfd)
    monkeypatch.setenv("AIMLAPI_KEY", KEY)
    monkeypatch.setenv("OTHER_NAME", KEY)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("BATCHRUNNER_NOTIFY", f"{service.url}/T0/{HOOK}?x={HOOK}")
    (tmp_path / "night.yaml").write_text(manifest())
    ran = shell("run", "night.yaml", "--log-format", form)
    assert ran.status in {1, 3, 5}, ran.err
    places = {"standard output": ran.out.encode(), "standard error": ran.err.encode()}
    for arguments in (["status", "night.yaml"], ["status", "--json", "output/night"], ["report", "output/night"],
                  ["plan", "night.yaml"], ["plan", "--json", "night.yaml"], ["verify", "output/night"]):  # fmt: skip
        more = shell(*arguments)
        places[" ".join(arguments)] = (more.out + more.err).encode()
    places |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places |= {f"webhook {number}": body for number, body in enumerate(service.posted)}
    assert service.posted
    assert len(places) > 10
    needles = [needle.lower().encode() for needle in NEEDLES]
    assert [
        (place, needle) for place, content in places.items() for needle in needles if needle in content.lower()
    ] == []


@pytest.mark.parametrize("short", ["k", "abc", "secret7"])
def test_a_short_key_gives_a_warning_and_is_redacted_as_a_whole_word(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Quoting(lambda _: [answer(422, {"message": f"bad key '{short}'"})], None)
    try:
        shell = Shell(tmp_path, said.url, monkeypatch, capsys)
        monkeypatch.setenv("AIMLAPI_KEY", short)
        (tmp_path / "night.yaml").write_text(manifest())
        ran = shell("run", "night.yaml")
    finally:
        said.close()
    assert "AIMLAPI_KEY has fewer than 8 characters" in ran.err
    assert f"'{short}'" not in ran.err + (shell.run_dir / "report.json").read_text()


def test_an_invalid_setting_is_reported_without_the_secret_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, "http://127.0.0.1:9", monkeypatch, capsys)
    monkeypatch.setenv("AIMLAPI_KEY", KEY)
    monkeypatch.setenv("BATCHRUNNER_CONCURRENCY", KEY)
    for arguments in (["plan", "night.yaml"], ["plan", KEY], ["plan", f"--{KEY}"]):
        ran = shell(*arguments)
        assert ran.status == 2
        assert KEY not in ran.out + ran.err
