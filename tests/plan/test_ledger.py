"""The ledger: the spend of an attempt in each state, and the budget under all sequences of events."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.errors import Problem
from batchrunner.job import REUSED, TRANSITIONS, Move, Record, State, advance
from batchrunner.plan.ledger import Budget, Ledger, Spend, spend_of, total_of
from batchrunner.plan.resume import RECHECKED, take_up
from tests.conftest import NOW, make_entries, make_job

NO = Problem("unavailable", "503", fault="service")
CUT = Problem("cut", "the connection broke", fault="network")
BAD_FACE = Problem("face_detection_error", "no face")
INTENT: dict[str, Any] = {"request_id": "r", "submitted_at": NOW}

Step = tuple[Any, ...]


def record_after(*steps: Step | str, estimate: float | None = 100.0) -> Record:
    """Return a job's record after these moves: ``(move, {fields}, problem)``, or the name of a poll's result."""
    record = Record(make_job())
    for step in steps:
        if isinstance(step, str):
            record = record.with_attempt(**{"complete": {"completed_at": NOW}, "billed": {"credits": 80.0}}[step])
            continue
        move, *more = step
        fields: dict[str, Any] = {}
        if move == "begin_submit":
            fields = {**INTENT, "request_id": f"r{len(record.attempts)}", "estimate": estimate}
        for item in more:
            fields |= item if isinstance(item, dict) else {"error": item}
        record = advance(record, Move(move), **fields)
    return record


BEGIN_SUBMIT, ACCEPT, DELIVER, FILE_MISSING = (
    ("begin_submit",),
    ("accept", {"generation_id": "g"}),
    ("deliver",),
    ("file_missing",),
)
REFUSE, DOUBT, RELEASE, RETRY = ("refuse", NO), ("doubt", CUT), ("release",), ("retry",)
ADOPT, RECHECK = ("adopt", {"generation_id": "g"}), ("recheck",)
FLYING = (BEGIN_SUBMIT, ACCEPT)
REUSE = ("reuse", {"request_id": f"{REUSED}id.1", "submitted_at": NOW, "generation_id": "g"})


def withheld(kind: str) -> Step:
    return ("fail", Problem(kind, "nothing came", fault="service"))


STORIES: dict[str, tuple[tuple[Step | str, ...], Spend]] = {
    "nothing submitted": ((), Spend()),
    "being submitted, or killed meanwhile": ((BEGIN_SUBMIT,), Spend(0, 100, 0, 1)),
    "refused": ((BEGIN_SUBMIT, REFUSE), Spend()),
    "paid for by another batch": ((REUSE,), Spend()),
    "paid for by another batch, and delivered": ((REUSE, "complete", DELIVER), Spend()),
    "failed in another batch, then submitted here": ((REUSE, ("fail", NO), RETRY, *FLYING), Spend(0, 100, 0, 1)),
    "refused for good": ((BEGIN_SUBMIT, REFUSE, ("give_up", NO)), Spend()),
    "refused, then accepted": ((BEGIN_SUBMIT, REFUSE, *FLYING), Spend(0, 100, 0, 1)),
    "in doubt": ((BEGIN_SUBMIT, DOUBT), Spend(0, 100, 0, 1)),
    "a doubt that was found": ((BEGIN_SUBMIT, DOUBT, ADOPT), Spend(0, 100, 0, 1)),
    "a doubt that the log disproves": ((BEGIN_SUBMIT, DOUBT, ("clear", NO)), Spend()),
    "a doubt that was found and delivered": ((BEGIN_SUBMIT, DOUBT, ADOPT, "complete", DELIVER), Spend(100, 0, 0, 1)),
    "a doubt that the service's log clears": ((BEGIN_SUBMIT, DOUBT, ("clear",)), Spend()),
    "a doubt that the user released": ((BEGIN_SUBMIT, DOUBT, RELEASE), Spend(0, 100, 0, 1)),
    "a released doubt submitted again": ((BEGIN_SUBMIT, DOUBT, RELEASE, BEGIN_SUBMIT), Spend(0, 200, 0, 2)),
    "a released doubt, delivered by another": (
        (BEGIN_SUBMIT, DOUBT, RELEASE, *FLYING, "complete", DELIVER),
        Spend(100, 100, 0, 2),
    ),
    "a released doubt, then refused": ((BEGIN_SUBMIT, DOUBT, RELEASE, BEGIN_SUBMIT, REFUSE), Spend(0, 100, 0, 1)),
    "accepted": (FLYING, Spend(0, 100, 0, 1)),
    "accepted at a quoted price": ((*FLYING, "billed"), Spend(0, 80, 0, 1)),
    "completed, not downloaded": ((*FLYING, "complete"), Spend(100, 0, 0, 1)),
    "completed at a stated price": ((*FLYING, "billed", "complete"), Spend(80, 0, 0, 1)),
    "succeeded": ((*FLYING, "complete", DELIVER), Spend(100, 0, 0, 1)),
    "succeeded unseen, found in the folder at the next start": ((*FLYING, DELIVER), Spend(100, 0, 0, 1)),
    "succeeded, and its file lost": ((*FLYING, "complete", DELIVER, FILE_MISSING), Spend(100, 0, 0, 1)),
    "lost, and fetched again": ((*FLYING, "complete", DELIVER, FILE_MISSING, DELIVER), Spend(100, 0, 0, 1)),
    "failed by the service": ((*FLYING, ("fail", NO)), Spend(0, 0, 0, 1)),
    "failed by its content": ((*FLYING, "billed", ("fail", BAD_FACE)), Spend(0, 0, 0, 1)),
    "failed, and another one": ((*FLYING, ("fail", NO), RETRY, *FLYING), Spend(0, 100, 0, 2)),
    "failed twice": ((*FLYING, ("fail", NO), RETRY, *FLYING, ("fail", NO)), Spend(0, 0, 0, 2)),
    "denied by the service": ((*FLYING, withheld("unknown_generation")), Spend(0, 100, 0, 1)),
    "completed without a link": ((*FLYING, "complete", withheld("no_link")), Spend(100, 0, 0, 1)),
    "a bad file": ((*FLYING, "complete", "billed", withheld("bad_file")), Spend(80, 0, 0, 1)),
    "denied, asked for again": ((*FLYING, withheld("unknown_generation"), RECHECK), Spend(0, 100, 0, 1)),
    "denied, and then failed after all": (
        (*FLYING, withheld("unknown_generation"), RECHECK, ("fail", NO)),
        Spend(0, 0, 0, 1),
    ),
    "denied, then delivered after all": (
        (*FLYING, withheld("unknown_generation"), RECHECK, "complete", DELIVER),
        Spend(100, 0, 0, 1),
    ),
    "a bad file paid for again": (
        (*FLYING, "complete", withheld("bad_file"), RETRY, *FLYING),
        Spend(100, 100, 0, 2),
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_the_spend_of_an_attempt_is_known_in_each_state(story: str) -> None:
    steps, spend = STORIES[story]
    found = spend_of(record_after(*steps))
    assert replace(found, settled=0.0, quoted=0.0, unsettled=0) == spend


@pytest.mark.parametrize("story", STORIES)
def test_an_attempt_without_a_price_is_unpriced(story: str) -> None:
    steps, spend = STORIES[story]
    bare = tuple(step for step in steps if step != "billed")
    unpriced = spend_of(record_after(*bare, estimate=None))
    figures = (spend.spent + spend.reserved) / 100 if "billed" not in steps else int(spend.worst > 0)
    assert (unpriced.spent, unpriced.reserved, unpriced.generations) == (0, 0, spend.generations)
    assert unpriced.unpriced == figures


def test_every_move_occurs_in_a_case() -> None:
    moves = {Move(step[0]) for steps, _ in STORIES.values() for step in steps if not isinstance(step, str)}
    assert moves == {move for _, move in TRANSITIONS}


def test_a_kill_while_submitting_does_not_change_the_spend() -> None:
    [entry] = make_entries("a")
    record = advance(Record(entry.job), Move.BEGIN_SUBMIT, estimate=100.0, **INTENT)
    before = spend_of(record)
    for released in (False, True):
        records, _ = take_up({entry.job.fingerprint: record}, [entry], retry_failed=False, resubmit_in_doubt=released)
        assert spend_of(records[entry.job.fingerprint]) == before


def test_an_update_releases_a_hold() -> None:
    ledger, record = Ledger(Budget()), Record(make_job())
    ledger.hold(record, 100.0)
    assert ledger.total == Spend(0, 100, 0, 1)
    ledger.hold(record, 100.0)
    assert ledger.total == Spend(0, 100, 0, 1), "once a job"
    submitting = record_after(BEGIN_SUBMIT)
    ledger.update(submitting)
    assert ledger.total == Spend(0, 100, 0, 1), "not twice"
    ledger.update(record_after(BEGIN_SUBMIT, REFUSE))
    assert ledger.total == Spend()
    ledger.hold(record, None)
    assert ledger.total == Spend(0, 0, 1, 1)
    ledger.update(record)
    assert ledger.total == Spend(), "the intent did not reach the disk"


def test_a_hold_is_added_to_a_jobs_spend() -> None:
    ledger = Ledger(Budget(credits=250.0), [record_after(BEGIN_SUBMIT, DOUBT, RELEASE)])
    assert ledger.refuses(100.0) == ""
    ledger.hold(record_after(BEGIN_SUBMIT, DOUBT, RELEASE), 100.0)
    assert ledger.total == Spend(0, 200, 0, 2)
    assert "max_credits (250 credits" in ledger.refuses(100.0)


@pytest.mark.parametrize(
    ("budget", "spent", "estimate", "reason"),
    [
        (Budget(), 1e12, 1e12, ""),
        (Budget(credits=100.0), 0.0, 100.0, ""),
        (
            Budget(credits=100.0),
            0.0,
            100.01,
            "max_credits (100 credits, under $0.0001) is reached: the remaining under $0.0001 is not enough",
        ),
        (Budget(credits=100.0), 60.0, 40.0, ""),
        (Budget(credits=100.0), 60.0, 41.0, "is reached: the remaining"),
        (Budget(credits=100.0), 160.0, 1.0, "is exceeded"),
        (Budget(credits=100.0), 100.0, 0.0, ""),
        (Budget(credits=1_500_000.0), 0.0, 2e6, "max_credits (1,500,000 credits, $0.75) is reached"),
        (Budget(usd=4.0), 7e6, 1e6, ""),
        (
            Budget(usd=4.0),
            7.5e6,
            1e6,
            "max_cost ($4.00) is reached: the remaining $0.25 is not enough for the next job",
        ),
        (Budget(usd=4.0), 8.72e6, 1e6, "max_cost ($4.00) is exceeded: $4.36 is spent or reserved"),
        (Budget(usd=4.0, credits=9e6), 7.5e6, 1e6, "max_cost"),
        (Budget(usd=4.0, credits=7e6), 6.5e6, 1e6, "max_credits"),
        (Budget(generations=2), 60.0, 1e9, ""),
        (Budget(generations=1), 60.0, None, "max_generations (1) is reached"),
    ],
)
def test_submissions_over_budget_are_refused(budget: Budget, spent: float, estimate: float | None, reason: str) -> None:
    record = record_after(*FLYING, "complete", estimate=spent)
    ledger = Ledger(budget, [record] if spent else [])
    assert reason in ledger.refuses(estimate)
    assert bool(reason) == bool(ledger.refuses(estimate))


def test_failed_generations_count_against_a_budget_in_generations_but_refused_ones_do_not() -> None:
    assert Ledger(Budget(generations=1), [record_after(*FLYING, ("fail", NO))]).refuses(None)
    assert not Ledger(Budget(generations=1), [record_after(BEGIN_SUBMIT, REFUSE)]).refuses(None)


def test_a_price_is_needed_only_under_a_budget_in_credits() -> None:
    assert Ledger(Budget(credits=1.0)).needs_a_price()
    assert not Ledger(Budget(generations=1)).needs_a_price()


def test_decimal_fractions_fit_the_budget_exactly() -> None:
    ledger = Ledger(Budget(credits=1.0))
    for number in range(10):
        assert ledger.refuses(0.1) == "", number
        ledger.hold(Record(make_job(f"j{number}")), 0.1)
    assert ledger.refuses(0.1)


def roam(rng: Random, ledger: Ledger, records: list[Record], price: Callable[[int], float | None]) -> None:
    """Apply one event to one of the jobs, as the engine would."""
    at = rng.randrange(len(records))
    record = records[at]
    if record.state is State.PENDING:
        if ledger.refuses(price(at)):
            return
        ledger.hold(record, price(at))
        if rng.random() < 0.1:
            ledger.update(record)  # the intent could not be written
            return
    move = rng.choice([move for state, move in TRANSITIONS if state is record.state and move is not Move.GIVE_UP])
    if move is Move.RECHECK and record.error and record.error.kind not in RECHECKED:
        return
    more: dict[str, Any] = {}
    if move is Move.REUSE:
        more = {"request_id": f"{REUSED}{at}.{len(record.attempts)}", "submitted_at": NOW}
    if move is Move.BEGIN_SUBMIT:
        more = {"request_id": f"{at}.{len(record.attempts)}", "submitted_at": NOW, "estimate": price(at)}
    elif move in {Move.FAIL, Move.REFUSE, Move.DOUBT}:
        more = {"error": Problem(rng.choice(["no_link", "bad_file", "unknown_generation", "failed"]), "")}
    record = advance(record, move, **more)
    if record.state is State.IN_FLIGHT and rng.random() < 0.5:
        record = record.with_attempt(completed_at=NOW)
    records[at] = record
    ledger.update(record)


@settings(derandomize=True, max_examples=120, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 1e7), st.integers(1, 40), st.booleans())
def test_the_total_is_the_sum_over_records_and_never_exceeds_the_budget(
    seed: int, credits_: float, generations: int, bounded: bool
) -> None:
    rng = Random(seed)
    budget = Budget(credits_, generations) if bounded else Budget()
    records = [Record(make_job(f"j{number}")) for number in range(12)]
    prices = [round(rng.uniform(0, credits_ / 3), 2) for _ in records]
    ledger = Ledger(budget, records)
    for _ in range(150):
        roam(rng, ledger, records, prices.__getitem__)
        sums = sum((spend_of(record) for record in records), Spend())
        for name in ("spent", "reserved"):
            assert getattr(ledger.total, name) == pytest.approx(getattr(sums, name), abs=1e-4)
        assert (ledger.total.unpriced, ledger.total.generations) == (sums.unpriced, sums.generations)
        if bounded:
            assert ledger.total.worst <= credits_ + 0.01
            assert ledger.total.generations <= generations
    again = Ledger(budget, records)
    assert again.total.worst == pytest.approx(ledger.total.worst, abs=1e-4), "a restart counts the same"


def test_ten_thousand_settled_holds_leave_no_remainder() -> None:
    ledger, rng = Ledger(Budget()), Random(1)
    records = [Record(make_job(f"j{number}")) for number in range(10_000)]
    for record in records:
        ledger.hold(record, round(rng.uniform(0, 3e6), 2))
    for record in records:
        ledger.update(record)
    assert ledger.total.reserved == pytest.approx(0.0, abs=0.004)
    assert replace(ledger.total, reserved=0.0) == Spend()


def test_the_total_of_all_stories_is_the_sum_of_their_costs() -> None:
    records = [record_after(*steps) for steps, _ in STORIES.values()]
    assert total_of(records) == sum(map(spend_of, records), Spend())
    assert total_of(()) == Spend()


def test_without_a_budget_the_spend_of_a_job_is_added_up_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Record]()

    def counted(record: Record) -> Spend:
        asked.append(record)
        return spend_of(record)

    monkeypatch.setattr("batchrunner.plan.ledger.spend_of", counted)
    ledger, states = Ledger(Budget()), [record_after(*FLYING[:count]) for count in range(1, len(FLYING) + 1)]
    ledger.hold(Record(make_job()), 100.0)
    for record in states:
        assert not ledger.refuses(100.0)
        ledger.update(record)
    assert asked == []
    assert ledger.total == spend_of(states[-1])
    assert asked == [states[-1]], "once for all moves of the job"
