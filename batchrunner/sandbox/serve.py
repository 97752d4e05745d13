"""The sandbox in the foreground, for `batchrunner sandbox`: start, print the address, wait for a signal, close."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from batchrunner import sandbox
from batchrunner.errors import ExitStatus, UsageError
from batchrunner.formatting import parse_duration, parse_size


def configure(options: Mapping[str, Any]) -> sandbox.SandboxConfig:
    """Return the command's options as a configuration. They override the faults file. Raises UsageError."""
    base = sandbox.SandboxConfig(
        host=options["host"],
        port=options["port"],
        state_dir=Path(options["state"]) if options["state"] else None,
        speed=options["speed"],
    )
    if options["faults"]:
        base = base.with_faults(Path(options["faults"]))
    overrides = {name: options[name] for name in ("seed", "capacity") if options[name] is not None}
    if options["no_logs"]:
        overrides["logs"] = False
    if options["duration"] is not None:
        try:
            overrides["duration_s"] = parse_duration(options["duration"])
        except ValueError as error:
            raise UsageError(f"--duration: {error}", "Durations are written 200ms, 15s, 30m or 7h.") from None
    if options.get("max_body") is not None:
        try:
            overrides["body_limit_bytes"] = parse_size(options["max_body"])
        except ValueError as error:
            raise UsageError(f"--max-body: {error}", "Sizes are written 500kB, 10MB or 1GB.") from None
    return replace(base, **overrides)


def serve(config: sandbox.SandboxConfig) -> int:
    """Serve until SIGINT or SIGTERM. Raises UsageError if the address or the state directory cannot be used."""
    return asyncio.run(_serve(config))


async def _serve(config: sandbox.SandboxConfig) -> int:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    local = await sandbox.start(config)
    try:
        click.echo(f"sandbox listening on {local.url}")
        click.echo(f"  use it:     AIMLAPI_BASE_URL={local.url} AIMLAPI_KEY=any batchrunner run MANIFEST")
        click.echo(f"  its ledger: {local.url}/sandbox/ledger")
        await over.wait()
    finally:
        await local.close()
    return ExitStatus.OK
