"""Servers on loopback between this machine and a service: a proxy, and a TLS endpoint in front of a server."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"


@dataclass
class Passage:
    """A proxy for CONNECT requests and for absolute URLs. It connects to loopback ports, whatever host is requested.

    tunnel, plain: the ports for CONNECT and for absolute URLs. refuse: a status to answer instead.
    lines, headers: of the requests received.
    """

    tunnel: int = 0
    plain: int = 0
    refuse: int = 0
    port: int = 0
    lines: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Passage"]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().strip().split("\r\n")
        self.lines.append(line)
        self.headers.append(
            {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in fields)}
        )
        if self.refuse:
            writer.write(f"HTTP/1.1 {self.refuse} No\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()
            return
        is_tunnel = line.startswith("CONNECT")
        there, back = await asyncio.open_connection("127.0.0.1", self.tunnel if is_tunnel else self.plain)
        if is_tunnel:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            back.write(head)
        await _joined((reader, writer), (there, back))


@asynccontextmanager
async def tls(certificate: str, port: int = 0) -> AsyncIterator[int]:
    """Serve TLS with one of the test certificates, forward to the plain `port`, and yield the port's number."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    server = await asyncio.start_server(talk, "localhost", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _joined(*ends: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    (one, to_one), (other, to_other) = ends
    await asyncio.gather(_pump(one, to_other), _pump(other, to_one))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
