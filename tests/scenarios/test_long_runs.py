"""Long runs: outages, an empty account, limits, budgets and deadlines, and the state in the morning."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.setup import plan_batch
from batchrunner.events import Overrun
from batchrunner.job import Entry
from batchrunner.providers import registry
from batchrunner.sandbox import Fault
from batchrunner.sandbox.faults.outages import AccountFailure, Conditions, Outage, Throttle
from batchrunner.sandbox.world import TopUp
from tests.scenarios.test_stories import Simulation, entries, play
from tests.scenarios.world import EPOCH

_BASIS = registry.default_model().price
assert _BASIS is not None
PRICE = _BASIS.credits["480p"] * 10  # of a clip with an assumed length of ten seconds
TEN_S: dict[str, Any] = {"assume_length": "10s"}
ONE_S: dict[str, Any] = {"assume_length": "1s"}  # shorter than the sandbox's stand-in: its quote is above the estimate
ONE_S_PRICE = _BASIS.credits["480p"]


def many(count: int) -> tuple[Entry, ...]:
    return entries(*(f"job-{number:03}" for number in range(count)))


def submissions(sim: Simulation) -> list[dict[str, Any]]:
    """Return every submission that reached the service, accepted or refused, from its own ledger."""
    return [event for event in sim.service.ledger() if event["event"] == "accepted" or event.get("call") == "submit"]


def health(sim: Simulation, call: str) -> list[str]:
    """Return the statuses of one kind of call in the report, in order."""
    found = [event for event in sim.report["timeline"] if event["kind"] == "call_health" and event["call"] == call]
    return [event["status"] for event in found]


# Outages


@pytest.mark.parametrize("shows", ["unavailable", "html_502", "reset", "black_hole", "refused", "empty_503"])
def test_an_outage_of_an_hour_fails_no_job_and_pauses_the_batch(tmp_path: Path, shows: str) -> None:
    async def story(sim: Simulation) -> None:
        jobs = many(30)
        status = await sim.run(jobs, concurrency=8)
        states = Counter(sim.states().values())
        assert states["failed"] == 0
        in_doubt = states["in_doubt"]
        # Only submissions that were active at its start or formed the streak: later, a free status request must succeed
        # first.
        assert in_doubt <= 8, states
        assert status == (1 if in_doubt else 0)
        assert states["succeeded"] == 30 - in_doubt
        assert set(sim.accepted().values()) == {1}
        assert "fine" in health(sim, "poll")

    outage = Outage(from_s=100.0, for_s=3600.0, shows=shows)
    play(tmp_path, story, conditions=Conditions(outages=(outage,)), logs=False)


def test_during_an_outage_one_submission_probes_at_growing_intervals(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(40), concurrency=8) == 0
        refused = [event for event in submissions(sim) if event["event"] == "refused"]
        assert len(refused) <= 8 + 60, "eight active ones, then one at a time, every two to three minutes"
        waits = [after["at"] - before["at"] for before, after in pairwise(refused)]
        assert sum(waits[:6]) < sum(waits[-6:]) / 2

    outage = Outage(from_s=30.0, for_s=7200.0, shows="unavailable", calls="submit", retry_after_s=1.0)
    play(tmp_path, story, conditions=Conditions(outages=(outage,)))


def test_an_outage_longer_than_outage_wait_ends_the_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(5), outage_wait="30m") == 5
        assert Counter(sim.states().values())["failed"] == 0
        assert "waited" in sim.report["stopped"]
        await asyncio.sleep(40_000)
        assert await sim.run(many(5)) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, conditions=Conditions(outages=(Outage(from_s=30.0, for_s=30_000.0),)))


def test_a_single_job_that_is_always_refused_fails_in_the_end(tmp_path: Path) -> None:
    """The service refuses this job and accepts all others: it is not an outage, and the attempts must end."""

    async def story(sim: Simulation) -> None:
        jobs = many(200)
        poison = jobs[0].job.fingerprint
        assert await sim.run(jobs, concurrency=2) == 1
        [failed] = [row for row in sim.report["jobs"] if row["state"] == "failed"]
        assert failed["fingerprint"] == poison
        assert "while other jobs were accepted" in failed["error"]["message"]
        assert len(failed["attempts"]) == 12

    play(tmp_path, story, Fault(on="submit", kind="unavailable_retry_after", delay_s=1.0, match=many(1)[0].job.key))


# The account


def test_out_of_credits_pauses_and_a_top_up_continues_the_batch(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(12), concurrency=4, account_wait="1h") == 0
        assert health(sim, "submit") == ["paused", "fine"]
        assert sim.report["totals"]["failed"] == 0
        refused = [event["at"] for event in submissions(sim) if event["event"] == "refused"]
        waits = [later - earlier for earlier, later in pairwise(refused[4:])]  # each is a random part of its interval
        assert sum(waits[:5]) < sum(waits[-5:]), "one submission probes at growing intervals"
        assert 4 < len(refused) <= 4 + 18

    failure = AccountFailure(from_s=30.0, shows="out_of_credits")
    play(tmp_path, story, conditions=Conditions(account=(failure,), top_ups=(TopUp(2400.0, 10**9),)))


def test_while_the_account_is_paused_paid_clips_are_downloaded(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(6), concurrency=3, account_wait="20m") == 5
        assert Counter(sim.states().values()) == {"succeeded": 3, "pending": 3}
        assert "waited 20 min" in sim.report["stopped"]

    play(tmp_path, story, conditions=Conditions(account=(AccountFailure(from_s=1.0, shows="locked"),)))


def test_a_key_that_is_revoked_in_flight_loses_nothing(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(3), concurrency=3, account_wait="10m") == 5
        assert set(sim.states().values()) == {"in_flight"}
        await asyncio.sleep(4000)
        assert await sim.run(many(3)) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, conditions=Conditions(account=(AccountFailure(from_s=10.0, for_s=3000.0, shows="revoked"),)))


# The cap and the rate


def test_the_cap_adapts_to_the_services_limit(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(60), concurrency=16) == 0
        caps = [int(event["status"]) for event in sim.report["timeline"] if event["kind"] == "cap"]
        assert min(caps) <= 3 < max(caps), "halved, and raised again"
        assert max(caps) <= 16
        refused = [event for event in submissions(sim) if event["event"] == "refused"]
        assert len(refused) <= 60, "less than one refusal a job"

    play(tmp_path, story, concurrency_limit=3)


def test_the_cap_recovers_when_the_limit_is_gone(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(120), concurrency=8) == 0
        caps = [int(event["status"]) for event in sim.report["timeline"] if event["kind"] == "cap"]
        assert caps[-1] == 8

    play(tmp_path, story, conditions=Conditions(throttled=(Throttle(from_s=0.0, for_s=600.0, concurrency=2),)))


def test_the_request_rate_stays_below_the_services_limit(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(40), concurrency=20, requests_per_second=2, poll_interval="5s") == 0
        assert health(sim, "submit") == health(sim, "poll") == []

    play(tmp_path, story, requests_per_second=4.0, capacity=40)


# Money


def test_the_budget_in_credits_is_never_exceeded_over_all_runs(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        jobs = many(10)
        for _ in range(3):
            assert await sim.run(jobs, max_credits=4.5 * PRICE, **TEN_S) == 3
            assert Counter(sim.states().values()) == {"succeeded": 4, "pending": 6}
            assert "max_credits" in sim.report["stopped"]
        assert await sim.run(jobs, max_credits=6 * PRICE, **TEN_S) == 3
        assert len(sim.accepted()) == 6
        assert await sim.run(jobs, **TEN_S) == 0

    play(tmp_path, story, quotes=False, billing=False)


def test_the_services_quote_precedes_the_price_table(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(3), max_credits=100 * PRICE, **TEN_S) == 0
        money = sim.report["totals"]
        charged = sum(event.get("charged", 0) for event in sim.service.ledger())
        assert money["credits"] == charged != 3 * PRICE

    play(tmp_path, story)


def quote_of(sim: Simulation) -> int:
    """Return the price of one generation by the service's ledger."""
    return int(submissions(sim)[0]["credits"])


