"""Repair the head of an HTTP reply before the HTTP library parses it. Pure.

The library gives up on a reply for a fault in its head that does not matter here: Content-Length twice, a header field
that is very long or has no colon, too many fields. The reply may hold the id of a generation that is paid for. So only
the used fields are passed on. An invalid length is dropped; the body then ends with the connection.
"""

import re

MAX_HEAD_BYTES = 256 << 10  # a longer head is passed on unchanged
_END = re.compile(rb"\r?\n\r?\n")
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
# The value of a field without the blanks around it. Nothing in it is tried twice, so the search takes linear time.
_VALUE = rb"[ \t]*+:[ \t]*+((?:[^ \t\n]++|[ \t]++(?!$))*+)"
_FIELD = re.compile(rb"^(%b)%b" % (b"|".join(_USED), _VALUE), re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length%b" % _VALUE, re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding[ \t]*+:", re.IGNORECASE | re.MULTILINE)
_COMMA = re.compile(rb"[ \t]*+,[ \t]*+")
_NUMBER = re.compile(rb"\d{1,15}")


class Head:
    """Collects the head of one reply, and lets the bytes after it pass."""

    def __init__(self, max_field_bytes: int) -> None:
        self._max_field_bytes = max_field_bytes
        self._buffer = bytearray()
        self._passed = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what was received, and return what the library should parse now.

        The head and what follows it are separate pieces: a fault in one then takes nothing from the other. Only a
        complete reply is one piece, as nothing follows it.
        """
        if self._passed:
            return [data]
        searched = max(0, len(self._buffer) - 3)
        self._buffer += data
        ready = []
        while not self._passed and (found := _END.search(self._buffer, searched)):
            end = found.end()
            head = readable(bytes(self._buffer[:end]), self._max_field_bytes)
            del self._buffer[:end]
            searched = 0
            status = _STATUS.match(head)
            self._passed = status is None or not status[1].startswith(b"1")
            if status is not None and _is_complete(status[1], head, self._buffer):
                head += self.remainder()
            ready.append(head)
        if self._passed or len(self._buffer) > MAX_HEAD_BYTES:
            self._passed = True
            ready.append(self.remainder())
        return [piece for piece in ready if piece]

    def remainder(self) -> bytes:
        """Return the buffered bytes unchanged."""
        content = bytes(self._buffer)
        self._buffer.clear()
        return content


def _is_complete(status: bytes, head: bytes, body: bytearray) -> bool:
    """Whether `body` is the whole body that the head announces, and nothing after it."""
    return status not in _WITHOUT_BODY and head.endswith(b"\r\ncontent-length: %d\r\n\r\n" % len(body))


def readable(head: bytes, max_field_bytes: int) -> bytes:
    """Return the head reduced to the status line and the used fields. A head that is not HTTP is returned unchanged."""
    status, _, fields = head.translate(_WITHOUT_CONTROLS).partition(b"\n")
    if not status.startswith(b"HTTP/"):
        return head
    if len(fields) > max_field_bytes:
        fields = b"\n".join(line for line in fields.split(b"\n") if len(line) <= max_field_bytes)
    kept = [status.rstrip(), *[b"%b: %b" % field for field in _FIELD.findall(fields)]]
    length, *others = set(_COMMA.split(b",".join(_LENGTH.findall(fields))))
    if not others and _NUMBER.fullmatch(length) and not _CHUNKED.search(fields):
        kept.append(b"content-length: " + length)
    return b"\r\n".join(kept) + b"\r\n\r\n"
