"""CI's share of the soak: runs of the installed command, stopped at random moments and judged by the ledger."""

import signal
from pathlib import Path

import pytest

from tests.soak.soak import Plan, soak


def test_a_hundred_kills_pay_for_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    figures = soak(Plan(signal.SIGKILL, stops=100), tmp_path)
    told = figures.table("SIGKILL")
    assert not figures.wrong, told
    assert figures.stops == 100, told
    assert figures.paid_twice == figures.lost == figures.bad_files == 0, told
    assert figures.doubts <= figures.in_air, told
    assert figures.adopted == figures.accepted_in_air, told
    assert figures.in_air, "no kill met a submission: nothing was tried"
    assert figures.accepted + figures.doubts >= figures.jobs, told


@pytest.mark.parametrize(("stop", "stops", "jobs"), [(signal.SIGTERM, 100, 60), (signal.SIGINT, 12, 24)])
def test_a_clean_stop_leaves_nothing_in_doubt(tmp_path: Path, stop: signal.Signals, stops: int, jobs: int) -> None:
    figures = soak(Plan(stop, stops=stops, jobs=jobs), tmp_path)
    told = figures.table(stop.name)
    assert not figures.wrong, told
    assert figures.stops == stops, told
    assert figures.accepted == figures.jobs, told
    assert figures.doubts == figures.in_air == 0, told
