"""Times of generations: only those observed from acceptance on are measured, whatever the wall clock does."""

from batchrunner.clock import LoopClock
from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.job import Record, State
from batchrunner.plan.duration_estimate import Forecast, kind_of
from tests.conftest import NOW, make_record


class SetClock(LoopClock):
    """A clock that advances when a test says so; its wall time can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s, self.wall_s = 100.0, NOW

    def now(self) -> float:
        return self.wall_s + self.at_s - 100.0

    def monotonic(self) -> float:
        return self.at_s


def in_flight(accepted_at: float | None) -> Record:
    return make_record("a", State.IN_FLIGHT).with_attempt(accepted_at=accepted_at)


def times(clock: SetClock, durations: dict[DurationKey, Durations] | None = None) -> tuple[GenerationTimes, Forecast]:
    forecast = Forecast()
    return GenerationTimes(clock, forecast, durations or {}, unseen_s=100.0), forecast


def test_a_duration_is_measured_by_the_monotonic_clock() -> None:
    clock = SetClock()
    watched, _ = times(clock)
    record = in_flight(clock.now())
    watched.accepted(record.job.fingerprint)
    clock.at_s += 40.0
    clock.wall_s -= 39.9
    completed_at = watched.completed(record)
    assert completed_at == NOW + 40.0
    assert watched.known_s(record.job) == [40.0]
    later = Forecast([record.with_attempt(completed_at=completed_at)])
    assert list(later.seen[kind_of(record.job)]) == [40.0], "a later run reads the same"


def test_a_generation_whose_acceptance_was_not_observed_is_not_measured() -> None:
    """As of one that was found in the log and polled once before it was complete."""
    clock = SetClock()
    watched, forecast = times(clock)
    record = in_flight(clock.now())
    clock.at_s += 0.1
    watched.unfinished(record.job.fingerprint)
    clock.at_s += 0.1
    assert watched.completed(record) == clock.now()
    assert forecast.seen == {}


def test_the_acceptance_of_an_earlier_attempt_is_forgotten() -> None:
    clock = SetClock()
    watched, forecast = times(clock)
    record = in_flight(clock.now())
    watched.accepted(record.job.fingerprint)
    watched.submitting(record.job.fingerprint)
    watched.completed(record)
    assert forecast.seen == {}


def test_an_age_is_never_less_than_this_run_observed() -> None:
    clock = SetClock()
    watched, _ = times(clock)
    clock.at_s += 50.0
    assert watched.age_s(in_flight(clock.now() + 9000.0)) == 50.0, "the clock was set back"
    assert watched.age_s(in_flight(clock.now() - 600.0)) == 600.0
    assert watched.age_s(in_flight(None)) == 50.0
    watched.accepted(in_flight(None).job.fingerprint)
    clock.at_s += 5.0
    assert watched.age_s(in_flight(clock.now() - 600.0)) == 5.0


def test_durations_of_other_batches_count_until_this_one_has_its_own() -> None:
    """They overlap, and counting a generation twice would overstate what is known."""
    clock = SetClock()
    record = in_flight(clock.now())
    watched, _ = times(clock, {(kind_of(record.job), False): Durations([(50.0, 60.0)] * 9)})
    assert watched.known_s(record.job) == [60.0] * 9
    watched.accepted(record.job.fingerprint)
    clock.at_s += 70.0
    watched.completed(record)
    assert watched.known_s(record.job) == [70.0]
