"""The charts match the journal: positions on the axis, phases of a run, sums, causes and commands."""

import json
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from batchrunner.errors import Problem
from batchrunner.job import OUTCOMES, State, TimelineEvent
from batchrunner.report import charts
from batchrunner.report import timeline as drawing
from batchrunner.report.charts import AttemptTable, Chart, Try, generation_times, polls, seconds_of
from batchrunner.report.failure_groups import causes, command
from batchrunner.report.formats import CSV, JUNIT, metrics_text, pieces
from batchrunner.report.time_axis import Axis, nice_seconds, nice_step
from batchrunner.report.timeline import CALL_STATUSES, MOST_ROWS, PHASES, Drawing, Span, phases_of
from batchrunner.report.writer import build, status_text, to_json
from tests.browser.sample_batches import START, sample_batch
from tests.report.test_report import ALL, NOW, RUN, SCHEMA, attempt, page_of, record, snapshot


def report_of(jobs: int) -> dict[str, Any]:
    return build(sample_batch(jobs), "0.1.0")


def every(report: dict[str, Any]) -> AttemptTable:
    return AttemptTable([*report["jobs"], *report["earlier_jobs"]])


def run_spans(report: dict[str, Any]) -> list[Span]:
    return drawing.run_spans(report, every(report))


def timeline(report: dict[str, Any]) -> Drawing | None:
    return drawing.timeline(report, AttemptTable(report["jobs"]), run_spans(report))


def cost(report: dict[str, Any]) -> Chart | None:
    return charts.cost(report["money"]["budget_credits"], every(report).payments, run_spans(report))


# The axis


def test_an_axis_keeps_the_order_and_omits_idle_days() -> None:
    axis = Axis([(0.0, 3600.0), (90_000.0, 97_200.0)], 100, 1100)
    assert axis.x(0) == 100
    assert axis.x(97_200) == pytest.approx(1100)
    moments = [0, 10, 3600, 50_000, 90_000, 91_000, 97_200]
    assert [axis.x(at) for at in moments] == sorted(axis.x(at) for at in moments)
    assert axis.x(3600) - axis.x(0) == pytest.approx((axis.x(97_200) - axis.x(90_000)) / 2)
    assert [length for _, length in axis.breaks] == [86_400]
    for at in (0, 1800, 90_500, 97_000):
        assert axis.moment(axis.x(at)) == pytest.approx(at)


def test_an_axis_of_one_moment_or_of_consecutive_runs_is_valid() -> None:
    assert Axis([(5.0, 5.0)], 0, 100).x(5.0) == 0
    close = Axis([(0.0, 100.0), (101.0, 200.0)], 0, 100)
    assert len(close.pieces) == 1
    assert close.breaks == []


def test_ticks_are_round_and_apart() -> None:
    ticks = Axis([(NOW, NOW + 25_000)], 0, 1000).ticks(80)
    assert 5 < len(ticks) < 13
    assert all(at % 3600 == 0 for at, _ in ticks)
    assert all(two - one >= 80 for (_, one), (_, two) in pairwise(ticks))


def test_steps_are_round() -> None:
    assert [nice_step(most, 4) for most in (0.03, 1, 4, 9, 41, 3900)] == pytest.approx([0.01, 0.5, 1, 5, 20, 1000])
    assert [nice_seconds(most, 24) for most in (5, 200, 100_000)] == [1, 10, 7200]


# The timeline


@pytest.mark.parametrize("jobs", [1, 2, MOST_ROWS, MOST_ROWS + 1, 400])
def test_a_run_of_any_size_is_drawn_within_its_frame(jobs: int) -> None:
    drawn = timeline(report_of(jobs))
    assert drawn is not None
    assert bool(drawn["rows"]) == (jobs <= MOST_ROWS)
    assert bool(drawn["areas"]) == (jobs > MOST_ROWS)
    places = [share for row in drawn["rows"] for share in row["parts"]]
    places += [span for track in drawn["tracks"] for span in track["spans"]]
    for item in places:
        assert drawn["left"] <= item["x"] <= drawn["width"]
        assert item["x"] + item["w"] <= drawn["width"] + 2
    assert set(drawn["used"]) <= set(PHASES)
    assert all(row["y"] + row["h"] < drawn["height"] for row in drawn["rows"])


