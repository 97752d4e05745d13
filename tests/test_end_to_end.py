"""The installed command as a user runs it: a real process, a real port and real files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchrunner.errors import BatchrunnerError
from batchrunner.journal import journal
from batchrunner.storage.run_directory import RunDir
from tests.conftest import ROOT
from tests.soak.batch import Batch, make_batch
from tests.soak.oracle import check_batch
from tests.soak.processes import Command, Service, call, environment, execute, plain_clips, wait_for

DEMO = ROOT / "manifests" / "demo.yaml"
REPORT_KEYS = {
    "schema_version", "name", "provider", "manifest", "started_at", "finished_at", "exit_status", "totals", "jobs",
}  # fmt: skip
TOTALS_KEYS = {
    "jobs", "succeeded", "failed", "in_doubt", "in_flight", "pending", "bytes", "credits", "generations", "polls",
}  # fmt: skip
JOB_KEYS = {
    "id", "fingerprint", "state", "request", "generation_id", "file", "bytes", "sha256", "attempts", "error",
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, "--duration", "500ms", "--capacity", "4", *plain_clips(tmp_path)) as started:
        yield started


# The demo


def test_the_demo_writes_clips_and_a_report(tmp_path: Path) -> None:
    done = execute("run", DEMO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "output" / "demo"
    short_sides_px = {path.stem: min(_decoded_size_px(path)) for path in out.glob("*.mp4")}
    assert short_sides_px == {
        "bunny-as-astronaut": 480,
        "bunny-as-admiral": 480,
        "bunny-as-astronaut-large": 720,
    }
    report = json.loads((out / "report.json").read_bytes())
    _has_the_contracts_shape(report)
    assert report["totals"] | {"jobs": 3, "succeeded": 3, "generations": 3} == report["totals"]
    page = (out / "report.html").read_text("utf-8")
    assert all(f"{name}.mp4" in page for name in short_sides_px)
    assert {path.name for path in tmp_path.iterdir()} == {"output"}, "no file is written elsewhere"

    again = call("run", DEMO, cwd=tmp_path)
    assert again.returncode == 0
    assert len(_embedded_ledger(out, "accepted")) == 3, "finished work is not repeated"
    verified = execute("verify", out, cwd=tmp_path)
    assert (verified.returncode, verified.stdout) == (0, "3 results checked, 0 bad\n")


def _has_the_contracts_shape(report: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "batchrunner" / "report" / "report.schema.json").read_bytes())
    jsonschema.validate(report, schema)
    assert report.keys() >= REPORT_KEYS
    assert report["totals"].keys() >= TOTALS_KEYS
    assert report["manifest"].keys() >= {"path", "sha256"}
    for job in report["jobs"]:
        assert job.keys() >= JOB_KEYS
        assert job["request"].keys() >= {"model", "video", "image", "resolution"}
        for attempt in job["attempts"]:
            assert attempt.keys() >= {"generation_id", "submitted_at", "outcome"}


def _decoded_size_px(path: Path) -> tuple[int, int]:
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 1
    return frames[-1].width, frames[-1].height


def _embedded_ledger(out: Path, event: str = "") -> list[dict[str, Any]]:
    lines = (out / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if not event or line["event"] == event]


# The service's own sample


@pytest.fixture
def renderer(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, "--duration", "500ms") as started:
        yield started


def test_the_python_sample_of_the_service_downloads_its_video(tmp_path: Path, renderer: Service) -> None:
    """The documentation's Python sample, unchanged except for the host, the key and the 10 s wait."""
    sample = (ROOT / "tests" / "sample_client.txt").read_text("utf-8")
    changes = {
        "https://api.aimlapi.com": renderer.url,
        "<YOUR_AIMLAPI_KEY>": "any",
        "sleep(10)": "sleep(0.1)",
    }
    for old, new in changes.items():
        assert old in sample
        sample = sample.replace(old, new)
    # The sample prints its result. The last line is ours, so that no prose is parsed.
    script = tmp_path / "sample_client.py"
    script.write_text(f"{sample.rstrip().removesuffix('main()')}print('RESULT', json.dumps(main()))\n", "utf-8")
    script.write_text("import json\n" + script.read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.rpartition("RESULT ")[2])
    assert result["status"] == "completed"
    assert "Still waiting" in done.stdout
    assert done.stdout.count("Generation ID") == 1

    import requests

    clip = tmp_path / "clip.mp4"
    clip.write_bytes(requests.get(result["video"]["url"], timeout=30).content)
    assert min(_decoded_size_px(clip)) == 720


