"""The report has the content of the journal in the format of the contract, and hostile text in it stays text."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from batchrunner.errors import LocalFault, Problem, UsageError
from batchrunner.formatting import length_text, printable, rfc3339, size_text
from batchrunner.job import Attempt, Entry, Job, Media, Record, Result, Run, Snapshot, State, TimelineEvent
from batchrunner.providers import registry
from batchrunner.report import writer
from batchrunner.report.html import render
from tests.conftest import MEDIA

NOW = 1_795_384_500.123
CLIP = Result(1_200_000, "ab" * 32, 480, 480, 2.4)
SCHEMA = json.loads(files("batchrunner.report").joinpath("report.schema.json").read_text("utf-8"))
RUN = Run("run-1", "heroes", "sandbox", "heroes.yaml", "cd" * 32, 4, NOW, NOW + 12, 0)


def job(name: str, **params: Any) -> Job:
    fingerprint = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    video = Media("video", f"{name}.mp4", Path(f"/in/{name}.mp4"), None, "ef" * 32, 77_794, "video/mp4")
    inputs = {"video": video, "image": Media("image", "https://x/hero.png")}
    return Job(fingerprint, "wan", inputs, {"resolution": "480p", **params})


def attempt(number: int = 1, **fields: Any) -> Attempt:
    return Attempt(number, f"request-{number}", NOW + number, **fields)


def record(name: str, state: State, *attempts: Attempt, **fields: Any) -> Record:
    if state is State.SUCCEEDED:
        fields = {"result": CLIP, **fields}
        attempts = attempts or (attempt(generation_id=f"id:{name}/x", outcome="succeeded", polls=4, credits=2e6),)
    return Record(job(name), state, attempts, **fields)


def snapshot(
    *records: Record, run: Run = RUN, earlier: tuple[Record, ...] = (), again: Mapping[str, int] | None = None
) -> Snapshot:
    """Make a batch whose entries are named by position: job-0, job-1. again: further names of a job."""
    entries = [Entry(number, f"job-{number}", item.job, {"n": str(number)}) for number, item in enumerate(records)]
    for name, number in (again or {}).items():
        entries.append(Entry(len(entries), name, records[number].job))
    known = {item.job.fingerprint: item for item in (*records, *earlier)}
    return Snapshot(run, tuple(entries), known)


def built(shot: Snapshot) -> dict[str, Any]:
    """Return the report with all of its rows, as in report.json."""
    report = writer.build(shot, "0.1.0")
    return validated(report | {rows: [dict(row) for row in report[rows]] for rows in ("jobs", "earlier_jobs")})


def page_of(report: dict[str, Any]) -> str:
    """Return report.html as one text."""
    return "".join(render(report))


def validated(report: dict[str, Any]) -> dict[str, Any]:
    Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(report)
    return report


ALL = (
    record("a", State.SUCCEEDED),
    record(
        "b", State.FAILED, attempt(generation_id="g", outcome="failed"), error=Problem("face", "no face", "Another.")
    ),
    record("c", State.IN_DOUBT, attempt(outcome="in_doubt"), error=Problem("timeout", "no answer")),
    record("d", State.IN_FLIGHT, attempt(generation_id="h", outcome="accepted", polls=3)),
    record("e", State.PENDING),
    record("f", State.SUBMITTING, attempt()),
)


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_keys_and_order_are_those_of_the_contract() -> None:
    contract = {
        "schema_version": ...,
        "name": ...,
        "provider": ...,
        "manifest": ...,
        "started_at": ...,
        "finished_at": ...,
        "exit_status": ...,
        "totals": [
            "jobs",
            "succeeded",
            "failed",
            "in_doubt",
            "in_flight",
            "pending",
            "bytes",
            "credits",
            "generations",
            "polls",
        ],
        "jobs": ...,
    }
    report = built(snapshot(*ALL))
    assert [key for key in report if key in contract] == list(contract)
    assert list(report["totals"])[:10] == contract["totals"]
    assert list(report["totals"])[10] == "cost_usd"
    assert list(report["manifest"]) == ["path", "sha256", "files"]
    row = ["id", "fingerprint", "state", "request", "generation_id", "file", "bytes", "sha256", "attempts", "error"]
    assert [key for key in report["jobs"][0] if key in row] == row
    order = ["generation_id", "submitted_at", "outcome"]
    assert [key for key in report["jobs"][0]["attempts"][0] if key in order] == order
    assert list(report["jobs"][0]["request"]) == ["model", "video", "image", "resolution"]


def test_a_succeeded_job_is_reported_in_full() -> None:
    row = built(snapshot(ALL[0]))["jobs"][0]
    assert row["request"] == {"model": "wan", "video": "a.mp4", "image": "https://x/hero.png", "resolution": "480p"}
    assert (row["file"], row["bytes"], row["sha256"]) == ("job-0.mp4", 1_200_000, "ab" * 32)
    assert (row["width_px"], row["height_px"], row["duration_s"]) == (480, 480, 2.4)
    assert row["inputs"]["video"]["sha256"] == "ef" * 32
    assert row["attempts"][0]["submitted_at"] == "2026-11-22T21:55:01.123Z"
    assert row["attempts"][0]["polls"] == 4
    assert row["tags"] == {"n": "0"}
    assert row["error"] is None


def test_totals_count_each_entry_once_and_the_money_of_each_job_once() -> None:
    twice = record(
        "t",
        State.SUCCEEDED,
        attempt(1, generation_id="x", polls=2, credits=1.5e6),
        attempt(2, generation_id="y", polls=1),
    )
    totals = built(snapshot(ALL[0], twice, *ALL[1:], again={"copy": 0}))["totals"]
    assert totals == {
        "jobs": 8,
        "succeeded": 3,
        "failed": 1,
        "in_doubt": 2,
        "in_flight": 1,
        "pending": 1,
        "bytes": 3_600_000,
        "credits": 3_500_000,
        "generations": 5,
        "polls": 10,
        "cost_usd": 1.75,
        "settled_usd": 0,
        "quoted_usd": 1.75,
        "estimated_usd": 0,
        "accepted": 0,
        "rejected": 0,
    }


@pytest.mark.parametrize("credits_said", [float("nan"), float("inf"), None])
def test_credits_that_are_not_numbers_do_no_harm(credits_said: float | None) -> None:
    odd = record("a", State.SUCCEEDED, attempt(generation_id="x", credits=credits_said))
    report = built(snapshot(odd))
    assert report["totals"]["credits"] == 0
    writer.to_json(report)


def test_a_submission_is_active_during_the_run_and_in_doubt_after_it() -> None:
    going = replace(RUN, finished_at=None, exit_status=None)
    assert built(snapshot(ALL[5], run=going))["jobs"][0]["state"] == "in_flight"
    assert built(snapshot(ALL[5]))["jobs"][0]["state"] == "in_doubt"


@pytest.mark.parametrize("finished_at", [None, NOW + 5])
@pytest.mark.parametrize("state", [state for state in State if state is not State.SUCCEEDED])
def test_each_unsuccessful_job_has_a_reason_and_a_hint(state: State, finished_at: float | None) -> None:
    row = built(snapshot(record("a", state, attempt()), run=replace(RUN, finished_at=finished_at)))["jobs"][0]
    assert all(row["error"][key] for key in ("kind", "message", "hint"))
    assert row["file"] is None


def test_a_stopped_run_gives_its_reason_at_each_remaining_job() -> None:
    stopped = replace(RUN, stopped="the account is out of credits", exit_status=3)
    row = built(snapshot(ALL[4], run=stopped))["jobs"][0]
    assert row["error"]["kind"] == "not_submitted"
    assert row["error"]["message"] == "was not submitted before the run ended: the account is out of credits"
    assert "same command" in row["error"]["hint"]


def test_jobs_that_differ_in_a_parameter_of_the_price_list_have_their_own_estimates() -> None:
    model = registry.default_model().name
    rates = [{"credits_per_s": 100.0, "when": {"speed": "slow"}}, {"credits_per_s": 300.0, "when": {"speed": "fast"}}]
    prices = {"as_of": NOW, "source": "x", "version": "1", "rates": {model: rates}}
    run = replace(RUN, settings_json=json.dumps({"price_list": prices, "assume_length_s": 2.0}))
    waiting = [
        replace(item, job=replace(item.job, model=model, params={"resolution": "480p", "speed": speed}))
        for speed in ("slow", "fast", "slow")
        for item in [record(f"{speed}", State.PENDING)]
    ]
    estimates = [row["estimate"]["credits"] for row in built(snapshot(*waiting, run=run))["jobs"]]
    assert estimates == [200, 600, 200]


def test_a_job_in_doubt_names_the_ways_to_settle_it_and_their_cost() -> None:
    error = built(snapshot(ALL[2]))["jobs"][0]["error"]
    assert (error["kind"], error["message"]) == ("timeout", "no answer")
    assert "--in-doubt resubmit" in error["hint"]
    assert "is paid for twice" in error["hint"]
    vague = record("c", State.IN_DOUBT, error=Problem("timeout", "no answer", "Check the network."))
    hint = built(snapshot(vague))["jobs"][0]["error"]["hint"]
    assert hint.startswith("Check the network. ")
    assert "--in-doubt resubmit" in hint
    doubtful = record(
        "c", State.IN_DOUBT, error=Problem("process_died", "ended", "--in-doubt resubmit submits it again")
    )
    assert built(snapshot(doubtful))["jobs"][0]["error"]["hint"] == "--in-doubt resubmit submits it again"


def test_a_jobs_own_reason_precedes_the_usual_one() -> None:
    error = {"kind": "face", "message": "no face", "hint": "Another.", "fault": "job"}
    assert built(snapshot(ALL[1]))["jobs"][0]["error"] == error


def test_paid_work_of_earlier_manifests_is_shown() -> None:
    lost = record("lost", State.FAILED, error=Problem("x", "y"))
    report = built(snapshot(ALL[0], earlier=(*ALL[1:], lost, record("old", State.SUCCEEDED))))
    assert [row["state"] for row in report["earlier_jobs"]] == ["in_doubt", "in_flight", "in_doubt", "succeeded"]
    assert report["totals"]["jobs"] == 1
    assert all("id" not in row for row in report["earlier_jobs"])


def test_an_entry_without_a_record_is_pending() -> None:
    shot = snapshot(ALL[0])
    assert built(replace(shot, records={}))["jobs"][0]["state"] == "pending"


def test_a_clip_whose_file_was_lost_is_not_listed() -> None:
    row = built(snapshot(record("a", State.IN_FLIGHT, attempt(generation_id="g"), result=CLIP)))["jobs"][0]
    assert (row["file"], row["bytes"], row["sha256"]) == (None, None, None)


def test_headlines_name_the_outcome() -> None:
    assert writer.headline(built(snapshot(*[record(n, State.SUCCEEDED) for n in "abc"]))) == (
        "3 of 3 jobs succeeded in 12 s; 3.6 MB, 3 generations, $3.00 spent."
    )
    assert writer.headline(built(snapshot(*ALL))) == (
        "1 of 6 jobs succeeded in 12 s, 1 failed, 2 in doubt, 1 in flight, 1 not submitted; "
        "1.2 MB, 3 generations, $1.00 spent."
    )
    earlier = replace(snapshot(*[record(n, State.SUCCEEDED) for n in "abc"]), entries=snapshot(*ALL[:1]).entries)
    assert "spent (earlier manifests included)" in writer.headline(built(earlier))
    going = replace(RUN, finished_at=None)
    assert writer.headline(built(snapshot(ALL[4], run=going))) == (
        "0 of 1 job succeeded so far, 1 not submitted; 0 bytes, 0 generations."
    )


def test_the_status_names_unfinished_jobs_and_is_bounded() -> None:
    lines = writer.status_text(built(snapshot(*[record(str(n), State.PENDING) for n in range(50)]))).splitlines()
    assert lines[0].startswith("✓ heroes (sandbox): 0 of 50 jobs succeeded")
    assert len(lines) < 10
    text = writer.status_text(built(snapshot(*ALL, run=replace(RUN, stopped="dead\x1b[31mline"))))
    assert "stopped             dead\\x1b[31mline" in text
    assert "continue            batchrunner run heroes.yaml --provider sandbox\n" in text
    assert "--retry-failed" not in text, "the request itself fails"
    assert "batchrunner resolve heroes.yaml --provider sandbox job-2 --adopt GENERATION_ID" in text


HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\n\u202egpj.exe\ud800{{ 7*7 }}"


def hostile() -> Snapshot:
    wicked = Problem("bad", HOSTILE, HOSTILE)
    media = Media("video", HOSTILE)
    evil = Job("sha256:" + "0" * 64, HOSTILE, {"video": media, "image": media}, {"resolution": HOSTILE})
    attempted = attempt(generation_id=HOSTILE, error=wicked)
    clip = replace(CLIP, warnings=(HOSTILE,))
    good = replace(evil, fingerprint="sha256:" + "1" * 64)
    records = {
        evil.fingerprint: Record(evil, State.FAILED, (attempted,), wicked),
        good.fingerprint: Record(good, State.SUCCEEDED, (attempted,), None, clip),
    }
    entries = (Entry(0, HOSTILE, evil, {"k": HOSTILE}), Entry(1, HOSTILE, good))
    return Snapshot(replace(RUN, name=HOSTILE, manifest_path=HOSTILE, stopped=HOSTILE), entries, records)


class Page(HTMLParser):
    """Collects tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def scripts(text: str) -> list[str]:
    """Return the content of the page's script elements, data and program."""
    return re.findall(r"<script(?: [^>]*)?>(.*?)</script>", text, re.DOTALL)


