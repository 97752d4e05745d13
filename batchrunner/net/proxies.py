"""Choose the proxy for a host: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl reads them. Pure.

A lower-case name has priority over the upper-case one, and an empty variable counts as unset. This machine is never
reached through a proxy: a key may go there in clear text, and only there. The user and password of a proxy go only to
the proxy; messages show its host and port.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from batchrunner.errors import UsageError

_SCHEMES = ("https", "http")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_SUPPORTED = {"http", "https"}
_HINT = "Set HTTPS_PROXY and HTTP_PROXY to http://host:port, or unset it. Nothing was submitted."


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. url: with its user and password, for the HTTP library alone. shown: its host and port."""

    url: str = field(repr=False)
    shown: str


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies by the scheme of what is asked for, and the hosts that are reached without. The default: none."""

    by_scheme: Mapping[str, Proxy] | None = None
    without: tuple[str, ...] = ()

    def for_host(self, scheme: str, host: str, port: int | None = None) -> Proxy | None:
        """Return the proxy for `host`, or None for a direct connection. port: None for the scheme's own."""
        proxy = (self.by_scheme or {}).get(scheme)
        if proxy is None or _is_this_machine(host):
            return None
        port = port or _DEFAULT_PORTS.get(scheme, 0)
        return None if any(_covers(entry, host.lower().rstrip("."), port) for entry in self.without) else proxy

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy for a URL."""
        split = urlsplit(url)
        return self.for_host(split.scheme, split.hostname or "", split.port)


def read_proxies(environment: Mapping[str, str]) -> Proxies:
    """Read the proxies from the environment. Raises UsageError, which does not repeat a password."""
    by_scheme = {}
    for scheme in _SCHEMES:
        for variable in (f"{scheme}_proxy", "all_proxy"):
            name, text = _value(environment, variable)
            if text:
                by_scheme[scheme] = _proxy(name, text)
                break
    _, without = _value(environment, "no_proxy")
    entries = tuple(entry.lower() for entry in re.split(r"[\s,]+", without) if entry)
    return Proxies() if "*" in entries else Proxies(by_scheme, entries)


def _value(environment: Mapping[str, str], variable: str) -> tuple[str, str]:
    """The name that a variable is set under, and its value; both may be empty."""
    for name in (variable, variable.upper()):
        # A web server hands the header `Proxy` of a request to its programs as HTTP_PROXY (httpoxy).
        is_header = name == "HTTP_PROXY" and "REQUEST_METHOD" in environment
        if (text := environment.get(name, "").strip()) and not is_header:
            return name, text
    return "", ""


def _proxy(name: str, text: str) -> Proxy:
    url = text if "://" in text else f"http://{text}"
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
        unquote(f"{split.username}{split.password}", errors="strict").encode("latin-1")  # Basic's limit
    except ValueError:  # UnicodeError is one
        raise UsageError(f"{name} cannot be used: it is not the address of a proxy", _HINT) from None
    if split.scheme.startswith("socks"):
        raise UsageError(f"{name} names a SOCKS proxy, which batchrunner does not support", _HINT)
    if split.scheme not in _SUPPORTED or not host:
        raise UsageError(f"{name} cannot be used: it is not the address of an http proxy", _HINT)
    shown = f"[{host}]" if ":" in host else host
    return Proxy(f"{split.scheme}://{split.netloc}", f"{shown}:{port}" if port else shown)


def _is_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this host: a name with all names below it, an address, a network."""
    if "/" in entry:
        address = _address(host)
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if (match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d+)", entry)) is not None:
        entry = match[1]
        if int(match[2]) != port:
            return False
    bare = entry.strip("[]")
    if (address := _address(bare)) is not None:
        return address == _address(host)
    name = bare.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
