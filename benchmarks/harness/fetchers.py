"""The contenders of downloads.py: one table with their start commands and requirements.

All of them fetch the same file repeatedly from one host into one directory.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.service import command

SCRIPTS = Path(__file__).parent.parent / "contenders"


@dataclass(frozen=True, slots=True)
class Fetcher:
    """A contender. promises: the work that it does for each file. argv: a template for the values of `command_line`.

    programs, packages: requirements; without them it is left out. batch: a complete run of batchrunner, not only its
    downloader.
    """

    name: str
    argv: tuple[str, ...]
    promises: str = "none"
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    batch: bool = False
    idle: bool = False  # is also measured with nothing to fetch
    package: Path | None = None  # batchrunner's files at another commit; None for the working tree

    @property
    def plain(self) -> str:
        """Return the name without versions."""
        return re.sub(r" {[^}]*}", "", self.name)

    def lacks(self, found: Mapping[str, str]) -> bool:
        """Return whether a requirement is not installed."""
        return any(name not in found for name in (*self.programs, *self.packages))

    def command_line(self, url: str, folder: Path, count: int, peers: str) -> list[str]:
        """Return the command line. url: of the file. folder: the directory of its copies."""
        values = {
            "python": sys.executable,
            "peers": peers,
            "batchrunner": command(),
            "scripts": SCRIPTS,
            "url": url,
            "folder": folder,
            "count": count,
            "root": folder.parent,
        }
        return [piece.format(**values) for piece in self.argv]


def write_lists(root: Path, url: str, folder: Path, count: int) -> None:
    """Write the same work as lists for curl, aria2c and batchrunner."""
    names = [f"{number}.mp4" for number in range(count)]
    (root / "aria2.txt").write_text("".join(f"{url}\n out={name}\n" for name in names))
    (root / "curl.txt").write_text("".join(f'url = "{url}"\noutput = "{folder / name}"\n' for name in names))
    row = '{{"id": "{}", "video": "https://example.com/{}.mp4", "image": "https://example.com/face.png"}}\n'
    (root / "manifest.jsonl").write_text("".join(row.format(number, number) for number in range(count)))


def _ours(without: str, at_once: int) -> tuple[str, ...]:
    return ("{python}", "{scripts}/fetch_ours.py", without, "{url}", "{folder}", "{count}", str(at_once))


def _run(downloads: int) -> tuple[str, ...]:
    run = ("{batchrunner}", "run", "{root}/manifest.jsonl", "--output", "{folder}", "--no-progress")
    caps = ("--concurrency", "{count}", "--uploads", "32", "--downloads", str(downloads))
    return (*run, *caps, "--poll-interval", "1ms")


def _python(how: str) -> tuple[str, ...]:
    return ("{peers}", "{scripts}/fetch.py", how, "{url}", "{folder}", "{count}", "32")


_CURL = ("curl", "-sS", "-Z", "--parallel-max", "32", "-K", "{root}/curl.txt")
ARIA2 = Fetcher(
    "aria2c {aria2c}",
    ("aria2c", "-q", "-j32", "-x1", "--file-allocation=none", "-i", "{root}/aria2.txt", "-d", "{folder}"),
    programs=("aria2c",),
)
OURS = Fetcher("batchrunner's downloader, 32 at once", _ours("-", 32), "SHA-256, flushed, decoded", idle=True)
WHOLE = Fetcher("batchrunner run, 32 downloads at once", _run(32), "all of a run", batch=True, idle=True)
HASHING = Fetcher("aiohttp with SHA-256 in line", _python("sha"), "SHA-256", packages=("aiohttp",), idle=True)
FETCHERS = (
    ARIA2,
    Fetcher("curl -Z {curl}", _CURL, programs=("curl",)),
    Fetcher(
        "curl -Z, then sha256sum and sync",
        ("sh", "-c", " ".join((*_CURL, "&& sha256sum {folder}/* > {root}/sums && sync {folder}/*"))),
        "SHA-256, flushed",
        programs=("curl",),
    ),
    Fetcher("requests {requests} in 32 threads", _python("threads"), packages=("requests",), idle=True),
    Fetcher("aiohttp {aiohttp}", _python("plain"), packages=("aiohttp",), idle=True),
    HASHING,
    OURS,
    Fetcher("the same, 4 at once (the default)", _ours("-", 4), "SHA-256, flushed, decoded", idle=True),
    Fetcher("the same, 32 at once, without flush", _ours("flush", 32), "SHA-256, decoded"),
    Fetcher("the same, 32 at once, without flush and SHA-256", _ours("flush,sha", 32), "decoded"),
    WHOLE,
    Fetcher("batchrunner run, 4 downloads at once (the default)", _run(4), "all of a run", batch=True, idle=True),
)


def at_commit(commit: str, package: Path) -> tuple[Fetcher, ...]:
    """Return batchrunner's downloader and a whole run at another commit. package: its files."""
    return tuple(
        replace(item, name=f"{item.name}, at {commit}", package=package, idle=False)
        for item in FETCHERS
        if item in (OURS, WHOLE)
    )


SMOKE = tuple(item for item in FETCHERS if item in {ARIA2, OURS} or item.batch)


def versions(peers: str) -> dict[str, str]:
    """Return the versions of all installed programs and packages."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    asked = {
        "aria2c": ["aria2c", "--version"],
        "curl": ["curl", "--version"],
        "batchrunner": [sys.executable, "-c", code, "batchrunner"],
        "requests": [peers, "-c", code, "requests"],
        "aiohttp": [peers, "-c", code, "aiohttp"],
    }
    found = {}
    for name, argv in asked.items():
        if shutil.which(argv[0]):
            summary = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            found[name] = next((argument for argument in summary.split() if argument[0].isdigit()), "")
    return {name: version for name, version in found.items() if version}