def test_hostile_text_is_inert_on_the_page() -> None:
    text = page_of(built(hostile()))
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "iframe", "object", "video"})
    assert sum(tag == "script" for tag, _ in page.tags) == 4
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)
    shown = "<script>alert(1)</script>\"'&\\x1b[2J\\n\\u202egpj.exe\\ud800{{ 7*7 }}"
    assert shown in page.texts
    assert shown in dict(json.loads(scripts(text)[0])[0]["rows"])["Model"]
    assert not any(mark in item for item in scripts(text)[:3] for mark in "<>&")
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_hostile_text_is_unchanged_in_json_and_escaped_in_lines(tmp_path: Path) -> None:
    json_path, html_path, _ = writer.write(hostile(), tmp_path, "0.1.0")
    assert json.loads(json_path.read_text("utf-8"))["jobs"][0]["error"]["message"] == HOSTILE
    assert html_path.read_text("utf-8").startswith("<!doctype html>")
    lines = writer.status_text(built(hostile()))
    assert all(line.isprintable() for line in lines.split("\n"))


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_is_complete_and_loads_nothing() -> None:
    shot = snapshot(*ALL, earlier=(record("old", State.SUCCEEDED),), run=replace(RUN, stopped="deadline"))
    text = page_of(built(shot))
    page = Page(text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    assert policy == (
        f"default-src 'none'; style-src {digest(style)}; script-src {digest(scripts(text)[3])}; img-src data:; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    links = {attrs["href"] for tag, attrs in page.tags if tag in {"a", "link"}}
    assert links == {"./job-0.mp4", "#causes", "#earlier", "#results", "#run", "#timeline", "data:,"}
    assert not any("src" in attrs for _, attrs in page.tags)
    said = " ".join("".join(page.texts).split())
    expected = [
        writer.headline(built(shot)),
        "Stopped before the end: deadline",
        "no face",
        "--in-doubt resubmit",
        "batchrunner run heroes.yaml --provider sandbox",
        "id:a/x",
        "ab" * 32,
        "1.2 MB",
        "480\N{MULTIPLICATION SIGN}480",
        "2.4 s",
        "2026-11-22 21:55:00 UTC",
        "Jobs of earlier manifests",
        "not submitted",
    ]
    assert [text for text in expected if text not in said] == []


def test_a_clip_in_a_folder_is_linked() -> None:
    shot = snapshot(ALL[0])
    named = replace(shot.entries[0], output_name="train/É #1")
    assert 'href="./train/%C3%89%20%231.mp4"' in page_of(built(replace(shot, entries=(named,))))


def test_clips_that_several_buckets_have_are_no_links_either() -> None:
    copied = replace(CLIP, objects={"s3://clips/shard-1-of-2/job-0.mp4": '"etag"'})
    run = replace(RUN, settings_json=json.dumps({"keep_local": False}))
    text = page_of(built(snapshot(record("a", State.SUCCEEDED, result=copied), run=run)))
    assert '<a href="./job-0.mp4"' not in text
    assert "The clips are only in buckets" in text


@pytest.mark.parametrize("keep_local", [True, False])
def test_a_clip_that_only_a_bucket_has_is_no_link_and_the_page_names_the_command_that_shows_it(
    keep_local: bool,
) -> None:
    settings = {"deliver": "s3://clips/", "keep_local": keep_local, "options": ["--allow-bucket", "clips"]}
    copied = replace(CLIP, objects={"s3://clips/job-0.mp4": '"etag"'})
    run = replace(RUN, settings_json=json.dumps(settings))
    text = page_of(built(snapshot(record("a", State.SUCCEEDED, result=copied), run=run)))
    assert ('<a href="./job-0.mp4"' in text) == keep_local
    assert ("The clips are only in <bdi>s3://clips/</bdi>" in text) != keep_local
    shown = "".join(re.findall(r"<span>([^<]*)</span>", text))
    assert ("batchrunnerreviewheroes.yaml" in shown and "--allow-bucketclips" in shown) != keep_local


def test_a_running_batch_without_parameters_has_a_page() -> None:
    bare = replace(job("a"), params={})
    shot = Snapshot(replace(RUN, finished_at=None, exit_status=None), (Entry(0, "a", bare),), {})
    assert "not finished or killed" in page_of(built(shot))


def test_both_files_are_replaced_atomically(tmp_path: Path) -> None:
    writer.write(snapshot(ALL[4]), tmp_path, "0.1.0")
    paths = writer.write(snapshot(*ALL), tmp_path, "0.1.0")
    assert paths == (tmp_path / "report.json", tmp_path / "report.html", tmp_path / "results.csv")
    assert json.loads(paths[0].read_text("utf-8")) == built(snapshot(*ALL))
    assert writer.headline(built(snapshot(*ALL))) in paths[1].read_text("utf-8")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".batchrunner", "report.html", "report.json", "results.csv"
    ]  # fmt: skip


def test_extra_files_are_written_where_requested(tmp_path: Path) -> None:
    wanted = {"junit": str(tmp_path / "ci" / "junit.xml"), "metrics_file": str(tmp_path / "batch.prom")}
    paths = writer.write(snapshot(*ALL), tmp_path / "run", "0.1.0", **wanted)
    assert [str(path) for path in paths[3:]] == list(wanted.values())
    assert paths[3].read_text("utf-8").startswith("<?xml")
    assert paths[4].read_text("utf-8").startswith("# HELP batchrunner_jobs ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.prom", "ci", "run"]


def test_a_file_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalFault, match=r"junit\.xml could not be written"):
        writer.write(
            snapshot(*ALL), tmp_path, "0.1.0",
            junit=str(tmp_path / "file" / "junit.xml"), metrics_file=str(tmp_path / "batch.prom"),
        )  # fmt: skip
    assert {"report.json", "report.html", "results.csv", "batch.prom"} <= {path.name for path in tmp_path.iterdir()}


