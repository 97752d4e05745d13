"""Which requests the review server answers. Pure.

The page can set verdicts and show files of this machine, so three things are checked for each request. The token in the
path shows that the caller has the address. The Host header must name this server: a page of another site cannot
reach it under a name of its own (DNS rebinding). Requests that a page of another site makes are refused.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest

WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 (compared with, not bound to)
_LOOPBACK_NAMES = frozenset({"localhost"})

# For pages: nothing is loaded from elsewhere, no inline script or style runs, and no text can become markup.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# For files of the batch: even a file that a browser takes for a page can do nothing.
FILE_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one server. token: in the path of each address. host, port: bound. names: of this machine."""

    token: str
    host: str
    port: int
    names: frozenset[str] = frozenset()

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the message of a refusal, or None if the request may be answered."""
        if not self._is_own_host(headers.get("Host", "")):
            return 403, "This server does not answer under that host name."
        sent = path.split("/", 2)[1] if path.startswith("/") else ""
        if not compare_digest(sent.encode("utf-8", "replace"), self.token.encode()):
            return 404, "Not found. Open the address that batchrunner review printed."
        if _is_from_elsewhere(method, headers):
            return 403, "Requests from pages of other sites are refused."
        if method not in {"GET", "HEAD"} and not _is_json(headers.get("Content-Type", "")):
            return 415, "The body must be application/json."
        return None

    def _is_own_host(self, header: str) -> bool:
        name, port = _host_and_port(header)
        if port != self.port:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in _LOOPBACK_NAMES or name in self.names
        # An address cannot be rebound to another machine, as a name can.
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that is bound to `host`."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_and_port(header: str) -> tuple[str, int]:
    name, mark, port = header.rpartition(":")
    if not mark or header.endswith("]"):
        name, port = header, "80"
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return name.removeprefix("[").removesuffix("]").lower(), number


def _is_from_elsewhere(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether a page of another origin made the request. A click on a link to the page is not refused."""
    own = f"http://{headers.get('Host', '')}"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != own.lower():
        return True
    if method not in {"GET", "HEAD"}:
        return origin is None
    is_navigation = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    return headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"} and not is_navigation


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"
