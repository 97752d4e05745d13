"""Secrets of the environment, and texts without them. Pure.

A secret is an API key, the value of a variable whose name says so, what stands in the webhook's address behind the
host, or a password in the URL of any variable. A `Redactor` finds secrets in plain text and behind escapes (JSON,
percent-encoding, HTML, base64 and hex of what is sent), and puts a mark in their place.

Rule: a text from outside passes a redactor before it becomes a record, an event or a log line.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from batchrunner.errors import CallError
from batchrunner.formatting import redacted

KEY_VARIABLES: Final = ("AIMLAPI_KEY", "AIML_API_KEY")
WEBHOOK_VARIABLE: Final = "BATCHRUNNER_NOTIFY"
MARK: Final = "[secret]"
SHORTEST: Final = 8  # characters; what is shorter stands in texts by chance
_MOST_WORDS = 300  # of what a library says
# Where a library begins to quote bytes that it received: they may be a part of a secret, which nothing can recognise.
_QUOTED_BYTES = re.compile(r"""\bb['"]|\n\s*\n""")
_SPAN = tuple[str, int, int]  # a character, and where what stands for it begins and ends
_MOST_CHARS = 1 << 16
_MOST_LEVELS = 6  # escapes within escapes

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|cookie|bearer|session|(?<!com)(?<!by)pass\d*(_|$)|_pwd\d*(_|$)"
    r"|(^|_)(creds?|pat|jwt|sas|dsn|otp)\d*(_|$)"
    r"|key(?!frame|word|board|note|stone)|auth(?!ors?(_|$))",
    re.IGNORECASE,
)
# Names that say secret and hold a place or a word of the desktop: not to be read, but no secret in a text either.
_NO_SECRET_VALUE = re.compile(
    r"^(XDG|DBUS|DESKTOP|GNOME|KDE|GDM|GPG|XAUTHORITY|SESSION_MANAGER)|_(DIR|FILE|PATH|SOCK|HOME|HOST|TYPE)$",
    re.IGNORECASE,
)
_ESCAPE = re.compile(
    r"""(?:\\u[0-9a-f]{4})+|(?:\\x[0-9a-f]{2})+|\\u\{[0-9a-f]{1,6}\}|\\["'\\/bfnrt]|(?:%[0-9a-f]{2})+"""
    r"""|&(?:\#[0-9]{1,7}|\#x[0-9a-f]{1,6}|[a-z]{2,20});?""",
    re.IGNORECASE,
)
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# Values of a reply that are used and not shown: only what is sent to the service can be quoted in them.
_USED = {"id", "generation_id", "inference_id", "client_request_id", "uuid", "url", "video", "status"} | {
    "cursor",
    "next_cursor",
}


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret, as far as names tell."""
    return name == WEBHOOK_VARIABLE or bool(_SECRET_NAME.search(name))


def words_of(error: BaseException) -> str:
    """What an exception of a library says, without the bytes that it quotes and without what URLs may hide."""
    said = getattr(error, "message", None)  # of an HTTP error, without the request's URL
    words = _QUOTED_BYTES.split(said if isinstance(said, str) and said else str(error), maxsplit=1)[0]
    return redacted(" ".join(words.split()).rstrip(" :")[:_MOST_WORDS]) or type(error).__name__


class Redactor:
    """Takes secrets out of texts.

    sent: what the service or a proxy is sent and may quote. other: secrets that nobody outside is told. Of those only
    values of SHORTEST characters and more count. An API key that is shorter is found where it stands as a whole word.
    """

    def __init__(self, sent: Iterable[str] = (), other: Iterable[str] = ()) -> None:
        keys = {each for each in sent if each}
        quoted = {form for each in keys for form in (each, *_encoded(each))}
        self._equal = frozenset(keys)
        self._sent = _pattern(quoted, ())
        self._all = _pattern({*quoted, *other}, (each for each in keys if len(each) < SHORTEST))

    @classmethod
    def of(cls, environment: Mapping[str, str], webhook: str | None = None) -> Self:
        """One for the secrets of a process's environment. webhook: an address that comes from the command line."""
        keys = [environment[name].strip() for name in KEY_VARIABLES if environment.get(name)]
        proxies = [
            secret
            for name, value in environment.items()
            if name.lower().endswith("_proxy")
            for secret in _user_and_password(value)
        ]
        other = _webhook_secrets(webhook) if webhook else []
        for name, value in environment.items():
            if name == WEBHOOK_VARIABLE:
                other += _webhook_secrets(value)
            elif is_secret_name(name) and not _NO_SECRET_VALUE.search(name):
                other.append(value.strip())
            elif "://" in value and "@" in value:
                other += _user_and_password(value)
        return cls([*keys, *proxies], other)

    def holds(self, text: str) -> bool:
        """Whether `text` is, or holds, a secret, in plain form or behind escapes."""
        return text.strip() in self._equal or _finds(self._all, text)

    def text(self, text: str) -> str:
        """`text` with a mark where a secret stands."""
        return _stripped(self._all, text)

    def reply(self, body: bytes) -> bytes:
        """A reply's body with a mark where a secret stands. What is JSON stays JSON."""
        if self._all is None:
            return body
        text = body.decode(json.detect_encoding(body), "replace")
        if not _finds(self._all, text):
            return body
        try:
            clean = json.dumps(self._clean(json.loads(text), ""))
        except (ValueError, RecursionError):
            return self.text(text).encode("utf-8", "replace")
        return (self.text(text) if _finds(self._sent, clean) else clean).encode("utf-8", "replace")

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a reply, values redacted."""
        return {name: _stripped(self._sent, value) for name, value in headers.items()}

    def fault(self, error: CallError) -> None:
        """Redact the words of `error`."""
        error.message, error.hint = self.text(error.message), self.text(error.hint)
        error.args = (error.message,)

    def _clean(self, value: Any, key: str) -> Any:
        """key: under which `value` stands."""
        if isinstance(value, str):
            return _stripped(self._sent if key in _USED else self._all, value)
        if isinstance(value, dict):
            return {self.text(name): self._clean(each, name) for name, each in value.items()}
        return [self._clean(each, key) for each in value] if isinstance(value, list) else value


def _pattern(values: Iterable[str], words: Iterable[str]) -> re.Pattern[str] | None:
    """What finds one of the `values`, case aside, or one of the `words` as a whole; None where there is nothing."""
    long = sorted({each for each in values if len(each) >= SHORTEST}, key=len, reverse=True)
    forms = [f"(?i:{re.escape(each)})" for each in long]
    forms += [rf"(?<![A-Za-z0-9]){re.escape(each)}(?![A-Za-z0-9])" for each in words]
    return re.compile("|".join(forms)) if forms else None


def _encoded(secret: str) -> list[str]:
    """The forms in which a secret stands inside of longer base64 and hex."""
    data = secret.encode("utf-8", "surrogateescape")
    forms = [data.hex()]
    for shift, skipped in ((0, 0), (1, 2), (2, 3)):  # bytes before it, and the characters that they share with it
        whole = base64.b64encode(bytes(shift) + data).decode()
        inner = whole[skipped : (shift + len(data)) * 8 // 6]
        forms += [inner, inner.replace("+", "-").replace("/", "_")]
    return forms


def _user_and_password(url: str) -> list[str]:
    """The credentials in a URL, as written and decoded, the pair among them; empty where it holds no password."""
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    name, colon, password = user.partition(":")
    if not at or not colon or not password:
        return []
    return [user, password, unquote(password), f"{unquote(name)}:{unquote(password)}"]


def _webhook_secrets(url: str) -> list[str]:
    """What stands in a webhook's address behind the host, whole and in its parts; plain words are no secret."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return [url.strip()]
    pieces = [*parts.path.split("/"), *re.split("[&=]", parts.query), parts.fragment]
    telling = [each for each in pieces if not re.fullmatch("[a-z]*", each)]
    return [*_user_and_password(url), parts.path, parts.query, *telling]