def test_a_foreign_file_that_appears_during_the_run_is_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "batch.prom")
    (tmp_path / "junit.xml").write_text("precious")
    with pytest.raises(LocalFault, match=r"batch\.prom could not be written: it is not a regular file"):
        writer.write(snapshot(*ALL), tmp_path / "run", "0.1.0", metrics_file=str(tmp_path / "batch.prom"))
    with pytest.raises(LocalFault, match=r"junit\.xml could not be written: .* is not JUnit XML and is not replaced"):
        writer.write(snapshot(*ALL), tmp_path / "run", "0.1.0", junit=str(tmp_path / "junit.xml"))
    assert (tmp_path / "batch.prom").is_fifo()
    assert (tmp_path / "junit.xml").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.prom", "junit.xml", "run"]


def refusal(folder: Path, **asked: str) -> str:
    """Return what `check_places` says for a new run directory in `folder`, and leave nothing behind."""
    before = sorted(folder.rglob("*"))
    raised = UsageError("")
    try:
        writer.check_places(folder / "out" / "run", **{"junit": None, "metrics_file": None} | asked)
    except UsageError as error:
        raised = error
    assert sorted(folder.rglob("*")) == before
    assert "submitted" not in raised.hint, "`report` submits nothing"
    return raised.message


JUNIT_OF_OTHERS = '<?xml version="1.0" encoding="utf-8"?>\n\n<testsuite name="x">'