def test_after_an_overrun_later_jobs_are_priced_at_what_the_service_charges(tmp_path: Path) -> None:
    """Two jobs at once would pass the budget by one if the second were admitted at its estimate."""

    async def story(sim: Simulation) -> None:
        assert await sim.run(many(1), **ONE_S) == 0
        quote = quote_of(sim)
        assert await sim.run(many(10), max_cost=f"{5 * quote / 2_000_000}USD", **ONE_S) == 3
        assert len(sim.accepted()) == 5
        overruns = [event for event in sim.events if isinstance(event, Overrun)]
        assert len(overruns) == 0, "the first run has raised the price"
        assert "max_cost" in sim.report["stopped"]
        money = sim.report["money"]
        assert money["spent_usd"] == money["budget_usd"] == pytest.approx(5 * quote / 2_000_000)
        assert money["overrun_usd"] == pytest.approx((quote - ONE_S_PRICE) / 2_000_000)

    play(tmp_path, story)


def test_an_overrun_of_jobs_in_flight_is_announced_and_stops_further_submissions(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(10), max_cost="0.3USD", **ONE_S) == 3
        quote = quote_of(sim)
        assert len(sim.accepted()) == 2, "both were submitted before the first quote"
        assert 2 * quote > 0.3 * 2_000_000 > quote
        first, second = [event for event in sim.events if isinstance(event, Overrun)]
        assert (first.exceeds_budget, second.exceeds_budget) == (False, True)
        assert "max_cost ($0.30) is exceeded" in second.message
        assert "max_cost ($0.30) is exceeded" in sim.report["stopped"]

    play(tmp_path, story)


