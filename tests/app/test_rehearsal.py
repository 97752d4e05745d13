"""Rehearsals: their run directory, the separation from real runs, and a whole accelerated one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import setup as prepare
from batchrunner.app import start
from batchrunner.app.rehearsal import clock, configure, latest
from batchrunner.clock import FastClock, SystemClock
from batchrunner.errors import UsageError
from batchrunner.events import Event, Noticed
from batchrunner.job import Attempt, Record, Snapshot, State, TimelineEvent
from batchrunner.sandbox import SandboxConfig
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, make_job, make_run

JOB = "{video: https://example.com/%d.mp4, image: https://example.com/hero.png}"


def staged(manifest: dict[str, object], **options: object) -> Any:
    return configure(resolve(options, {}, manifest), "night", manifest, options)


@pytest.mark.parametrize(
    ("manifest", "options", "folder"),
    [
        ({}, {}, "output/night"),
        ({"output": "elsewhere"}, {}, "elsewhere"),
        ({"provider": "sandbox"}, {}, "output/night"),
        ({"provider": "sandbox"}, {"provider": "sandbox", "fast": True}, "output/night"),
        ({}, {"provider": "sandbox"}, "output/night-rehearsal"),
        ({"provider": "aimlapi", "output": "else/where"}, {"provider": "sandbox"}, "else/where-rehearsal"),
        ({"output": "elsewhere"}, {"provider": "sandbox", "output": "here"}, "here"),
    ],
)
def test_a_rehearsal_has_its_own_run_directory(
    manifest: dict[str, object], options: dict[str, object], folder: str
) -> None:
    assert staged(manifest, **options).folder == Path(folder)


@pytest.mark.parametrize("options", [{"fast": True}, {"faults": "night.yaml"}])
def test_a_real_run_is_never_treated_as_a_rehearsal(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="a real one") as caught:
        staged({}, **options)
    assert "--provider sandbox" in caught.value.hint


def test_a_rehearsal_posts_no_webhook() -> None:
    hook: dict[str, object] = {"notify": "https://hooks.example.com/x"}
    assert staged(hook).settings.notify
    assert staged(hook, provider="sandbox").settings.notify is None
    assert staged({**hook, "provider": "sandbox"}).settings.notify, "no rehearsal: the manifest names this provider"


def test_the_clock_is_accelerated_only_on_request(tmp_path: Path) -> None:
    assert type(clock(SandboxConfig(), RunDir(tmp_path))) is SystemClock
    assert isinstance(clock(SandboxConfig(speed=60.0), RunDir(tmp_path)), FastClock)


def test_an_accelerated_clock_continues_from_a_killed_run() -> None:
    job = make_job()
    attempt = Attempt(1, "r", submitted_at=NOW + 1, accepted_at=NOW + 2, generating_at=NOW + 9)
    killed = Snapshot(make_run(), (), {job.fingerprint: Record(job, State.IN_FLIGHT, (attempt,))})
    assert killed.run.finished_at is None
    assert latest(killed) == NOW + 9
    done = replace(killed, timeline_events=(TimelineEvent(NOW + 10, "cap", "", "3", ""),))
    assert latest(done) == NOW + 10


def test_an_accelerated_run_completes_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = "\n".join(f"- {JOB % number}" for number in range(4))
    Path("night.yaml").write_text(jobs)
    Path("faults.yaml").write_text(
        "service: {queue_wait: 1s, duration: 20s, spread: 0}\n"
        # The check counts polls and does not measure time: on a busy machine, simulated seconds may pass without a
        # poll.
        "faults: [{on: generation, kind: content_policy, first: 1}, {on: poll, kind: unavailable, first: 1}]\n"
    )
    flags: dict[str, object] = {"provider": "sandbox", "fast": True, "faults": "faults.yaml", "poll_interval": "5s"}
    setup = prepare.load(Path("night.yaml"), flags, {})
    assert start.run_batch(setup, {}, lambda _: None) == 1
    report = json.loads(Path("output/night-rehearsal/report.json").read_bytes())
    assert (report["totals"]["succeeded"], report["totals"]["failed"]) == (3, 1)
    assert all("warnings" not in row or not row["warnings"] for row in report["jobs"])
    ledger = setup.rundir.sandbox / "ledger.jsonl"
    events = [json.loads(line) for line in ledger.read_text().splitlines()]
    times = [event["at"] for event in events]
    assert times[-1] - times[0] > 20, "simulated seconds, not seconds of this test"
    assert any(event["event"] == "refused" and event["why"] == "unavailable" for event in events)
    # The second run has nothing to do.
    said: list[Event] = []
    assert start.run_batch(prepare.load(Path("night.yaml"), flags, {}), {}, said.append) == 1
    assert any(isinstance(event, Noticed) and "nothing to do" in event.message for event in said)
    assert json.loads(Path("output/night-rehearsal/report.json").read_bytes()) == report
    # With another setting, time does not go back.
    flags["concurrency"] = "3"
    assert start.run_batch(prepare.load(Path("night.yaml"), flags, {}), {}, lambda _: None) == 1
    assert sum('"accepted"' in line for line in ledger.read_text().splitlines()) == 4
    again = json.loads(Path("output/night-rehearsal/report.json").read_bytes())
    assert again["started_at"] >= report["finished_at"]