@pytest.mark.parametrize(
    ("option", "content", "stays"),
    [
        ("junit", "", False),
        ("junit", JUNIT_OF_OTHERS, False),
        ("junit", JUNIT_OF_OTHERS.replace("testsuite", "svg"), True),
        ("junit", "version: 1\njobs: []\n", True),
        ("junit", "# HELP batchrunner_jobs x\n", True),
        ("metrics_file", "", False),
        ("metrics_file", "# HELP batchrunner_jobs x\n", False),
        ("metrics_file", "# HELP node_load1 x\n", True),
        ("metrics_file", "# a manifest\nversion: 1\n", True),
        ("metrics_file", JUNIT_OF_OTHERS, True),
    ],
)
def test_an_extra_file_replaces_only_its_own_kind(tmp_path: Path, option: str, content: str, stays: bool) -> None:
    (tmp_path / "x").write_text(content)
    message = refusal(tmp_path, **{option: str(tmp_path / "x")})
    assert ("is not replaced" in message) == stays
    assert bool(message) == stays


@pytest.mark.parametrize("kept", [(MEDIA / "bunny.mp4").read_bytes(), bytes(range(256)), b"SQLite format 3\0"])
def test_an_extra_file_replaces_no_foreign_file_whatever_its_content(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "x").write_bytes(kept)
    assert "is not JUnit XML and is not replaced" in refusal(tmp_path, junit=str(tmp_path / "x"))
    assert "is not metrics of a batch and is not replaced" in refusal(tmp_path, metrics_file=str(tmp_path / "x"))


