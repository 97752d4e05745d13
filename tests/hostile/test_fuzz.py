"""Bounded, repeatable fuzzing.

With HOSTILE_EXAMPLES=15000 in the environment it runs for minutes, with other inputs each time.
"""

import io
import json
import os
import re
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner.errors import CallError
from batchrunner.formatting import printable, redacted
from batchrunner.media import mp4_structure
from batchrunner.media.probe import MediaProblem, inline, sniff
from batchrunner.providers import base
from batchrunner.providers.aimlapi import responses
from batchrunner.transfer import link_expiry
from tests.conftest import NOW, encoded
from tests.providers.aimlapi.test_responses import SHAPED

MANY = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
READERS: tuple[Callable[..., Any], ...] = (
    responses.read_submission,
    partial(responses.read_status, asked="x"),
    responses.read_log,
)
TEXT = st.text(st.characters(), max_size=80)  # including lone surrogates
NASTY = st.sampled_from(
    ["\ud800", "\x00", "\x1b[2J", "\u202e", "<script>", "https://u:p@e.com/?q", "a://" * 50, "x" * 2000, "9" * 5000,
     "NaN", "1e400", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "completed", "error", "policy", "nsfw", "; ", "\r\n"]
)  # fmt: skip


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    calm = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        derandomize=not MANY, max_examples=MANY or examples, deadline=None, database=None, suppress_health_check=calm
    )


def read_with_all(status: int, headers: dict[str, str], body: bytes) -> None:
    """Every reader returns a bounded reply that can be stored, or raises a CallError."""
    for reader in READERS:
        try:
            reply = reader(status, headers, body, NOW)
        except CallError as error:
            reply = error.problem
        if isinstance(reply, base.GenerationStatus):
            assert len(reply.status_text) <= 60
            reply = reply.error
        if isinstance(reply, base.Accepted):
            assert len(reply.generation_id.encode()) <= 4000
        elif not isinstance(reply, responses.LogPage) and reply is not None:
            for text in (reply.kind, reply.message, reply.hint):
                text.encode()
                assert len(text) < 6000, "ten characters for each escaped one"


STATUSES = st.integers(100, 999)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "x-inference-id", "content-type", "content-encoding"]), TEXT | NASTY
)


@fuzz(300)
@given(STATUSES, HEADERS, st.binary(max_size=200) | NASTY.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_reply_or_a_call_error(status: int, headers: dict[str, str], body: bytes) -> None:
    read_with_all(status, headers, body)


@fuzz(400)
@given(STATUSES, HEADERS, SHAPED | st.recursive(NASTY | TEXT, lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["id", "status", "error", "message", "detail", "data", "type", "msg", "loc", "video", "url", "name",
                     "error_type", "meta", "usage"]), inner), max_leaves=8))  # fmt: skip
def test_any_json_gives_a_reply_or_a_call_error(status: int, headers: dict[str, str], body: object) -> None:
    read_with_all(status, headers, json.dumps(body).encode())


SAID = st.dictionaries(st.sampled_from(["type", "name", "error_type", "message", "msg", "loc", "path"]), TEXT | NASTY)
DETAILED = st.builds(lambda said, more: said | {"detail": more}, SAID, st.lists(SAID))


@fuzz(300)
@given(NASTY | SAID | st.lists(SAID) | DETAILED)
def test_any_failure_reason_gives_a_reply(error: object) -> None:
    for status in ("error", " " * 5000 + "FAILED", "expired\n"):
        read_with_all(200, {}, json.dumps({"status": status, "error": error}).encode())


@fuzz(300)
@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', ",", ":", "\\", "u", "1", "e", "-", "id", "status", "null"]),
                max_size=60), st.integers(1, 3000))  # fmt: skip
def test_nearly_valid_json_of_any_depth_gives_a_reply_or_a_call_error(tokens: list[str], times: int) -> None:
    for body in ("".join(tokens) * min(times, 200), "".join(tokens[:2]) * times):
        read_with_all(200, {}, body.encode())


