"""Connections to the service and to file hosts: untrusted certificates, and proxies that forward or refuse."""

import asyncio
import base64
import errno
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey

from batchrunner import sandbox
from batchrunner.app import webhook
from batchrunner.clock import LoopClock
from batchrunner.engine.circuit_breaker import LASTING
from batchrunner.errors import CallError, NetworkFault, ServiceFault, UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.net import certificates
from batchrunner.net.connections import unreachable_text
from batchrunner.net.proxies import Proxies, read_proxies
from batchrunner.providers.aimlapi.client import ApiClient
from batchrunner.providers.endpoint import Endpoint
from batchrunner.redaction import Redactor
from batchrunner.sandbox import SandboxConfig
from batchrunner.sandbox.server import Sandbox
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.url_guard import Guard
from tests.conftest import make_job
from tests.loopback import CERTIFICATES, Passage, tls
from tests.soak.processes import call, execute

KEY = "0123456789abcdef"
SECRET = "hunter2-hunter2-hunter2"


async def submitted(base_url: str, executor: Executor, proxies: Proxies | None = None) -> CallError:
    async with ApiClient(
        Endpoint(base_url, SECRET, Redactor([SECRET])), LoopClock(), executor, proxies=proxies
    ) as client:
        with pytest.raises(CallError) as caught:
            await client.submit(make_job(), "run.1")
        with pytest.raises(CallError) as polled:
            await client.status("gen")
    assert polled.value.kind == caught.value.kind
    return caught.value


async def fetched(url: str, folder: Path, executor: Executor, proxies: Proxies | None = None) -> Path:
    guard = Guard("https://api.example.com" if proxies else url, proxies=proxies)
    async with Downloader(folder, executor, Disk(), guard, Checks(Here(), executor)) as clips:
        return (await clips.fetch(url, KEY)).path


@pytest.mark.parametrize(
    ("certificate", "why", "hint"),
    [
        ("localhost", "self-signed", "If you trust this network"),
        ("wrong-host", "self-signed", "If you trust this network"),
        ("expired", "", "SSL_CERT_FILE"),
    ],
)
def test_an_untrusted_certificate_names_host_and_variable(
    executor: Executor, tmp_path: Path, certificate: str, why: str, hint: str
) -> None:
    async def main() -> None:
        async with tls(certificate) as port:
            fault = await submitted(f"https://localhost:{port}", executor)
            assert (type(fault), fault.kind, fault.in_doubt) == (NetworkFault, "certificate", False)
            assert fault.kind in LASTING
            with pytest.raises(NetworkFault) as caught:
                await fetched(f"https://localhost:{port}/a.mp4", tmp_path, executor)
            assert caught.value.kind == "link_certificate"
            for error in (fault, caught.value):
                assert "the certificate of localhost is not trusted" in error.message
                assert why in error.message
                assert "SSL_CERT_FILE" in error.message
                assert hint in error.hint

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("certificate has expired", "Check the clock"),
        ("certificate is not yet valid", "Check the clock"),
        ("Hostname mismatch, certificate is not valid for 'api.example.com'.", "Check the address"),
        ("IP address mismatch, certificate is not valid for '10.0.0.1'.", "Check the address"),
    ],
)
def test_the_hint_follows_from_the_cause(reason: str, hint: str) -> None:
    fault = certificates.not_trusted(ValueError(reason), "api.example.com", "certificate")
    assert hint in fault.hint
    assert "SSL_CERT_FILE" in fault.hint


def test_a_file_without_certificates_is_refused_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("none")
    for name in ("empty.pem", "missing.pem", ""):
        with pytest.raises(UsageError, match="SSL_CERT_FILE cannot be used"):
            certificates.check({"SSL_CERT_FILE": str(tmp_path / name)})
    certificates.check({"SSL_CERT_FILE": str(CERTIFICATES / "localhost.pem")})
    certificates.check({"SSL_CERT_FILE": ""})
    certificates.check({})


@pytest.mark.parametrize(
    ("status", "kind"), [(407, "proxy_refused"), (403, "proxy_refused"), (502, "no_connection"), (503, "no_connection")]
)
def test_a_refusing_proxy_leaves_nothing_in_doubt(executor: Executor, status: int, kind: str) -> None:
    async def main() -> None:
        async with Passage(refuse=status).open() as passage:
            proxies = read_proxies({"HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:{passage.port}"})
            fault = await submitted("https://service.test", executor, proxies)
            assert (type(fault), fault.kind, fault.in_doubt) == (NetworkFault, kind, False)
            assert f"the proxy 127.0.0.1:{passage.port} gives no way to service.test" in fault.message
            assert SECRET not in fault.message + fault.hint
            assert passage.lines == ["CONNECT service.test:443 HTTP/1.1"] * 2
            for headers in passage.headers:
                assert headers["proxy-authorization"] == basic(f"user:{SECRET}")
                assert "authorization" not in headers

    asyncio.run(main())


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def test_an_unreachable_proxy_is_named_without_its_password(executor: Executor) -> None:
    proxies = read_proxies({"HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:1"})
    fault = asyncio.run(submitted("https://service.test", executor, proxies))
    assert (type(fault), fault.kind) == (NetworkFault, "no_connection")
    assert "the proxy 127.0.0.1:1 could not be reached" in fault.message
    assert SECRET not in fault.message


