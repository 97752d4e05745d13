"""Find the secrets of the environment, and remove them from texts. Pure.

A secret is an API key, the value of a variable with a secret's name, the part of the webhook's address after the host,
or a password in the URL of any variable. A `Redactor` finds secrets in plain text and in encoded form (JSON,
percent-encoding, HTML, base64 and hex of sent values), and replaces them with a mark.

Text from outside must pass a redactor before it becomes a record, an event or a log line.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from batchrunner.errors import CallError
from batchrunner.formatting import redacted

KEY_VARIABLES: Final = ("AIMLAPI_KEY", "AIML_API_KEY")
WEBHOOK_VARIABLE: Final = "BATCHRUNNER_NOTIFY"
MARK: Final = "[secret]"
SHORTEST: Final = 8  # characters; shorter values occur in texts by chance
_MAX_ERROR_CHARS = 300  # characters of a library's message
# The start of received bytes that a library quotes: they may be part of a secret, which cannot be recognized.
_QUOTED_BYTES = re.compile(r"""\bb['"]|\n\s*\n""")
_SPAN = tuple[str, int, int]  # a character, and the start and end of its encoded form
_MOST_CHARS = 1 << 16
_MOST_LEVELS = 6  # escapes within escapes

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|cookie|bearer|session|(?<!com)(?<!by)pass\d*(_|$)|_pwd\d*(_|$)"
    r"|(^|_)(creds?|pat|jwt|sas|dsn|otp)\d*(_|$)"
    r"|key(?!frame|word|board|note|stone)|auth(?!ors?(_|$))",
    re.IGNORECASE,
)
# Names that suggest a secret, but hold a path or a desktop setting. Manifests may not read them; texts may contain
# their values.
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
# Values of a reply that are used and not shown. They can contain only secrets that were sent to the service.
_USED = {"id", "generation_id", "inference_id", "client_request_id", "uuid", "url", "video", "status"} | {
    "cursor",
    "next_cursor",
}


def api_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the API keys in an environment that are too long to occur in a text by chance."""
    keys = (environment.get(name, "").strip() for name in KEY_VARIABLES)
    return tuple(dict.fromkeys(key for key in keys if len(key) >= SHORTEST))


def is_secret_name(name: str) -> bool:
    """Return True if the name of a variable suggests a secret."""
    return name == WEBHOOK_VARIABLE or bool(_SECRET_NAME.search(name))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a program that needs no secret: without variables whose name or value is one."""
    keys = Redactor(sent=(environment[name].strip() for name in KEY_VARIABLES if environment.get(name)))
    return {
        name: value
        for name, value in environment.items()
        if not (is_secret_name(name) and not _NO_SECRET_VALUE.search(name))
        and not keys.holds(value)
        and not ("://" in value and _user_and_password(value))
    }


def error_text(error: BaseException) -> str:
    """Return the message of a library's exception, without quoted bytes and without secrets in URLs."""
    message = getattr(error, "message", None)  # an HTTP error's message without the request's URL
    text = _QUOTED_BYTES.split(message if isinstance(message, str) and message else str(error), maxsplit=1)[0]
    return redacted(" ".join(text.split()).rstrip(" :")[:_MAX_ERROR_CHARS]) or type(error).__name__