def _finds(pattern: re.Pattern[str] | None, text: str) -> bool:
    return pattern is not None and any(pattern.search(level) for level in _levels(text))


def _levels(text: str) -> Iterable[str]:
    """`text`, and what it says when its escapes are undone, again and again."""
    for _ in range(_MOST_LEVELS):
        yield text
        plainer = _ESCAPE.sub(_undone, text)
        if plainer == text:
            return
        text = plainer


def _stripped(pattern: re.Pattern[str] | None, text: str) -> str:
    """`text` with a mark in place of what the pattern finds at any level, and with all else as it is.

    A very long text with a secret in it is cut: each of its characters has to be followed through the levels.
    """
    if pattern is None or not _finds(pattern, text):
        return text
    text = text[:_MOST_CHARS]
    spans: list[_SPAN] = [(char, at, at + 1) for at, char in enumerate(text)]
    bad: list[tuple[int, int]] = []
    for _ in range(_MOST_LEVELS):
        plain = "".join(char for char, _, _ in spans)
        bad += [(spans[found.start()][1], spans[found.end() - 1][2]) for found in pattern.finditer(plain)]
        plainer = _plainer(spans, plain)
        if len(plainer) == len(spans):
            break
        spans = plainer
    return _marked(text, bad)


def _plainer(spans: list[_SPAN], plain: str) -> list[_SPAN]:
    """The characters of the next level, with their places in the original text."""
    result: list[_SPAN] = []
    done = 0
    for found in _ESCAPE.finditer(plain):
        result += spans[done : found.start()]
        begin, end = spans[found.start()][1], spans[found.end() - 1][2]
        result += [(char, begin, end) for char in _undone(found)]
        done = found.end()
    return result + spans[done:]


def _marked(text: str, bad: list[tuple[int, int]]) -> str:
    pieces, done = [], 0
    for begin, end in sorted(bad):
        if begin >= done:
            pieces += [text[done:begin], MARK]
        done = max(done, end)
    return "".join((*pieces, text[done:]))


def _undone(found: re.Match[str]) -> str:
    """What an escape, or a row of them, stands for."""
    token = found.group()
    if token[0] == "%":
        return unquote(token, errors="replace")
    if token[0] == "&":
        return html.unescape(token)
    mark = token[1].lower()
    if mark == "x":
        return bytes.fromhex(token.lower().replace("\\x", "")).decode("utf-8", "replace")
    if token[2:3] == "{":
        code = int(token[3:-1], 16)
        return chr(code) if code <= 0x10FFFF else token
    if mark == "u":
        units = bytes.fromhex(token.lower().replace("\\u", ""))
        return units.decode("utf-16-be", "replace")
    return _SIMPLE.get(token[1], token[1])
