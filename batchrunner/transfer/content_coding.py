"""Content codings of a downloaded file: find them in a reply, and decode block by block. Pure.

Stores keep foreign words as Content-Encoding (aws-chunked, UTF-8, binary), and call a plain file gzip. So a word that
is no coding is ignored, and a coding is taken off only where the first bytes show it.
"""

import zlib
from collections.abc import Iterable, Iterator

_PIECE_BYTES = 256 * 1024  # unpacked at once; a small block can hold a thousand times its size
_GZIP_MARK = b"\x1f\x8b"
_HEAD_BYTES = 12  # enough to tell a coding from a video
_RAW, _ZLIB, _GZIP = -zlib.MAX_WBITS, zlib.MAX_WBITS, zlib.MAX_WBITS | 16
_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "x-deflate": "deflate"}


def codings(header: str) -> list[str]:
    """Return the codings in a Content-Encoding header, in the order in which they were applied."""
    return [_NAMES[name] for item in header.split(",") if (name := item.strip().lower()) in _NAMES]


class Unpacker:
    """Decodes a body. names: as `codings` returns them. Without any, blocks pass unchanged."""

    def __init__(self, names: Iterable[str]) -> None:
        self._decoders = [_Decoder(name) for name in reversed(list(names))]

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the decoded pieces of a block, at most 256 KiB each. Raises ValueError if it is damaged."""
        return self._through(0, [block])

    def end(self) -> Iterator[bytes]:
        """Yield the remaining pieces. Raises ValueError if the body ends too early."""
        for number, decoder in enumerate(self._decoders):
            yield from self._through(number + 1, decoder.end())

    def _through(self, first: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
        if first == len(self._decoders):
            yield from pieces
            return
        for piece in pieces:
            yield from self._through(first + 1, self._decoders[first].feed(piece))


class _Decoder:
    """One coding. `_head` buffers the first bytes until its kind is known."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._head = b""
        self._inflate: zlib._Decompress | None = None
        self._passes = False  # the bytes are not packed
        self._members = 0  # unpacked so far; a gzip file can have several

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._passes:
            yield data
            return
        while data:
            if self._inflate is None:
                self._head += data
                if len(self._head) < (2 if self._members else _HEAD_BYTES):
                    return
                data, self._head = self._head, b""
                self._inflate = self._begun(data)
            inflate = self._inflate
            if inflate is None:  # not packed, or padding after the last member
                if not self._members:
                    yield data
                return
            yield from self._unpacked(inflate, data)
            data = inflate.unused_data
            if inflate.eof:
                self._inflate, self._members = None, self._members + 1

    def end(self) -> Iterator[bytes]:
        if self._inflate is not None:
            yield self._inflate.flush()
            if not self._inflate.eof:
                raise ValueError(f"its {self._name} coding ends too early")
        elif self._head and not self._members:
            yield self._head

    def _begun(self, head: bytes) -> "zlib._Decompress | None":
        """Return the decompressor for a body that begins with `head`, or None if it is plain or padding."""
        if head.startswith(_GZIP_MARK):
            return zlib.decompressobj(_GZIP)
        self._passes = not self._members and (self._name == "gzip" or head[4:8] == b"ftyp")
        if self._members or self._passes:
            return None
        is_zlib = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2]) % 31 == 0  # RFC 1950, 2.2
        return zlib.decompressobj(_ZLIB if is_zlib else _RAW)

    def _unpacked(self, inflate: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
        full = True
        while (data or full) and not inflate.eof:
            try:
                piece = inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise ValueError(f"its {self._name} coding is damaged") from error
            data, full = inflate.unconsumed_tail, len(piece) == _PIECE_BYTES
            if piece:
                yield piece