class Redactor:
    """Removes secrets from texts.

    sent: secrets that are sent to the service or a proxy, which may quote them. other: secrets that are not sent; only
    values of at least SHORTEST characters are removed. A shorter API key is found only as a whole word.
    """

    def __init__(self, sent: Iterable[str] = (), other: Iterable[str] = ()) -> None:
        self._keys = {item for item in sent if item}
        self._other = frozenset(other)
        self._signed: set[str] = set()
        self._build()

    def _build(self) -> None:
        quoted = {form for item in self._keys for form in (item, *_encoded(item))}
        self._equal = frozenset(self._keys)
        self._sent = _pattern(quoted, (), self._signed)
        self._all = _pattern(
            {*quoted, *self._other}, [item for item in self._keys if len(item) < SHORTEST], self._signed
        )

    def learn(self, sent: Iterable[str] = (), signed: Iterable[str] = ()) -> None:
        """Remove further secrets from now on. signed: the starts of signed links, whose queries are removed."""
        keys, links = self._keys | {item for item in sent if item}, self._signed | set(signed)
        if (keys, links) != (self._keys, self._signed):
            self._keys, self._signed = keys, links
            self._build()

    @classmethod
    def of(cls, environment: Mapping[str, str], webhook: str | None = None) -> Self:
        """Return a redactor for the secrets of an environment. webhook: an address from the command line."""
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
        """Return True if `text` is or contains a secret, in plain or escaped form."""
        return text.strip() in self._equal or _finds(self._all, text)

    def text(self, text: str) -> str:
        """Return `text` with a mark in place of each secret."""
        return _stripped(self._all, text)

    def reply(self, body: bytes) -> bytes:
        """Return a reply's body with a mark in place of each secret. JSON stays valid JSON."""
        if self._all is None:
            return body
        plain = body.isascii() and b"\0" not in body
        text = body.decode("ascii" if plain else json.detect_encoding(body), "replace")
        if not _finds(self._all, text):
            return body
        try:
            clean = json.dumps(self._clean(json.loads(text), ""))
        except (ValueError, RecursionError):
            return self.text(text).encode("utf-8", "replace")
        return (self.text(text) if _finds(self._sent, clean) else clean).encode("utf-8", "replace")

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a reply with redacted values, and with their names in lower case.

        headers: may have a name several times. The last value counts.
        """
        found = {name.lower(): value for name, value in headers.items()}
        if _finds(self._sent, "\n".join(found.values())):  # no secret spans two of them
            return {name: _stripped(self._sent, value) for name, value in found.items()}
        return found

    def fault(self, error: CallError) -> None:
        """Redact the message and hint of `error`."""
        error.message, error.hint = self.text(error.message), self.text(error.hint)
        error.args = (error.message,)

    def _clean(self, value: Any, key: str) -> Any:
        """Redact a JSON value. key: the key of `value`."""
        if isinstance(value, str):
            return _stripped(self._sent if key in _USED else self._all, value)
        if isinstance(value, dict):
            return {self.text(name): self._clean(item, name) for name, item in value.items()}
        return [self._clean(item, key) for item in value] if isinstance(value, list) else value


class _Pattern(NamedTuple):
    """A pattern for secrets. literals: each match has one of them, in lower case; empty if they are not all ASCII."""

    regex: re.Pattern[str]
    literals: tuple[str, ...]

    def is_in(self, text: str) -> bool:
        """Return True if `text` has a match. A search for the literals is much faster than a regex without case."""
        if self.literals and text.isascii() and not any(map(text.lower().__contains__, self.literals)):
            return False
        return self.regex.search(text) is not None


def _pattern(values: Iterable[str], whole_words: Sequence[str], signed: Iterable[str] = ()) -> _Pattern | None:
    """Return a pattern for `values` (case-insensitive), `whole_words` and links, or None if there are none."""
    long = sorted({item for item in values if len(item) >= SHORTEST}, key=len, reverse=True)
    links = sorted(signed)
    forms = [f"(?i:{re.escape(item)})" for item in long]
    forms += [rf"(?<![A-Za-z0-9]){re.escape(item)}(?![A-Za-z0-9])" for item in whole_words]
    # Links come first: a key within the query must not hide the signature behind it.
    forms = [rf"(?i:{re.escape(start)}[^\s?\"'<>]*\?[^\s\"'<>]*)" for start in links] + forms
    if not forms:
        return None
    literals = (*long, *whole_words, *links)
    ascii_only = all(map(str.isascii, literals))  # the letter k, for example, is also matched by a sign for kelvin
    return _Pattern(re.compile("|".join(forms)), tuple(map(str.lower, literals)) if ascii_only else ())


def _encoded(secret: str) -> list[str]:
    """Return the forms of a secret inside longer base64 and hex texts."""
    data = secret.encode("utf-8", "surrogateescape")
    forms = [data.hex()]
    for shift, skipped in ((0, 0), (1, 2), (2, 3)):  # bytes before the secret, and characters that they share with it
        whole = base64.b64encode(bytes(shift) + data).decode()
        inner = whole[skipped : (shift + len(data)) * 8 // 6]
        forms += [inner, inner.replace("+", "-").replace("/", "_")]
    return forms


def _user_and_password(url: str) -> list[str]:
    """Return the credentials in a URL, as written and decoded, and as a pair; empty without a password."""
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    name, colon, password = user.partition(":")
    if not at or not colon or not password:
        return []
    return [user, password, unquote(password), f"{unquote(name)}:{unquote(password)}"]


def _webhook_secrets(url: str) -> list[str]:
    """Return the part of a webhook's address after the host, whole and split; plain words are not secret."""
    try:
        address = urlsplit(url.strip())
    except ValueError:
        return [url.strip()]
    pieces = [*address.path.split("/"), *re.split("[&=]", address.query), address.fragment]
    telling = [item for item in pieces if not re.fullmatch("[a-z]*", item)]
    return [*_user_and_password(url), address.path, address.query, *telling]


def _finds(pattern: _Pattern | None, text: str) -> bool:
    """Return True if `text`, or one of its repeatedly unescaped forms, has a match."""
    if pattern is None:
        return False
    for _ in range(_MOST_LEVELS):
        if pattern.is_in(text):
            return True
        if not ("%" in text or "\\" in text or "&" in text):  # every escape begins with one of these
            return False
        text, escaped = _ESCAPE.sub(_undone, text), text
        if text == escaped:
            return False
    return False


def _stripped(pattern: _Pattern | None, text: str) -> str:
    """Return `text` with a mark in place of each match at any level of escapes, otherwise unchanged.

    A very long text with a secret is truncated, because each character must be tracked through the levels.
    """
    if pattern is None or not _finds(pattern, text):
        return text
    text = text[:_MOST_CHARS]
    spans: list[_SPAN] = [(char, at, at + 1) for at, char in enumerate(text)]
    bad: list[tuple[int, int]] = []
    for _ in range(_MOST_LEVELS):
        plain = "".join(char for char, _, _ in spans)
        bad += [(spans[found.start()][1], spans[found.end() - 1][2]) for found in pattern.regex.finditer(plain)]
        plainer = _plainer(spans, plain)
        if len(plainer) == len(spans):
            break
        spans = plainer
    return _marked(text, bad)


def _plainer(spans: list[_SPAN], plain: str) -> list[_SPAN]:
    """Return the characters of the next level, with their places in the original text."""
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
    """Decode one escape or a sequence of escapes."""
    token = found.group()
    if token[0] == "%":
        return unquote(token, errors="replace")
    if token[0] == "&":
        import html  # here, as its table is large

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
