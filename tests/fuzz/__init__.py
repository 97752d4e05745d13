"""Any bytes as a manifest give a batch or a list of problems, in bounded time and without a traceback.

`check_bytes` checks one input; `broken` damages valid manifests. The test suite spends some seconds on it
(tests/test_fuzz.py); ``python -m tests.fuzz --minutes 10`` runs longer.
"""

import json
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from batchrunner.manifest import CODES, github, render
from batchrunner.manifest.validate import check, shown

TESTS = Path(__file__).parent.parent
SUITE = Path(__file__).parent / "yaml_test_suite.json"
# Text to insert into manifests, one item a line: YAML's indicators, confusable characters, and our own keywords.
_PIECES = tuple((Path(__file__).parent / "pieces.txt").read_text("utf-8").splitlines())
_SPACE = re.compile(rb"[ \n:,'\"\[\]{}-]")


@cache
def corpus() -> tuple[bytes, ...]:
    """Valid manifests, invalid ones, and the inputs of the public YAML test suite."""
    found = (*(TESTS.parent / "manifests").glob("*.yaml"), *(TESTS / "manifests_bad").glob("*.yaml"))
    own = [path.read_bytes() for path in sorted(found) if path.is_file() and path.stat().st_size < 20_000]
    return (*own, *(text.encode() for _, text in suite()))


@cache
def suite() -> tuple[tuple[str, str], ...]:
    """Return every input of the public YAML test suite, by name."""
    suite = json.loads(SUITE.read_text("utf-8")) if SUITE.exists() else {}
    return tuple(suite.get("cases", {}).items())


def broken(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few random changes."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        data = rng.choice(_ACCIDENTS)(data, rng)
    return data[:100_000]


def _at(data: bytes, rng: random.Random) -> int:
    """Choose a position in `data`, mostly one with syntax."""
    marks = [found.start() for found in _SPACE.finditer(data)] if rng.random() < 0.7 else []
    return rng.choice(marks) if marks else rng.randint(0, len(data))


def _piece(rng: random.Random) -> bytes:
    return rng.choice(_PIECES).encode().decode("unicode_escape").encode("utf-8", "replace")


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + _piece(rng) + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + rng.choice((1, 1, 2, 5, 30)) :]


def _byte(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = _at(data, rng)
    end = start + rng.choice((1, 3, 20))
    return data[:end] + data[start:end] * rng.choice((1, 3, 100)) + data[end:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _at(data, rng)]


def _splice(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(corpus())
    return data[: _at(data, rng)] + other[_at(other, rng) :]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = rng.choice((b"", b" ", b"  ", b"\t")) + lines.pop(at)
    return b"".join((*lines[:to], line, *lines[to:]))


_ACCIDENTS = (_insert, _insert, _remove, _byte, _repeat, _cut, _splice, _lines)


@contextmanager
def bench() -> Iterator[Path]:
    """Make a folder with a video and an image for the manifests."""
    with tempfile.TemporaryDirectory() as folder:
        media = TESTS.parent / "manifests" / "media"
        for name, target in (
            ("media", media),
            ("bunny.mp4", media / "bunny.mp4"),
            ("hopper.jpg", media / "hopper.jpg"),
        ):
            (Path(folder) / name).symlink_to(target)
        yield Path(folder)


def check_bytes(data: bytes, folder: Path) -> bool:
    """Return True if `data` is a valid manifest. Print the problems in every format.

    Raises AssertionError if a problem is malformed, and any exception that a bug raises.
    """
    path = folder / "case.yaml"
    path.write_bytes(data)
    checked = check(path, {}, {})
    found = checked.diagnostics
    assert checked.valid != any(diagnostic.severity == "error" for diagnostic in found)
    for diagnostic in found[:200]:
        assert diagnostic.code in CODES, diagnostic.code
        assert diagnostic.line >= 1, diagnostic
        assert diagnostic.column >= 1, diagnostic
        assert diagnostic.end_column is None or diagnostic.end_column > diagnostic.column, diagnostic
        assert diagnostic.message, diagnostic
    for text in (render(found, None), github(found, None)):
        assert all(line.isprintable() for line in text.split("\n")), text
    output = json.loads("".join(text for text, _ in shown([checked], "json", None)))
    assert output["valid"] == checked.valid
    return checked.valid