@pytest.fixture
def served(clip: bytes) -> Callable[[Callable[[int, list[web.Request]], Awaitable[None]]], None]:
    """Run a scenario with the port of a plain file host and the requests that it received."""

    def run(scenario: Callable[[int, list[web.Request]], Awaitable[None]]) -> None:
        seen: list[web.Request] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            seen.append(request)
            await request.read()
            return web.Response(body=clip)

        async def main() -> None:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, shutdown_timeout=0.01)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                await scenario(runner.addresses[0][1], seen)
            finally:
                await runner.cleanup()

        asyncio.run(main())

    return run


def test_a_download_passes_through_the_proxy_unchanged(
    served: Any, executor: Executor, tmp_path: Path, clip: bytes
) -> None:
    async def scenario(port: int, seen: list[web.Request]) -> None:
        async with Passage(plain=port).open() as passage:
            proxies = read_proxies({"HTTP_PROXY": f"http://user:{SECRET}@127.0.0.1:{passage.port}"})
            path = await fetched("http://files.test/a%2fb(c)/../d?e=%7e+", tmp_path, executor, proxies)
            assert path.read_bytes() == clip
            assert passage.lines == ["GET http://files.test/a%2fb(c)/../d?e=%7e+ HTTP/1.1"]
            assert passage.headers[0]["proxy-authorization"] == basic(f"user:{SECRET}")
            assert "authorization" not in passage.headers[0]

    served(scenario)


@pytest.mark.parametrize(
    "link",
    [
        "http://10.0.0.1/a",
        "http://[fd00::1]/a",
        "http://intranet/a",
        "http://metadata.google.internal/",
        "http://a.LAN./",
    ],
)
def test_behind_a_proxy_private_names_and_addresses_are_refused(executor: Executor, tmp_path: Path, link: str) -> None:
    async def main() -> None:
        async with Passage(refuse=500).open() as passage:
            proxies = read_proxies({"ALL_PROXY": f"http://127.0.0.1:{passage.port}"})
            with pytest.raises(ServiceFault) as caught:
                await fetched(link, tmp_path, executor, proxies)
            assert caught.value.kind == "link_refused"
            assert passage.lines == []

    asyncio.run(main())


def test_a_file_host_that_the_proxy_refuses_fails_only_its_download(executor: Executor, tmp_path: Path) -> None:
    async def main() -> None:
        async with Passage(refuse=403).open() as passage:
            proxies = read_proxies({"ALL_PROXY": f"http://127.0.0.1:{passage.port}"})
            with pytest.raises(NetworkFault) as caught:
                await fetched("https://files.test/a.mp4", tmp_path, executor, proxies)
            assert caught.value.kind == "link_proxy"

    asyncio.run(main())


def test_a_webhook_uses_the_proxy(served: Any) -> None:
    async def scenario(port: int, seen: list[web.Request]) -> None:
        async with Passage(refuse=407).open() as passage:
            proxies = read_proxies({"HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:{passage.port}"})
            complaint = await webhook.post("https://hooks.test/secret", {"exit_status": 0}, proxies)
            assert passage.lines == ["CONNECT hooks.test:443 HTTP/1.1"]
            assert complaint is not None
            assert "answered 407" in complaint
            assert SECRET not in complaint
            around = read_proxies({"HTTPS_PROXY": f"http://127.0.0.1:{passage.port}"})
            assert await webhook.post(f"http://127.0.0.1:{port}/", {"exit_status": 0}, around) is None
            assert len(seen) == 1

    served(scenario)


MANIFEST = "- {id: a, video: https://example.com/walk.mp4, image: https://example.com/hero.png}"


async def command(folder: Path, environment: dict[str, str], *options: str) -> tuple[int, str]:
    """Run the batch in a separate process. With SSL_CERT_FILE, which a process reads when it starts, it is executed."""
    (folder / "one.yaml").write_text(MANIFEST)
    run = execute if "SSL_CERT_FILE" in environment else call
    arguments = ["run", "one.yaml", "--no-progress", "--poll-interval", "200ms", *options]
    no_proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    variables = {"AIMLAPI_KEY": SECRET, "BATCHRUNNER_STATE": str(folder / "state"), **no_proxies, **environment}
    done = await asyncio.to_thread(run, *arguments, cwd=folder, **variables)
    return done.returncode, done.stdout + done.stderr


