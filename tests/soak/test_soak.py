"""CI's share of the soak: runs of the installed command, stopped at random moments and checked against the ledger.

In slices, so that the workers of a test run share them: in total a hundred SIGKILLs and a hundred SIGTERMs.
"""

import signal
from pathlib import Path

import pytest

from tests import preload
from tests.soak.soak import Plan, soak
from tests.soak.two_batches import soak_two

STOPS = 25  # of a slice
SLICES = range(1, 5)  # their seeds


@pytest.mark.parametrize("seed", SLICES)
def test_a_hundred_kills_pay_for_nothing_twice_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    figures = soak(Plan(signal.SIGKILL, stops=STOPS, seed=seed), tmp_path)
    table = figures.table("SIGKILL")
    assert not figures.wrong, table
    assert figures.stops == STOPS, table
    assert figures.paid_twice == figures.lost == figures.bad_files == 0, table
    assert figures.in_doubt <= figures.active, table
    assert figures.adopted == figures.accepted_active, table
    assert figures.active, "no kill met a submission: nothing was tested"
    assert figures.accepted + figures.in_doubt >= figures.jobs, table


@pytest.mark.parametrize("seed", SLICES)
def test_a_hundred_clean_stops_leave_nothing_in_doubt(tmp_path: Path, seed: int) -> None:
    _stops_cleanly(Plan(signal.SIGTERM, stops=STOPS, seed=seed), tmp_path)


def test_an_interrupt_is_a_clean_stop(tmp_path: Path) -> None:
    _stops_cleanly(Plan(signal.SIGINT, stops=12, jobs=24), tmp_path)


def test_with_a_lying_service_nothing_is_paid_twice_or_lost(tmp_path: Path) -> None:
    figures = soak(Plan(signal.SIGKILL, stops=12, jobs=40, lies=True), tmp_path)
    table = figures.table("SIGKILL")
    assert not figures.wrong, table
    assert figures.stops == 12, table
    assert figures.paid_twice == figures.lost == figures.bad_files == 0, table


@preload.needed
def test_with_a_failing_disk_nothing_is_paid_twice_or_lost(tmp_path: Path) -> None:
    figures = soak(Plan(signal.SIGKILL, stops=12, jobs=40, disk=True), tmp_path)
    table = figures.table("SIGKILL")
    assert not figures.wrong, table
    assert figures.stops == 12, table
    assert figures.paid_twice == figures.lost == figures.bad_files == 0, table


def test_two_batches_of_one_account_pay_for_nothing_twice(tmp_path: Path) -> None:
    figures = soak_two(Plan(signal.SIGKILL, stops=12, jobs=30), tmp_path)
    text = figures.table("SIGKILL")
    assert not figures.wrong, text
    assert figures.stops >= 12, text
    assert figures.paid_twice == figures.lost == figures.bad_files == 0, text
    assert figures.accepted < figures.jobs, "the batches have jobs in common"


def _stops_cleanly(plan: Plan, folder: Path) -> None:
    figures = soak(plan, folder)
    table = figures.table(plan.stop.name)
    assert not figures.wrong, table
    assert figures.stops == plan.stops, table
    assert figures.accepted == figures.jobs, table
    assert figures.in_doubt == figures.active == 0, table
