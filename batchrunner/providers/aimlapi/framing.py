"""Repair the head of an HTTP reply before the HTTP library parses it. Pure.

The library gives up on a reply for a fault in its head that does not matter here: Content-Length twice, a header field
that is very long or has no colon, too many fields. The reply may hold the id of a generation that is paid for. So only
the used fields are passed on. An invalid length is dropped; the body then ends with the connection.
"""

import re

MAX_HEAD_BYTES = 256 << 10  # a longer head is passed on unchanged
_END = re.compile(rb"\r?\n\r?\n")
_INFORMATIONAL = re.compile(rb"HTTP/1\.\d +1\d\d")
_WITHOUT_CONTROLS = bytes(0x20 if code != 0x09 and (code < 0x20 or code == 0x7F) else code for code in range(256))
_READ = {
    b"content-length",
    *(b"transfer-encoding", b"content-encoding", b"content-type", b"connection", b"retry-after", b"location", b"date"),
    *(b"x-inference-id", b"x-request-id", b"upgrade"),
    *(b"etag", b"x-aimlapi-credits-used", b"x-aimlapi-usd-spent"),
}


class Head:
    """Collects the head of one reply, and lets the bytes after it pass."""

    def __init__(self, max_field_bytes: int) -> None:
        self._max_field_bytes = max_field_bytes
        self._buffer = bytearray()
        self._passed = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what was received, and return what the library should parse now.

        The head and what follows it are separate pieces: a fault in one then takes nothing from the other.
        """
        if self._passed:
            return [data]
        searched = max(0, len(self._buffer) - 3)
        self._buffer += data
        ready = []
        while not self._passed and (end := _END.search(self._buffer, searched)):
            head = bytes(self._buffer[: end.end()])
            del self._buffer[: end.end()]
            searched = 0
            self._passed = not _INFORMATIONAL.match(head)
            ready.append(readable(head, self._max_field_bytes))
        if self._passed or len(self._buffer) > MAX_HEAD_BYTES:
            self._passed = True
            ready.append(self.remainder())
        return [piece for piece in ready if piece]

    def remainder(self) -> bytes:
        """Return the buffered bytes unchanged."""
        content = bytes(self._buffer)
        self._buffer.clear()
        return content


def readable(head: bytes, max_field_bytes: int) -> bytes:
    """Return the head reduced to the status line and the used fields. A head that is not HTTP is returned unchanged."""
    status, *lines = head.rstrip(b"\r\n").replace(b"\r\n", b"\n").split(b"\n")
    if not status.startswith(b"HTTP/"):
        return head
    lengths: set[bytes] = set()
    kept = [status]
    chunked = False
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if not colon or name not in _READ or len(line) > max_field_bytes:
            continue
        value = value.translate(_WITHOUT_CONTROLS).strip()
        if name == b"content-length":
            lengths.update(length.strip() for length in value.split(b","))
        else:
            chunked = chunked or name == b"transfer-encoding"
            kept.append(name + b": " + value)
    length = lengths.pop() if len(lengths) == 1 else b""
    if length.isdigit() and len(length) < 16 and not chunked:
        kept.append(b"content-length: " + length)
    return b"\r\n".join(kept) + b"\r\n\r\n"
