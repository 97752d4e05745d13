"""The machine-readable log: one object a line, documented keys, no secret.

``REWRITE_DOCS=1`` writes docs/watching.md.
"""

import io
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from batchrunner.errors import Problem
from batchrunner.events import (
    Alive,
    CallFailed,
    CallHealthChanged,
    CapChanged,
    Event,
    Fetching,
    JobMoved,
    JobSeen,
    Noticed,
    Overrun,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.job import Move, State
from batchrunner.plan.ledger import Budget
from batchrunner.progress.json_lines import ALWAYS, KEYS
from batchrunner.progress.progress import make_progress
from tests.conftest import NOW, ROOT, make_record

PAGE = ROOT / "docs" / "watching.md"
FAULT = Problem("bad_request", "the link https://cdn.example/a.mp4?sig=SECRET is no clip", "Use another.")


def run_events(status: int = 1) -> list[Event]:
    """Return one event of every kind."""
    waiting, flying = make_record("a"), make_record("a", State.IN_FLIGHT)
    failed = make_record("a", State.FAILED, 1, error=FAULT)
    return [
        RunStarted(NOW, "night", "aimlapi", "output/night", 4, {State.PENDING: 1}, {waiting.job.fingerprint: waiting}),
        JobMoved(NOW + 1, ("a", "copy"), Move.BEGIN_SUBMIT, make_record("a", State.SUBMITTING)),
        JobMoved(NOW + 2, ("a", "copy"), Move.ACCEPT, flying),
        JobSeen(NOW + 3, ("a", "copy"), flying),
        Fetching(NOW + 4, ("a", "copy"), flying.job.fingerprint, 1, 2),
        CallFailed(NOW + 5, ("a",), "poll", FAULT, 2.0),
        CallHealthChanged(NOW + 6, "poll", "down", "502", NOW + 9),
        CallHealthChanged(NOW + 9, "poll", "fine", ""),
        CallHealthChanged(NOW + 9, "submit", "paused", "out of credits", NOW + 20),
        CapChanged(NOW + 10, 2, 4),
        Noticed(NOW + 11, ("a",), "odd"),
        Overrun(NOW + 11, ("a",), flying.with_attempt(credits=872e3, estimate=8e5), 8.72e6, Budget(usd=4)),
        JobMoved(NOW + 12, ("a", "copy"), Move.FAIL, failed),
        Alive(NOW + 400),
        Stopping(NOW + 401, "out of credits"),
        RunFinished(NOW + 402, status, {State.FAILED: 1}, ("output/night/report.html",), "0 of 1 job succeeded."),
    ]


def log(events: Sequence[Event], *, quiet: bool = False) -> list[dict[str, Any]]:
    stream = io.StringIO()
    with make_progress(stream=stream, quiet=quiet, plain=False, log_format="json") as progress:
        for event in events:
            progress(event)
    assert stream.getvalue().isascii()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_event_is_one_object_with_the_documented_keys() -> None:
    written = log(run_events())
    assert {entry["event"] for entry in written} == set(KEYS)
    for entry in written:
        assert list(entry)[:5] == ["ts", "level", "event", "message", "jobs"]
        assert set(entry) == {*ALWAYS, *KEYS[entry["event"]][1]}
        assert entry["level"] in {"info", "warning", "error"}
        assert re.fullmatch(r"2027-01-15T\d\d:\d\d:\d\d\.\d{3}Z", entry["ts"])
        assert entry["message"]


def test_the_objects_have_the_documented_values() -> None:
    written = log(run_events())
    moved = [entry for entry in written if entry["event"] == "job_moved"]
    assert [(entry["move"], entry["state"], entry["jobs"]) for entry in moved] == [
        ("begin_submit", "submitting", ["a", "copy"]),
        ("accept", "in_flight", ["a", "copy"]),
        ("fail", "failed", ["a", "copy"]),
    ]
    assert (moved[1]["generation_id"], moved[1]["error"]) == ("gen:a/1", None)
    assert moved[2]["error"]["kind"] == "bad_request"
    beat = next(entry for entry in written if entry["event"] == "heartbeat")
    assert beat["states"]["failed"] == 1
    assert beat["message"].startswith("1 of 1 done, 0 in flight, 1 failed, submissions paused for 6 min 31 s: ")
    assert [entry["level"] for entry in written if entry["event"] == "call_health_changed"] == [
        "warning",
        "info",
        "error",
    ]
    assert (written[-1]["event"], written[-1]["level"], written[-1]["exit_status"]) == ("run_finished", "error", 1)


def test_no_secret_is_logged() -> None:
    assert "SECRET" not in json.dumps(log(run_events()))
    assert "https://cdn.example/a.mp4" in json.dumps(log(run_events()))


def test_quiet_logs_only_events_that_need_a_person() -> None:
    assert [entry["event"] for entry in log(run_events(), quiet=True)] == [
        "call_health_changed",
        "overrun",
        "stopping",
        "run_finished",
    ]
    calm = [event for event in run_events(0) if not isinstance(event, CallHealthChanged | Overrun | Stopping)]
    assert log(calm, quiet=True) == []


def test_hostile_text_stays_in_its_line() -> None:
    evil = "\x1b[2J\r\n\u2028\ud800\x7f\x9b"
    written = log([run_events()[0], Noticed(NOW, (evil,), evil)])
    assert written[1]["jobs"] == [evil]
    assert "\x1b" not in written[1]["message"]


def test_the_page_names_every_event_and_key() -> None:
    always = "".join(f"| `{key}` | {meaning} |\n" for key, meaning in ALWAYS.items())
    events = "".join(
        f"| `{event}` | {when} | {', '.join(f'`{key}`' for key in keys)} |\n" for event, (when, keys) in KEYS.items()
    )
    text = PAGE.read_text("utf-8")
    for mark, head, table in (
        ("always", "| key | meaning |\n|---|---|\n", always),
        ("events", "| event | when | its own keys |\n|---|---|---|\n", events),
    ):
        pattern = re.compile(rf"(<!-- {mark} -->\n\n){re.escape(head)}(?:\|.*\n)*")
        text = pattern.sub(lambda match, remainder=head + table: match[1] + remainder, text)  # type: ignore[misc]  # a default
    if os.environ.get("REWRITE_DOCS"):
        PAGE.write_text(text, "utf-8")
    assert PAGE.read_text("utf-8") == text


def test_an_overrun_is_logged_in_dollars_with_the_budget_that_it_exceeds() -> None:
    (entry,) = [item for item in log(run_events()) if item["event"] == "overrun"]
    assert entry["level"] == "error"
    assert (entry["estimate_usd"], entry["cost_usd"]) == (0.4, 0.436)
    assert (entry["batch_usd"], entry["budget_usd"], entry["budget_setting"]) == (4.36, 4.0, "max_cost")
    assert entry["exceeds_budget"] is True
    assert "the service charges $0.44, above the estimate of $0.40" in entry["message"]
    assert "max_cost ($4.00) is exceeded: $4.36 is spent or reserved" in entry["message"]