def test_written_files_are_recognised(tmp_path: Path) -> None:
    wanted = {"junit": str(tmp_path / "junit.xml"), "metrics_file": str(tmp_path / "batch.prom")}
    for shot in (Snapshot(RUN, (), {}), snapshot(*ALL), snapshot(*ALL, run=replace(RUN, name="<&\n\u2028" * 200))):
        writer.write(shot, tmp_path / "out" / "run", "0.1.0", **wanted)
        assert refusal(tmp_path, **wanted) == ""


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("out/run/.batchrunner/journal.db", "is in .batchrunner"),
        ("out/other/.BatchRunner/parts/x", "is in .batchrunner"),
        ("link/x", "is in .batchrunner"),
        ("out/run/j01.mp4", "has the name of a clip"),
        ("out/run/J01.MP4", "has the name of a clip"),
        ("clip", "has the name of a clip"),
        ("out/run/results.csv", "is also the path of results.csv"),
        ("out/run", "is also the path of report.json"),
        ("out", "is also the path of report.json"),
        ("out/run/report.html/junit.xml", "is also the path of report.html"),
        ("circle", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("file/junit.xml", "Not a directory"),
        ("/proc/self/fd/999", "no file can be created in /proc/"),
        ("x" * 250, "File name too long"),
        ("x" * 256, "File name too long"),
        ("out/run/junit.xml", ""),
        ("mp4/junit.xml", ""),
    ],
)
def test_an_extra_file_may_not_replace_these_files(tmp_path: Path, place: str, complaint: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("out/run/.batchrunner")
    (tmp_path / "clip").symlink_to("out/run/a.mp4")
    (tmp_path / "circle").symlink_to("circle")
    message = refusal(tmp_path, metrics_file=str(tmp_path / place))
    assert complaint in message
    assert bool(message) == bool(complaint)


def test_a_pipe_and_the_commands_own_output_are_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    assert "no file can be created in /proc/" in refusal(tmp_path, junit=f"/dev/fd/{writing}")
    program = "import sys; from batchrunner.report import writer as report; from pathlib import Path;"
    program += "report.check_places(Path('run'), junit=sys.argv[1], metrics_file=None)"
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    for place in ("log", "stdout", "/dev/fd/1"):
        with (tmp_path / "log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-c", program, place], cwd=tmp_path, stdout=log, stderr=subprocess.PIPE, check=False
            )
        assert b"this command's own output goes there" in done.stderr
    os.close(reading)
    os.close(writing)


