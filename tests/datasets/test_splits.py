"""Splits depend on group and salt only, and sum up as asked."""

from collections import Counter

import pytest

from batchrunner.datasets.splits import Splits, check_name
from batchrunner.errors import UsageError


def test_a_group_has_a_split_that_never_changes() -> None:
    """A literal table: a changed rule would move published clips between splits."""
    splits = Splits.parse("train=.8,val=.1,test=.1")
    assert splits.names == ("train", "val", "test")
    found = [splits.of(f"group{number}") for number in range(20)]
    letters = "".join(name[1] for name in found)
    assert letters == "rrrrerarrrrrrarrrera"  # tRain, vAl, tEst
    assert found != [splits.of(f"group{number}", "another") for number in range(20)]


def test_the_shares_are_met() -> None:
    counts = Counter(Splits.parse("train=80%,val=.15,test=0.05").of(str(number)) for number in range(4_000))
    assert counts["train"] == pytest.approx(3_200, rel=0.05)
    assert counts["val"] == pytest.approx(600, rel=0.15)
    assert counts["test"] == pytest.approx(200, rel=0.25)


def test_a_split_with_the_share_0_gets_nothing() -> None:
    assert {Splits.parse("a=1,b=0").of(str(number)) for number in range(100)} == {"a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=.8,test=.1", "sum to 0.9 instead of 1"),
        ("train=.8,test=.3", "sum to 1.1 instead of 1"),
        ("train", "'train' is not a name and a share"),
        ("", "'' is not a name and a share"),
        ("train=.5,train=.5", "names train twice"),
        ("train=.5,Train=.5", "names Train twice"),
        ("train=x,test=1", "'x', is not a number"),
        ("train=-1,test=2", "'-1', is not a number"),
        ("train=nan", "'nan', is not a number"),
        ("train=1e0", "is not a number"),
        ("train=2,test=-1", "above 1"),
        ("../x=1", "cannot be the name of a split"),
        ("a/b=1", "cannot be the name of a split"),
        ("all=1", "cannot be the name of a split"),
        (".hidden=1", "cannot be the name of a split"),
        ("a-b=1", "cannot be the name of a split"),
        ("=1", "cannot be the name of a split"),
        ("zürich=1", "cannot be the name of a split"),
    ],
)
def test_wrong_splits_are_refused_with_words(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Splits.parse(text)
    assert message in error.value.message
    assert error.value.hint


def test_thirds_are_refused_and_exact_fractions_are_not_rounded() -> None:
    assert Splits.parse("a=.1,b=.2,c=.7").names == ("a", "b", "c")  # in binary floats these sum to another number
    with pytest.raises(UsageError, match=r"0\.9999"):
        Splits.parse("a=.3333,b=.3333,c=.3333")


def test_names_of_splits_are_checked_with_their_place() -> None:
    check_name("train.v2")
    with pytest.raises(UsageError, match="the tag 'split' of walk: 'a b'"):
        check_name("a b", "the tag 'split' of walk")
