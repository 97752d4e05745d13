"""The sandbox: a local HTTP service that stands in for the hosted video API.

It answers as the service's documentation says, renders real clips, and injects faults by seed. It shares no code with
the client, so it cannot repeat the client's mistakes. It imports only modules that know no service: `clock`, `errors`,
`settings` and `formatting`. It fetches nothing from other machines by default, and keeps no
key.
"""

from typing import TYPE_CHECKING

from batchrunner.sandbox.config import SandboxConfig, rehearsal
from batchrunner.sandbox.faults.rules import Fault

if TYPE_CHECKING:
    from batchrunner.clock import Clock
    from batchrunner.sandbox.server import Sandbox
    from batchrunner.sandbox.service import Renderer

__all__ = ["Fault", "SandboxConfig", "rehearsal", "start"]


async def start(config: SandboxConfig, *, clock: "Clock | None" = None, render: "Renderer | None" = None) -> "Sandbox":
    """A listening sandbox; `await sandbox.close()` ends it.

    clock: by default one that runs at `config.speed`. render: makes a clip of a request; by default what
    `config.render` says.
    Raises UsageError if the address or the state directory cannot be used.
    """
    from batchrunner.sandbox import server  # aiohttp: loaded only by who serves, not by the render workers

    return await server.start(config, clock=clock, render=render)