def test_a_whole_batch_runs_behind_a_proxy_that_resolves_the_names(tmp_path: Path) -> None:
    config = SandboxConfig(seed=1, queue_wait_s=0.0, duration_s=0.2, spread=0.0, render="stub")

    async def main(service: Sandbox) -> None:
        async with tls("localhost", service.port) as port, Passage(tunnel=port, plain=service.port).open() as passage:
            environment = {
                "AIMLAPI_BASE_URL": "https://service.test/v2",
                "SSL_CERT_FILE": str(CERTIFICATES / "localhost.pem"),
                "ALL_PROXY": f"http://user:{SECRET}@127.0.0.1:{passage.port}",
            }
            status, output = await command(tmp_path, environment)
        assert status == 0, output
        assert f"service.test is reached through the proxy 127.0.0.1:{passage.port}" in output
        assert "CONNECT service.test:443 HTTP/1.1" in passage.lines
        assert sum(line.startswith("GET http://service.test/files/") for line in passage.lines) == 1
        assert SECRET not in output

    async def served() -> list[dict[str, Any]]:
        service = await sandbox.start(config)
        try:
            await main(service)
        finally:
            await service.close()
        return service.ledger()

    assert not [event for event in asyncio.run(served()) if event["event"] == "leak"]
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [error for error in stored if SECRET.encode() in error]


def test_a_batch_with_an_untrusted_certificate_ends_soon_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with tls("localhost") as port:
            status, output = await command(tmp_path, {"AIMLAPI_BASE_URL": f"https://localhost:{port}"})
        assert status == 5
        assert "stopping: the certificate of localhost is not trusted" in output
        assert "SSL_CERT_FILE" in output
        report = json.loads((tmp_path / "output/one/report.json").read_text())
        assert report["totals"]["pending"] == 1
        assert report["totals"]["generations"] == 0
        assert len(report["jobs"][0]["attempts"]) == 2, "one more attempt, and no more"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ALL_PROXY": f"socks5://user:{SECRET}@127.0.0.1:1"}, "ALL_PROXY names a SOCKS proxy"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE cannot be used"),
    ],
)
def test_an_unusable_setting_is_reported_before_the_run(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    status, output = asyncio.run(command(tmp_path, environment))
    assert status == 2
    assert message in output
    assert SECRET not in output
    assert not (tmp_path / "output").exists()
    (tmp_path / "tiny.yaml").write_text("service: {render: tiny}")
    assert asyncio.run(command(tmp_path, environment, "--provider", "sandbox", "--faults", "tiny.yaml"))[0] == 0


def connector_error(cause: OSError, host: str = "api.test") -> aiohttp.ClientConnectorError:
    key = ConnectionKey(host, 443, True, True, None, None, None)
    return aiohttp.ClientConnectorError(key, cause)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (connector_error(ConnectionRefusedError(111, "Connect call failed")), "api.test:443 refused the connection"),
        (connector_error(ConnectionRefusedError(111, "x"), "::1"), "[::1]:443 refused the connection"),
        (connector_error(OSError("Multiple exceptions: [Errno 111] a, [Errno 101] b")), "api.test:443 refused"),
        (connector_error(OSError(errno.ENETUNREACH, "x")), "this machine has no route to api.test:443"),
        (connector_error(ConnectionResetError(104, "x")), "api.test:443 closed the connection at once"),
        (connector_error(OSError(errno.EACCES, "Permission denied")), "no connection to api.test:443: Permission"),
        (connector_error(OSError("odd")), "no connection to api.test:443"),
        (connector_error(socket.gaierror(-2, "Name or service not known")), "the name api.test has no address"),
        (aiohttp.ConnectionTimeoutError("Connection timeout to host https://u:p@api.test/v2?k=1"), "api.test did not"),
        (aiohttp.InvalidURL("https://"), "the address is not valid"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
    ],
)
def test_a_missing_connection_is_described_in_plain_words(error: Exception, text: str) -> None:
    shown = unreachable_text(error)
    assert shown.startswith(text)
    assert not re.search(r"ssl:|Connect call|u:p|k=1|Errno", shown)


def test_a_refused_submission_names_host_port_and_the_next_step(executor: Executor) -> None:
    fault = asyncio.run(submitted("http://127.0.0.1:1", executor, Proxies()))
    assert (type(fault), fault.kind, fault.in_doubt) == (NetworkFault, "no_connection", False)
    assert fault.message.startswith("the service could not be reached: 127.0.0.1:1 refused the connection")
    assert fault.hint.startswith("No request was sent, so nothing was paid.")
