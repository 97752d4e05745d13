"""The table of endings: exit statuses, advice, and priorities."""

import errno
from itertools import product

import pytest

from batchrunner.errors import ExitStatus, LocalFault
from batchrunner.plan.endings import (
    ENDINGS,
    NO_REASON,
    Next,
    Retry,
    StopReason,
    ending_of,
    more_severe,
    retry_of,
    stop_for,
)
from batchrunner.storage.durable_files import fault
from tests.conftest import for_all

PLANNED = sorted(kind for kind, ending in ENDINGS.items() if ending.status is ExitStatus.STOPPED)
PERSON = sorted(set(ENDINGS) - set(PLANNED))


def test_each_ending_has_status_3_or_5() -> None:
    assert {ending.status for ending in ENDINGS.values()} == {ExitStatus.STOPPED, ExitStatus.NEEDS_ACTION}
    assert {"deadline", "max_cost", "max_runtime", "stop_after_failures", "job_timeout"} <= set(PLANNED)
    assert {"unauthorized", "out_of_credits", "disk_full", "service_down", "network_down"} <= set(PERSON)


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_an_ending_that_stops_at_once_again_has_advice(kind: str) -> None:
    ending = ENDINGS[kind]
    if ending.next is not Next.CONTINUES:
        assert ending.advice.endswith(".")


@pytest.mark.parametrize("kind", PERSON)
def test_an_ending_that_needs_a_person_never_offers_the_same_command_at_once(kind: str) -> None:
    assert ENDINGS[kind].next is Next.STOPS


def test_an_unknown_kind_needs_a_person() -> None:
    ending = ending_of("a kind of a later version")
    assert (ending.status, ending.next) == (ExitStatus.NEEDS_ACTION, Next.STOPS)


def test_a_fault_of_this_machine_stops_with_its_own_kind() -> None:
    reason = stop_for(LocalFault("disk_full", "the disk is full"))
    assert (reason.kind, str(reason)) == ("disk_full", "the disk is full")
    assert reason.ending.status is ExitStatus.NEEDS_ACTION


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENOMEM, errno.EIO])
def test_each_fault_of_a_file_has_an_ending(number: int) -> None:
    assert fault(OSError(number, "it failed"), "a clip could not be stored").kind in ENDINGS


@for_all(list(product(PLANNED, PERSON)), repr)
def test_a_reason_that_needs_a_person_outranks_a_planned_one(case: tuple[str, str]) -> None:
    first, second = StopReason(case[0], "first"), StopReason(case[1], "second")
    assert more_severe(first, second) is second
    assert more_severe(second, first) is second


def test_of_two_equal_reasons_the_first_one_stays() -> None:
    first, second = StopReason("deadline", "first"), StopReason("max_cost", "second")
    assert more_severe(first, second) is first
    assert more_severe(NO_REASON, second) is second


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("service", Retry.MAY_SUCCEED),
        ("network", Retry.MAY_SUCCEED),
        ("local", Retry.MAY_SUCCEED),
        ("job", Retry.CHANGE_FIRST),
        ("account", Retry.CHANGE_FIRST),
    ],
)
def test_another_submission_is_suggested_only_where_it_can_succeed(fault: str, expected: Retry) -> None:
    assert retry_of(fault) is expected
