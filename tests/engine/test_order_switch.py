"""The longest jobs go first while all jobs fit into money and time, and then the manifest's order for good."""

import math
from collections.abc import Mapping
from random import Random

import pytest

from batchrunner.engine.admitter import Admitter
from batchrunner.engine.job_queue import JobQueue
from batchrunner.engine.order_switch import OrderSwitch
from batchrunner.engine.polling.duration_model import DurationKey, Durations, expected_in
from batchrunner.engine.polling.poller import Poller
from batchrunner.job import Attempt, Job, Record, State
from batchrunner.plan.admission import Admission, TimeLeft
from batchrunner.plan.duration_estimate import Forecast, Kind
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from batchrunner.plan.submission_order import LONGEST_FIRST, NOT_ALL, Expected, LongestFirst
from tests.conftest import make_job, remote

SECONDS = {"k": 2.0, "l": 4.0, "m": 1.0, "n": 3.0}
PRICES = Prices({"480p": 10.0})
ALL = 10.0 * 10.0  # credits


class Batch:
    """Jobs that wait, with clips of SECONDS. per_second: of a generation, None while nothing is known."""

    def __init__(
        self,
        budget: Budget | None = None,
        slots: int = 1,
        per_second: float | None = None,
        reliable: Expected | None = None,
    ) -> None:
        self.per_second = per_second
        self.records: dict[str, Record] = {}
        for name, seconds in SECONDS.items():
            job = make_job(name, remote()._replace(duration_s=seconds), resolution="480p")
            self.records[job.fingerprint] = Record(job)
        self.names = dict(zip(self.records, SECONDS, strict=True))
        self.queue = JobQueue(9)
        self.admission = Admission(PRICES, Ledger(budget or Budget()), Forecast())
        self.notices: list[str] = []
        self.switch = OrderSwitch(
            self.queue, self.records, self.admission, self.expected, slots, self.notices.append, reliable
        )
        self.admitter = Admitter(self.queue, self.records, self.admission, lambda _: NO_REASON, self.switch)

    def expected(self, kind: Kind, work: float | None) -> float | None:
        return None if self.per_second is None else self.per_second * (work or 1.0)

    def begin(self, left: TimeLeft | None = None, priorities: Mapping[str, int] | None = None) -> None:
        places = {fingerprint: place for place, fingerprint in enumerate(self.records)}
        self.admitter.begin(places)
        self.admitter.count(list(places))
        self.admitter.choose_order({} if priorities is None else priorities, left)
        self.admitter.add(list(places))

    def next(self, left: TimeLeft | None = None) -> str:
        admitted = self.admitter.next(0.0, 9, left, 0)
        return "" if admitted is None else self.names[admitted.fingerprint]

    def all(self, left: TimeLeft | None = None) -> str:
        return "".join(self.next(left) for _ in SECONDS)


def test_the_longest_go_first_and_this_is_announced_once() -> None:
    batch = Batch()
    batch.begin()
    assert batch.all() == "lnkm"
    assert batch.notices == [LONGEST_FIRST]


def test_without_priorities_the_manifests_order_stays() -> None:
    batch = Batch()
    batch.admitter.begin({name: place for place, name in enumerate(batch.records)})
    batch.admitter.add(list(batch.records))
    assert batch.all() == "klmn"
    assert batch.notices == []


def test_a_batch_that_fits_into_the_slots_keeps_its_order_without_a_word() -> None:
    batch = Batch(slots=4)
    batch.begin()
    assert batch.all() == "klmn"
    assert batch.notices == []


@pytest.mark.parametrize(
    ("budget", "setting"),
    [
        (Budget(credits=ALL - 1), "max_credits"),
        (Budget(usd=(ALL - 1) / 2_000_000), "max_cost"),
        (Budget(generations=3), "max_generations"),
    ],
)
def test_a_budget_that_not_all_jobs_fit_keeps_the_manifests_order(budget: Budget, setting: str) -> None:
    batch = Batch(budget)
    batch.begin()
    assert batch.notices == [NOT_ALL.format(setting)]
    assert batch.all().startswith("klm")


@pytest.mark.parametrize("budget", [Budget(credits=ALL), Budget(generations=4), Budget(credits=ALL, generations=4)])
def test_a_budget_that_all_jobs_fit_changes_nothing(budget: Budget) -> None:
    batch = Batch(budget)
    batch.begin()
    assert batch.all() == "lnkm"
    assert batch.notices == [LONGEST_FIRST]


def test_a_charge_above_its_estimate_that_takes_the_others_place_changes_the_order() -> None:
    batch = Batch(Budget(credits=ALL + 1))
    batch.begin()
    assert batch.next() == "l"
    fingerprint = next(name for name, short in batch.names.items() if short == "l")
    charged = Attempt(1, "r", 0.0, outcome="succeeded", credits=45.0, estimate=40.0)
    batch.records[fingerprint] = Record(batch.records[fingerprint].job, State.SUCCEEDED, (charged,))
    batch.admission.ledger.update(batch.records[fingerprint])
    assert batch.next() == "k"
    assert batch.notices == [LONGEST_FIRST, NOT_ALL.format("max_credits")]