@fuzz(300)
@given(TEXT | NASTY | st.from_regex(r"\A[-+]?[0-9]{1,400}(\.[0-9]*)?(e[0-9]{1,4})?\Z"), st.floats(0, 4e9))
def test_retry_after_is_a_duration_or_none(text: str, now: float) -> None:
    seconds = responses.retry_after_s(text, now)
    assert seconds is None or 0.0 <= seconds < float("inf")


@fuzz(300)
@given(TEXT | NASTY, st.none() | st.integers(1, 200))
def test_printable_text_is_one_line_that_can_be_encoded(text: str, most: int | None) -> None:
    shown = printable(text, most)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert most is None or len(shown) <= 10 * most
    assert printable(shown) == shown


@fuzz(300)
@given(st.lists(st.sampled_from(["https", "://", "@", "?", "#", "/", "secret", ":", "e.com", " ", "'", "\\", "a+b"])))
def test_queries_and_users_are_removed_from_urls(pieces: list[str]) -> None:
    shown = redacted("".join(pieces))
    assert redacted(shown) == shown
    for url in re.findall(r"[a-z+]+://[^\s\"'<>\\]*", shown):
        head, _, query = url.partition("://")[2].partition("?")
        assert "@" not in head.partition("/")[0].replace("…@", "")
        assert query in ("", "…")


@fuzz(300)
@given(st.builds("{}{}?{}={}&{}={}".format, *[TEXT | st.sampled_from(
    ["https://", "e.com/v", "Expires", "X-Amz-Expires", "X-Amz-Date", "20250805T073737Z", "9" * 5000, "-1", "[::1"]
)] * 6))  # fmt: skip
def test_the_expiry_of_a_link_is_a_time_or_none(link: str) -> None:
    assert link_expiry.expires_at(link) == link_expiry.expires_at(link), "never not a number"


@fuzz(300)
@given(st.text(alphabet="data:;,=/+AB9 video\n%é\ud800", max_size=60) | st.builds(
    "data:{};base64,{}".format, st.sampled_from(["video/mp4", "image/png", "x/y"]), TEXT))  # fmt: skip
def test_a_data_uri_is_media_or_a_problem(uri: str) -> None:
    for kind in ("video", "image"):
        with pytest.raises(MediaProblem):
            inline(uri, kind)


@fuzz(300)
@given(st.binary(max_size=80))
def test_reading_a_files_header_never_fails(head: bytes) -> None:
    sniff(head)


WHOLE = encoded(8)
BOXES = [match.start() - 4 for match in re.finditer(
    rb"ftyp|moov|mvhd|trak|tkhd|mdia|mdhd|hdlr|minf|stbl|stsd|avc1|avcC|stts|stsc|stsz|stco|mdat|free|edts|elst", WHOLE
)]  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 7, 8, 9, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1 << 20, 100_000])


class Counting(io.BytesIO):
    """Reads are counted, so an endless loop would fail the test."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


@fuzz(300)
@given(st.lists(st.tuples(st.sampled_from(BOXES), st.integers(-4, 40), NUMBERS | st.integers(0, 0xFFFFFFFF)),
                min_size=1, max_size=5), st.none() | st.integers(0, len(WHOLE)), st.binary(max_size=20))  # fmt: skip
def test_a_mutated_clip_passes_or_fails_at_the_cost_of_about_one_reading(
    patches: list[tuple[int, int, int]], cut: int | None, tail: bytes
) -> None:
    data = bytearray(WHOLE)
    for box, offset, number in patches:
        at = max(0, min(box + offset, len(data) - 4))
        data[at : at + 4] = struct.pack(">I", number)
    content = bytes(data[:cut]) + tail
    file = Counting(content)
    complaint = mp4_structure.check_structure(file, len(content))
    assert complaint is None or (complaint and complaint.isprintable())
    assert file.read_bytes <= 3 * len(content) + 4096
