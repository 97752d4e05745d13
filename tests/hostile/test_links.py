"""Hostile download links and file hosts: their addresses, their replies, and how long they take."""

import asyncio
import gzip
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from batchrunner.errors import CallError, NetworkFault, ServiceFault
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer import downloader, url_guard
from batchrunner.transfer.downloader import Checks, Downloader, Fetched
from batchrunner.transfer.url_guard import Guard
from tests.conftest import Inline

KEY = "0123456789abcdef"
SERVICE = "https://api.example.com"
ATTACK = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Names(AbstractResolver):
    """A resolver with a fixed table. addresses: by name; asked: the names it was asked for, in order."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name.replace("_", "."): address.split() for name, address in addresses.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.addresses:
            raise OSError("no such host")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=0, flags=0,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in self.addresses[host]
        ]  # fmt: skip

    async def close(self) -> None: ...


def refused(guard: Guard, link: str) -> ServiceFault:
    """Return how `link` is refused: by itself, by its address, or by the addresses of its name."""

    async def main() -> None:
        url = guard.target(link)
        await guard.admit(url)
        await guard.resolve(url.host or "")

    with pytest.raises(ServiceFault) as caught:
        asyncio.run(main())
    assert caught.value.kind == "link_refused"
    return caught.value


def admitted(guard: Guard, link: str) -> list[str]:
    async def main() -> list[str]:
        url = guard.target(link)
        await guard.admit(url)
        return [found["host"] for found in await guard.resolve(url.host or "")]

    return asyncio.run(main())


PRIVATE = [
    "127.0.0.1", "127.255.0.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
    "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1", "::127.0.0.1", "::ffff:0:10.0.0.1",
    "2001:0:808:808:0:0:f5ff:fffe", "2001:0:a00:1:0:0:f7f7:f7f7", "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
    "fe80::5efe:8.8.8.8", "64:ff9b:1:a00:0:100:808:808", "64:ff9b:1:a00:0:100::", "64:ff9b::a9fe:a9fe",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "2002:101:101::",
    "64:ff9b::101:101",
    "64:ff9b:1::101:101",
    "::1.1.1.1",
    "::ffff:0:1.1.1.1",
    "2606:4700::5efe:1.1.1.1",
    "2001:0:808:808:0:0:f7f7:f7f7",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_as_literals_and_behind_a_name(address: str) -> None:
    assert not url_guard.public(ipaddress.ip_address(address))
    written = f"[{address}]" if ":" in address else address
    assert "private" in refused(Guard(SERVICE, Names(api_example_com="1.1.1.1")), f"https://{written}/v.mp4").message
    names = Names(cdn_example_com=address, api_example_com="1.1.1.1")
    assert "private" in refused(Guard(SERVICE, names), "https://cdn.example.com/v.mp4?sig=secret").message


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    names = Names(cdn_example_com=address)
    assert admitted(Guard(SERVICE, names), "https://cdn.example.com/v.mp4") == [address]
    assert names.asked == ["cdn.example.com"], "the service's own address is resolved only if it matters"


def test_only_the_public_addresses_of_a_mixed_name_are_used() -> None:
    names = Names(cdn_example_com="10.0.0.1 1.1.1.1 ::1", api_example_com="1.1.1.1")
    assert admitted(Guard(SERVICE, names), "https://cdn.example.com/v.mp4") == ["1.1.1.1"]


@pytest.mark.parametrize(
    "link",
    ["http://2130706433/", "http://0x7f000001/", "http://127.1/", "http://0177.0.0.1/", "http://127.0.0.1./",
     "http://0x7f.1/", "http://1.2.3.4.5/"],
)  # fmt: skip
def test_addresses_in_unusual_notation_are_refused(link: str) -> None:
    refused(Guard(SERVICE, Names(api_example_com="1.1.1.1")), link)


@pytest.mark.parametrize(
    ("service", "at_home"),
    [
        ("http://127.0.0.1:8765", True),
        ("http://localhost:8765/api", True),
        ("http://[::1]:8765", True),
        ("https://gateway.house", True),
        ("https://10.1.2.3", True),
        ("https://api.example.com", False),
        ("https://both.example.com", False),
        ("https://gone.example.com", False),
    ],
)
@pytest.mark.parametrize("link", ["http://127.0.0.1/v.mp4", "https://inner.example.com/v.mp4"])
def test_only_private_services_may_link_to_private_addresses(service: str, at_home: bool, link: str) -> None:
    names = Names(
        localhost="127.0.0.1 ::1",
        gateway_house="192.168.0.9",
        api_example_com="1.1.1.1",
        both_example_com="1.1.1.1 10.0.0.1",
        inner_example_com="10.0.0.7",
    )
    names.addresses["127.0.0.1"] = ["127.0.0.1"]
    guard = Guard(service, names)
    if at_home:
        assert admitted(guard, link)
    else:
        refused(guard, link)


@pytest.mark.parametrize(
    "link",
    ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://e.com/v.mp4", "data:video/mp4;base64,AAAA", "javascript:x",
     "unix:///run/x", "//e.com/v.mp4", "v.mp4", "", "http://", "https:///v.mp4", "http://[::1", "https://e.com:99999/",
     "https://\ud800/", "https://e\x00.com/", "http://" + "a" * 100_000],
    ids=lambda link: repr(link[:30]),
)  # fmt: skip
def test_links_that_are_not_web_addresses_are_refused(link: str) -> None:
    with pytest.raises(CallError) as caught:
        asyncio.run(_fetch_nothing(link))
    assert len(caught.value.message) < 400


async def _fetch_nothing(link: str, names: Names | None = None) -> None:
    guard = Guard(SERVICE, names or Names(api_example_com="1.1.1.1"))
    async with Downloader(Path("/nonexistent"), Inline(), Disk(), guard, Checks(Here(), Inline())) as clips:
        await clips.fetch(link, KEY)


@pytest.mark.parametrize("host", ["a" * 64 + ".com", "a..com", "xn--" + "a" * 300])
def test_unresolvable_names_are_a_network_fault(host: str) -> None:
    class Idna(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            host.encode("idna")  # as the system's resolver does first
            raise OSError("no such host")

    with pytest.raises(CallError) as caught:
        asyncio.run(_fetch_nothing(f"https://{host}/v.mp4?sig=secret", Idna()))
    assert "secret" not in caught.value.message
    assert isinstance(caught.value, NetworkFault | ServiceFault)


def test_https_is_never_redirected_to_http() -> None:
    """An attacker on the network could change the clip. Plain http from the start is the service's own choice."""
    guard = Guard(SERVICE)
    first = guard.target("https://cdn.example.com/v.mp4")
    assert guard.target("https://other.example.com/v", first).host == "other.example.com"
    assert guard.target("/elsewhere?x=1", first).path == "/elsewhere"
    plain = guard.target("http://cdn.example.com/v.mp4")
    assert guard.target("http://other.example.com/v", plain).scheme == "http"
    with pytest.raises(ServiceFault, match="https to plain http"):
        guard.target("http://cdn.example.com/v.mp4", first)


