"""Check where a download may lead. Neither the service's links nor their redirects are trusted.

Rules: http and https only. Nothing at a private, loopback or link-local address, unless the service itself is at one
(a sandbox, a gateway in the house). No way from https down to http, where whoever listens could change the clip; a
link that is plain http from the start is the service's own choice, told over its own connection. Names are judged by
the addresses that they resolve to, in the resolver of the connection itself: what was checked is what is connected to.
A proxy looks names up itself, so behind one a name is judged as a name: those of private networks are refused.
"""

import ipaddress
import re
import socket
from functools import lru_cache

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from batchrunner.errors import ServiceFault
from batchrunner.net.proxies import Proxies, Proxy
from batchrunner.transfer import link_expiry

# A host whose last part is a number is an address in some spelling or other (WHATWG URL, host parser).
_NUMBER = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$", re.IGNORECASE)


# Names without a dot, and below top-level names that the internet at large does not have.
_PRIVATE_NAME = re.compile(
    r"^[^.]+\.?$|\.(local|localhost|localdomain|internal|intranet|private|lan|corp|home|home\.arpa)\.?$", re.IGNORECASE
)


class Guard(AbstractResolver):
    """Checks the links of one service. It is also the resolver of the session that follows them.

    service_url: the service's own address, from the user. names: what looks names up. proxies: of the user.
    """

    def __init__(self, service_url: str, names: AbstractResolver | None = None, proxies: Proxies | None = None) -> None:
        self._service_host = URL(service_url).host or ""
        self._names = names
        self._proxies = proxies or Proxies()
        self._at_home: bool | None = None  # whether the service is at a private address, once known

    def target(self, link: str, base: URL | None = None) -> URL:
        """Where `link` leads, seen from `base` if it is a redirect from there. Raises ServiceFault `link_refused`."""
        try:
            url = _url(link_expiry.address(link, _address_of(base) if base else None))
            host = url.host
        except ValueError:  # UnicodeError is one
            raise _refused("is not a usable address") from None
        if url.scheme not in {"http", "https"}:
            raise _refused(f"leads to a {url.scheme[:20]} address" if url.scheme else "is not a usable address")
        if not host:
            raise _refused("names no host")
        if base is not None and base.scheme == "https" and url.scheme == "http":
            raise _refused(f"is redirected from https to plain http, at {url.host}")
        return url

    def proxy(self, url: URL) -> Proxy | None:
        """The proxy that leads to `url`, or None."""
        return self._proxies.for_host(url.scheme, url.host or "", url.port)

    async def admit(self, url: URL) -> None:
        """Check a host that the resolver does not see: an address, or a name behind a proxy. Raises ServiceFault."""
        host = url.host or ""
        literal = _address(host)
        if literal is None and _NUMBER.search(host):
            raise _refused(f"names the address {host} in an odd spelling")
        if literal is not None and not is_public(host) and not await self._service_is_private():
            raise _refused(f"leads to the private address {host}")
        inward = literal is None and _PRIVATE_NAME.search(host) and not _PRIVATE_NAME.search(self._service_host)
        if inward and self.proxy(url):
            raise _refused(f"leads to {host}, a name of a private network")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host` that a download may connect to. Raises OSError, and ServiceFault if there is none."""
        found = await self._look_up(host, port, family)
        fine = [item for item in found if is_public(item["host"])]
        if len(fine) == len(found) or await self._service_is_private():
            return found
        if not fine:
            raise _refused(f"leads to {host}, which is at the private address {found[0]['host']}")
        return fine

    async def close(self) -> None:
        """Nothing to close."""

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        self._names = self._names or ThreadedResolver()
        try:
            return await self._names.resolve(host, port, family)
        except UnicodeError:  # a name with an empty part, or one of more than 63 characters
            raise OSError(f"no such host: {host[:80]}") from None

    async def _service_is_private(self) -> bool:
        if self._at_home is None:
            if _address(self._service_host) is not None:
                self._at_home = not is_public(self._service_host)
            else:
                try:
                    found = await self._look_up(self._service_host, 0, socket.AF_UNSPEC)
                except OSError:
                    return False  # unknown: assume public, ask again next time
                self._at_home = all(not is_public(item["host"]) for item in found)
        return self._at_home


def _url(address: link_expiry.Address) -> URL:
    """The address as the HTTP library takes it. Only the host's spelling is its own. Raises ValueError."""
    if not address.scheme or not address.authority:
        return URL.build(scheme=address.scheme)
    authority = _raw_authority(address.scheme, address.authority)
    path, mark, query = address.target.partition("?")
    path += mark if mark and not query else ""  # a lone question mark counts too
    return URL.build(scheme=address.scheme, authority=authority, path=path, query_string=query, encoded=True)


@lru_cache(256)
def _raw_authority(scheme: str, authority: str) -> str:
    return URL(f"{scheme}://{authority}").raw_authority


def _address_of(url: URL) -> link_expiry.Address:
    return link_expiry.Address(url.scheme, url.raw_authority, url.raw_path_qs)


def public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether `address` is one of the internet at large. An IPv6 form that carries IPv4 addresses is as they are."""
    if isinstance(address, ipaddress.IPv6Address):
        within = _carried(address)
        if address in _LOCAL_NAT64:  # behind a prefix of 96 bits; behind a shorter one, what carries nothing is unclear
            return not int(address) >> 32 & 0xFFFF_FFFF and public(_ipv4(int(address)))
        if within:
            return all(public(item) for item in within)
        if address.is_site_local:
            return False
        if int(address) >> 32 & _NOT_THE_UNIVERSAL_BIT == _ISATAP and not public(_ipv4(int(address))):
            return False
    return address.is_global and not address.is_multicast


# IPv6 networks whose addresses contain IPv4 addresses: the number of bits after each, and the mask for their XOR.
_CARRIERS: tuple[tuple[ipaddress.IPv6Network, tuple[tuple[int, int], ...]], ...] = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), ((0, 0),)),  # mapped, RFC 4291
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), ((0, 0),)),  # translated, RFC 2765
    (ipaddress.IPv6Network("::/96"), ((0, 0),)),  # compatible, RFC 4291; "::" and "::1" are no public IPv4 either
    (ipaddress.IPv6Network("2002::/16"), ((80, 0),)),  # 6to4, RFC 3056
    (ipaddress.IPv6Network("2001::/32"), ((64, 0), (0, 0xFFFF_FFFF))),  # Teredo, RFC 4380: server and client
    (ipaddress.IPv6Network("64:ff9b::/96"), ((0, 0),)),  # NAT64, RFC 6052
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: a prefix of 96 bits, or of fewer, within it
_ISATAP = 0x5EFE  # RFC 5214: in an interface's id, before the IPv4 address; behind any prefix
_NOT_THE_UNIVERSAL_BIT = 0xFFFF_FFFF & ~0x0200_0000


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that `address` carries by its network's form."""
    places = next((places for network, places in _CARRIERS if address in network), ())
    return [_ipv4(int(address) >> shift ^ mask) for shift, mask in places]


def _ipv4(bits: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bits & 0xFFFF_FFFF)


@lru_cache(256)
def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(256)
def is_public(host: str) -> bool:
    """Whether `host` is an address of the internet at large. A name is not."""
    address = _address(host)
    return address is not None and public(address)


def _refused(what: str) -> ServiceFault:
    return ServiceFault("link_refused", f"the download link {what}; it was not followed")
