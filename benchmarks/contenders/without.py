"""batchrunner without some of what it does, so that what that costs can be told apart: without.py PARTS COMMAND...

PARTS: any of decode, posters, joined by a comma, or `-` for none. uvloop: its loop instead of asyncio's.
"""

import sys


def main() -> None:
    parts = set(sys.argv[1].split(","))
    sys.argv = ["batchrunner", *sys.argv[2:]]
    if "decode" in parts:
        from batchrunner import downloader, mp4

        downloader.mp4.check_decodes = lambda _: mp4.Decoded(480, 480, 0.2, 2)
    if "posters" in parts:
        from batchrunner import posters

        posters._make_each = lambda *_: None  # noqa: SLF001 (measured from outside, on purpose)
    if "uvloop" in parts:
        import uvloop

        uvloop.install()
    from batchrunner.cli import main as command

    command()


if __name__ == "__main__":
    main()