def test_two_spellings_of_a_path_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "link").symlink_to("a.x")
    (tmp_path / "folder").symlink_to("output")
    for second in ("./output/../a.x", "link", "folder/../a.x", str(tmp_path / "a.x")):
        assert "is also the path of --junit" in refusal(tmp_path, junit="a.x", metrics_file=second)
    assert "is also the path of --junit" in refusal(tmp_path, junit="a.x", metrics_file="a.x/b")
    assert refusal(tmp_path, junit="a.x", metrics_file="folder/a.x") == ""
    (tmp_path / "out").symlink_to("output")
    assert "is also the path of report.json" in refusal(tmp_path, junit="output/run/report.json")


def test_the_target_of_a_link_is_replaced_and_the_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    for content in (None, "", JUNIT_OF_OTHERS):
        if content is not None:
            (tmp_path / "ci" / "junit.xml").write_text(content)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("ci/junit.xml")
        assert refusal(tmp_path, junit=str(tmp_path / "link")) == ""
        paths = writer.write(snapshot(*ALL), tmp_path / "run", "0.1.0", junit=str(tmp_path / "link"))
        assert paths[3] == tmp_path / "link"
        assert (tmp_path / "link").is_symlink()
        assert "batchrunner" in (tmp_path / "ci" / "junit.xml").read_text("utf-8")
    (tmp_path / "ci" / "junit.xml").write_text("precious")
    with pytest.raises(LocalFault, match="is not replaced"):
        writer.write(snapshot(*ALL), tmp_path / "run", "0.1.0", junit=str(tmp_path / "link"))
    assert (tmp_path / "ci" / "junit.xml").read_text() == "precious"


