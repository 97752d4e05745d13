"""Secrets: which names and values are secrets, and that no escape hides them."""

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from batchrunner.errors import ServiceFault
from batchrunner.redaction import MARK, Redactor, error_text, is_secret_name

KEY = "sk/live/AbCdEf0123456789+xyz"
KNOWN = Redactor([KEY], ["hunter2hunter2"])


SECRET_NAMES = [
    "MYKEY",
    "AWS_SECRET_ACCESS_KEY",
    "api_token",
    "DB_PASSWORD",
    "PGPASS",
    "MYSQL_PWD",
    "SSH_AUTH_SOCK",
    "SESSIONID",
]
PLAIN_NAMES = [
    "RES",
    "AUTHOR",
    "AUTHORS",
    "KEYFRAMES",
    "KEYWORDS",
    "COMPASS",
    "BYPASS",
    "PATTERN",
    "HOME",
    "PWD",
    "OLDPWD",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_name(name)


def escapes(text: str) -> str:
    return "".join(f"\\u{ord(item):04x}" for item in text)


STEPS: dict[str, Callable[[str], str]] = {
    "percent": lambda text: quote(text, safe=""),
    "entities": lambda text: "".join(f"&#{ord(item)};" for item in text),
    "hex entities": lambda text: "".join(f"&#x{ord(item):x};" for item in text),
    "escapes": escapes,
    "json": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "braces": lambda text: "".join(f"\\u{{{ord(item):x}}}" for item in text),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=3), st.text(max_size=20), st.text(max_size=20))
def test_nested_escapes_do_not_hide_a_secret(steps: list[str], before: str, after: str) -> None:
    hidden = KEY
    for step in steps:
        hidden = STEPS[step](hidden)
    clean = KNOWN.text(f"{before} {hidden} {after}")
    assert MARK in clean
    assert hidden not in clean
    assert not KNOWN.holds(clean)
    assert KNOWN.holds(hidden)


@given(st.text())
def test_a_text_without_a_secret_is_unchanged(text: str) -> None:
    assert KNOWN.text(text) == text
    assert KNOWN.reply(text.encode("utf-8", "replace")) == text.encode("utf-8", "replace")


@pytest.mark.parametrize("user", ["", "u:", "me:", "abc:"])
@pytest.mark.parametrize("coded", [base64.b64encode, base64.urlsafe_b64encode])
def test_the_key_inside_base64_is_redacted(user: str, coded: Callable[[bytes], bytes]) -> None:
    text = coded(f"{user}{KEY}:more".encode()).decode()
    clean = KNOWN.text(f"Basic {text}")
    assert MARK in clean
    assert base64.b64encode(KEY.encode()).decode()[4:20] not in clean


def test_a_long_text_with_a_secret_is_truncated() -> None:
    clean = KNOWN.text(f"{KEY} " + "x" * 2_000_000)
    assert clean.startswith(f"{MARK} xxx")
    assert len(clean) < 100_000


def test_text_around_a_secret_is_unchanged() -> None:
    assert KNOWN.text(f"a \\n %20 &amp; {KEY}, and HUNTER2hunter2.") == f"a \\n %20 &amp; {MARK}, and {MARK}."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_secret_is_found_in_a_reply_of_any_encoding(encoding: str) -> None:
    body = KNOWN.reply(json.dumps({"error": f"bad key {KEY}"}).encode(encoding))
    assert MARK.encode() in body
    assert KEY not in body.decode()


def test_headers_have_names_in_lower_case_and_values_without_secrets() -> None:
    headers = {"X-Inference-Id": "G:1", "Location": f"/?key={quote(KEY)}"}
    assert KNOWN.headers(headers) == {"x-inference-id": "G:1", "location": f"/?key={MARK}"}
    assert KNOWN.headers({"Date": "today"}) == {"date": "today"}


def test_a_header_may_be_repeated() -> None:
    headers = CIMultiDict([("Vary", "a"), ("Location", f"/?key={quote(KEY)}"), ("vary", KEY)])
    assert KNOWN.headers(headers) == {"vary": MARK, "location": f"/?key={MARK}"}
    assert KNOWN.headers(CIMultiDict([("Date", "1"), ("date", "2"), ("Age", "3")])) == {"date": "2", "age": "3"}


