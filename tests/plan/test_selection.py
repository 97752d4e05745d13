"""Jobs are selected by id, by pattern and by the kind of their failure."""

from dataclasses import replace

import pytest

from batchrunner.errors import Problem, UsageError
from batchrunner.job import Entry, State
from batchrunner.plan.plan import ResumeOptions, build
from batchrunner.plan.prices import Prices
from batchrunner.plan.resume import take_up
from batchrunner.plan.selection import chosen, retries, selects, unmatched_notices
from tests.conftest import make_entries, make_record

ENTRIES = make_entries("hero-walk", "hero-run", "admiral-walk", "a[1]")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), ["hero-walk", "hero-run", "admiral-walk", "a[1]"]),
        (("hero-run",), ["hero-run"]),
        (("*-walk",), ["hero-walk", "admiral-walk"]),
        (("hero-?un", "admiral-walk"), ["hero-run", "admiral-walk"]),
        (("a[1]",), ["a[1]"]),
    ],
)
def test_selected_entries_are_in_manifest_order(patterns: tuple[str, ...], expected: list[str]) -> None:
    assert [entry.id for entry in chosen(ENTRIES, patterns)] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a", "a.t2"]),
        ("a.t2", ["a.t2"]),
        ("?", ["a", "a.t2"]),
        ("*.t2", ["a.t2", "b.t2"]),
        ("b.t2", ["b.t2"]),
    ],
)
def test_a_job_selects_its_takes_and_a_take_only_itself(pattern: str, expected: list[str]) -> None:
    a, explicit = make_entries("a", "b.t2")
    entries = (a, Entry(1, "a.t2", replace(a.job, take=2)), explicit)
    assert [entry.id for entry in chosen(entries, (pattern,))] == expected
    assert [entry.id for entry in entries if selects(entry.id, entry.base, (pattern,))] == expected


def test_an_unknown_id_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"--only hero-wolk: .*did you mean hero-walk\?"):
        chosen(ENTRIES, ("hero-run", "hero-wolk"))


def test_only_the_named_kinds_of_failures_are_submitted_again() -> None:
    failed = make_record("a", State.FAILED)
    broken = replace(failed, error=Problem("generation_failed", "it broke", fault="service"))
    refused = replace(failed, error=Problem("content_refused", "it was refused"))
    assert [retries(item, ("generation_failed",)) for item in (broken, refused)] == [True, False]
    assert [retries(item, True) for item in (broken, refused)] == [True, True]
    assert [retries(item, False) for item in (broken, refused)] == [False, False]


def test_a_kind_that_no_failed_job_has_gives_a_notice() -> None:
    failed = make_record("a", State.FAILED)
    broken = replace(failed, error=Problem("generation_failed", "it broke", fault="service"))
    pending = replace(make_record("b"), error=Problem("timed_out", "no reply", fault="network"))
    (notice,) = unmatched_notices([broken, pending], ("generation_failed", "timed_out"))
    assert notice == "--retry-failed: no failed job has the kind timed_out; the failed jobs have generation_failed"
    assert unmatched_notices([], ("timed_out",)) == ("--retry-failed: no failed job has the kind timed_out",)
    assert unmatched_notices([broken], ("generation_failed",)) == unmatched_notices([broken], True) == ()


def test_a_failed_job_that_is_not_selected_stays_failed() -> None:
    records = {name: make_record(name, State.FAILED) for name in ("hero-walk", "hero-run")}
    known = {record.job.fingerprint: record for record in records.values()}
    entries = make_entries("hero-walk", "hero-run")
    named = frozenset({entries[0].job.fingerprint})
    taken, changed = take_up(known, entries, retry_failed=True, resubmit_in_doubt=False, chosen=named)
    assert [taken[entry.job.fingerprint].state for entry in entries] == [State.PENDING, State.FAILED]
    assert len(changed) == 1


def test_the_plan_names_the_excluded_jobs() -> None:
    named = frozenset({ENTRIES[1].job.fingerprint})
    plan = build(ENTRIES, None, Prices({}), ResumeOptions(chosen=named))
    assert [row.action for row in plan.rows] == ["left", "new", "left", "left"]
    assert plan.submissions == 1
