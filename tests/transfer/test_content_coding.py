"""Content codings: unknown names are ignored, known codings are decoded block by block, in bounded pieces."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest

from batchrunner.transfer.content_coding import Unpacker, codings

PACKED = random.Random(1).randbytes(3000) + bytes(1_000_000) + random.Random(2).randbytes(3000)
PLAIN = b"\0\0\0\x18ftypisom" + PACKED


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def unpacked(names: list[str], body: bytes, block_bytes: int) -> bytes:
    unpacker = Unpacker(names)
    pieces: list[bytes] = []
    for at in range(0, len(body), block_bytes):
        pieces += unpacker.feed(body[at : at + block_bytes])
    return b"".join([*pieces, *unpacker.end()])


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("", []),
        ("identity", []),
        ("aws-chunked", []),
        ("UTF-8", []),
        ("binary", []),
        ("none", []),
        ("br", []),
        ("gzip", ["gzip"]),
        ("GZIP , aws-chunked", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("deflate, gzip", ["deflate", "gzip"]),
    ],
)
def test_only_known_names_are_codings(header: str, names: list[str]) -> None:
    assert codings(header) == names


@pytest.mark.parametrize("block_bytes", [1, 7, 1000, 1 << 24])
@pytest.mark.parametrize(
    ("names", "pack"),
    [
        ([], bytes),
        (["gzip"], gzip.compress),
        (["deflate"], zlib.compress),
        (["deflate"], raw_deflate),
        (["deflate", "gzip"], lambda content: gzip.compress(zlib.compress(content))),
        (["gzip"], lambda content: gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(600)),
    ],
    ids=["none", "gzip", "zlib", "raw deflate", "both", "two members and padding"],
)
def test_a_coding_is_decoded(names: list[str], pack: Callable[[bytes], bytes], block_bytes: int) -> None:
    assert unpacked(names, pack(PACKED), block_bytes) == PACKED


@pytest.mark.parametrize("names", [["gzip"], ["deflate"], ["gzip", "gzip"], ["deflate", "gzip"]], ids=str)
@pytest.mark.parametrize("content", [PLAIN, PLAIN[:11], b""], ids=len)
def test_an_uncompressed_file_declared_as_compressed_is_accepted(names: list[str], content: bytes) -> None:
    for block_bytes in (1000, 1 << 24):
        assert unpacked(names, content, block_bytes) == content


@pytest.mark.parametrize("names", [["gzip"], ["deflate"]], ids=str)
def test_a_truncated_or_damaged_coding_is_an_error(names: list[str]) -> None:
    body = gzip.compress(PACKED) if names == ["gzip"] else zlib.compress(PACKED)
    with pytest.raises(ValueError, match="too early"):
        unpacked(names, body[:-9], 1000)
    with pytest.raises(ValueError, match="damaged"):
        unpacked(names, body[:2000] + bytes(500) + body[2500:], 1000)


def test_pieces_are_bounded_whatever_a_block_expands_to() -> None:
    unpacker = Unpacker(["gzip"])
    sizes = [len(piece) for piece in unpacker.feed(gzip.compress(bytes(50 << 20)))]
    assert sum(sizes) + sum(map(len, unpacker.end())) == 50 << 20
    assert max(sizes) <= 256 * 1024
