"""Repair the head of an HTTP reply before the HTTP library parses it. Pure.

The library gives up on a reply for a fault in its head that does not matter here: Content-Length twice, a header field
that is very long or has no colon, too many fields. The reply may hold the id of a generation that is paid for. So only
the used fields are passed on. An invalid length is dropped; the body then ends with the connection.
"""

import re

MAX_HEAD_BYTES = 256 << 10  # a longer head is passed on unchanged
_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.\d +(\d\d\d)")
_WITHOUT_BODY = {b"204", b"304"}
_WITHOUT_CONTROLS = bytes(
    0x20 if code not in b"\t\n" and (code < 0x20 or code == 0x7F) else code for code in range(256)
)
_USED = (
    *(b"transfer-encoding", b"content-encoding", b"content-type", b"connection", b"retry-after", b"location", b"date"),
    *(b"x-inference-id", b"x-request-id", b"upgrade"),
    *(b"etag", b"x-aimlapi-credits-used", b"x-aimlapi-usd-spent"),
)
# A pattern that begins with a line feed is searched much faster than one that begins with ``^``.
# The value of a field without the blanks around it. Nothing in it is tried twice, so the search takes linear time.
_VALUE = rb"[ \t]*+:[ \t]*+((?:[^ \t\n]++|[ \t]++(?!$))*+)"
_FIELD = re.compile(rb"\n(%b)%b" % (b"|".join(_USED), _VALUE), re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"\ncontent-length%b" % _VALUE, re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"\ntransfer-encoding[ \t]*+:", re.IGNORECASE)
_SAME_LENGTH = re.compile(rb"(\d{1,15})(?:[ \t]*+,[ \t]*+\1)*+")  # once or more often


class Head:
    """Collects the head of one reply, and lets the bytes after it pass."""

    def __init__(self, max_field_bytes: int) -> None:
        self._max_field_bytes = max_field_bytes
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer in which no end of a head begins
        self._passed = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what was received, and return what the library should parse now.

        The head and what follows it are separate pieces: a fault in one then takes nothing from the other. Only a
        complete reply is one piece, as nothing follows it.
        """
        if self._passed:
            return [data]
        self._buffer += data
        heads: list[bytes] = []
        while found := _END.search(self._buffer, self._searched):
            end = found.end()
            heads += [readable(bytes(self._buffer[:end]), self._max_field_bytes)]
            del self._buffer[:end]
            self._searched = 0
            status = _STATUS.match(heads[-1])
            if status is None or status[1][:1] != b"1":
                self._passed = True
                return _with_body(heads, status[1] if status else b"", self.remainder())
        self._passed = len(self._buffer) > MAX_HEAD_BYTES
        if self._passed:
            return [*heads, self.remainder()]
        self._searched = max(0, len(self._buffer) - 3)
        return heads

    def remainder(self) -> bytes:
        """Return the buffered bytes unchanged."""
        content, self._buffer = bytes(self._buffer), bytearray()
        return content


def _with_body(heads: list[bytes], status: bytes, body: bytes) -> list[bytes]:
    """Return the heads and the bytes after them. They are one piece if these are exactly the body that is announced."""
    if status not in _WITHOUT_BODY and heads[-1].endswith(b"\r\ncontent-length: %d\r\n\r\n" % len(body)):
        return [*heads[:-1], heads[-1] + body]
    return [*heads, body] if body else heads


def readable(head: bytes, max_field_bytes: int) -> bytes:
    """Return the head reduced to the status line and the used fields. A head that is not HTTP is returned unchanged."""
    text = head.translate(_WITHOUT_CONTROLS)
    status = text.partition(b"\n")[0]
    fields = text[len(status) :]
    if not status.startswith(b"HTTP/"):
        return head
    if len(fields) > max_field_bytes:
        fields = b"\n".join(line for line in fields.split(b"\n") if len(line) <= max_field_bytes)
    kept = [status.rstrip(), *[b"%b: %b" % field for field in _FIELD.findall(fields)]]
    length = _SAME_LENGTH.fullmatch(b",".join(_LENGTH.findall(fields)))
    if length and not _CHUNKED.search(fields):
        kept += [b"content-length: " + length[1]]
    return b"\r\n".join(kept) + b"\r\n\r\n"
