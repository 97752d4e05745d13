"""The stand-in without nginx: HTTP/1.1 on a bare asyncio protocol. instant_server.py PORT CLIP

It reads only the method, the path and the length of the body.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

_NUMBERS = itertools.count()
_RUN = os.urandom(4).hex()


def _reply(status: bytes, kind: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    return b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\nContent-Length: " + length + b"\r\n\r\n" + body


class _Client(asyncio.Protocol):
    def __init__(self, port: int, clip: bytes) -> None:
        url = f"http://127.0.0.1:{port}/clip.mp4"
        self._video = f'"status":"completed","video":{{"url":"{url}"}}}}'.encode()
        self._clip = _reply(b"200 OK", b"video/mp4", clip)
        self._log = _reply(b"200 OK", b"application/json", b'{"data":[]}')
        self._data = b""
        self._skip = 0  # bytes of a body that are still to come
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._skip:
            self._skip, data = max(0, self._skip - len(data)), data[self._skip :]
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head, self._data = self._data[:end], self._data[end + 4 :]
            first, _, fields = head.partition(b"\r\n")
            self._pass_over(fields.lower())
            self._transport.write(self._answer(first))

    def _pass_over(self, fields: bytes) -> None:
        at = fields.find(b"content-length:")
        if at >= 0:
            length = int(fields[at + 15 :].partition(b"\r\n")[0])
            self._skip, self._data = max(0, length - len(self._data)), self._data[length:]

    def _answer(self, first: bytes) -> bytes:
        if first.startswith(b"POST"):
            body = f'{{"id":"{_RUN}{next(_NUMBERS):08x}","status":"queued"}}'
            return _reply(b"201 Created", b"application/json", body.encode())
        if b" /clip.mp4 " in first:
            return self._clip
        if b" /v2/logs" in first:
            return self._log
        generation_id = first.partition(b"generation_id=")[2].partition(b" ")[0]
        return _reply(b"200 OK", b"application/json", b'{"id":"' + generation_id + b'",' + self._video)


async def main(port: int, clip: bytes) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Client(port, clip), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