def test_an_outage_lasts_until_it_is_over_or_its_run_ends() -> None:
    drawn = timeline(report_of(100))
    assert drawn is not None
    statuses = {track["label"]: [span["status"] for span in track["spans"]] for track in drawn["tracks"]}
    assert statuses == {"submissions": ["throttled", "down", "paused"], "polls": ["down"], "downloads": ["unreachable"]}
    assert {status for found in statuses.values() for status in found} <= set(CALL_STATUSES)
    paused = drawn["tracks"][0]["spans"][2]["title"]
    assert "for 8 min 20 s" in paused, "the run's end, not the next run's start"
    texts = [item["text"] for item in drawn["events"]]
    assert texts[0] == "run 1 starts, up to 24 in flight"
    assert "polls: the service is down (502 Bad Gateway)" in texts
    assert any(text.startswith("run 2 ends after 50 min 0 s, exit status 3: the account") for text in texts)


def test_a_killed_run_lasts_until_its_last_known_time() -> None:
    killed = replace(RUN, run_id="run-0", started_at=NOW - 100, finished_at=None, exit_status=None)
    seen = record("a", State.SUCCEEDED, attempt(generation_id="g", outcome="succeeded")._replace(submitted_at=NOW - 40))
    spans = run_spans(build(replace(snapshot(seen), runs=(killed, RUN)), "0.1.0"))
    assert [round(at - NOW) for span in spans for at in span] == [-100, -40, 0, 12]


def test_an_attempt_is_drawn_in_its_phases() -> None:
    whole = Try("succeeded", 0.0, accepted_at=1.0, generating_at=3.0, completed_at=7.0, ended_at=8.0)
    assert phases_of(whole, 99) == [("sending", 0, 1), ("queue", 1, 3), ("work", 3, 7), ("fetch", 7, 8)]
    assert phases_of(whole._replace(generating_at=None), 99)[1] == ("queue", 1, 7)
    assert phases_of(whole._replace(completed_at=None, ended_at=None), 99)[-1] == ("work", 3, 99)
    assert phases_of(whole._replace(completed_at=None, outcome="failed"), 99)[-1] == ("work", 3, 8)
    assert phases_of(whole._replace(accepted_at=None, ended_at=2.0, outcome="refused"), 99) == [("sending", 0, 2)]
    assert phases_of(whole._replace(outcome="in_doubt"), 99) == [("doubt", 0, 99)]


def test_without_submissions_nothing_is_drawn() -> None:
    bare = build(snapshot(ALL[4]), "0.1.0")
    assert timeline(bare) is None
    assert generation_times(every(bare).durations_s) is None
    assert polls(every(bare).poll_counts) is None
    assert cost(bare) is None


# The charts


def test_bars_add_up_to_the_counts() -> None:
    report = report_of(300)
    table = AttemptTable(report["jobs"])
    tries = list(table)
    drawn = generation_times(table.durations_s)
    assert drawn is not None
    counted = sum(int(bar["title"].rpartition(" ")[2].replace(",", "")) for bar in drawn["bars"])
    assert counted == sum(item.completed_at is not None for item in tries)
    asked = polls(table.poll_counts)
    assert asked is not None
    assert asked["summary"].startswith(f"{sum(item.polls for item in tries):,} polls")
    for chart in (drawn, asked):
        assert all(bar["x"] >= 0 and bar["x"] + bar["w"] <= 420 for bar in chart["bars"])
        assert all(0 <= bar["y"] <= 200 for bar in chart["bars"])


