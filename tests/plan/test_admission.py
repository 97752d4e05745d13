"""Admission: time first, then price, then budget. Only an admitted job reserves its price."""

import pytest

from batchrunner.job import Media, Move, Record, advance
from batchrunner.plan.admission import Admission, AdmissionAction, AdmissionDecision, TimeLeft
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger, Spend
from batchrunner.plan.prices import Prices
from tests.conftest import NOW, make_job, remote
from tests.plan.test_duration_estimate import took

CLIP = Media("video", "walk.mp4", sha256="00", duration_s=2.0, frames=32)  # 208,000 credits at 480p
PRICE = 208_000.0


def record(name: str = "a", video: Media = CLIP, resolution: str = "480p") -> Record:
    return Record(make_job(name, video=video, resolution=resolution))


def make(budget: Budget | None = None, known: tuple[Record, ...] = (), **prices: float) -> Admission:
    return Admission(Prices(prices.pop("own", {}), **prices), Ledger(budget or Budget()), Forecast(known))  # type: ignore[arg-type]  # own is a mapping


KNOWN = tuple(took(seconds, f"k{seconds}") for seconds in (500, 600, 700))


def test_without_limits_every_job_is_admitted_and_reserved() -> None:
    admission = make()
    for count, name in enumerate(("a", "b", "c"), 1):
        assert admission.decide(record(name), None) == AdmissionDecision(AdmissionAction.GO, price=PRICE)
        assert admission.ledger.total == Spend(0, count * PRICE, 0, count)
    assert admission.decide(record("d", remote()), None).action is AdmissionAction.GO
    assert admission.ledger.total.unpriced == 1


@pytest.mark.parametrize(
    ("left_s", "action"),
    [
        (None, AdmissionAction.GO),
        (600.0, AdmissionAction.GO),
        (599.0, AdmissionAction.SKIP),
        (0.0, AdmissionAction.SKIP),
        (-5.0, AdmissionAction.SKIP),
    ],
)
def test_a_job_that_would_not_finish_in_time_is_skipped(left_s: float | None, action: AdmissionAction) -> None:
    admission = make(known=KNOWN)
    decision = admission.decide(record(), None if left_s is None else TimeLeft(left_s))
    assert decision.action is action
    assert ("would not finish in time" in decision.why) == (action is AdmissionAction.SKIP)
    assert bool(admission.ledger.total.generations) == (action is AdmissionAction.GO), "a skipped job reserves nothing"


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        (TimeLeft(10.0), "deadline"),
        (TimeLeft(10.0, "max_runtime", 3600.0), "max_runtime"),
        (TimeLeft(10.0, "max_runtime", 300.0), "max_runtime_too_short"),
    ],
)
def test_the_reason_names_the_limit_that_is_too_short(left: TimeLeft, kind: str) -> None:
    assert make(known=KNOWN).decide(record(), left).why.kind == kind


def test_without_known_durations_a_job_is_admitted_while_time_is_left() -> None:
    assert make().decide(record(), TimeLeft(1.0)).action is AdmissionAction.GO
    assert make().decide(record(), TimeLeft(-1.0)).action is AdmissionAction.SKIP


def test_one_kind_may_be_skipped_and_another_admitted() -> None:
    known = (*KNOWN, *(took(seconds, f"h{seconds}", "720p") for seconds in (3000, 3001, 3002)))
    admission = make(known=known)
    assert admission.decide(record("a", resolution="720p"), TimeLeft(1800.0)).action is AdmissionAction.SKIP
    assert admission.decide(record("b"), TimeLeft(1800.0)).action is AdmissionAction.GO


def test_under_a_budget_in_credits_a_job_of_unknown_price_is_skipped() -> None:
    decision = make(Budget(credits=1e9)).decide(record(video=remote()), None)
    assert decision.action is AdmissionAction.SKIP
    assert "assume_length" in decision.why
    assert (
        make(Budget(credits=1e9), assume_length_s=5.0).decide(record(video=remote()), None).action is AdmissionAction.GO
    )
    assert make(Budget(generations=3)).decide(record(video=remote()), None).action is AdmissionAction.GO


def test_a_job_over_budget_waits_until_credits_are_released() -> None:
    admission = make(Budget(credits=2 * PRICE))
    for name in "ab":
        assert admission.decide(record(name), None).action is AdmissionAction.GO
    decision = admission.decide(record("c"), None)
    assert decision.action is AdmissionAction.WAIT
    assert "max_credits (416,000 credits, $0.21)" in decision.why
    assert decision.why.kind == "max_credits"
    assert admission.ledger.total.generations == 2
    admission.ledger.update(record("a"))  # refused
    assert admission.decide(record("c"), None).action is AdmissionAction.GO


def test_a_job_that_is_decided_twice_is_reserved_once() -> None:
    admission = make(Budget(generations=5))
    for _ in range(3):
        admission.decide(record(), None)
    assert admission.ledger.total.generations == 1


def test_a_quote_above_the_estimate_raises_the_prices_and_is_announced_once() -> None:
    admission, announced = make(Budget(usd=4 * PRICE / 2e6)), list[Record]()
    admission.on_overrun = announced.append
    first = record("a")
    assert admission.decide(first, None).action is AdmissionAction.GO
    intent = advance(first, Move.BEGIN_SUBMIT, request_id="r1", submitted_at=NOW, estimate=PRICE)
    accepted = advance(intent, Move.ACCEPT, generation_id="g", credits=1.5 * PRICE)
    admission.ledger.update(accepted)
    admission.ledger.update(accepted.with_attempt(polls=1))
    assert announced == [accepted]
    assert admission.prices.estimate(record("b").job).credits == 1.5 * PRICE
    assert admission.decide(record("b"), None).action is AdmissionAction.GO
    refusal = admission.decide(record("c"), None)
    assert (refusal.action, refusal.why.kind) == (AdmissionAction.WAIT, "max_cost")
    admission.ledger.update(accepted.with_attempt(credits=2 * PRICE))
    assert len(announced) == 2, "the charge rose again"


def test_overruns_of_earlier_runs_are_not_announced_again() -> None:
    intent = advance(record("a"), Move.BEGIN_SUBMIT, request_id="r1", submitted_at=NOW, estimate=PRICE)
    accepted = advance(intent, Move.ACCEPT, generation_id="g", credits=1.5 * PRICE)
    admission, announced = Admission(Prices({}), Ledger(Budget(), [accepted]), Forecast()), list[Record]()
    admission.on_overrun = announced.append
    admission.ledger.update(accepted.with_attempt(polls=1))
    assert announced == []
