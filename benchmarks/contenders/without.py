"""batchrunner without some of its steps, to measure their cost: without.py PARTS COMMAND...

PARTS: names in `WITHOUT`, separated by commas, or `-` for none. uvloop: use uvloop instead of asyncio's loop.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

_NO_STRUCTURE = "from batchrunner.media import mp4_structure as mp4; mp4.check_structure = lambda *_: None"


def decode() -> None:
    """Decode no frame of a clip."""
    from batchrunner.media import decoder_pool

    class Unlooked(decoder_pool.Pool):
        def run_all(self, task: str, items: Any, enough: Any = None) -> Any:
            if task != "clip":
                return super().run_all(task, items)
            found = {"width_px": 480, "height_px": 480, "duration_s": 0.2, "frames": 2, "warnings": ()}
            return [found for _ in items]

    pool = Unlooked()
    put(decoder_pool, "pool", lambda: pool)


def posters() -> None:
    """Make no pictures for the report."""
    from batchrunner.media import posters

    put(posters, "_make_each", lambda *_: None)


def report() -> None:
    """Write no report at the end."""
    from batchrunner.report import writer as report

    put(report, "write", lambda *_, **__: ())


def structure() -> None:
    """Do not check a clip's boxes and samples."""
    from batchrunner.media import decoder_pool

    pool = decoder_pool.Pool(start=f"{_NO_STRUCTURE}; {decoder_pool.START}")
    put(decoder_pool, "pool", lambda: pool)


def flushing() -> None:
    """Do not wait for flushes."""
    from batchrunner.journal import journal

    put(os, "fsync", lambda _: None)
    connect: Callable[[Any], Any] = journal._connect  # noqa: SLF001 (there is no public name)

    def relaxed(path: Any) -> Any:
        connection = connect(path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    put(journal, "_connect", relaxed)


def own() -> None:
    """Let submissions share kept-alive connections. A server that closes one leaves submissions in doubt."""
    import aiohttp

    class Shared(aiohttp.TCPConnector):
        def __init__(self, *arguments: Any, force_close: bool = False, **named: Any) -> None:
            super().__init__(*arguments, **named)

    put(aiohttp, "TCPConnector", Shared)


def uvloop() -> None:
    """Use uvloop instead of asyncio's loop."""
    import uvloop

    uvloop.install()


WITHOUT = {item.__name__: item for item in (decode, posters, report, structure, flushing, own, uvloop)}


def main() -> None:
    for piece in sys.argv[1].replace("-", "").split(","):
        if piece:
            WITHOUT[piece]()
    sys.argv = ["batchrunner", *sys.argv[2:]]
    from batchrunner.cli import main as command

    command()


def put(module: Any, name: str, instead: Any) -> None:
    """Replace an attribute of a module. Raise an error if it does not exist."""
    assert hasattr(module, name), f"{module} has no {name}"
    setattr(module, name, instead)


if __name__ == "__main__":
    main()
