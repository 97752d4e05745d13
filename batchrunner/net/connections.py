"""Errors that connections to the service and to file hosts share: wrong settings of certificates and proxies.

A certificate that is not trusted and a proxy that refuses are no outage: waiting does not help. Callers name the kinds
of these faults, as they stop a batch where the service is behind them, and concern one download where a file host is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from batchrunner.errors import NetworkFault
from batchrunner.net import certificates
from batchrunner.net.proxies import Proxy

_PROXY_HINT = (
    "Check user and password in HTTPS_PROXY, or what the proxy lets this machine reach; NO_PROXY names hosts that are "
    "reached without it."
)


@contextmanager
def closed_ways(proxy: Proxy | None, certificate_kind: str, proxy_kind: str) -> Iterator[None]:
    """Turn what settings have to correct into a NetworkFault of one of these kinds. No byte of the request has left."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise certificates.not_trusted(error, error.host, certificate_kind) from error
    except aiohttp.ClientHttpProxyError as error:
        shown = proxy.shown if proxy else "in between"
        host = error.request_info.url.host or ""
        message = f"the proxy {shown} gives no way to {host}: it answered {error.status}"
        if 400 <= error.status < 500 and error.status not in {408, 429}:
            raise NetworkFault(proxy_kind, message, _PROXY_HINT) from error
        raise NetworkFault("no_connection", message) from error
    except aiohttp.ClientProxyConnectionError as error:
        shown = proxy.shown if proxy else "in between"
        raise NetworkFault("no_connection", f"the proxy {shown} could not be reached: {error.os_error}") from error
