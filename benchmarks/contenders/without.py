"""batchrunner without some of what it does, so that what that costs can be told apart: without.py PARTS COMMAND...

PARTS: any of decode, posters, joined by a comma, or `-` for none. uvloop: its loop instead of asyncio's.
"""

import sys
from typing import Any


def main() -> None:
    parts = set(sys.argv[1].split(","))
    sys.argv = ["batchrunner", *sys.argv[2:]]
    if "decode" in parts:
        from batchrunner import mp4

        put(mp4, "check_decodes", lambda _: mp4.Decoded(480, 480, 0.2, 2))
    if "posters" in parts:
        from batchrunner import posters

        put(posters, "_make_each", lambda *_: None)
    if "uvloop" in parts:
        import uvloop

        uvloop.install()
    from batchrunner.cli import main as command

    command()


def put(module: Any, name: str, instead: Any) -> None:
    """Something else in place of what is there; what is not there any more must not go unnoticed."""
    assert hasattr(module, name), f"{module.__name__} has no {name}"
    setattr(module, name, instead)


if __name__ == "__main__":
    main()
