"""The longest expected job first within equal priority, and how long all jobs that wait take together."""

from collections.abc import Mapping
from random import Random

import pytest

from batchrunner.job import Attempt, Job, Record, State
from batchrunner.plan.admission import TimeLeft
from batchrunner.plan.duration_estimate import Kind, kind_of
from batchrunner.plan.duration_trend import work_of
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.submission_order import (
    LONGEST_FIRST,
    NOT_ALL,
    UNTIL_KNOWN,
    Backlog,
    Expected,
    LongestFirst,
    ManifestOrder,
    money_shortage,
    planned_order,
    time_shortage,
)
from tests.conftest import make_job, remote


def clip(name: str, seconds: float | None, resolution: str = "480p") -> Job:
    return make_job(name, remote()._replace(duration_s=seconds), resolution=resolution, num_inference_steps=1)


def unknown(kind: Kind, work: float | None) -> float | None:
    return None


def by_resolution(**per_second: float) -> Expected:
    """Return times by resolution, per second of the clip. A clip of unknown length counts as 5 s."""
    return lambda kind, work: per_second[f"p{kind[1]}"] * (work or 5.0) if f"p{kind[1]}" in per_second else None


def ordered(jobs: list[Job], expected: Expected = unknown, priorities: Mapping[str, int] | None = None) -> list[str]:
    """Return the fingerprints in the order of submission, checked against the plan's."""
    by_name = {job.fingerprint: job for job in jobs}
    longest = LongestFirst(by_name.__getitem__, priorities or {}, expected)
    longest.extend((place, job.fingerprint) for place, job in enumerate(jobs))
    assert sorted(longest) == [(place, job.fingerprint) for place, job in enumerate(jobs)]
    found = []
    while longest:
        found.append(longest.first())
        assert longest.pop() == found[-1]
    planned, _ = planned_order(by_name, priorities or {}, expected, 0, lambda _: "")
    assert planned == found
    return found


def names(found: list[str]) -> list[str]:
    return [bytes.fromhex(name.removeprefix("sha256:").rstrip("0") or "00").decode() for name in found]


def test_without_known_durations_the_clips_length_decides_and_then_the_manifest() -> None:
    jobs = [clip("k", 3.0), clip("l", 9.0), clip("m", 3.0), clip("n", 5.0, "720p")]
    assert names(ordered(jobs)) == ["l", "n", "k", "m"]


def test_more_steps_go_first() -> None:
    few = make_job("k", remote()._replace(duration_s=4.0), num_inference_steps=10)
    many = make_job("l", remote()._replace(duration_s=4.0), num_inference_steps=40)
    assert names(ordered([few, many])) == ["l", "k"]


def test_known_durations_decide_between_kinds() -> None:
    jobs = [clip("k", 8.0), clip("l", 3.0, "720p"), clip("m", 2.0, "720p"), clip("n", 4.0)]
    assert names(ordered(jobs, by_resolution(p480p=5.0, p720p=15.0))) == ["l", "k", "m", "n"]


def test_a_kind_without_durations_counts_like_the_longest_known_one() -> None:
    jobs = [clip("k", 4.0), clip("l", 5.0, "580p"), clip("m", 4.0, "720p"), clip("n", 3.0, "720p")]
    assert names(ordered(jobs, by_resolution(p480p=5.0, p720p=15.0))) == ["l", "m", "n", "k"]


def test_a_clip_of_unknown_length_counts_as_an_average_one() -> None:
    jobs = [clip("k", 1.0), clip("l", None), clip("m", 9.0), clip("n", 2.0)]
    assert names(ordered(jobs)) == ["m", "l", "n", "k"]
    assert names(ordered([clip("k", None), clip("l", None)])) == ["k", "l"]


def test_priority_goes_before_length() -> None:
    jobs = [clip("k", 2.0), clip("l", 3.0), clip("m", 9.0), clip("n", 1.0)]
    priorities = {jobs[0].fingerprint: 5, jobs[1].fingerprint: 5, jobs[3].fingerprint: -1}
    assert names(ordered(jobs, priorities=priorities)) == ["l", "k", "m", "n"]


def test_durations_that_become_known_change_the_order_at_once() -> None:
    jobs = [clip("k", 5.0), clip("l", 4.0, "720p"), clip("m", 3.0), clip("n", 2.0, "720p")]
    by_name, seconds = {job.fingerprint: job for job in jobs}, dict[str, float]()

    def expected(kind: Kind, work: float | None) -> float | None:
        return by_resolution(**seconds)(kind, work)

    longest = LongestFirst(by_name.__getitem__, {}, expected)
    longest.extend((place, job.fingerprint) for place, job in enumerate(jobs))
    assert names([longest.pop()]) == ["k"]
    seconds |= {"p480p": 50.0, "p720p": 10.0}
    assert names([longest.pop(), longest.pop()]) == ["m", "l"]
    longest.add(0, jobs[0].fingerprint)
    assert names([longest.pop(), longest.pop()]) == ["k", "n"]


