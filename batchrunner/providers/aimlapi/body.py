"""Read the body of a reply, even if it is damaged: bytes in, objects and ids out. Pure.

A reply that arrived is worth reading: the id in it may be paid for. Seen in the field: a byte order mark, a Latin-1
byte, a control character, a trailing comma, text before or after the object, and an envelope around it. What the
fields of an object mean is decided in `batchrunner.providers.aimlapi.responses`.

Nothing here raises for a bad body, and every step takes time linear in its length.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

_MAX_ID = 1000  # characters: longer than any id, and short enough for a URL
_STARTS = 20  # at most so many places where an object may start are tried
_ENVELOPES = ("data", "result", "output", "response")
_LEVELS = 4  # of envelopes
_KNOWN = {"id", "generation_id", "status", "video", "error", "errors", "message", "detail", *_ENVELOPES}
_ID_KEYS = ("generation_id", "id")
# An id below one of these keys is not the generation's.
_OTHERS_IDS = {"id", "error", "errors", "meta", "usage", "user", "account", "model", "request", "input", "inputs"}
_HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!doctype\s+html|<html|<head|<body)", re.IGNORECASE)
# A string of JSON, to its end or to the text's: the alternative keeps the search linear where the end is missing.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_COMMA = re.compile(rf"({_STRING})|,(?=\s*+[\]}}])", re.DOTALL)
_TOKEN = re.compile(
    rf"(?P<text>{_STRING})(?P<colon>\s*+:\s*+(?P<number>\d{{1,{_MAX_ID}}}(?=\s*+[,}}]))?)?|[{{}}\[\]]", re.DOTALL
)
_START = re.compile(r"[\[{]")
_INSIDE = re.compile(r'(?:"\s*+:|[,\[{])\s*+\Z')  # before an object that is part of another one
_LOOK_BACK = 20
_DECODER = json.JSONDecoder(strict=False)  # control characters in strings are allowed


def json_value(body: bytes) -> object:
    """Return the JSON value of a body, or None. Damage around the value, and small damage in it, is
    passed over.
    """
    text = _text(body)
    value = _loaded(text.strip("\0 \t\r\n"))
    if value is not None or _HTML.match(text):
        return value
    return next(_objects(_COMMA.sub(lambda found: found[1] or "", text)), None)


def json_object(body: bytes) -> dict[str, Any] | None:
    """Return the object in a body, also from a list of one object."""
    return _single(json_value(body))


def levels(reply: dict[str, Any], asked: str = "") -> list[dict[str, Any]]:
    """The reply and the objects in the envelopes around the generation, from the outermost to the innermost.

    An object that names the generation `asked` for, and says its status, is no envelope.
    """
    found = [reply]
    while len(found) < _LEVELS:
        outer = found[-1]
        inner = _enveloped(outer)
        if inner is None or ("status" in outer and any(same_generation(item, asked) for item in ids_of(outer))):
            break
        if "status" in outer and "status" not in inner and not ids_of(inner):
            break
        found.append(inner)
    return found


def _enveloped(outer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the object in the first envelope of an object, or None."""
    for key in _ENVELOPES:
        if key in outer and (inner := _single(outer[key])) is not None:
            return inner
    return None


def merged_levels(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the objects of a reply. Fields of inner objects win."""
    return found[0] if len(found) == 1 else {key: value for level in found for key, value in level.items()}


def ids_of(level: Mapping[str, Any]) -> list[str]:
    """The usable ids that an object gives itself, the more telling one last."""
    return [text for key in ("id", "generation_id") if key in level and (text := id_text(level[key]))]


def id_text(value: object) -> str | None:
    """An id as text, or None where `value` cannot be one."""
    text = str(value) if type(value) is int and abs(value) < 10**_MAX_ID else value  # a truth value is no id
    return text if is_usable_id(text) else None


def is_usable_id(value: object) -> TypeGuard[str]:
    """Whether `value` can serve as a generation's id: stored, shown, and asked for in a URL."""
    # A lone surrogate can be neither stored nor asked for; the captured ids have some 70 characters.
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= _MAX_ID
        and (value.isascii() or value == value.encode("utf-8", "ignore").decode())
    )


def same_generation(one: str, other: str) -> bool:
    """Whether two ids name one generation: ``uuid`` and ``uuid:model`` do, in either direction."""
    one, other = one.strip(), other.strip()
    return one == other or one.partition(":")[0] == other or one == other.partition(":")[0]


def id_in_text(body: bytes) -> str | None:
    """Return the only id in a body, which may be damaged; None if there is none or more than one.

    Of several, the least nested counts, and ``generation_id`` before ``id``.
    """
    text = _text(body)
    if _HTML.match(text):
        return None
    found: dict[tuple[int, int], set[str]] = {}
    for keys, key, value in _pairs(text):
        if key in _ID_KEYS and not _OTHERS_IDS & set(keys) and is_usable_id(value):
            found.setdefault((len(keys), _ID_KEYS.index(key)), set()).add(value)
    best = found[min(found)] if found else set()
    return best.pop() if len(best) == 1 else None


def _text(body: bytes) -> str:
    try:
        return body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        if body.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in body[2:6]:
            return body.decode("utf-16", "replace")
        return body.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _loaded(text: str) -> object:
    """Return the JSON value that is the whole text, or None."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if end == len(text) else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The objects in a text that look like a reply, and are no part of another, damaged one."""
    for start in islice(_START.finditer(text), _STARTS):
        if _INSIDE.search(text, max(0, start.start() - _LOOK_BACK), start.start()):
            continue
        try:
            value = _single(_DECODER.raw_decode(text, start.start())[0])
        except (ValueError, RecursionError):
            continue
        if value is not None and _KNOWN & value.keys():
            yield value


def _single(value: object) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else None


def _pairs(text: str) -> Iterator[tuple[Sequence[str], str, str | None]]:
    """Every key with a string or a whole number as its value, and the keys above it, as far as the text shows."""
    above: list[str] = []
    key = ""
    expected = False  # whether the next token is the value of `key`
    for token in _TOKEN.finditer(text):
        token_text = token["text"]
        if token_text is None:
            if token[0] in "{[":
                above.append(key if expected else "")
            elif above:
                above.pop()
            key, expected = "", False
        elif token["colon"] is not None:
            key, expected = _unquoted(token_text) or "", True
            if token["number"]:
                yield above, key, token["number"]
                expected = False
        elif expected:
            yield above, key, _unquoted(token_text)
            key, expected = "", False


def _unquoted(token_text: str) -> str | None:
    value = _loaded(token_text)
    return value if isinstance(value, str) else None
