"""The pace that processes share through a file. Time is an argument."""

from pathlib import Path

from batchrunner.account.pace import SharedPace


def calls_in(paces: list[SharedPace], seconds: float, start: float = 1000.0) -> int:
    """The calls that are calls when each process calls as soon as it may, in steps of a millisecond."""
    calls = 0
    for step in range(round(seconds * 1000)):
        now = start + step / 1000
        for pace in paces:
            if pace.next_at(now) <= now:
                pace.take(now)
                calls += 1
    return calls


def test_two_processes_together_keep_the_pace(tmp_path: Path) -> None:
    paces = [SharedPace(tmp_path / "pace", 5.0) for _ in range(2)]
    assert 50 <= calls_in(paces, 10.0) <= 55 + 1
    for pace in paces:
        pace.close()


def test_a_slow_pace_holds_too(tmp_path: Path) -> None:
    paces = [SharedPace(tmp_path / "pace", 0.5) for _ in range(3)]
    assert 5 <= calls_in(paces, 10.0) <= 6
    for pace in paces:
        pace.close()


def test_next_at_names_the_moment_of_the_next_call(tmp_path: Path) -> None:
    pace = SharedPace(tmp_path / "pace", 2.0)
    pace.take(100.0)
    pace.take(100.0)
    assert pace.next_at(100.0) == 100.5
    pace.close()


def test_a_clock_that_was_set_back_by_a_restart_stops_nobody(tmp_path: Path) -> None:
    pace = SharedPace(tmp_path / "pace", 2.0)
    pace.take(1_000_000.0)
    assert pace.next_at(5.0) == 5.0
    pace.close()


def test_without_a_file_each_process_keeps_the_pace_alone(tmp_path: Path) -> None:
    pace = SharedPace(tmp_path / "missing" / "pace", 5.0)
    assert 50 <= calls_in([pace], 10.0) <= 55
    pace.close()
