"""The forecast: the latest durations of watched generations, by model and resolution."""

import pytest

from batchrunner.errors import Problem
from batchrunner.job import Attempt, Job, Move, Record, State, advance
from batchrunner.plan.duration_estimate import Forecast, kind_of
from tests.conftest import NOW, make_job, remote


def took(seconds: float, name: str = "a", resolution: str = "480p", at: float = NOW) -> Record:
    attempt = Attempt(1, f"r.{name}", at, "g", "succeeded", accepted_at=at, completed_at=at + seconds)
    return Record(make_job(name, resolution=resolution), State.SUCCEEDED, (attempt,))


def adopted(seconds: float) -> Record:
    """One whose submission was in doubt: `accepted_at` is when it was found in the log."""
    record = Record(make_job())
    record = advance(record, Move.BEGIN_SUBMIT, request_id="r", submitted_at=NOW - 100)
    record = advance(record, Move.DOUBT, error=Problem("cut", "the connection broke", "", "network"))
    record = advance(record, Move.ADOPT, generation_id="g", accepted_at=NOW)
    return record.with_attempt(completed_at=NOW + seconds)


LOW, HIGH = make_job(resolution="480p"), make_job(resolution="720p")


def test_a_few_durations_give_no_estimate() -> None:
    assert Forecast().expected_s(LOW) is None
    assert Forecast([took(60), took(70)]).expected_s(LOW) is None
    assert Forecast([took(60), took(70), took(90)]).expected_s(LOW) == 70


def test_each_resolution_has_its_own_estimate_once_there_are_enough() -> None:
    forecast = Forecast([took(60), took(61), took(62), took(300, resolution="720p"), took(310, resolution="720p")])
    assert forecast.expected_s(LOW) == 61
    assert forecast.expected_s(HIGH) == 62, "of all, while its own are few"
    forecast.learn(took(320, resolution="720p"))
    assert forecast.expected_s(HIGH) == 310
    assert forecast.expected_s(make_job(resolution="580p")) == pytest.approx(181.0)


def test_old_durations_are_dropped() -> None:
    forecast = Forecast([took(600, f"slow{number}") for number in range(64)])
    for number in range(40):
        forecast.learn(took(60, f"fast{number}"))
    assert forecast.expected_s(LOW) == 60


def test_records_are_sorted_by_completion() -> None:
    records = [took(60, f"new{number}", at=NOW + 9000 + number) for number in range(60)]
    records += [took(600, f"old{number}", at=NOW + number) for number in range(60)]
    assert Forecast(records).expected_s(LOW) == 60


def test_a_forecast_of_many_records_equals_one_that_learns_them_in_turn() -> None:
    records = [
        took(40.0 + number % 7, str(number), ("480p", "720p", "580p")[number % 3 if number < 30 else 0], NOW + number)
        for number in range(300)
    ]
    records += [adopted(9.0), took(-3.0, "clock", at=NOW + 500), Record(make_job("new"))]
    learned = Forecast()
    for record in sorted((item for item in records if item.attempts), key=lambda item: item.last.completed_at or 0.0):
        learned.learn(record)
    found = Forecast(reversed(records))
    assert found.seen == learned.seen
    assert found.works == learned.works
    assert {len(seen) for seen in found.seen.values()} == {64, 10}


@pytest.mark.parametrize(
    "record",
    [
        Record(make_job()),
        Record(make_job(), State.IN_FLIGHT, (Attempt(1, "r", NOW, "g", "accepted", accepted_at=NOW),)),
        Record(make_job(), State.FAILED, (Attempt(1, "r", NOW, outcome="refused", ended_at=NOW + 1),)),
        Record(make_job(), State.SUCCEEDED, (Attempt(1, "r", NOW, "g", "succeeded", completed_at=NOW),)),
        took(-3600.0),
        adopted(0.2),
    ],
    ids=["pending", "in flight", "refused", "acceptance unknown", "the clock was set back", "adopted"],
)
def test_incomplete_records_are_ignored(record: Record) -> None:
    assert Forecast([took(60), took(60), took(60), *[record] * 40]).expected_s(LOW) == 60


def test_a_generation_that_completed_between_two_runs_is_ignored() -> None:
    """A run that is killed and continued a day later must not give durations of 24 hours."""
    day = 86_400.0
    overnight = [took(day, f"o{number}", at=NOW + number) for number in range(8)]
    assert Forecast(overnight, [NOW - 5, NOW + day - 60]).expected_s(LOW) is None
    assert Forecast(overnight, [NOW - 5]).expected_s(LOW) == day, "within one run, the duration is measured"
    watched = [took(60, f"w{number}", at=NOW + day) for number in range(3)]
    assert Forecast(overnight + watched, [NOW + day - 60, NOW - 5]).expected_s(LOW) == 60


def test_a_longer_clip_is_expected_to_take_longer_where_clips_do() -> None:
    forecast = Forecast()
    for number in range(20):
        forecast.add(clip(2.0 + number % 5), 10.0 * (2 + number % 5))
    assert forecast.expected_s(clip(6.0)) == pytest.approx(60, rel=0.1)
    assert forecast.expected_s(clip(2.0)) == pytest.approx(20, rel=0.1)
    assert forecast.expected_s(clip(None)) == pytest.approx(40, rel=0.1), "an unknown length is a usual one"
    forecast.add(clip(2.0), 1e6)
    assert len(forecast.works[kind_of(clip(2.0))]) == len(forecast.seen[kind_of(clip(2.0))]) == 21


def clip(seconds: float | None) -> Job:
    return make_job("a", remote()._replace(duration_s=seconds), resolution="480p")
