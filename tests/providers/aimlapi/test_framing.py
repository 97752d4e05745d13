"""Heads of replies: fields that the HTTP library would reject are removed before it parses them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.providers.aimlapi.framing import MAX_HEAD_BYTES, Head, readable

OK = b"HTTP/1.1 200 OK\r\n"
MAX = 64 << 10


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"content-length: 5\r\n"),
        (b"Content-Length: 5, 5\r\n", b"content-length: 5\r\n"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b""),
        (b"Content-Length: -1\r\n", b""),
        (b"Content-Length: five\r\n", b""),
        (b"Content-Length:\r\n", b""),
        (b"Content-Length\r\nContent-Length: 5\r\n", b"content-length: 5\r\n"),
        (b"Retry-After: \t5\x0b6\x7f\r\n", b"Retry-After: 5 6\r\n"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n"),
        (b"Broken\r\nRetry-After: 5\r\n", b"Retry-After: 5\r\n"),
        (b"Retry-After : 5\r\n", b"Retry-After: 5\r\n"),
        (b"X-Inference-Id: a\x00b\r\n", b"X-Inference-Id: a b\r\n"),
        (b"B\xe4d: x\r\nX-Inference-Id: caf\xe9\r\n", b"X-Inference-Id: caf\xe9\r\n"),
        (b"Retry-After: 5\n", b"Retry-After: 5\r\n"),
        (b"Set-Cookie: " + b"y" * 70_000 + b"\r\nRetry-After: 5\r\n", b"Retry-After: 5\r\n"),
        (b"Retry-After: " + b"5" * 70_000 + b"\r\n", b""),
        (b"X: y\r\n" * 500, b""),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_only_used_and_valid_fields_are_kept(fields: bytes, kept: bytes) -> None:
    assert readable(OK + fields + b"\r\n", MAX) == OK + kept + b"\r\n"


def test_bytes_that_are_not_http_are_unchanged() -> None:
    assert readable(b"\x16\x03\x01 garbage\r\n\r\n", MAX) == b"\x16\x03\x01 garbage\r\n\r\n"


def test_interim_heads_are_passed_on_and_the_last_one_too() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    head = Head(MAX)
    passed = head.feed(early + OK + b"X: y\r\n\r\nbody")
    assert passed == [b"HTTP/1.1 103 Early Hints\r\n\r\n", OK + b"\r\n", b"body"]
    assert head.feed(b"X: y\r\n\r\n") == [b"X: y\r\n\r\n"], "bytes of a body pass unchanged"


@pytest.mark.parametrize(
    ("status", "body", "pieces"),
    [
        (b"200 OK", b"body", 1),
        (b"404 Not Found", b"body", 1),
        (b"200 OK", b"bod", 2),  # the rest follows
        (b"200 OK", b"body, and something behind it", 2),
        (b"204 No Content", b"body", 2),  # has no body, so these bytes are behind the reply
        (b"304 Not Modified", b"body", 2),
    ],
)
def test_only_a_complete_reply_is_passed_on_in_one_piece(status: bytes, body: bytes, pieces: int) -> None:
    head = b"HTTP/1.1 %b\r\ncontent-length: 4\r\n\r\n" % status
    passed = Head(MAX).feed(head + body)
    assert (len(passed), b"".join(passed)) == (pieces, head + body)


@pytest.mark.parametrize("field", [b"Date: %b", b"Content-Length: %b", b"Date%b: x"])
@pytest.mark.parametrize("blanks", [b" ", b"\t ", b" ,", b"a ", b"\r"], ids=repr)
def test_blanks_do_not_make_a_head_slow(field: bytes, blanks: bytes) -> None:
    # Quadratic time would take minutes here.
    head = OK + field % (blanks * (MAX_HEAD_BYTES // 2 - 50)) + b"\r\n\r\n"
    assert readable(head, MAX_HEAD_BYTES).startswith(OK)


def test_a_head_without_an_end_is_buffered_up_to_a_limit() -> None:
    head, passed = Head(MAX), b""
    for _ in range(MAX_HEAD_BYTES // 1000 + 1):
        passed += b"".join(head.feed(b"y" * 1000))
    assert len(passed) > MAX_HEAD_BYTES
    assert head.remainder() == b""


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.sampled_from([b"\r\n", b"\n"]))
def test_the_split_into_packets_makes_no_difference(cuts: list[int], end: bytes) -> None:
    whole = end.join([b"HTTP/1.1 100 Continue", b"", b"HTTP/1.1 200 OK", b"Content-Length: 4", b"X: y", b"", b"body"])
    at, head, passed = 0, Head(MAX), b""
    for size in [*cuts, len(whole)]:
        passed += b"".join(head.feed(whole[at : at + size]))
        at += size
    once = Head(MAX)
    assert passed == b"".join(once.feed(whole))
    assert head.remainder() == once.remainder() == b""