# Interruptions


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_continues(tmp_path: Path, service: Service, number: signal.Signals, status: int) -> None:
    batch = make_batch(tmp_path, 12, dict(service.environment()), concurrency=3)
    with batch.start(forked=True) as run:
        run.says("succeeded:")
        run.process.send_signal(number)
        assert run.end() == status, run.output
        assert f"stopping: {number.name} received" in run.output
    report = batch.report()
    assert report["exit_status"] == status
    assert report["totals"]["in_doubt"] == 0
    assert 0 < report["totals"]["succeeded"] < 12
    begun = {event["generation_id"] for event in service.accepted()}
    assert batch.run() == 0
    figures = check_batch(batch, service.ledger(), set())
    assert not figures.wrong, figures.table(number.name)
    assert figures.accepted == 12
    assert begun <= {job["generation_id"] for job in batch.report()["jobs"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_start_ends_the_run(tmp_path: Path, service: Service, number: signal.Signals) -> None:
    batch = make_batch(tmp_path, 3, dict(service.environment()))
    lock = batch.output / ".batchrunner" / "lock"
    with batch.start() as run:

        def locked() -> bool:
            assert run.process.poll() is None, run.output
            return lock.exists() and bool(lock.read_text())

        wait_for(locked, "the run has locked its folder", poll_s=0.001)
        run.process.send_signal(number)
        assert run.end() == 128 + number, run.output
    assert "Traceback" not in batch.log()
    assert batch.run() == 0
    assert len(service.accepted()) == 3


BEFORE_THE_LOOP = """
import asyncio, os, sys
run, number = asyncio.run, int(sys.argv.pop(1))
def late(coroutine):
    os.kill(os.getpid(), number)
    return run(coroutine)
asyncio.run = late
from batchrunner.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_loop_starts_ends_the_run(tmp_path: Path, service: Service, number: signal.Signals) -> None:
    batch = make_batch(tmp_path, 3, dict(service.environment()))
    script = [sys.executable, "-c", BEFORE_THE_LOOP, str(int(number))]
    command = [*script, "run", str(batch.manifest), "--output", str(batch.output)]
    environment = os.environ | batch.environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert batch.report()["exit_status"] == 128 + number
    assert not service.accepted()


def test_a_second_signal_ends_the_run_at_once_and_corrupts_nothing(tmp_path: Path) -> None:
    with Service(tmp_path, "--duration", "500ms", "--faults", str(_slow_downloads(tmp_path))) as service:
        batch = make_batch(tmp_path, 6, dict(service.environment()))
        with batch.start(forked=True) as run:
            run.says("accepted")
            run.process.send_signal(signal.SIGINT)
            run.says("stopping")
            run.process.send_signal(signal.SIGINT)
            assert run.end(20) == 130, run.output  # a transfer would take longer
        assert "Traceback" not in batch.log()
        assert call("report", batch.output, cwd=tmp_path).returncode == 0
        rows = batch.report()["jobs"]
        last = [row["attempts"][-1] for row in rows if row["attempts"]]
        in_doubt = {attempt["request_id"] for attempt in last if attempt["generation_id"] is None}
    with Service(tmp_path, "--duration", "500ms", *plain_clips(tmp_path)) as service:
        again = Batch(batch.folder, dict(service.environment()), batch.output)
        assert again.run() in {0, 1}
        figures = check_batch(again, service.ledger(), in_doubt)
        assert not figures.wrong, f"{figures.table('SIGINT')}\n{again.log()}"


@pytest.mark.parametrize("way", ["deleted", "replaced", "edited"])
def test_a_clip_that_is_lost_during_the_run_is_downloaded_again(tmp_path: Path, service: Service, way: str) -> None:
    batch = make_batch(tmp_path, 8, dict(service.environment()), concurrency=1)
    with batch.start(forked=True) as run:
        run.says("succeeded:")
        clip = next(batch.output.glob("*.mp4"))
        other = bytes(clip.stat().st_size)
        if way == "deleted":
            clip.unlink()
        elif way == "replaced":
            clip.with_suffix(".new").write_bytes(other)
            clip.with_suffix(".new").replace(clip)
        else:
            clip.write_bytes(other)
        assert run.end() == 0, run.output
        assert "removed or changed during the run" in run.output
    assert not (figures := check_batch(batch, service.ledger(), set())).wrong, figures.table(way)
    assert figures.accepted == 8
    kept = [path.read_bytes() for path in (batch.output / ".batchrunner" / "kept").iterdir()]
    assert kept == ([] if way == "deleted" else [other])


STUCK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from batchrunner.media import decoder_pool as decoders
serve = "from tests.odd_tasks import serve_stuck; serve_stuck()"
stuck = decoders.Pool(1, start="sys.path.insert(0, {str(ROOT)!r}); " + serve)
decoders.pool = lambda: stuck
from batchrunner.cli import main
main()
"""


def test_a_second_signal_ends_the_run_while_a_clip_is_decoded(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 2, dict(service.environment()))
    command = [sys.executable, "-c", STUCK, "run", str(batch.manifest), "--output", str(batch.output)]
    log = tmp_path / "stuck.log"
    with log.open("w") as stream:
        run = subprocess.Popen(command, stderr=stream, env=environment(**batch.environment), start_new_session=True)
    try:
        wait_for(lambda: list(batch.output.rglob("*.checked")), "a clip is decoded")
        workers = _children(run.pid)
        assert workers
        run.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping" in log.read_text(), "it has heard the first")
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 130
        wait_for(lambda: not any(map(_lives, workers)), "the decoder has ended too")
    finally:
        run.kill()
    assert "Traceback" not in log.read_text()
    assert batch.run() == 0
    assert len(service.accepted()) == 2


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _slow_downloads(folder: Path) -> Path:
    path = folder / "faults.yaml"
    path.write_text("- {on: download, kind: slow, delay: 60s}\n")
    return path


def test_a_killed_embedded_sandbox_remembers_paid_generations(tmp_path: Path) -> None:
    batch, plain = make_batch(tmp_path, 8, {}, provider="sandbox", concurrency=4), plain_clips(tmp_path)
    with batch.start(*plain, forked=True) as run:
        run.says("succeeded:")
        os.kill(run.process.pid, signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
    begun = _embedded_ledger(batch.output, "accepted")
    assert 0 < len(begun) < 8
    status = batch.run("--concurrency", "8", *plain)
    in_doubt = {job["attempts"][-1]["request_id"] for job in batch.report()["jobs"] if job["state"] == "in_doubt"}
    figures = check_batch(batch, _embedded_ledger(batch.output), in_doubt)
    assert not figures.wrong, figures.table("SIGKILL")
    assert status == (1 if in_doubt else 0)
    assert figures.accepted + figures.in_doubt == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_parent_handles_a_signal_to_the_process_group(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C at a terminal and a service manager's stop also reach the render workers, even while they start."""
    batch = make_batch(tmp_path, 2, {}, provider="sandbox", concurrency=2)
    with batch.start() as run:
        run.says("accepted")
        wait_for(lambda: _embedded_ledger(batch.output, "started"), "a render worker is being started")
        run.signal_group(number)
        assert run.end() == 128 + number, run.output
    assert "Traceback" not in batch.log()
    assert batch.run() == 0, batch.log()
    figures = check_batch(batch, _embedded_ledger(batch.output), set())
    assert not figures.wrong, figures.table(number.name)
    assert figures.accepted == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_render_workers_ignore_signals_from_the_start(tmp_path: Path, number: signal.Signals) -> None:
    batch = make_batch(tmp_path, 1, {}, provider="sandbox", poll_interval="100ms")
    hit: set[int] = set()

    def shoot(run: Command) -> bool:
        for child in _children(run.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)
                hit.add(child)
        return run.process.poll() is not None

    with batch.start() as run:
        wait_for(partial(shoot, run), "the batch ends", poll_s=0.005)
        assert run.end() == 0, run.output
    assert "Traceback" not in batch.log()
    assert hit


def _children(pid: int) -> list[int]:
    """Return the child processes of `pid`."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# Shards


def test_four_shards_of_which_one_is_killed_give_one_report(tmp_path: Path, service: Service) -> None:
    """Each process has its own run directory. The service accepts each job once, and the merged report has them all."""
    batch = make_batch(tmp_path, 8, dict(service.environment()))
    with ExitStack() as stack:
        shards = [stack.enter_context(batch.start("--shard", f"{number}/4", forked=True)) for number in (1, 2, 3, 4)]
        wait_for(partial(_all_accepted, batch.output / "shard-2-of-4"), "every job of shard 2 is accepted")
        shards[1].process.send_signal(signal.SIGKILL)
        assert [shard.end() for shard in shards] == [0, -signal.SIGKILL, 0, 0], batch.log()
    assert batch.run("--shard", "2/4") == 0, batch.log()
    merged = call("report", "--merge", batch.output, batch.output, cwd=tmp_path, **batch.environment)
    assert merged.returncode == 0, merged.stderr
    report = batch.report()
    _has_the_contracts_shape(report)
    assert [job["id"] for job in report["jobs"]] == [f"job-{number:03}" for number in range(8)]
    accepted = service.accepted()
    assert len({event["fingerprint"] for event in accepted}) == len(accepted) == 8, "each job is paid for once"
    assert {job["generation_id"] for job in report["jobs"]} == {event["generation_id"] for event in accepted}
    assert all(_decoded_size_px(batch.output / job["file"]) for job in report["jobs"])


def _all_accepted(run_dir: Path) -> bool:
    with suppress(BatchrunnerError, OSError):  # it begins
        snapshot = journal.read(RunDir(run_dir).journal)
        return snapshot is not None and all(record.generation_id for record in snapshot.records.values())
    return False


# Output and refusals


def test_quiet_prints_nothing_on_success(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 2, dict(service.environment()))
    done = call("run", batch.manifest, "--output", batch.output, "--quiet", cwd=tmp_path, **batch.environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(batch.output.glob("*.mp4"))) == 2


def test_a_bad_manifest_gives_its_place_and_submits_nothing(tmp_path: Path, service: Service) -> None:
    batch = make_batch(tmp_path, 2, dict(service.environment()))
    batch.manifest.write_text("jobs:\n  - {video: clip.mp4, image: picture.png, resolutoin: 480p}\n")
    done = call("run", batch.manifest, cwd=tmp_path, **batch.environment)
    assert done.returncode == 2
    assert f"{batch.manifest}:2:" in done.stderr
    assert "resolution" in done.stderr
    assert "nothing was submitted" in done.stderr
    assert service.accepted() == []
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("key", [{}, {"AIMLAPI_KEY": " "}, {"AIMLAPI_KEY": "sécret"}])
def test_a_run_without_a_key_submits_nothing(tmp_path: Path, key: dict[str, str]) -> None:
    batch = make_batch(tmp_path, 1, {})
    done = call("run", batch.manifest, cwd=tmp_path, **key)
    assert done.returncode == 2
    assert "AIMLAPI_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sécret" not in done.stderr
    assert not (tmp_path / "output").exists()


def test_the_key_is_written_to_no_file(tmp_path: Path, service: Service) -> None:
    key = "sk-not-for-any-file-6f1d"
    batch = make_batch(tmp_path, 2, {**service.environment(), "AIMLAPI_KEY": key})
    assert batch.run() == 0
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert holders == []
    assert not [event for event in service.ledger() if event["event"] == "leak"], "the file host was sent the key"