def test_the_cost_covers_the_whole_batch_and_names_unknown_amounts() -> None:
    settings = json.dumps({"max_credits": 9e6, "max_generations": 50, "prices": {"480p": 1000}})
    open_ = record("d", State.IN_FLIGHT, attempt(generation_id="h", outcome="accepted", estimate=5e5))
    unknown = record("u", State.SUCCEEDED, attempt(generation_id="k", outcome="succeeded"))
    shot = snapshot(
        ALL[0], open_, run=replace(RUN, settings_json=settings), earlier=(record("old", State.SUCCEEDED), unknown)
    )
    report = built(shot)
    assert report["money"] | {"prices_as_of": ""} == {
        "spent": 4_000_000,
        "reserved": 500_000,
        "worst_case": 4_500_000,
        "unpriced": 1,
        "generations": 4,
        "budget_credits": 9_000_000,
        "budget_generations": 50,
        "credits_per_usd": 2_000_000,
        "prices_as_of": "",
        "spent_usd": 2,
        "reserved_usd": 0.25,
        "worst_case_usd": 2.25,
        "budget_usd": 4.5,
        "budget_setting": "max_credits",
        "overrun_usd": 0,
        "settled_usd": 0,
        "quoted_usd": 2,
        "estimated_usd": 0.25,
        "unsettled": 3,
        "settle_command": None,
    }
    assert report["settings"]["max_credits"] == 9e6
    assert report["jobs"][0]["estimate"]["credits"] is None
    assert "length" in report["jobs"][0]["estimate"]["basis"]


def test_estimate_and_times_of_a_job_are_reported() -> None:
    attempted = attempt(
        generation_id="g", outcome="succeeded", accepted_at=NOW + 2, generating_at=NOW + 5, completed_at=NOW + 65,
        ended_at=NOW + 67.5,
    )  # fmt: skip
    base = record("a", State.SUCCEEDED, attempted)
    clip = base.job.inputs["video"]._replace(duration_s=2.0, frames=60)
    inputs = {**base.job.inputs, "video": clip}
    timed = replace(base, job=replace(base.job, model=registry.DEFAULT_MODEL, inputs=inputs))
    settings = json.dumps({"prices": {"480p": 1000}})
    row = built(snapshot(timed, run=replace(RUN, settings_json=settings)))["jobs"][0]
    assert row["estimate"] == {"credits": 3750, "basis": "from the manifest", "billed_s": 3.75}
    assert row["times"] == {
        "expected_s": None, "queue_s": 3, "generating_s": 60, "generation_s": 63, "download_s": 2.5, "total_s": 66.5,
    }  # fmt: skip
    back = replace(timed, attempts=(attempted._replace(completed_at=NOW),))
    assert built(snapshot(back))["jobs"][0]["times"]["generation_s"] is None, "the clock was set back"


