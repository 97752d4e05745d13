"""Read the service's price list and balance before a plan or a run. The list is kept in a file of the user's.

Nothing depends on the file. One that is missing, damaged or not writable is the same as none. It holds addresses,
model names and prices. A service that shows no prices or does not answer is no error: the built-in table is used.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.account.folders import state_folder
from batchrunner.errors import CallError, UsageError
from batchrunner.plan.prices import list_as_facts, list_from_facts
from batchrunner.providers.base import PriceList, Provider
from batchrunner.providers.endpoint import read_endpoint
from batchrunner.storage.durable_files import open_plain

if TYPE_CHECKING:
    from batchrunner.app.setup import Setup
    from batchrunner.plan.render import AccountView

_VERSION = 1
_MAX_BYTES = 1_000_000
_MAX_SERVICES = 32
_WITHIN_S = 10.0  # a plan does not wait longer for the service


def path_of(environment: Mapping[str, str]) -> Path:
    """Return the path of the file, which may not exist."""
    return state_folder(environment) / "prices.json"


def load(path: Path | None, base_url: str) -> PriceList | None:
    """Return the kept list of the service at `base_url`, or None."""
    return list_from_facts(_services(path).get(base_url))


def save(path: Path | None, base_url: str, prices: PriceList | None) -> None:
    """Keep the list of the service at `base_url` beside those of others; None removes it."""
    if path is None:
        return
    services = _services(path)
    services.pop(base_url, None)
    if prices is not None:
        services[base_url] = list_as_facts(prices)
    kept = dict(list(services.items())[-_MAX_SERVICES:])
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, json.dumps({"version": _VERSION, "services": kept}))


def _services(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with open_plain(path) as file:
            content = json.loads(file.read(_MAX_BYTES + 1)[: _MAX_BYTES + 1])
        services = content["services"] if content["version"] == _VERSION else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return services if isinstance(services, dict) else {}


def _replace(path: Path, text: str) -> None:
    """Write in one step: a reader finds the old content or the new one."""
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


async def refreshed(setup: "Setup", provider: Provider, base_url: str) -> "Setup":
    """Return the setup with the service's current price list, and keep the list.

    If the service does not answer within ten seconds, the kept list stands.
    """
    import asyncio  # here, as most commands that load this module call nobody

    if not provider.capabilities.prices:
        return setup
    try:
        async with asyncio.timeout(_WITHIN_S):
            prices = await provider.prices(setup.price_list)
    except (CallError, TimeoutError):
        return setup
    save(setup.price_file, base_url, prices)
    return replace(setup, price_list=prices)


def view_account(setup: "Setup", environment: Mapping[str, str]) -> "tuple[Setup, AccountView]":
    """Ask the service for price list and balance. Returns the setup with the list, and the account for a plan.

    Submits nothing. Without a key, or if the service does not answer, the view says so.
    """
    from batchrunner.plan.render import AccountView  # here, as a run does not show a plan

    try:
        endpoint = read_endpoint(setup.settings, environment)
    except UsageError as error:
        return setup, AccountView(note=error.message)
    if endpoint is None or not setup.batch.entries:
        return setup, AccountView()
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from batchrunner.clock import LoopClock
    from batchrunner.net.proxies import read_proxies
    from batchrunner.providers.registry import connect

    async def ask() -> tuple["Setup", AccountView]:
        with ThreadPoolExecutor(max_workers=1) as executor:
            async with connect(endpoint, LoopClock(), executor, proxies=read_proxies(environment)) as provider:
                return await refreshed(setup, provider, endpoint.base_url), await _balance(provider)

    return asyncio.run(ask())


async def _balance(provider: Provider) -> "AccountView":
    import asyncio

    from batchrunner.plan.render import AccountView

    if not provider.capabilities.balance:
        return AccountView(note="the service does not show it")
    try:
        async with asyncio.timeout(_WITHIN_S):
            balance = await provider.balance()
    except CallError as error:
        return AccountView(note=error.message)
    except TimeoutError:
        return AccountView(note="the service did not answer in time")
    return AccountView(balance) if balance else AccountView(note="the service does not show it to this key")