def test_the_cost_curve_ends_at_the_spend_and_shows_the_budget() -> None:
    report = report_of(300)
    drawn = cost(report)
    assert drawn is not None
    assert f"({report['money']['spent']:,.0f} credits)" in drawn["summary"]
    assert drawn["limit"] is None, "the budget is far above"
    report["money"]["budget_credits"] = report["money"]["spent"] / 2
    drawn = cost(report)
    assert drawn is not None
    assert drawn["limit"]["label"] == "budget"


def test_attempts_of_a_job_with_two_names_are_counted_once() -> None:
    report = build(snapshot(ALL[0], again={"copy": 0}), "0.1.0")
    tries = AttemptTable(report["jobs"])
    assert len(list(tries)) == 1
    assert tries.rows == 2


def test_columns_of_attempts_have_the_known_values_only() -> None:
    at = [f"2026-11-22T21:55:0{second}.500Z" for second in range(4)]
    names = (
        "submitted_at",
        "accepted_at",
        "generating_at",
        "completed_at",
        "ended_at",
        "settled",
        "credits",
        "estimate",
    )
    bare = {**dict.fromkeys(names), "submitted_at": at[0], "outcome": None, "polls": 0, "generation_id": None}
    done = {
        **bare,
        "accepted_at": at[1],
        "completed_at": at[3],
        "outcome": "succeeded",
        "generation_id": "g",
        "polls": 3,
    }
    attempts = [
        bare,
        {**bare, "completed_at": at[3], "estimate": 5.0},
        {**done, "settled": 0.0, "credits": 9.0},
        {**done, "credits": 9.0, "estimate": 8.0},
        {**done, "estimate": 8.0, "outcome": "failed"},
        {**done, "accepted_at": at[3], "completed_at": at[1]},
    ]
    table = AttemptTable([{"attempts": [{**item, "request_id": f"r{n}"} for n, item in enumerate(attempts)]}])
    assert table.durations_s == [2.0, 2.0, 2.0, -2.0]
    assert table.poll_counts == [3, 3, 3, 3]
    (first, _), (second, _) = table.payments
    assert [price for _, price in table.payments] == [5.0, 9.0]
    assert first == second == seconds_of(at[3])
    assert [item.price for item in table] == [None, 5.0, 0.0, 9.0, 8.0, None]
    times = generation_times(table.durations_s)
    assert times is not None
    assert times["summary"].startswith("3 generations, median 2.0 s")


# Causes


def test_causes_are_grouped_and_worded_without_the_jobs_own_names() -> None:
    found = causes(report_of(400))
    assert [cause.state for cause in found] == sorted(
        (cause.state for cause in found), key=["failed", "in_doubt", "pending"].index
    )
    first = found[0]
    assert (first.kind, first.title, first.fault) == ("content_policy", "Content policy", "the job itself")
    assert first.messages == (("The input was rejected by the content policy (generation …)", len(first.ids)),)
    assert (first.command, first.note) == ("", "The same request would fail again. Change the job first.")
    assert {cause.kind: cause.command for cause in found}["generation_failed"].endswith(" --retry-failed")
    assert {cause.kind: cause.fault for cause in found}["generation_failed"] == "the service"
    assert sum(len(cause.ids) for cause in found) == 400 - report_of(400)["totals"]["succeeded"]


def test_a_single_message_keeps_its_names() -> None:
    said = Problem("odd", "generation id:b was lost")
    one = record("b", State.FAILED, attempt(generation_id="id:b", outcome="failed"), error=said)
    assert causes(build(snapshot(one), "0.1.0"))[0].messages == (("generation id:b was lost", 1),)


def test_many_wordings_are_counted_and_some_are_shown() -> None:
    odd = [record(str(n), State.FAILED, error=Problem("odd", f"broke in way {n}")) for n in range(9)]
    cause = causes(build(snapshot(*odd), "0.1.0"))[0]
    assert (len(cause.messages), cause.more, len(cause.ids)) == (4, 5, 9)


