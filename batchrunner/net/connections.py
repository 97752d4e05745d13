"""Errors that connections to the service, to file hosts and to webhooks share: no connection, certificates, proxies.

`unreachable_text` says why there is no connection, in the program's own words. A certificate that is not trusted and a
proxy that refuses are no outage: waiting does not help. Callers name the kinds of these faults, as they stop a batch
where the service is behind them, and concern one download where a file host is.
"""

import errno
import socket
from urllib.parse import urlsplit

import aiohttp

from batchrunner.errors import NetworkFault
from batchrunner.formatting import printable
from batchrunner.net import certificates
from batchrunner.net.proxies import Proxy
from batchrunner.redaction import error_text

NO_CONNECTION_HINT = (
    "No request was sent, so nothing was paid. Check the address, the network and the firewall of this machine."
)
_LONGEST_HOST = 100  # characters of a host in a message
_ERRNO_TEXTS = {
    errno.ECONNREFUSED: "{} refused the connection: no program answers at this address",
    errno.ECONNRESET: "{} closed the connection at once",
    errno.ENETUNREACH: "this machine has no route to {}",
    errno.EHOSTUNREACH: "this machine has no route to {}",
    errno.ENETDOWN: "the network of this machine is down",
    errno.ETIMEDOUT: "{} did not answer in time",
}
_PROXY_HINT = (
    "Check user and password in HTTPS_PROXY, or what the proxy lets this machine reach; NO_PROXY names hosts that are "
    "reached without it."
)


def settings_fault(
    error: BaseException, proxy: Proxy | None, certificate_kind: str, proxy_kind: str
) -> NetworkFault | None:
    """Return the fault for what settings have to correct, else None. No byte of the request has left."""
    shown = proxy.shown if proxy else "in between"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return certificates.not_trusted(error, error.host, certificate_kind)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        host = error.request_info.url.host or ""
        message = f"the proxy {shown} gives no way to {host}: it answered {error.status}"
        if 400 <= error.status < 500 and error.status not in {408, 429}:
            return NetworkFault(proxy_kind, message, _PROXY_HINT)
        return NetworkFault("no_connection", message)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        message = f"the proxy {shown} could not be reached: {unreachable_text(error)}"
        return NetworkFault("no_connection", message, NO_CONNECTION_HINT)
    return None


def unreachable_text(error: BaseException) -> str:
    """Say why there is no connection: host, port and cause. Other errors keep their own text, without secrets."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        host = urlsplit(str(error).rpartition(" ")[2]).netloc.rpartition("@")[2]
        return f"{host or 'the host'} did not answer in time"
    if type(error) is TimeoutError:  # of asyncio: it has no text
        return "nothing arrived in time"
    if isinstance(error, aiohttp.InvalidURL):
        return f"the address is not valid: {error_text(error)}"
    return _connector_text(error) if isinstance(error, aiohttp.ClientConnectorError) else error_text(error)


def _connector_text(error: aiohttp.ClientConnectorError) -> str:
    host = printable(f"[{error.host}]" if ":" in error.host else error.host, _LONGEST_HOST)
    place, cause = f"{host}:{error.port}", error.os_error
    if isinstance(cause, socket.gaierror) or isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {host} has no address: the name service of this machine does not know it or does not answer"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"{place} does not answer with TLS; the address may need http instead of https"
    code = cause.errno
    if code is None and str(errno.ECONNREFUSED) in str(cause):  # addresses of one host failed in different ways
        code = errno.ECONNREFUSED
    usual = "no connection to {}" + (f": {cause.strerror}" if cause.strerror else "")
    return _ERRNO_TEXTS.get(code or 0, usual).format(place)