def test_a_job_in_doubt_counts_as_spent(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(5), max_generations=3, concurrency=1) == 3
        assert Counter(sim.states().values()) == {"in_doubt": 1, "succeeded": 2, "pending": 2}

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), logs=False)


def test_a_failed_generation_releases_its_hold(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(4), max_credits=2 * PRICE, concurrency=1, **TEN_S) == 3
        assert Counter(sim.states().values()) == {"failed": 1, "succeeded": 2, "pending": 1}

    play(tmp_path, story, Fault(on="generation", kind="face_detection", first=1), quotes=False)


def test_a_job_of_unknown_price_is_not_submitted_under_a_budget(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(2), max_credits=100 * PRICE) == 3
        assert not sim.accepted()
        assert "price is unknown" in sim.report["stopped"]

    play(tmp_path, story)


# Time


def test_the_deadline_skips_jobs_that_would_not_finish_and_waits_for_the_others(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        jobs = many(40)
        assert await sim.run(jobs, max_runtime="10m", concurrency=2) == 3
        states = Counter(sim.states().values())
        assert states["succeeded"] >= 14, "two at a time, a minute and a poll each"
        assert states["in_flight"] == 0, "no job was submitted that would not finish"
        assert states["pending"] == 40 - states["succeeded"]
        assert "would not finish in time" in sim.report["stopped"]
        assert sim.loop.time() < 700
        assert await sim.run(jobs, concurrency=8) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story)


def test_the_deadline_ends_the_run_even_with_generations_in_flight(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        deadline = datetime.fromtimestamp(EPOCH + 300, UTC).isoformat()
        assert await sim.run(many(4), deadline=deadline, concurrency=2) == 3
        assert sim.loop.time() < 340
        assert Counter(sim.states().values()) == {"in_flight": 2, "pending": 2}
        assert await sim.run(many(4)) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, duration_s=3000.0)


# Failures


@pytest.mark.parametrize(("most", "failed"), [("5", 5), ("10%", 4)])
def test_a_batch_in_which_every_job_fails_stops(tmp_path: Path, most: str, failed: int) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(40), concurrency=1, stop_after_failures=most) == 3
        states = Counter(sim.states().values())
        assert states == {"failed": failed, "pending": 40 - failed}

    play(tmp_path, story, Fault(on="generation", kind="face_detection"))


def test_service_faults_do_not_count_as_failures_of_the_batch(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(20), concurrency=4, stop_after_failures="1", generation_retries=3) == 0

    play(
        tmp_path,
        story,
        Fault(on="generation", kind="error_object", rate=0.2),
        conditions=Conditions(outages=(Outage(from_s=60.0, for_s=900.0),)),
    )


def test_a_generation_that_the_service_failed_is_repeated_once(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(1)) == 1
        [row] = sim.report["jobs"]
        assert [attempt["outcome"] for attempt in row["attempts"]] == ["failed", "failed"]
        assert await sim.run(many(1)) == 1, "no more without a request"
        assert list(sim.accepted().values()) == [2]

    play(tmp_path, story, Fault(on="generation", kind="error_object"))


def test_refused_content_is_not_submitted_again(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(1), generation_retries=5) == 1
        assert list(sim.accepted().values()) == [1]
        assert sim.report["jobs"][0]["error"]["kind"] == "content_refused"

    play(tmp_path, story, Fault(on="generation", kind="content_policy"))


# Order


