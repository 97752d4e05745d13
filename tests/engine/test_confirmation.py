"""How many polls in a row a terminal status takes."""

import pytest

from batchrunner.engine.confirmation import Confirmations
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
def test_replies_without_an_id_have_to_name_the_same_clip_three_times(
    urls: list[str | None], believed: list[bool]
) -> None:
    confirmations = Confirmations()
    assert [confirmations.confirms("job", completed(url)) for url in urls] == believed


def test_a_reply_that_names_the_generation_is_believed_whatever_came_before() -> None:
    confirmations = Confirmations()
    assert not confirmations.confirms("job", completed(A))
    assert confirmations.confirms("job", completed(B, named=True))
