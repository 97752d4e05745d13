"""Several reports are merged to one: rows, money, order, events, and the steps for each run directory."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from batchrunner.errors import Problem, UsageError
from batchrunner.job import Entry, Record, Run, Snapshot, State, TimelineEvent
from batchrunner.manifest import schema_fast
from batchrunner.report import writer
from batchrunner.report.failure_groups import causes
from batchrunner.report.merge import Source, merge, missing_shards
from batchrunner.report.overview import headline
from tests.report.test_report import NOW, RUN, SCHEMA, attempt, page_of, record, validated

PRICE = 2_000_000.0


def clip(name: str, **changes: Any) -> Record:
    item = attempt(generation_id=f"gen-{name}", outcome="succeeded", polls=2, credits=PRICE, completed_at=NOW + 3)
    return record(name, State.SUCCEEDED, item._replace(request_id=f"request-{name}", **changes))


def failed(name: str) -> Record:
    item = attempt(generation_id=f"gen-{name}", outcome="failed")._replace(request_id=f"request-{name}")
    return record(name, State.FAILED, item, error=Problem("generation_failed", "it broke", "Again.", "service"))


def run(number: int, **changes: Any) -> Run:
    settings = {"shard": f"{number}/2", "options": ["--shard", f"{number}/2"], "max_credits": 5 * PRICE + number}
    values = {"run_id": f"run-{number}", "settings_json": json.dumps(settings), "started_at": NOW + number, **changes}
    return replace(RUN, provider="aimlapi", service="api.example", **values)


def source(number: int, records: Mapping[int, Record], run_: Run | None = None, **more: Any) -> Source:
    """Make the report of a shard. records: by position in the manifest; the ids are those of the records' inputs."""
    entries = tuple(Entry(at, item.job.inputs["video"].source.removesuffix(".mp4"), item.job, {"n": str(at)})
                    for at, item in records.items())  # fmt: skip
    known = {item.job.fingerprint: item for item in (*records.values(), *more.pop("earlier", ()))}
    shot = Snapshot(run_ or run(number), entries, known, **more)
    return Source(writer.build(shot, "0.1.0"), f"shard-{number}-of-2")


def whole(*sources: Source) -> dict[str, Any]:
    """Merge, check the result against the schema, and return it with plain rows."""
    report = merge(sources)
    rows = {key: [dict(row) for row in report[key]] for key in ("jobs", "earlier_jobs")}
    return validated(json.loads(json.dumps({**report, **rows})))


def test_rows_are_in_manifest_order_and_files_are_relative_to_the_report() -> None:
    report = whole(source(1, {0: clip("a"), 3: failed("d")}), source(2, {1: clip("b"), 2: clip("c")}))
    assert [(row["id"], row["file"], row["source"]) for row in report["jobs"]] == [
        ("a", "shard-1-of-2/a.mp4", 0),
        ("b", "shard-2-of-2/b.mp4", 1),
        ("c", "shard-2-of-2/c.mp4", 1),
        ("d", None, 0),
    ]
    totals = {name: report["totals"][name] for name in ("jobs", "succeeded", "failed", "generations", "polls", "bytes")}
    assert totals == {"jobs": 4, "succeeded": 3, "failed": 1, "generations": 4, "polls": 6, "bytes": 3_600_000}
    assert (report["money"]["spent"], report["money"]["budget_credits"]) == (3 * PRICE, 10 * PRICE + 3)
    assert [item["path"] for item in report["sources"]] == ["shard-1-of-2", "shard-2-of-2"]
    assert report["columns"]["tags"] == ["n"]


def test_the_takes_of_a_job_stay_together() -> None:
    """A retake moves the later rows of its own shard only."""
    first, retake = clip("a"), clip("a.t2")
    one = source(2, {0: first, 1: replace(retake, job=replace(retake.job, take=2)), 3: clip("c")})
    report = whole(source(1, {1: clip("b"), 4: clip("d")}), one)
    assert [row["id"] for row in report["jobs"]] == ["a", "a.t2", "b", "c", "d"]


def test_reports_that_are_not_shards_follow_each_other() -> None:
    plain = [run(number, settings_json="{}", name=f"batch-{number}") for number in (1, 2)]
    report = whole(source(1, {5: clip("a")}, plain[0]), source(2, {0: clip("b")}, plain[1]))
    assert [row["id"] for row in report["jobs"]] == ["a", "b"]
    assert report["name"] == "batch-1 + batch-2"
    assert missing_shards([]) == []


def test_a_job_that_several_directories_have_counts_once_and_all_that_was_paid_counts() -> None:
    old = record("a", State.IN_DOUBT, attempt(outcome="in_doubt", estimate=PRICE)._replace(request_id="request-a"),
                 error=Problem("timeout", "no answer"))  # fmt: skip
    again = clip("a")
    other = record("a", State.SUCCEEDED, again.last._replace(generation_id="gen-2", request_id="request-2"))
    backup = source(1, {0: old})
    report = whole(backup, source(2, {0: again}), source(2, {0: again}), source(2, {0: other}))
    assert [(row["id"], row["state"], row["generation_id"]) for row in report["jobs"]] == [("a", "succeeded", "gen-a")]
    assert report["totals"]["generations"] == report["money"]["generations"] == 2
    assert (report["money"]["spent"], report["money"]["reserved"]) == (2 * PRICE, 0)


