"""A terminal status is accepted after enough polls in a row."""

import pytest

from batchrunner.engine.confirmation import Confirmation
from batchrunner.providers.base import GenerationStatus, Phase

A, B = "https://files.example/a.mp4", "https://files.example/b.mp4"


def completed(url: str | None, *, named: bool = False) -> GenerationStatus:
    return GenerationStatus(phase=Phase.COMPLETED, status_text="completed", result_url=url, named=named)


@pytest.mark.parametrize(
    ("urls", "believed"),
    [
        ([A, A, A], [False, False, True]),
        ([f"{A}?signed=1", f"{A}?signed=2", f"{A}?signed=3"], [False, False, True]),
        ([A, B, A, B, A], [False] * 5),
        ([A, A, B, B, B], [False, False, False, False, True]),
        ([None, None, A], [False, False, False]),
    ],
)
def test_replies_without_an_id_must_name_the_same_clip_three_times(
    urls: list[str | None], believed: list[bool]
) -> None:
    confirmation = Confirmation()
    assert [confirmation.confirms(completed(url)) for url in urls] == believed


def test_a_completion_without_a_link_is_seen_twice() -> None:
    confirmation = Confirmation()
    assert [confirmation.confirms(completed(None, named=True)) for _ in range(2)] == [False, True]
    assert confirmation.confirms(completed(A, named=True))


def test_a_reply_that_names_the_generation_is_accepted_after_any_other_reply() -> None:
    confirmation = Confirmation()
    assert not confirmation.confirms(completed(A))
    assert confirmation.confirms(completed(B, named=True))
