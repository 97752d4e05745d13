"""Which providers exist: the one place that names their packages.

A provider's client is imported when it is asked for: its libraries take time to load.
"""

from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager

from batchrunner.clock import Clock
from batchrunner.net.proxies import Proxies
from batchrunner.providers.base import Provider
from batchrunner.providers.endpoint import Endpoint


def connect(
    endpoint: Endpoint, clock: Clock, executor: Executor, proxies: Proxies | None = None
) -> AbstractAsyncContextManager[Provider]:
    """Make the provider for an endpoint; entering it opens its connections.

    executor: where local inputs are read, off the loop. The embedded sandbox speaks the protocol of aimlapi.
    """
    from batchrunner.providers.aimlapi.client import ApiClient

    return ApiClient(endpoint, clock, executor, proxies=proxies)
