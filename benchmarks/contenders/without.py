"""batchrunner without some of what it does, so that what that costs can be told apart: without.py PARTS COMMAND...

PARTS: names of `WITHOUT`, joined by a comma, or `-` for none. uvloop: its loop instead of asyncio's.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

_NO_STRUCTURE = "from batchrunner.media import mp4_structure as mp4; mp4.check_structure = lambda *_: None"


def decode() -> None:
    """No frame of a clip is decoded."""
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
    """No pictures for the report."""
    from batchrunner.media import posters

    put(posters, "_make_each", lambda *_: None)


def report() -> None:
    """No report at the end."""
    from batchrunner.report import writer as report

    put(report, "write", lambda *_, **__: ())


def structure() -> None:
    """A clip's boxes and samples are not looked at."""
    from batchrunner.media import decoder_pool

    pool = decoder_pool.Pool(start=f"{_NO_STRUCTURE}; {decoder_pool.START}")
    put(decoder_pool, "pool", lambda: pool)


def flushing() -> None:
    """Nothing is waited for until it is on the disk."""
    from batchrunner.journal import journal

    put(os, "fsync", lambda _: None)
    connect: Callable[[Any], Any] = journal._connect  # noqa: SLF001 (what opens it has no other name)

    def relaxed(path: Any) -> Any:
        connection = connect(path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    put(journal, "_connect", relaxed)


def own() -> None:
    """Submissions share kept-alive connections, which leaves some in doubt where a server closes one."""
    import aiohttp

    class Shared(aiohttp.TCPConnector):
        def __init__(self, *arguments: Any, force_close: bool = False, **named: Any) -> None:
            super().__init__(*arguments, **named)

    put(aiohttp, "TCPConnector", Shared)


def uvloop() -> None:
    """Not asyncio's loop."""
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
    """Something else in place of what is there; what is not there any more must not go unnoticed."""
    assert hasattr(module, name), f"{module.__name__} has no {name}"
    setattr(module, name, instead)


if __name__ == "__main__":
    main()