def test_a_reply_stays_json_and_its_used_values_are_unchanged() -> None:
    body = json.dumps({"id": "hunter2hunter2", KEY: [KEY, 1], "video": {"url": "https://e.com/hunter2hunter2"}})
    assert json.loads(KNOWN.reply(body.encode("utf-16"))) == {
        "id": "hunter2hunter2",
        MARK: [MARK, 1],
        "video": {"url": "https://e.com/hunter2hunter2"},
    }
    assert json.loads(KNOWN.reply(json.dumps({"id": KEY}).encode())) == {"id": MARK}, "the key is sent, so it is quoted"
    assert KNOWN.reply(b"<p>" + KEY.encode() + b"\xff") == f"<p>{MARK}\ufffd".encode()


def test_the_secrets_of_an_environment_are_collected() -> None:
    known = Redactor.of(
        {
            "AIML_API_KEY": KEY,
            "COPY": KEY,
            "GITHUB_TOKEN": "gh-0123456789",
            "SHORT_TOKEN": "abc",
            "BATCHRUNNER_NOTIFY": "https://hooks.example.com/services/T0123456/b?c=QUERY12345",
            "https_proxy": "http://me:pass%20word1@proxy.example.com:3128",
            "DATABASE_URL": "postgres://app:databasepass@db/x",
            "XDG_SESSION_DESKTOP": "gnome-wayland",
            "TOKEN_FILE": "/home/me/token",
        },
        webhook="https://hooks.example.com/FROMFLAG12",
    )
    secrets = [KEY, "gh-0123456789", "T0123456", "QUERY12345", "FROMFLAG12", "pass word1", "databasepass"]
    for secret in secrets:
        assert known.text(f"<{secret}>") == f"<{MARK}>", secret
    pair = base64.b64encode(b"me:pass word1").decode()
    assert pair[:12] not in known.text(f"Proxy-Authorization: Basic {pair}")
    for text in ("abc", "services", "gnome-wayland", "/home/me/token", "hooks.example.com", "proxy.example.com"):
        assert known.text(text) == text


def test_a_short_key_is_found_as_a_whole_word() -> None:
    known = Redactor(["key"])
    assert known.text("bad key: keys, 'key', monkey") == f"bad {MARK}: keys, '{MARK}', monkey"
    assert known.holds("key")
    assert Redactor([""]).text("nothing") == "nothing"


def test_error_text_has_no_quoted_bytes() -> None:
    half = ValueError(f"Invalid header value char:\n\n  b'X-Echo: {KEY[:9]}'\n   ^")
    assert error_text(half) == "Invalid header value char"
    assert (
        error_text(OSError(111, "Connect call failed ('127.0.0.1', 9)"))
        == "[Errno 111] Connect call failed ('127.0.0.1', 9)"
    )
    assert error_text(ValueError("cannot reach https://me:x@e.com/p?sig=1")) == "cannot reach https://…@e.com/p?…"
    assert error_text(TimeoutError()) == "TimeoutError"


def test_a_call_error_is_redacted() -> None:
    error = ServiceFault("link_refused", f"leads to {KEY.upper()}", f"ask {KEY}")
    KNOWN.fault(error)
    assert (error.message, error.hint, str(error)) == (f"leads to {MARK}", f"ask {MARK}", f"leads to {MARK}")


@pytest.mark.parametrize("key", ["sk-Kiss-0123", "\u017fk-Kiss-0123", "sk-\u212aiss-0123", "sk-K\u0131ss-0123"])
@pytest.mark.parametrize("text", ["sk-kiss-0123", "SK-KISS-0123", "\u017fk-kiss-0123", "sk-\u212aI\u017fs-0123"])
def test_letters_that_differ_only_in_case_are_found_in_and_outside_ascii(key: str, text: str) -> None:
    """Regular expressions count the long s and the sign for kelvin as cases of s and k."""
    redactor = Redactor([key])
    assert redactor.holds(f"the key {text} is wrong")
    assert redactor.text(f"the key {text} is wrong") == f"the key {MARK} is wrong"
