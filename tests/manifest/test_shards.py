"""Shards: which jobs and which part of the caps and budgets each has, and how ``--shard`` is read."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from batchrunner.errors import UsageError
from batchrunner.job import Entry, Retake
from batchrunner.manifest.fingerprint import take_of
from batchrunner.manifest.shards import (
    DIVIDED,
    Others,
    Shard,
    divide,
    read_folder,
    read_option,
    read_own_values,
    split,
    with_own_bucket,
)
from batchrunner.manifest.takes import with_retakes
from batchrunner.plan.ledger import Budget
from batchrunner.providers.base import CREDITS_PER_USD
from batchrunner.settings import Settings, resolve
from tests.conftest import make_entries

SLURM = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "13"}


def hashed(*names: str) -> tuple[Entry, ...]:
    """Return entries of jobs with the fingerprints of real ones, which are hashes."""
    named = ((entry, hashlib.sha256(entry.id.encode()).hexdigest()) for entry in make_entries(*names))
    return tuple(replace(entry, job=replace(entry.job, fingerprint=f"sha256:{digits}")) for entry, digits in named)


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_job_is_in_exactly_one_shard_and_keeps_its_place(count: int) -> None:
    entries = hashed(*(f"job-{number}" for number in range(200)))
    found = [split(entries, shard) for shard in shards(count)]
    assert sorted(entry.position for own, _ in found for entry in own) == list(range(200))
    for own, others in found:
        assert own == tuple(entry for entry in entries if entry in own), "unchanged and in manifest order"
        assert {*others.ids} == {entry.id for entry in entries} - {entry.id for entry in own}
        assert 200 / count / 2 < len(own) < 200 / count * 2, "the hash spreads the jobs"


def test_takes_and_equal_jobs_stay_together_and_edits_move_no_other_job() -> None:
    first, *more = hashed(*"abcdefgh")
    equal = Entry(50, "same", first.job)
    takes = [Entry(60 + take, f"a.t{take}", take_of(first.job, take)) for take in (2, 3, 4, 5)]
    entries = (first, *more, equal, *takes)
    for shard in shards(4):
        own, _ = split(entries, shard)
        ids = {entry.id for entry in own}
        assert len(ids & {"a", "same", *(entry.id for entry in takes)}) in {0, 6}
        fewer, _ = split((first, *more[3:]), shard)
        assert {entry.id for entry in fewer} == ids & {"a", "e", "f", "g", "h"}


def test_a_retake_is_inserted_in_its_shard_without_a_position_of_another() -> None:
    a, b, c = make_entries("a", "b", "c")
    own = (replace(a, position=2), replace(b, position=5), replace(c, position=9))
    found = with_retakes(own, [Retake(a.job.fingerprint, 2), Retake(b.job.fingerprint, 2)])
    assert [(entry.id, entry.position) for entry in found] == [
        ("a", 2), ("a.t2", 3), ("b", 6), ("b.t2", 7), ("c", 11)
    ]  # fmt: skip


def test_the_ids_of_other_shards_are_known() -> None:
    others = Others({"hero-walk", "b", "b.t2"})
    assert [others.have(name) for name in ("b", "b.t2", "b.t9", "c", "c.t2")] == [True, True, True, False, False]
    assert [others.match(name) for name in ("hero-*", "b.t9", "*.t2", "villain-*")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/1", {}, Shard(1, 1)),
        ("2/4", SLURM, Shard(2, 4)),
        ("auto/4", SLURM, Shard(3, 4)),
        ("auto/4", {**SLURM, "SLURM_ARRAY_TASK_MAX": "", "SLURM_ARRAY_TASK_COUNT": "1"}, Shard(3, 4)),
        ("auto/3", {"JOB_COMPLETION_INDEX": "0"}, Shard(1, 3)),
        ("auto/3", {"JOB_COMPLETION_INDEX": "2", "SLURM_ARRAY_TASK_ID": ""}, Shard(3, 3)),
    ],
)
def test_an_option_names_a_shard(text: str, environment: dict[str, str], expected: Shard) -> None:
    assert read_option(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        *((text, {}, "this is not a shard") for text in ("", "2", "2/0", "a/4", "-1/4", "1.5/4", "2/4/8", "1/10001")),
        ("0/4", {}, "there is no shard 0 of 4"),
        ("5/4", {}, "there is no shard 5 of 4"),
        ("auto/auto", SLURM, "this is not a shard"),
        ("auto/4", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("auto/4", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_MIN"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX is not a whole number"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "there is no shard 5 of 4"),
        # sbatch --array=3: a second start of one task of four. By its numbers, it would be the first of them.
        ("auto/4", dict.fromkeys(SLURM, "3"), "the array has the tasks 3 to 3, which are not 4"),
        ("auto/2", SLURM, "the array has the tasks 10 to 13, which are not 2"),
    ],
)  # fmt: skip
def test_an_option_that_names_no_shard_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_option(text, environment)
    assert "--shard" in caught.value.message
    assert "Nothing was submitted" in caught.value.hint


@pytest.mark.parametrize("name", ["shard-0-of-4", "shard-5-of-4", "shard-01-of-4", "shard-1-of-4x", "shards", "a.mp4"])
def test_only_the_folder_of_a_shard_is_read_as_one(name: str) -> None:
    assert read_folder(Shard(3, 12).folder) == Shard(3, 12)
    assert read_folder(name) is None


def divided(count: int, own: Mapping[str, object] | None = None, **manifest: Any) -> list[Settings]:
    whole = resolve({}, {}, {"concurrency": 40, **manifest})
    return [divide(whole, shard, own or {}) for shard in shards(count)]


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_the_parts_of_caps_and_budgets_add_up_to_the_whole(count: int) -> None:
    manifest: dict[str, Any] = {
        "concurrency": 40,
        "max_generations": 1003,
        "max_credits": 1000.25,
        "stop_after_failures": 10,
        "requests_per_second": 2.5,
    }
    found = divided(count, **manifest)
    assert [sum(getattr(one, name) for one in found) for name in ("concurrency", "max_generations")] == [40, 1003]
    assert sum(Fraction(str(one.max_credits)) for one in found) == Fraction("1000.25")
    assert sum(one.stop_after_failures.number for one in found if one.stop_after_failures) == 10
    assert sum(one.requests_per_second or 0 for one in found) == pytest.approx(2.5)
    sizes = [one.concurrency for one in found]
    assert sizes == sorted(sizes, reverse=True), "the first shards get what is left over"
    assert sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize("amount", ["$20", "0.01USD", "19.99USD", "1000000USD", "$0.3333333"])
@pytest.mark.parametrize("count", [3, 7])
def test_a_budget_in_dollars_is_divided_to_the_credit(amount: str, count: int) -> None:
    whole = resolve({}, {}, {"max_cost": amount}).max_cost
    assert whole is not None
    credits_ = Fraction(str(whole)) * CREDITS_PER_USD
    found = [Budget(usd=one.max_cost).limit or 0.0 for one in divided(count, max_cost=amount)]
    exact = [Fraction(round(one * 100), 100) for one in found]
    assert sum(exact) == credits_
    assert all(abs(one - float(near)) < 0.001 for one, near in zip(found, exact, strict=True))


def test_times_percentages_and_limits_of_a_process_are_not_divided() -> None:
    manifest: dict[str, Any] = {
        "deadline": "06:00",
        "max_runtime": "7h",
        "stop_after_failures": "10%",
        "uploads": 2,
        "downloads": 3,
    }
    whole = resolve({}, {}, {"concurrency": 40, **manifest})
    for one in divided(4, **manifest):
        assert one == replace(whole, concurrency=10)


def test_each_shard_delivers_to_a_place_of_its_own() -> None:
    whole = resolve({}, {}, {"deliver": "s3://clips/night"})
    assert with_own_bucket(whole, Shard(2, 4)).deliver == "s3://clips/night/shard-2-of-4/"
    assert with_own_bucket(resolve({}, {}, {}), Shard(2, 4)).deliver is None


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"concurrency": 3}, r"concurrency \(3\) is too small for 4 shards"),
        ({"max_generations": 3}, r"max_generations \(3\)"),
        ({"stop_after_failures": 3}, r"stop_after_failures \(3\)"),
        ({"max_credits": 3.5}, r"max_credits \(3.5 credits\) is too small for 4 shards: each gets at least 1 credit"),
        ({"max_cost": "0.000001USD"}, r"max_cost \(1e-06 USD\)"),
    ],
)
def test_a_cap_below_the_number_of_shards_is_refused(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        divided(4, **manifest)
    (name,) = manifest
    assert f"--per-shard {name}=VALUE" in caught.value.hint
    divided(4, own={name: 1}, **manifest)


def test_a_value_for_each_shard_is_not_divided() -> None:
    own = read_own_values(["concurrency=8", "max-cost=5USD", "stop_after_failures=20%"])
    found = divided(4, own, concurrency=2, max_cost="$100", max_generations=8)
    assert {(one.concurrency, one.max_cost, one.max_generations) for one in found} == {(8, 5.0, 2)}
    assert all(one.stop_after_failures and one.stop_after_failures.percent for one in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurrency", "it has no value"),
        ("deadline=06:00", "no setting that shards divide has this name"),
        ("concurency=8", "no setting that shards divide has this name"),
        ("concurrency=0", "--per-shard concurrency: '0' is not a whole number"),
        ("max_cost=5", "--per-shard max_cost: '5' has no currency"),
    ],
)
def test_a_value_for_each_shard_is_checked(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_own_values([text])


def test_each_setting_that_is_divided_exists() -> None:
    whole = resolve({}, {}, {})
    assert Counter(DIVIDED) == Counter(set(DIVIDED))
    assert all(hasattr(whole, name) for name in DIVIDED)