def test_the_manifests_order_stays_for_good_and_is_announced_once() -> None:
    batch = Batch()
    batch.begin()
    batch.switch.keep_manifest_order("max_cost_per_day")
    batch.switch.keep_manifest_order("max_cost_per_day")
    assert batch.all() == "klmn"
    assert batch.notices == [LONGEST_FIRST, NOT_ALL.format("max_cost_per_day")]


def test_with_a_deadline_the_manifests_order_applies_until_all_are_known_to_fit() -> None:
    left = TimeLeft(100.0)
    batch = Batch()
    batch.begin(left)
    assert batch.next(left) == "k"
    batch.per_second = 5.0  # at most 8 * 5 + 4 * 5 s
    assert batch.next(left) == "l"
    assert batch.notices == [LONGEST_FIRST]
    assert batch.next(left) == "n"


def test_a_few_durations_compare_jobs_and_do_not_rule_out_a_deadline() -> None:
    left = TimeLeft(100.0)
    batch = Batch(per_second=1e6, reliable=lambda _kind, _work: None)
    batch.begin(left)
    assert batch.next(left) == "k"
    assert batch.notices == []


def test_a_deadline_that_not_all_jobs_fit_keeps_the_manifests_order() -> None:
    left = TimeLeft(60.0, "max_runtime")
    batch = Batch(per_second=5.0)  # 10 * 5 + 4 * 5 s
    batch.begin(left)
    assert batch.notices == [NOT_ALL.format("max_runtime")]
    assert batch.all(left) == "klmn"


def test_a_service_that_becomes_slow_before_the_deadline_changes_the_order() -> None:
    batch = Batch(per_second=5.0)
    batch.begin(TimeLeft(80.0))
    assert batch.next(TimeLeft(80.0)) == "l"
    batch.per_second = 20.0
    assert batch.next(TimeLeft(75.0)) == "k"
    assert batch.notices == [LONGEST_FIRST, NOT_ALL.format("deadline")]


def test_a_job_that_is_submitted_again_has_its_place_by_length() -> None:
    batch = Batch()
    batch.begin()
    assert batch.next() == "l"
    fingerprint = next(name for name, short in batch.names.items() if short == "l")
    batch.admitter.requeue(fingerprint)
    assert batch.all() == "lnkm"


def test_a_budget_of_the_account_that_is_reached_keeps_the_manifests_order() -> None:
    batch = Batch()
    batch.begin()
    batch.admitter.account_budget_reached("max_cost_per_day")
    assert batch.all() == "klmn"


def test_a_lack_of_space_does_not_change_the_order() -> None:
    lack = [StopReason("disk_full", "the disk is small"), NO_REASON]
    batch = Batch()
    batch.admitter = Admitter(batch.queue, batch.records, batch.admission, lambda _: lack[0], batch.switch)
    batch.begin()
    assert batch.next() == ""
    lack.pop(0)
    assert batch.all() == "lnkm"


@pytest.mark.parametrize(("slots", "most"), [(8, 1.10), (32, 1.13)])
def test_a_batch_of_mixed_clips_takes_little_longer_than_the_least_time(slots: int, most: float) -> None:
    """The same workload as in benchmarks/makespan.py, where the order of the manifest takes 1.12 and 1.32."""
    rng, jobs, took = Random(5), dict[str, Job](), dict[str, float]()
    for number in range(200):
        seconds, resolution = rng.uniform(3, 10), rng.choice(["480p", "580p", "720p"])
        job = make_job(f"j{number}", remote()._replace(duration_s=seconds), resolution=resolution)
        jobs[job.fingerprint] = job
        factor = {"480p": 1.0, "580p": 1.5, "720p": 2.25}[resolution]
        took[job.fingerprint] = 6.5 * seconds * factor * math.exp(rng.gauss(0, 0.2))
    durations: dict[DurationKey, Durations] = {}
    poller, flying, ends = Poller(15.0, rng, durations), dict[str, Record](), dict[str, float]()
    waiting = LongestFirst(jobs.__getitem__, {}, expected_in(durations))
    waiting.extend(enumerate(jobs))
    now, polls = 0.0, 0
    while waiting or flying:
        while waiting and len(flying) < slots:
            name = waiting.pop()
            flying[name] = Record(
                jobs[name], State.IN_FLIGHT, (Attempt(1, name, now, "g", accepted_at=now, generating_at=now),)
            )
            ends[name] = now + took[name]
            poller.after_poll(flying[name], now, first=True)
        now = poller.next_due or now
        polled = poller.pop(now)
        assert polled is not None
        polls += 1
        if ends[polled] <= now:
            poller.observe(flying.pop(polled).with_attempt(completed_at=now), now)
        else:
            poller.after_poll(flying[polled], now)
    assert now / max(sum(took.values()) / slots, *took.values()) <= most
    assert polls / 200 <= 1.1 * (sum(took.values()) / 200 / 15.0 + 0.5), "no more than a fixed interval would make"