@pytest.mark.parametrize("seed", range(5))
def test_every_job_is_returned_once_and_none_is_longer_than_its_predecessor(seed: int) -> None:
    rng = Random(seed)
    jobs = [clip(f"j{number}", rng.choice([None, 1, 2, 3, 5]), rng.choice(["480p", "720p"])) for number in range(60)]
    priorities = {job.fingerprint: rng.randint(-1, 1) for job in jobs}
    expected = by_resolution(p480p=2.0, p720p=3.0)
    found = ordered(jobs, expected, {name: level for name, level in priorities.items() if level})
    by_name = {job.fingerprint: job for job in jobs}
    keys = [
        (
            -priorities[name],
            -(expected(kind_of(by_name[name]), work_of(by_name[name])) or 0.0),
            list(by_name).index(name),
        )
        for name in found
    ]
    assert keys == sorted(keys)
    assert len(found) == 60


def test_a_step_compares_the_first_job_of_each_kind_only() -> None:
    asked: list[Kind] = []

    def counting(kind: Kind, work: float | None) -> float:
        asked.append(kind)
        return work or 0.0

    jobs = [clip(f"j{number}", 1.0 + number, ["480p", "720p"][number % 2]) for number in range(500)]
    by_name = {job.fingerprint: job for job in jobs}
    longest = LongestFirst(by_name.__getitem__, {}, counting)
    longest.extend((place, name) for place, name in enumerate(by_name))
    for _ in range(100):
        longest.pop()
    assert len(asked) == 200


def test_the_manifests_order_keeps_the_places() -> None:
    order = ManifestOrder()
    order.extend([(2, "c"), (0, "a")])
    order.add(1, "b")
    assert len(order) == 3
    assert [order.first(), order.pop(), order.pop(), order.pop()] == ["a", "a", "b", "c"]


# Whether all jobs fit


def backlog(*jobs: Job) -> Backlog:
    waiting = Backlog()
    for job in jobs:
        waiting.add(job)
    return waiting


def test_the_jobs_take_their_sum_over_the_slots_and_the_longest_one_more() -> None:
    waiting = backlog(clip("k", 4.0), clip("l", 6.0), clip("m", 5.0, "720p"))
    assert waiting.time_s(by_resolution(p480p=1.0, p720p=2.0), 2) == (4 + 6 + 10) / 2 + 10
    waiting.remove(clip("m", 5.0, "720p"))
    assert waiting.jobs == 2
    assert waiting.time_s(by_resolution(p480p=1.0, p720p=2.0), 2) == (4 + 6) / 2 + 6


def test_while_nothing_is_known_no_time_is_known() -> None:
    left = TimeLeft(1e6)
    assert time_shortage(backlog(clip("k", 4.0)), unknown, 2, left) is None
    assert time_shortage(backlog(clip("k", 4.0)), unknown, 2, None) == ""
    assert backlog().time_s(unknown, 2) == 0.0


def test_a_kind_without_durations_takes_as_long_as_the_longest_known_one() -> None:
    waiting = backlog(clip("k", 4.0), clip("l", 4.0, "720p"))
    assert waiting.time_s(by_resolution(p480p=1.0), 1) == 4 + 4 + 4


@pytest.mark.parametrize(("seconds", "shortage"), [(31.0, ""), (29.0, "deadline")])
def test_jobs_fit_into_the_time_or_its_limit_is_named(seconds: float, shortage: str) -> None:
    waiting = backlog(*(clip(f"j{number}", 5.0) for number in range(4)))
    assert time_shortage(waiting, by_resolution(p480p=2.0), 2, TimeLeft(seconds)) == shortage


def test_jobs_fit_into_the_budget_or_its_setting_is_named() -> None:
    spent = Record(clip("k", 1.0), State.SUCCEEDED, (Attempt(1, "r", 0.0, outcome="succeeded", credits=100.0),))
    ledger = Ledger(Budget(credits=500.0, generations=4), [spent])
    assert money_shortage(ledger, 400.0, 3) == ""
    assert money_shortage(ledger, 401.0, 3) == "max_credits"
    assert money_shortage(ledger, 1.0, 4) == "max_generations"
    assert money_shortage(Ledger(Budget()), 1e12, 10**6) == ""


@pytest.mark.parametrize(
    ("slots", "shortage", "note"),
    [(1, "", LONGEST_FIRST), (1, "max_cost", NOT_ALL.format("max_cost")), (1, None, UNTIL_KNOWN), (2, "", "")],
)
def test_a_plan_says_which_order_applies_where_it_matters(slots: int, shortage: str | None, note: str) -> None:
    jobs = {job.fingerprint: job for job in (clip("k", 1.0), clip("l", 2.0))}
    found, said = planned_order(jobs, {}, unknown, slots, lambda _: shortage)
    assert said == note
    assert found == (list(jobs)[::-1] if note == LONGEST_FIRST else list(jobs))


def test_equal_jobs_need_no_note() -> None:
    jobs = {job.fingerprint: job for job in (clip("k", 1.0), clip("l", 1.0), clip("m", 1.0))}
    assert planned_order(jobs, {}, unknown, 1, lambda _: "") == (list(jobs), "")
