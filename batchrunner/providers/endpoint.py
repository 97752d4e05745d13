"""The service's address and key: read from the environment and checked. Pure.

The key is read here and passed to the client only. It is never sent over an unencrypted connection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batchrunner.errors import UsageError
from batchrunner.redaction import KEY_VARIABLES, SHORTEST, Redactor
from batchrunner.settings import Settings

BASE_URL_VARIABLE = "AIMLAPI_BASE_URL"
DEFAULT_BASE_URL = "https://api.aimlapi.com"
_API_PATH = re.compile(r"(?<![:/])(/+v[12](/+video(/+generations)?)?)?/*$")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of the service, without a path, and its key. redactor: removes secrets from the service's texts.

    lists_on_acceptance: as in `batchrunner.providers.base.Capabilities`, if it is known of this service.
    """

    base_url: str
    key: str = field(repr=False)
    redactor: Redactor = field(default_factory=Redactor, repr=False, compare=False)
    lists_on_acceptance: bool = False


def read_endpoint(settings: Settings, environment: Mapping[str, str]) -> Endpoint | None:
    """Return address and key from the environment, or None for the embedded sandbox, which needs neither."""
    if settings.provider == "sandbox":
        return None
    base_url = base_url_of(environment)
    if not _safe_for_a_key(base_url):
        raise UsageError(
            f"{BASE_URL_VARIABLE} cannot be used: not a plain https address", f"The default is {DEFAULT_BASE_URL}."
        )
    key = next((environment[name].strip() for name in KEY_VARIABLES if environment.get(name, "").strip()), "")
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            "no API key: AIMLAPI_KEY is not set" if not key else "AIMLAPI_KEY holds characters that no key has",
            "Set it (export AIMLAPI_KEY=…), or try the batch for free with --provider sandbox.",
        )
    return Endpoint(_without_path(base_url), key, Redactor.of(environment, settings.notify))


def base_url_of(environment: Mapping[str, str]) -> str:
    """The service's address, as the environment gives it, or the default one. It is not checked here."""
    return environment.get(BASE_URL_VARIABLE, "").strip() or DEFAULT_BASE_URL


def address_of(environment: Mapping[str, str]) -> str:
    """Return the service's address without the path, as in `Endpoint.base_url`. It is not checked here."""
    return _without_path(base_url_of(environment))


def host_of(url: str) -> str:
    """Return the host of a URL, or "" if there is none or the URL is invalid."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def weak_keys(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Return a warning for a key that is too short to be recognised in other text."""
    short = [name for name in KEY_VARIABLES if 0 < len(environment.get(name, "").strip()) < SHORTEST]
    return [
        f"{name} has fewer than {SHORTEST} characters, so it cannot be a key of the service. A text this short "
        "cannot be removed from logs"
        for name in short
        if settings.provider != "sandbox"
    ]


def _without_path(base_url: str) -> str:
    """Return the address without the API's paths, which documented samples include in full or in part."""
    return _API_PATH.sub("", base_url)


def _safe_for_a_key(base_url: str) -> bool:
    """Return whether the key may be sent there: encrypted, or in clear text to this machine."""
    try:
        url = urlsplit(base_url)
        _ = url.port  # raises if it is not a number
        if "@" in url.netloc or url.query or url.fragment:
            return False
    except ValueError:
        return False
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK))


def service_name(settings: Settings, base_url: str) -> str:
    """Return the name of the service that generation ids belong to. Ports of this machine are not part of it."""
    if settings.provider == "sandbox":
        return "the embedded sandbox"
    return "this machine" if on_this_machine(base_url) else urlsplit(base_url).hostname or ""


def on_this_machine(base_url: str) -> bool:
    """Return whether the service, or a proxy for it, listens on this machine."""
    return (urlsplit(base_url).hostname or "") in _LOOPBACK