def test_priority_precedes_the_manifests_order(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        plain = many(4)
        ranked = tuple(replace(entry, priority=place) for entry, place in zip(plain, (0, 5, 0, 9), strict=True))
        assert await sim.run(ranked, concurrency=1) == 0
        names = {entry.job.fingerprint: entry.id for entry in ranked}
        order = sorted(sim.report["jobs"], key=lambda row: row["attempts"][0]["submitted_at"])
        assert [names[row["fingerprint"]] for row in order] == ["job-003", "job-001", "job-000", "job-002"]

    play(tmp_path, story)


# Combinations


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_an_eight_hour_run_of_500_jobs_completes_in_the_next_one(tmp_path: Path, rate: float) -> None:
    """Two outages, an empty account for a while, faults all the time, and a deadline; then the next run."""

    async def story(sim: Simulation) -> None:
        jobs = many(500)
        interval = "30s" if rate > 0.1 else "60s"  # with few faults, polls would take most of the CPU time
        await sim.run(jobs, concurrency=8, max_runtime="8h", account_wait="1h", poll_interval=interval)
        report = sim.report
        states = Counter(sim.states().values())
        assert sim.loop.time() < 8 * 3600 + 60
        assert states["succeeded"] > (300 if rate == 0 else 200 if rate < 0.1 else 60), states
        assert states["pending"] > 0, "more than one run's work"
        if rate == 0:
            assert states["failed"] == 0
            assert states["in_doubt"] <= 16
            assert report["totals"]["generations"] == states["succeeded"] + states["in_flight"]
        assert {"fine", "paused"} <= set(health(sim, "submit"))
        assert {"fine", "down"} <= set(health(sim, "poll"))
        assert "time" in report["stopped"]
        for row in report["jobs"]:
            assert row["state"] == "succeeded" or (row["error"]["message"] and row["error"]["hint"])
        failed_by_service = {event["generation_id"] for event in sim.service.ledger() if event["event"] == "failed"}
        paid = Counter(
            event["fingerprint"]
            for event in sim.service.ledger()
            if event["event"] == "accepted" and event["generation_id"] not in failed_by_service
        )
        assert set(paid.values()) <= {1}
        assert json.loads((sim.path("report.json")).read_bytes())["totals"]["jobs"] == 500

    faults = [
        Fault(on="submit", kind="unavailable_retry_after", rate=rate, delay_s=5.0),
        Fault(on="submit", kind="unavailable", rate=rate / 10),
        Fault(on="submit", kind="rate_limited_retry_after", rate=rate),
        Fault(on="submit", kind="lost_reply", rate=rate / 10),
        Fault(on="poll", kind="edge_524_html", rate=rate),
        Fault(on="poll", kind="rate_limited", rate=rate),
        Fault(on="download", kind="truncated", rate=rate),
        Fault(on="generation", kind="error_object", rate=rate / 2),
        Fault(on="generation", kind="face_detection", rate=rate / 10),
    ]
    conditions = Conditions(
        outages=(
            Outage(from_s=3600.0, for_s=1800.0, shows="html_502"),
            Outage(from_s=4 * 3600.0, for_s=2700.0, shows="refused"),
        ),
        account=(AccountFailure(from_s=2 * 3600.0, shows="out_of_credits"),),
        top_ups=(TopUp(2 * 3600.0 + 1500.0, 10**10),),
    )
    play(
        tmp_path,
        story,
        *(fault for fault in faults if fault.rate),
        conditions=conditions,
        duration_s=400.0,
        spread=0.4,
        capacity=8,
    )


STORM = (
    Fault(on="submit", kind="rate_limited", rate=0.2),
    Fault(on="submit", kind="server_error", rate=0.05),
    Fault(on="submit", kind="unavailable", rate=0.05),
    Fault(on="submit", kind="edge_502_html_accepted", rate=0.05),
    Fault(on="submit", kind="lost_reply", rate=0.05),
    Fault(on="poll", kind="edge_524_html", rate=0.1),
    Fault(on="poll", kind="cut", rate=0.1),
    Fault(on="download", kind="truncated", rate=0.2),
)


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_under_many_faults_a_batch_makes_progress(tmp_path: Path, seed: int, *, logs: bool) -> None:
    """One job in doubt under a throttled cap once stopped everything for half an hour, again and again."""

    async def story(sim: Simulation) -> None:
        await sim.run(many(20), concurrency=5)
        states = Counter(sim.states().values())
        assert set(states) <= {"succeeded", "in_doubt"}, states
        assert states["succeeded"] >= 14, states
        assert sim.loop.time() < 1500.0, "twenty clips of a minute, about two at once"
        assert set(sim.accepted().values()) <= {1}

    play(tmp_path, story, *STORM, seed=seed, logs=logs, concurrency_limit=3)


def test_an_hour_in_the_queue_is_not_a_hang(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(many(3), concurrency=3, job_timeout="10m") == 0
        assert sim.loop.time() > 7000

    play(tmp_path, story, queue_wait_s=7200.0)


def test_a_clip_of_unexpected_size_is_kept_with_a_warning(tmp_path: Path) -> None:
    """The placeholder clips are 32 by 32 pixels, which was not requested."""

    async def story(sim: Simulation) -> None:
        assert await sim.run(many(1)) == 0
        assert sim.report["jobs"][0]["warnings"] == ["asked for 480p, got 32x32"]
        assert sim.path("job-000.mp4").exists()

    play(tmp_path, story)


def test_no_task_waits_for_a_job(tmp_path: Path) -> None:
    """Two hundred generations in flight are entries of a heap. Tasks exist only for active calls, which are bounded."""

    async def story(sim: Simulation) -> None:
        seen: list[int] = []

        def count() -> None:
            working = [
                task for task in asyncio.all_tasks() if "Engine." in getattr(task.get_coro(), "__qualname__", "")
            ]
            seen.append(len(working))
            sim.loop.call_later(1.0, count)

        count()
        assert await sim.run(many(250), concurrency=200) == 0
        assert max(seen) <= 8 + 16 + 4 + 1

    play(tmp_path, story, capacity=250, queue_limit=1000)


# The plan of a half-finished batch


@pytest.mark.parametrize("stopped_at_s", [5.0, 30.0, 70.0, 100.0, 190.0])
@pytest.mark.parametrize("flags", [{}, {"retry_failed": True}, {"in_doubt": "resubmit"}], ids=str)
def test_the_plan_of_a_half_finished_batch_is_right_in_every_row(
    tmp_path: Path, stopped_at_s: float, flags: dict[str, Any]
) -> None:
    async def story(sim: Simulation) -> None:
        jobs = many(12)
        await sim.run(jobs, concurrency=3, interrupt_at_s=stopped_at_s)
        if sim.path("job-000.mp4").exists():
            sim.path("job-000.mp4").unlink()
        before = sim.states()
        setup = sim.setup(jobs, concurrency=3, **flags)
        plan, projection, _ = plan_batch(setup)
        expected = {"succeeded": "done", "in_flight": "in flight", "pending": "new", "in_doubt": "in doubt"}
        asked = {"failed": "retry" if "retry_failed" in flags else "failed"}
        asked |= {"in_doubt": "resubmit"} if "in_doubt" in flags else {}
        for row in plan.rows:
            gone = before[row.id] == "succeeded" and not sim.path(f"{row.id}.mp4").exists()
            assert row.action == ("fetch" if gone else {**expected, **asked}[before[row.id]]), row
        submitted = len(submissions(sim))
        await sim.run(jobs, concurrency=3, **flags)
        assert len(submissions(sim)) - submitted == projection.submissions == plan.submissions

    play(
        tmp_path,
        story,
        Fault(on="generation", kind="face_detection", match=None, first=2),
        Fault(on="submit", kind="lost_reply", first=1),
        logs=False,
    )


@pytest.mark.parametrize("deadline", ["06:00", "22:00-06:00"])
def test_a_timer_that_starts_late_in_the_morning_ends_at_once(tmp_path: Path, deadline: str) -> None:
    """The machine was asleep at ten, and wakes three hours after the deadline: the run must not use the day."""

    async def story(sim: Simulation) -> None:
        local = datetime.fromtimestamp(EPOCH, UTC).astimezone().tzinfo
        six = datetime.fromtimestamp(EPOCH, local).replace(hour=6, minute=0, second=0, microsecond=0).timestamp()
        await asyncio.sleep((six + 3 * 3600 - EPOCH) % 86_400)
        began = sim.loop.time()
        assert await sim.run(many(4), deadline=deadline, concurrency=2) == 3
        assert sim.loop.time() - began < 60
        assert "outside its window" in sim.report["stopped"] or "after its deadline" in sim.report["stopped"]
        assert not sim.accepted()
        await asyncio.sleep(13 * 3600 + 60)  # a minute after ten
        assert await sim.run(many(4), deadline=deadline, concurrency=2) == 0

    play(tmp_path, story)