@pytest.mark.parametrize(
    ("settings", "run", "further", "expected"),
    [
        ({}, {}, (), "batchrunner run heroes.yaml --provider sandbox"),
        ({"options": ["--fast", "--set", "who=me & you"]}, {}, (),
         "batchrunner run heroes.yaml --provider sandbox --fast --set 'who=me & you'"),
        ({"output": "out dir"}, {"provider": "aimlapi"}, ("--retry-failed",),
         "batchrunner run heroes.yaml --output 'out dir' --retry-failed"),
        ({}, {"provider": "aimlapi", "manifest_path": "$(rm -rf ~).yaml"}, ("a b",),
         "batchrunner run '$(rm -rf ~).yaml' 'a b'"),
    ],
)  # fmt: skip
def test_commands_can_be_pasted(
    settings: dict[str, Any], run: dict[str, Any], further: tuple[str, ...], expected: str
) -> None:
    shot = snapshot(ALL[1], run=replace(RUN, settings_json=json.dumps(settings), **run))
    assert command(build(shot, "0.1.0"), *further) == expected


def test_the_sample_batch_has_the_documented_content() -> None:
    report = report_of(400)
    assert report["started_at"] > report["runs"][0]["started_at"]
    assert run_spans(report)[0][0] == START
    assert {job["state"] for job in report["jobs"]} == {"succeeded", "failed", "in_doubt", "pending"}


ENDS = sorted({outcome for outcome in OUTCOMES.values() if outcome})


@pytest.mark.parametrize("seed", range(60))
def test_a_report_is_written_for_any_journal(seed: int) -> None:
    """Clocks set back, missing values, states that do not match, and runs in the wrong order."""
    rng = Random(seed)

    def moment() -> float:
        return NOW + rng.uniform(-(10 ** rng.randint(0, 7)), 10 ** rng.randint(0, 7))

    def some(*values: Any) -> Any:
        return rng.choice((*values, None))

    records = []
    for number in range(rng.choice((0, 1, 3, 80))):
        tries = [
            attempt(item, generation_id=some(f"g{number}"), outcome=some(*ENDS))._replace(
                request_id=f"{number}.{item}", submitted_at=moment(), accepted_at=some(moment()),
                generating_at=some(moment()), completed_at=some(moment()), ended_at=some(moment()),
                credits=some(0.0, 1e6), estimate=some(5e5), polls=rng.choice((0, 1, 10**6)),
                error=some(Problem("x", "y", fault=rng.choice(("job", "service", "network")))),
            )
            for item in range(1, rng.randint(1, 4))
        ]  # fmt: skip
        records.append(record(str(number), rng.choice(list(State)), *tries, error=some(Problem("odd", "z" * number))))
    runs = tuple(
        replace(RUN, run_id=str(n), started_at=moment(), finished_at=some(moment()), concurrency=rng.randint(1, 99))
        for n in range(rng.randint(1, 4))
    )
    statuses = ("fine", "down", "paused", "a new one", "7")
    timeline = tuple(
        TimelineEvent(moment(), rng.choice(("call_health", "cap", "stopping", "x")), rng.choice(("submit", "poll", "")),
                  rng.choice(statuses), "why")
        for _ in range(rng.randint(0, 9))
    )  # fmt: skip
    report = build(replace(snapshot(*records, run=runs[-1]), runs=runs, timeline_events=timeline), "0.1.0")
    Draft202012Validator(SCHEMA).validate(json.loads(to_json(report)))
    assert page_of(report).endswith("</html>\n")
    assert "".join(pieces(CSV, report)).count("\r\n") == len(records) + 1
    assert "".join(pieces(JUNIT, report)).endswith("</testsuites>\n")
    assert metrics_text(report)
    assert status_text(report)