def test_earlier_jobs_are_listed_once_and_not_if_the_manifest_has_them_in_another_shard() -> None:
    report = whole(
        source(1, {0: clip("a")}, earlier=(clip("b"), clip("x"))), source(2, {1: clip("b")}, earlier=(clip("x"),))
    )
    assert [row["generation_id"] for row in report["earlier_jobs"]] == ["gen-x"]
    assert (report["totals"]["generations"], report["money"]["generations"]) == (2, 3)


def test_an_id_with_two_jobs_is_refused() -> None:
    one, two = source(1, {0: clip("a")}), source(2, {0: clip("b")})
    row = dict(two.report["jobs"][0]) | {"id": "a"}
    with pytest.raises(UsageError, match="the id a is one job in shard-1-of-2 and another job in shard-2-of-2"):
        merge([one, Source(two.report | {"jobs": [row]}, two.folder)])


def test_a_rehearsal_is_not_merged_with_a_real_batch() -> None:
    with pytest.raises(UsageError, match="a rehearsal"):
        merge([source(1, {}), source(2, {}, replace(run(2), provider="sandbox"))])


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ([{}, {}], 0, None),
        ([{"exit_status": 1}, {}], 1, None),
        ([{"exit_status": 3, "stopped": "late", "stop_kind": "deadline"},
          {"exit_status": 5, "stopped": "no key", "stop_kind": "unauthorized"}], 5, "unauthorized"),
        ([{"exit_status": 143, "stopped": "SIGTERM", "stop_kind": "signal"}, {"exit_status": 5}], 143, "signal"),
        ([{"exit_status": None, "finished_at": None}, {}], None, None),
    ],
)  # fmt: skip
def test_the_exit_status_is_that_of_all(changes: list[dict[str, Any]], status: int | None, kind: str | None) -> None:
    report = whole(*(source(number, {}, run(number, **more)) for number, more in enumerate(changes, 1)))
    assert (report["exit_status"], report["stop_kind"]) == (status, kind)
    assert (report["finished_at"] is None) == (status is None)
    reasons = [f"shard-{number}-of-2: {more['stopped']}" for number, more in enumerate(changes, 1) if "stopped" in more]
    assert report["stopped"] == ("; ".join(reasons) or None)


def test_a_missing_shard_is_named_and_the_report_does_not_claim_to_be_complete() -> None:
    report = whole(source(2, {0: clip("a")}))
    assert missing_shards([source(2, {})]) == ["1/2"]
    assert report["stopped"] == "not in this report: shard 1/2"
    assert "complete" not in headline(report)
    assert headline(whole(source(1, {}), source(2, {0: clip("a")}))).endswith("complete")


def health(at: float, status: str, call: str = "poll") -> TimelineEvent:
    return TimelineEvent(NOW + at, "call_health", call, status, "")


def test_calls_are_fine_again_when_they_are_in_all_directories() -> None:
    one = source(1, {}, timeline_events=(health(3, "down"), health(6, "fine"), TimelineEvent(NOW, "cap", "", "2", "")))
    two = source(2, {}, timeline_events=(health(4, "down"), health(5, "down", "submit"), health(8, "fine")))
    found = [(item["call"], item["status"]) for item in whole(one, two)["timeline"]]
    assert found == [("poll", "down"), ("poll", "down"), ("submit", "down"), ("poll", "fine")]
    killed = source(2, {}, run(2, finished_at=NOW + 5), timeline_events=(health(4, "down"),))
    assert whole(one, killed)["timeline"][-1]["status"] == "fine", "the run that saw the outage has ended"


def test_each_run_directory_has_commands_of_its_own() -> None:
    report = merge([source(1, {0: failed("a"), 1: failed("b")}), source(2, {2: failed("c")})])
    assert [(cause.ids, cause.command) for cause in causes(report)] == [
        (("a", "b"), "batchrunner run heroes.yaml --shard 1/2 --retry-failed"),
        (("c",), "batchrunner run heroes.yaml --shard 2/2 --retry-failed"),
    ]


def test_the_page_links_clips_and_directories() -> None:
    page = page_of(merge([source(1, {0: clip("a b")}), source(2, {1: failed("c")})]))
    assert 'data-clip="./shard-1-of-2/a%20b.mp4"' in page
    assert 'href="./shard-2-of-2/report.html"' in page
    assert "batchrunner report of 2 run directories" in page


def test_a_report_is_accepted_by_the_fast_check() -> None:
    """The full validator takes minutes for 100,000 rows."""
    fits = schema_fast.compiled(SCHEMA, SCHEMA["$defs"])
    open_job = record("d", State.IN_FLIGHT, attempt(generation_id="h"))
    report = whole(source(1, {0: clip("a"), 1: failed("b")}), source(2, {2: open_job, 3: record("e", State.PENDING)}))
    assert fits(report)
    assert not fits(report | {"jobs": [report["jobs"][0] | {"error": {}}]})