def test_the_usual_time_depends_on_the_length_of_the_clip() -> None:
    def done(name: str, length_s: float, took_s: float) -> Record:
        times: dict[str, Any] = {"accepted_at": NOW, "completed_at": NOW + took_s, "ended_at": NOW + took_s}
        base = record(name, State.SUCCEEDED, attempt(generation_id=name, outcome="succeeded", **times))
        clip = base.job.inputs["video"]._replace(duration_s=length_s)
        inputs = {**base.job.inputs, "video": clip}
        return replace(base, job=replace(base.job, model=registry.DEFAULT_MODEL, inputs=inputs))

    jobs = [done(f"{length_s}-{number}", length_s, 30 * length_s) for number in range(8) for length_s in (2.0, 8.0)]
    rows = built(snapshot(*jobs))["jobs"]
    found = {row["inputs"]["video"]["duration_s"]: row["times"]["expected_s"] for row in rows}
    assert found == pytest.approx({2.0: 60, 8.0: 240}, rel=0.01)


def test_runs_and_timeline_events_are_in_order() -> None:
    first = replace(RUN, run_id="run-0", started_at=NOW - 100, finished_at=None, exit_status=None)
    outage = TimelineEvent(NOW - 50, "call_health", "poll", "down", "502")
    report = built(replace(snapshot(ALL[0]), runs=(first, RUN), timeline_events=(outage,)))
    assert [(run["run_id"], run["exit_status"]) for run in report["runs"]] == [("run-0", None), ("run-1", 0)]
    assert report["timeline"][0] | {"at": ""} == {
        "at": "", "kind": "call_health", "call": "poll", "status": "down", "message": "502",
    }  # fmt: skip
    assert [run["run_id"] for run in built(snapshot(ALL[0]))["runs"]] == ["run-1"]


def test_write_errors_are_reported_with_their_cause(tmp_path: Path) -> None:
    (tmp_path / ".batchrunner").write_text("in the way")
    with pytest.raises(LocalFault, match="could not be written"):
        writer.write(snapshot(*ALL), tmp_path, "0.1.0")


def test_the_pure_packages_import_nothing_impure() -> None:
    program = (
        "import sys, batchrunner.report.build, batchrunner.report.text, batchrunner.formatting;"
        "print([m for m in ('asyncio', 'aiohttp', 'aiofiles', 'sqlite3', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcode 漢字 🙂", "plain Ünïcode 漢字 🙂"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[31m\x9b\x7f", "\\x1b[31m\\x9b\\x7f"),
        ("\u202e\u2066\u200b\u2028\ud800", "\\u202e\\u2066\\u200b\\u2028\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("x" * 10, "x" * 10),
    ],
)
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_cuts_long_text() -> None:
    assert printable("x" * 11, 10) == "x" * 9 + "…"
    assert printable("x" * 10, 10) == "x" * 10


def test_sizes_durations_and_times_are_readable() -> None:
    assert [size_text(n) for n in (0, 1, 999, 1000, 999_949, 999_950, 1_234_567, 5 * 10**15)] == [
        "0 bytes", "1 byte", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1.2 MB", "5000.0 TB",
    ]  # fmt: skip
    assert [length_text(s) for s in (-1, 0.04, 9.94, 9.96, 59.6, 185, 3599.7, 25_920)] == [
        "0.0 s", "0.0 s", "9.9 s", "10 s", "1 min 0 s", "3 min 5 s", "1 h 0 min", "7 h 12 min",
    ]  # fmt: skip
    assert rfc3339(NOW) == "2026-11-22T21:55:00.123Z"
