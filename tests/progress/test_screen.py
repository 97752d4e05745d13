"""The screen as text: it fits any window, shows the essentials, and its figures match the events."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batchrunner.errors import Problem
from batchrunner.events import (
    Alive,
    CallFailed,
    CallHealthChanged,
    CapChanged,
    Event,
    Fetching,
    JobMoved,
    JobSeen,
    Overrun,
    PlannedEnd,
    RunEnding,
    RunStarted,
    Stopping,
)
from batchrunner.job import Move, Record, State, advance, count_states
from batchrunner.plan.ledger import Budget
from batchrunner.plan.prices import INFERRED, Prices
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import clock_time, pulse
from batchrunner.progress.screen import ASCII, columns, draw, plain
from tests.conftest import NOW, make_job

MILLION = 1_000_000.0


class SimulatedRun:
    """A run whose events are passed to a model."""

    def __init__(self, jobs: int, cap: int = 4) -> None:
        self.model = Model()
        self.at = NOW
        self.records = {f"job{n}": Record(make_job(f"job{n}")) for n in range(jobs)}
        by_job = {record.job.fingerprint: record for record in self.records.values()}
        ids = {record.job.fingerprint: (name,) for name, record in self.records.items()}
        prices = dict.fromkeys(by_job, MILLION)
        states = count_states(by_job.values())
        self.notify(RunStarted(NOW, "night", "aimlapi", "output/night", cap, states, by_job, prices, (INFERRED,), ids))

    def notify(self, event: Event) -> None:
        self.model.take(event)

    def move(self, name: str, move: Move, **attempt: object) -> None:
        record = advance(self.records[name], move, **attempt)  # type: ignore[arg-type]  # fields of an attempt
        self.records[name] = record
        self.notify(JobMoved(self.at, (name,), move, record))

    def submit(self, name: str) -> None:
        self.move(name, Move.BEGIN_SUBMIT, request_id=name, submitted_at=self.at, estimate=MILLION)
        self.move(name, Move.ACCEPT, generation_id=name, accepted_at=self.at)

    def deliver(self, name: str) -> None:
        self.records[name] = self.records[name].with_attempt(completed_at=self.at)
        self.move(name, Move.DELIVER, ended_at=self.at)

    def generate(self, name: str) -> None:
        self.records[name] = self.records[name].with_attempt(generating_at=self.at)
        self.notify(JobSeen(self.at, (name,), self.records[name]))

    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.notify(Alive(self.at))

    def screen(self, width: int = 100, height: int = 30) -> list[str]:
        return plain(draw(self.model, width, height))


@pytest.fixture
def run() -> SimulatedRun:
    """Ten jobs, four at once; three took 100 s each, one failed, one is in doubt."""
    run = SimulatedRun(10)
    for name in ("job0", "job1", "job2", "job3"):
        run.submit(name)
    run.wait(100)
    for name in ("job0", "job1", "job2"):
        run.deliver(name)
    run.move("job3", Move.FAIL, error=Problem("face", "no face"), ended_at=run.at)
    run.submit("job4")
    run.generate("job4")
    run.submit("job5")
    run.move("job6", Move.BEGIN_SUBMIT, request_id="job6", submitted_at=run.at, estimate=MILLION)
    run.move("job7", Move.BEGIN_SUBMIT, request_id="job7", submitted_at=run.at, estimate=MILLION)
    run.move("job7", Move.DOUBT, error=Problem("cut", "the connection broke"))
    run.wait(40)
    return run


def test_the_screen_shows_the_essentials(run: SimulatedRun) -> None:
    shown = run.screen()
    assert shown[0].split() == ["night", "on", "aimlapi", "2", "min", "20", "s"]
    assert shown[1].endswith(" 5 of 10")
    assert shown[2] == "jobs     3 succeeded, 1 failed, 1 in doubt, 3 in flight, 2 waiting"
    # Left: 60 s of two generations, 60 s of the submission in progress and two of 100 s, for four slots; and 50 s.
    assert "in 2 min 25 s; 77 clips an hour" in shown[3]
    assert shown[4] == "cost     $1.50 spent, $2.00 reserved; about $4.50 in total (inferred)"
    assert shown[5] == "service  fine; at most 4 at once"
    assert shown[7:11] == [
        "job4  generating   40 s, usually 1 min 40 s",
        "job6  uploading    40 s",
        "job5  queued       40 s, usually 1 min 40 s",
        "job7  in doubt     40 s",
    ]
    assert [line.partition(" ")[2] for line in shown[12:]] == ["✗ job3: no face", "? job7: the connection broke"]


def test_fewer_than_three_durations_give_no_finish_time() -> None:
    run = SimulatedRun(4)
    run.submit("job0")
    run.wait(10)
    assert run.screen()[3] == "finish   known after three clips"


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_a_batch_that_is_too_small_for_an_estimate_promises_none(jobs: int) -> None:
    run = SimulatedRun(jobs)
    run.submit("job0")
    run.wait(10)
    assert run.screen()[3] == "finish   no estimate for so few jobs"
    run.deliver("job0")
    for number in range(1, jobs):
        run.submit(f"job{number}")
        run.deliver(f"job{number}")
    assert run.screen()[3] == "finish   in a moment"


def test_jobs_that_only_left_out_are_not_estimated() -> None:
    run = SimulatedRun(20)
    start = run.model.started
    assert start is not None
    records = {record.job.fingerprint: record for record in run.records.values()}
    unselected = frozenset(list(records)[4:])
    run.notify(start._replace(records=records, unselected=unselected))
    for name in ("job0", "job1", "job2"):
        run.submit(name)
        run.at += 100
        run.deliver(name)
    run.submit("job3")
    run.wait(40)
    assert run.model.left_s() == 60
    assert "about $2.00 in total" in run.screen()[4]


def test_times_of_another_day_or_zone_have_day_and_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    try:
        noon = datetime(2026, 10, 24, 10, tzinfo=UTC).timestamp()
        assert clock_time(noon + 3600, noon) == "13:00"
        assert clock_time(noon + 13 * 3600, noon) == "Sun 25 Oct 01:00 CEST"
        assert clock_time(noon + 16 * 3600, noon + 13 * 3600) == "Sun 25 Oct 03:00 CET", "the clocks were set back"
        monkeypatch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        assert clock_time(noon + 12 * 3600, noon) == "Sun 25 Oct 03:45 UTC+05:45"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_download_shows_its_bytes(run: SimulatedRun) -> None:
    run.notify(Fetching(run.at, ("job4",), run.records["job4"].job.fingerprint, 1_500_000, 6_000_000))
    assert run.screen()[7] == "job4  downloading  1.5 MB of 6.0 MB"
    run.notify(Fetching(run.at, ("job4",), run.records["job4"].job.fingerprint, 1_500_000, None))
    assert run.screen()[7] == "job4  downloading  1.5 MB"
    run.deliver("job4")
    assert not any(line.startswith("job4") for line in run.screen())


def test_an_outage_shows_its_start_its_next_attempt_and_its_reason(run: SimulatedRun) -> None:
    run.notify(CallHealthChanged(run.at, "submit", "paused", "out of credits", run.at + 300))
    run.wait(60)
    run.notify(CallHealthChanged(run.at, "poll", "paused", "out of credits", run.at + 400))
    shown = run.screen()
    assert shown[3] == "finish   not known while calls are paused"
    assert shown[5].startswith("service  submissions and polls paused since ")
    assert shown[5].endswith(" (1 min 0 s), next try in 4 min 0 s: out of credits")
    for call in ("submit", "poll"):
        run.notify(CallHealthChanged(run.at + 9, call, "fine", ""))
    assert run.screen()[5] == "service  fine; at most 4 at once"


@pytest.mark.parametrize(("in_s", "stops"), [(60.0, True), (86_400.0, False)])
def test_a_planned_end_before_the_last_job_is_shown(run: SimulatedRun, in_s: float, *, stops: bool) -> None:
    assert run.model.started is not None
    run.model.started = run.model.started._replace(planned_end=PlannedEnd(run.at + in_s, "deadline"))
    finish = run.screen()[3]
    assert finish.startswith("finish   stops at " if stops else "finish   about ")
    assert ("in 1 min 0 s (deadline); all jobs would take " in finish) is stops


def test_a_budget_that_does_not_cover_all_jobs_is_shown(run: SimulatedRun) -> None:
    assert run.model.started is not None
    run.model.started = run.model.started._replace(budget=Budget(usd=1.0))
    assert run.screen()[3].startswith("finish   max_cost stops it; all jobs would take ")
    run.model.started = run.model.started._replace(budget=Budget(usd=1000.0))
    assert run.screen()[3].startswith("finish   about ")


def test_a_throttled_service_keeps_its_finish_time_and_shows_its_cap(run: SimulatedRun) -> None:
    run.notify(CallHealthChanged(run.at, "submit", "throttled", "429", run.at + 3))
    run.notify(CapChanged(run.at, 2, 4))
    assert run.screen()[3].startswith("finish   about ")
    run.notify(CallHealthChanged(run.at, "submit", "fine", ""))
    assert run.screen()[5] == "service  fine; at most 2 of 4 at once because the service asks for fewer"


def test_equal_problems_share_a_line_and_temporary_ones_are_dropped_first(run: SimulatedRun) -> None:
    for number in range(40):
        run.notify(CallFailed(run.at + number, (f"job{number}",), "poll", Problem("down", f"503 {number % 20}"), 1.0))
    shown = run.screen(100, 18)
    assert any("job3: no face" in line for line in shown), "a failed job stays after forty failed calls"
    assert any("2 times, last job39: poll failed: 503 19" in line for line in shown)


def test_with_every_slot_in_doubt_no_finish_time_is_shown() -> None:
    run = SimulatedRun(8, cap=2)
    for name in ("job0", "job1", "job2"):
        run.submit(name)
        run.at += 60
        run.deliver(name)
    assert run.model.left_s() is not None
    for name in ("job3", "job4"):
        run.move(name, Move.BEGIN_SUBMIT, request_id=name, submitted_at=run.at)
        run.move(name, Move.DOUBT)
    assert run.model.left_s() is None
    assert "in doubt occupy every slot" in "\n".join(plain(draw(run.model, 120, 30)))
    assert "in doubt occupy every slot" in pulse(run.model)
    run.submit("job5")  # the half hour of a job in doubt is over
    assert run.model.left_s() is not None


def test_a_stopping_run_shows_its_reason(run: SimulatedRun) -> None:
    run.notify(Stopping(run.at, "the deadline is reached"))
    assert run.screen()[3] == "finish   stopping: the deadline is reached"


def test_a_run_whose_report_is_being_written_says_so(run: SimulatedRun) -> None:
    run.notify(Stopping(run.at, "the deadline is reached"))
    run.notify(RunEnding(run.at))
    assert run.screen()[3] == "finish   the report is being written"


def test_earlier_failures_are_still_problems() -> None:
    run = SimulatedRun(1)
    failed = replace(run.records["job0"], state=State.FAILED, error=Problem("face", "no face"))
    start = run.model.started
    assert start is not None
    run.notify(start._replace(records={failed.job.fingerprint: failed}, states={State.FAILED: 1}))
    assert any("job0: no face" in line for line in run.screen())


@pytest.mark.parametrize("width", [1, 2, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 7, 8, 15, 24, 40])
def test_the_screen_fits_every_window(run: SimulatedRun, width: int, height: int) -> None:
    run.notify(CallFailed(run.at, ("漢" * 60, "x"), "poll", Problem("down", "é\u0301" * 300), 1.0))
    for number in range(60):
        name = f"more{number}漢"
        run.records[name] = Record(make_job(name))
        run.submit(name)
    shown = run.screen(width, height)
    assert 1 <= len(shown) <= height
    assert all(columns(line) <= width for line in shown)
    assert columns(shown[-1]) <= max(1, width - 4), "the terminal echoes typed text there"
    if height >= 24 and width >= 80:
        assert any(line.startswith("and ") and "queued" in line for line in shown)
        assert len(shown) == height


def test_no_information_depends_on_colour(run: SimulatedRun) -> None:
    bar = run.screen(100)[1]
    assert bar.count("━") == 27
    assert bar.count("✗") == 46 - 27
    assert bar.count("╍") == 27
    assert bar.count("─") == 92 - 46 - 27
    assert all(line.isascii() for line in plain(draw(run.model, 60, 24, ASCII)))


LONG = "harbour-at-dusk-with-ships-and-cranes-in-the-far-background"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_long_ids_are_shortened_in_the_middle_and_stay_different(width: int) -> None:
    run = SimulatedRun(4)
    start = run.model.started
    assert start is not None
    ids = [f"{LONG}-{face}-480p{take}" for face in ("admiral", "astronaut") for take in ("", ".t2")]
    records = {record.job.fingerprint: record for record in run.records.values()}
    run.notify(start._replace(records=records, ids={key: (name,) for key, name in zip(records, ids, strict=True)}))
    for name, job in zip(ids, list(run.records), strict=True):
        run.records[name] = run.records[job]
        run.submit(name)
    rows = [line for line in run.screen(width, 24) if "queued" in line]
    assert len(rows) == 4
    assert all(columns(row) <= width and LONG not in row for row in rows)
    if width >= 80:
        assert len({row.split("  ")[0] for row in rows}) == 4
        assert sum(row.split("  ")[0].endswith(".t2") for row in rows) == 2


def test_a_narrow_screen_breaks_the_status_lines_if_it_is_high_enough(run: SimulatedRun) -> None:
    shown = run.screen(44, 24)
    assert shown[2:4] == ["jobs     3 succeeded, 1 failed, 1 in doubt,", "         3 in flight, 2 waiting"]
    assert " ".join(" ".join(shown[4:6]).split()) == " ".join(run.screen(200)[3].split())
    assert run.screen(44, 12)[3].startswith("finish"), "a low screen has no line to spare"


def test_before_the_start_the_screen_is_empty() -> None:
    assert draw(Model(), 80, 24) == []


def test_after_an_overrun_the_total_prices_jobs_that_are_not_submitted_at_the_charge() -> None:
    run = SimulatedRun(5)
    run.submit("job0")
    assert "about $2.50 in total" in run.screen()[4]
    record = run.records["job0"].with_attempt(credits=1.5 * MILLION)
    prices = Prices({"480p": MILLION}, assume_length_s=1.0).raised_by([record])
    run.notify(Overrun(run.at, ("job0",), record, 1.5 * MILLION, Budget(), prices))
    run.notify(JobSeen(run.at, ("job0",), record))
    assert "about $3.75 in total" in run.screen()[4]
    run.submit("job1")
    run.move("job2", Move.BEGIN_SUBMIT, request_id="job2", submitted_at=run.at, estimate=1.5 * MILLION)
    run.move("job2", Move.REFUSE, error=Problem("busy", "later"))
    assert "about $3.50 in total" in run.screen()[4], "job1 was submitted at the old estimate, and job2 is waiting"
