"""Retired words do not come back, neither in names nor in the text of docs, comments and messages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.conftest import ROOT, for_all

TREES = ("batchrunner", "tests", "benchmarks", "docs")
CODE = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
# Migrations name old columns in .sql files; the fixtures of old run directories and of bad manifests are data.
DATA = ("batchrunner/journal/migrations/", "tests/runs/", "tests/manifests_bad/", "tests/forbidden_words.txt")
TEXT = {".md", ".html", ".j2", ".js", ".css", ".sql", ".yaml", ".yml", ".toml", ".sh", ".c"}
PAGES = sorted(
    path
    for path in [*ROOT.glob("*"), *(path for tree in (*TREES, "manifests") for path in (ROOT / tree).rglob("*"))]
    if path.suffix in TEXT and path.is_file() and not str(path.relative_to(ROOT)).startswith(DATA)
)
# Names and keys of earlier versions, which users find in their old files.
OLD_NAMES = {"docs/upgrading.md"}
PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
STRINGS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def retired(kind: str) -> frozenset[str]:
    lines = (ROOT / "tests" / "forbidden_words.txt").read_text("utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return frozenset(piece for found, _, piece in pairs if found == kind)


def defined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a module defines, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


@cache
def is_retired(name: str) -> bool:
    pieces = {piece.lower() for piece in PIECE.findall(name)}
    return name.strip("_").lower() in retired("name") or not retired("part").isdisjoint(pieces)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and string literals of a module, or the lines of another file, with their line numbers."""
    source = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in STRINGS:
            yield token.start[0], token.string


def phrases_in(text: str) -> list[str]:
    plain = " ".join(text.lower().split())
    found = [phrase for phrase in sorted(retired("phrase")) if phrase in plain]
    return [phrase for phrase in found if re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", plain)]


@for_all(CODE, name_of)
def test_no_defined_name_is_a_retired_word(path: Path) -> None:
    source = path.read_text("utf-8")
    if not any(map(is_retired, set(re.findall(r"\w+", source)))):
        return  # a file without a retired word defines none
    assert [f"{line}: {name}" for line, name in defined(ast.parse(source)) if is_retired(name)] == []


@for_all([path for path in [*CODE, *PAGES] if name_of(path) not in OLD_NAMES], name_of)
def test_no_text_has_a_retired_phrase(path: Path) -> None:
    if path == Path(__file__) or not phrases_in(path.read_text("utf-8")):
        return  # a file without the phrases has no comment and no line with one
    assert [f"{line}: {phrase}" for line, text in texts(path) for phrase in phrases_in(text)] == []


def test_names_are_split_into_words() -> None:
    assert is_retired("_announce_weather")
    assert is_retired("WeatherChanged")
    assert is_retired("_held")
    assert not is_retired("whether")
    assert not is_retired("held_by_batch")


def test_phrases_are_found_across_lines() -> None:
    assert phrases_in("submissions in\n    the air") == ["in the air"]
    assert phrases_in("navigate") == []


def test_the_rules_see_the_repository() -> None:
    assert len(CODE) > 300
    assert {"README.md", "docs/failures.md", "manifests/demo.yaml"} <= {name_of(path) for path in PAGES}