# Against real sockets


@dataclass
class Peer:
    """A file host on 127.0.0.1 and 127.0.0.2 that performs `attack`. seen: (address, request head), in order."""

    attack: Callable[["Peer", str, asyncio.StreamWriter], Awaitable[None]]
    port: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.seen.append((writer.get_extra_info("sockname")[0], head))
            await self.attack(self, head.split(" ")[1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
def fetch(tmp_path: Path, executor: Executor) -> Callable[..., Fetched]:
    partial_dir = tmp_path / "parts"
    partial_dir.mkdir()

    def run(peer: Peer, link: str = "http://127.0.0.1:{port}/v.mp4", guard: Guard | None = None) -> Fetched:
        async def main() -> Fetched:
            server = await asyncio.start_server(peer.talk, "127.0.0.1", 0)
            peer.port = server.sockets[0].getsockname()[1]
            other = await asyncio.start_server(peer.talk, "127.0.0.2", peer.port)
            url_guard = guard or Guard(f"http://127.0.0.1:{peer.port}")
            async with (
                server,
                other,
                Downloader(partial_dir, executor, Disk(), url_guard, Checks(Here(), executor)) as clips,
            ):
                return await clips.fetch(link.format(port=peer.port), KEY)

        return asyncio.run(main())

    return run


def failed(fetch: Callable[..., Fetched], *arguments: object) -> CallError:
    with pytest.raises(CallError) as caught:
        fetch(*arguments)
    return caught.value


def sends(head: str, body: bytes = b"") -> Callable[[Peer, str, asyncio.StreamWriter], Awaitable[None]]:
    async def attack(_: Peer, __: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()

    return attack


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://127.0.0.2:{port}/v.mp4", "http://inner.test:{port}/v.mp4", "http://[::1]:{port}/",
     "//127.0.0.2:{port}/x", "ftp://127.0.0.2/x", "http://", "http://\x80\xff/", "gopher://127.0.0.2:6379/_INFO",
     "http://2130706434:{port}/"],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused_before_connecting(
    fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch, status: int, location: str
) -> None:
    """127.0.0.1 stands for the internet here; every other address is private."""
    monkeypatch.setattr(url_guard, "is_public", lambda host: host == "127.0.0.1")
    names = Names(cdn_test="127.0.0.1", inner_test="127.0.0.2", api_example_com="127.0.0.1")

    async def attack(peer: Peer, _: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Go\r\nLocation: {location.format(port=peer.port)}\r\n\r\n".encode("latin-1"))

    peer = Peer(attack)
    fault = failed(fetch, peer, "http://cdn.test:{port}/v.mp4?sig=secret", Guard(SERVICE, names))
    assert isinstance(fault, ServiceFault | NetworkFault)
    assert "secret" not in fault.message
    assert {address for address, _ in peer.seen} == {"127.0.0.1"}


def test_a_name_that_resolves_differently_later_is_connected_to_the_checked_address(
    fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_guard, "is_public", lambda host: host == "127.0.0.1")

    class Rebinding(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await super().resolve(host, port, family)
            if host == "cdn.test":
                self.addresses[host] = ["127.0.0.2"]
            return found

    names = Rebinding(cdn_test="127.0.0.1", api_example_com="127.0.0.1")
    peer = Peer(sends("HTTP/1.1 200 OK\nContent-Length: 1\nConnection: close", b"x"))
    guard = Guard(SERVICE, names)
    assert failed(fetch, peer, "http://cdn.test:{port}/v.mp4", guard).kind == "bad_file"
    assert names.asked == ["cdn.test"], "resolved once: the checked address is the connected one"
    assert failed(fetch, peer, "http://cdn.test:{port}/v.mp4", guard).kind == "link_refused"
    assert [address for address, _ in peer.seen] == ["127.0.0.1"]


def test_a_redirects_target_gets_neither_the_key_nor_the_links_credentials(
    fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMLAPI_KEY", "sk-secret")

    async def attack(peer: Peer, path: str, writer: asyncio.StreamWriter) -> None:
        to = f"http://127.0.0.2:{peer.port}/next" if path == "/v.mp4" else "http://[broken"
        writer.write(f"HTTP/1.1 302 Go\r\nSet-Cookie: a=b\r\nLocation: {to}\r\n\r\n".encode())

    peer = Peer(attack)
    fault = failed(fetch, peer, "http://user:pass@127.0.0.1:{port}/v.mp4")
    assert "pass" not in fault.message
    (_, first), (address, second) = peer.seen
    assert address == "127.0.0.2"
    assert "authorization" not in second.lower()
    assert "cookie" not in second.lower()
    assert "referer" not in second.lower()
    assert "sk-secret" not in first + second


def drip(piece: bytes, start: bytes) -> Callable[[Peer, str, asyncio.StreamWriter], Awaitable[None]]:
    """Send `piece` again each time the reader has taken the last one: the stream never pauses and never ends."""

    async def attack(_: Peer, __: str, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)

    return attack


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (OK + b"Content-Length: 1000000000\r\nETag: \"v\"\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"\r\n", b"x"),
        (OK, b"X: y\r\n"),
        (OK + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"H"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;x=y\r\nx\r\n"),
    ],
    ids=["body", "chunks", "until the end", "headers", "a header", "continue", "status line", "chunk extensions"],
)  # fmt: skip
def test_an_endless_slow_stream_ends_at_the_total_time_limit(
    fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch, start: bytes, piece: bytes
) -> None:
    """A byte of the file every 50 s never counts as silence. The total limit is an hour; here it is 0.15 s."""
    assert downloader._LONGEST_S <= 3600.0
    monkeypatch.setattr(downloader, "_LONGEST_S", 0.15)
    monkeypatch.setattr(downloader, "_SILENCE_S", 0.05)
    fault = failed(fetch, Peer(drip(piece, start)))
    assert isinstance(fault, NetworkFault)


@pytest.mark.parametrize(
    ("head", "body", "kind"),
    [
        ("HTTP/1.1 200 OK\nContent-Length: 10000000000", b"x", "bad_file"),
        ("HTTP/1.1 200 OK\nContent-Length: " + "9" * 19, b"x", "bad_file"),
        ("HTTP/1.1 200 OK\nContent-Length: " + "9" * 5000, b"x", "cut"),
        ("HTTP/1.1 200 OK\nContent-Length: -5", b"x", "cut"),
        ("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6", b"xxxxxx", "cut"),
        ("HTTP/1.1 200 OK\nContent-Length: 50", b"short", "cut"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n", "cut"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFFFFF\r\nx", "cut"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"-1\r\nx", "cut"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 3", b"3\r\nabc\r\n0\r\n\r\n", "cut bad_file"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked", b"3\r\nabc\r\n0\r\n\r\n", "cut bad_file"),
        ("HTTP/1.1 200 OK\nX: " + "y" * 200_000, b"x", "cut"),
        ("HTTP/1.1 200 OK\n" + "X: y\n" * 100_000 + "Z: z", b"x", "cut"),
        ("HTTP/1.1 200 " + "y" * 200_000, b"x", "cut"),
        ("HTTP/9.9 200 OK", b"x", "cut bad_file"),
        ("\x16\x03\x01garbage", b"", "cut"),
        (
            "HTTP/1.1 200 OK\nContent-Encoding: gzip\nConnection: close",
            gzip.compress(bytes(1 << 20), mtime=0),
            "bad_file",
        ),
        ("HTTP/1.1 302 Go\nLocation: " + "x" * 100_000, b"", "cut"),
        ("HTTP/1.1 302 Go", b"", "download_refused"),
        ("HTTP/1.1 999 What", b"", "download_refused cut"),
    ],
    ids=lambda value: repr(value[:50]) if isinstance(value, str | bytes) else None,
)
def test_contradictory_or_malformed_replies_are_refused(
    fetch: Callable[..., Fetched], tmp_path: Path, head: str, body: bytes, kind: str
) -> None:
    fault = failed(fetch, Peer(sends(head, body)))
    assert fault.kind in kind.split()
    assert len(fault.message) < 1500
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) <= 1 << 20


def test_an_absurd_announced_size_is_refused_before_a_byte_is_stored(
    fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    async def attack(_: Peer, __: str, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 10000000000\r\n\r\n" + bytes(1 << 20))
        await writer.drain()

    fault = failed(fetch, Peer(attack))
    assert (type(fault), fault.kind) == (ServiceFault, "bad_file")
    assert "10000000000" in fault.message
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("etag", ['"\xff"', '"a\tb"', '"' + "x" * 7000 + '"', "\x80", '"é"'])
def test_an_etag_that_no_header_can_carry_does_not_block_the_clip(
    fetch: Callable[..., Fetched], clip: bytes, etag: str
) -> None:
    """The first reply ends after half a clip; the next attempt must be able to request the clip again."""
    cut = [True]

    async def attack(_: Peer, __: str, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {len(clip)}\r\n\r\n".encode("latin-1")
        writer.write(head + clip[: len(clip) // 2 if cut else None])
        await writer.drain()
        cut.clear()

    peer = Peer(attack)
    assert failed(fetch, peer).kind == "cut"
    assert fetch(peer).result.size_bytes == len(clip)
