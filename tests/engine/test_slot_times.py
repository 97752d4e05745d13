"""A submission in doubt holds its slot as long as generations of its kind take, as far as is known."""

from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.policy import Policy
from batchrunner.engine.slot_times import slot_times
from batchrunner.job import Record, State
from batchrunner.plan.duration_estimate import Forecast
from tests.conftest import make_record
from tests.engine.steps.stepping import VirtualClock

POLICY = Policy(concurrency=4, poll_interval_s=15.0, doubt_s=1800.0)


class Times:
    """The records of a run and the durations that it has measured."""

    def __init__(self, *records: Record, seen_s: tuple[float, ...] = ()) -> None:
        self.records = {record.job.fingerprint: record for record in records}
        self.clock = VirtualClock()
        forecast = Forecast()
        for took_s in seen_s:
            forecast.add(records[0].job, took_s)
        self.times = GenerationTimes(self.clock, forecast, {}, unseen_s=100.0)

    def slot_s(self, record: Record, *followed: Record) -> float:
        names = [other.job.fingerprint for other in followed]
        return slot_times(self.records, names, self.times, POLICY)(record.job.fingerprint)


def test_without_a_known_duration_the_slot_is_held_for_the_longest_time() -> None:
    record = make_record("a", State.IN_DOUBT)
    assert Times(record).slot_s(record) == 1800.0


def test_many_known_durations_shorten_the_time_and_three_polls_are_the_least() -> None:
    record = make_record("a", State.IN_DOUBT)
    assert Times(record, seen_s=(100.0,) * 20).slot_s(record) == 100.0
    assert Times(record, seen_s=(1.0,) * 20).slot_s(record) == 3 * 15.0


def test_a_generation_that_runs_longer_lengthens_the_time() -> None:
    record, running = make_record("a", State.IN_DOUBT), make_record("b", State.IN_FLIGHT)
    times = Times(record, running, seen_s=(100.0,) * 20)
    times.clock.at_s = 500.0
    assert times.slot_s(record) == 100.0, "it is not followed"
    assert times.slot_s(record, running) == 100.0, "one of twenty-one is within the usual share"
    others = [make_record(name, State.IN_FLIGHT) for name in "cdefg"]
    times = Times(record, running, *others, seen_s=(100.0,) * 20)
    times.clock.at_s = 500.0
    assert times.slot_s(record, running, *others) == 500.0


def test_only_unfinished_generations_of_the_same_kind_count() -> None:
    record = make_record("a", State.IN_DOUBT)
    others = [make_record(name, State.IN_FLIGHT) for name in "bcdefg"]
    complete = [other.with_attempt(completed_at=other.last.submitted_at + 1) for other in others]
    times = Times(record, *complete, seen_s=(100.0,) * 20)
    times.clock.at_s = 500.0
    assert times.slot_s(record, *complete) == 100.0
