"""Validate a request body as the service would. Pure: bytes in, an `Order` or a list of issues out.

Field names, types, enums and defaults are data (`batchrunner.sandbox.models`). Issues have the shape of the zod library
that the service answers with (one was captured: ``invalid_enum_value`` on this very path; the others follow zod 3).
Whether the service refuses unknown keys is not known; here they are dropped, as zod does by default.
"""

import binascii
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from batchrunner.sandbox.models import BY_NAME, MODELS, Model

STAND_IN = "stand-in"  # in the ledger: the bundled file that replaces the input behind a URL
_SIGNATURES = {"x-amz-signature", "x-goog-signature", "sig"}  # parameters of links to S3, Google and Azure
Issue = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Input:
    """One medium of an order. sha256: of its bytes, or of the URL's text without a signature.

    data: the bytes of a data URI, else None. url: the URL, else "".
    """

    sha256: str
    data: bytes | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Return its name in the ledger: kept content, or the bundled stand-in of a URL."""
        return STAND_IN if self.data is None else f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request. inputs: by name, in the model's order. params: with the documented defaults filled in."""

    model: str
    inputs: Mapping[str, Input]
    params: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over model, parameters and inputs, hex: equal requests have equal fingerprints."""
        digests = [item.sha256 for item in self.inputs.values()]
        content = [self.model, sorted(self.params.items()), *digests]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check(body: bytes) -> Order | list[Issue]:
    """Return the order in a JSON body, or every issue in it."""
    try:
        payload = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return [{"code": "custom", "path": [], "message": "Request body is not valid JSON"}]
    if not isinstance(payload, dict):
        return [_wrong_type("object", payload, [])]
    named = _MODEL_NAME(payload["model"], ["model"]) if "model" in payload else missing("model")
    # Without a usable model, the other fields are checked as those of the first one.
    model = MODELS[0] if isinstance(named, dict) else BY_NAME[named]
    values = dict(model.defaults)
    for name, read in _READERS[model.names[0]].items():
        if name in payload:
            values[name] = read(payload[name], [name])
    values |= {item.field: missing(item.field) for item in model.media if item.required and item.field not in payload}
    order = ("model", *(item.field for item in model.media), *model.parameters)
    found = {"model": named, **values}
    issues = [found[name] for name in order if isinstance(found.get(name), dict)]
    if issues:
        return issues
    inputs = {item.name: values.pop(item.field) for item in model.media if item.field in values}
    return Order(str(named), inputs, values)


def missing(name: str) -> Issue:
    """Return the issue of a missing required field."""
    expected = " | ".join(f"'{model}'" for model in BY_NAME) if name == "model" else "string"
    return {
        "code": "invalid_type", "expected": expected, "received": "undefined", "path": [name], "message": "Required",
    }  # fmt: skip


def _refuse_constant(constant: str) -> float:
    raise ValueError(constant)


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {type(None): "null", str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names[type(value)]


def _wrong_type(expected: str, value: object, path: list[str], received: str | None = None) -> Issue:
    received = received or _json_type(value)
    message = f"Expected {expected}, received {received}"
    return {
        "code": "invalid_type", "expected": expected, "received": received, "path": path, "message": message,
    }  # fmt: skip


def _enum(*options: str) -> Callable[[object, list[str]], Any]:
    expected = " | ".join(f"'{option}'" for option in options)

    def read(value: object, path: list[str]) -> str | Issue:
        if not isinstance(value, str):
            return _wrong_type(expected, value, path)
        if value not in options:
            message = f"Invalid enum value. Expected {expected}, received '{value}'"
            return {
                "received": value, "code": "invalid_enum_value", "options": list(options), "path": path,
                "message": message,
            }  # fmt: skip
        return value

    return read


def _number(value: object, path: list[str]) -> float | Issue:
    # JavaScript reads what lies beyond a double as Infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return _wrong_type("number", value, path)
    return value


def _integer(value: object, path: list[str]) -> int | Issue:
    number = _number(value, path)
    if isinstance(number, float) and not number.is_integer():
        return _wrong_type("integer", value, path, "float")
    return number if isinstance(number, dict) else int(number)


def _boolean(value: object, path: list[str]) -> bool | Issue:
    return value if isinstance(value, bool) else _wrong_type("boolean", value, path)


def _text(value: object, path: list[str]) -> str | Issue:
    return value if isinstance(value, str) else _wrong_type("string", value, path)


def _media(kind: str) -> Callable[[object, list[str]], Any]:
    def read(value: object, path: list[str]) -> Input | Issue:
        if not isinstance(value, str):
            return _wrong_type("string", value, path)
        if value[:5].lower() == "data:":
            return _data_uri(value, kind, path)
        if not _is_web_url(value):
            return {"validation": "url", "code": "invalid_string", "message": "Invalid url", "path": path}
        return Input(hashlib.sha256(unsigned(value).encode()).hexdigest(), url=value)

    return read


def unsigned(url: str) -> str:
    """Return a link to an object without its signature: each signing gives another one."""
    link, _, query = url.partition("?")
    return link if any(name.lower() in _SIGNATURES for name, _ in parse_qsl(query)) else url


def _is_web_url(text: str) -> bool:
    try:
        text.encode()  # lone surrogates
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        return False


def _data_uri(text: str, kind: str, path: list[str]) -> Input | Issue:
    head, comma, payload = text.partition(",")
    mime = head[5:].split(";")[0].strip().lower()
    if not comma or not head.lower().endswith(";base64") or not mime.startswith(f"{kind}/"):
        wanted = f"a data URI of the form data:{kind}/...;base64,..."
        return {"code": "custom", "path": path, "message": f"Invalid input: expected {wanted}"}
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        return {"code": "custom", "path": path, "message": "Invalid input: the data URI's base64 cannot be decoded"}
    if not data:
        return {"code": "custom", "path": path, "message": "Invalid input: the data URI is empty"}
    return Input(hashlib.sha256(data).hexdigest(), data)


_Reader = Callable[[object, list[str]], Any]
_TYPES: Mapping[str, _Reader] = {"integer": _integer, "number": _number, "boolean": _boolean, "string": _text}


def _readers(model: Model) -> dict[str, _Reader]:
    """Return the check of each field of a model: it returns the value, or an issue."""
    readers: dict[str, _Reader] = {item.field: _media(item.kind) for item in model.media}
    for name, schema in model.parameters.items():
        readers[name] = _enum(*schema["enum"]) if "enum" in schema else _TYPES[schema["type"]]
    return readers


_MODEL_NAME = _enum(*BY_NAME)
_READERS = {model.names[0]: _readers(model) for model in MODELS}
