"""A bounded share of the fuzzers with the same cases each time; ``python -m tests.fuzz --minutes 10`` runs more."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import bench, broken, check_bytes, corpus, suite

BOUNDED = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIGNS = "ab1:-[]{}&*!|>'\"%@`#,? \n\t~<=.\\x0$\u00a0\u2028\ufeff“é日"
TOKENS = st.sampled_from(
    ["- ", "video: ", "image: ", "jobs:\n", "  ", "\n", "bunny.mp4", "hopper.jpg", "shift: 1", "matrix:"]
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with bench() as path:
        yield path


@given(st.binary(max_size=200))
@settings(BOUNDED, max_examples=300)
def test_arbitrary_bytes_give_a_batch_or_diagnostics(folder: Path, data: bytes) -> None:
    check_bytes(data, folder)


@given(st.lists(TOKENS | st.text(SIGNS, max_size=6), max_size=30))
@settings(BOUNDED, max_examples=500)
def test_text_that_looks_like_yaml_gives_a_batch_or_diagnostics(folder: Path, tokens: list[str]) -> None:
    check_bytes("".join(tokens).encode(), folder)


@given(st.sampled_from(corpus()), st.integers(0, 2**32))
@settings(BOUNDED, max_examples=600)
def test_damaged_manifests_give_a_batch_or_diagnostics(folder: Path, data: bytes, seed: int) -> None:
    check_bytes(broken(data, random.Random(seed)), folder)


def test_the_public_yaml_test_suite_gives_a_batch_or_diagnostics(folder: Path) -> None:
    """The suite has every feature of YAML; a manifest uses few of them. Every rejected input gets a diagnostic."""
    assert len(suite()) == 402
    assert [name for name, text in suite() if check_bytes(text.encode(), folder)] == []


def test_some_damaged_manifests_are_still_valid(folder: Path) -> None:
    """Otherwise the fuzzers would reach only the first check."""
    good = (b"- {video: bunny.mp4, image: hopper.jpg}\n" * 3, corpus()[0])
    seen = [check_bytes(broken(data, random.Random(seed)), folder) for data in good for seed in range(100)]
    assert any(seen)
    assert not all(seen)


@pytest.mark.parametrize(
    "data",
    [
        "matrix: [{video: '" + "*/" * 3000 + "', image: b}]",
        "- {video: '" + "://" * 300_000 + "', image: b}",
        "a: b\n" + "\t" * 300_000 + "\nc: @",
        "a" + " " * 300_000 + "b\n  c: d",
        "- ['" + '"\\' * 100_000,
        "a: #" * 100_000,
        "- " * 100_000,
        "{" * 100_000,
    ],
    ids=lambda data: str(data)[:20],
)
def test_long_or_deep_input_stays_cheap(folder: Path, data: str) -> None:
    """Each of these once took minutes, or would with a rule that looks back from every character."""
    assert not check_bytes(data.encode(), folder)
