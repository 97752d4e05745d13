"""Runs whose clips are checked by Dask's workers, some of which are killed: the numbers are those of threads."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import encoded
from tests.dask.conftest import DaskProcesses
from tests.soak.processes import Command, Service, call

KEY = "sk-test-key-that-must-not-travel-4711"
QUICK = "service: {render: stub, duration: 100ms, capacity: 100, queue_limit: 1000, logs: false}"
MANIFEST = "concurrency: 60\ndownloads: 20\npoll_interval: 200ms\nmatrix: [{video: v/*.mp4, image: i/*.png}]\n"
FEW = "concurrency: 8\npoll_interval: 200ms\nmatrix: [{video: v/c0.mp4, image: i/00*.png}]\n"
CLIPS = 200


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service, and the inputs of 200 jobs: four clips of different lengths, fifty pictures."""
    folder = tmp_path_factory.mktemp("service")
    for name in ("v", "i"):
        (folder / name).mkdir()
    for number in range(4):
        (folder / "v" / f"c{number}.mp4").write_bytes(encoded(4 + 2 * number))
    for number in range(50):
        Image.new("RGB", (320, 320), (5 * number, 80, 200 - number)).save(folder / "i" / f"{number:03}.png")
    (folder / "quick.yaml").write_text(QUICK)
    (folder / "batch.yaml").write_text(MANIFEST)
    (folder / "few.yaml").write_text(FEW)
    with Service(folder, "--faults", "quick.yaml", "--speed", "10") as started:
        yield started


def folder_of(service: Service) -> Path:
    return Path(service.environment()["XDG_STATE_HOME"]).parent


def variables_of(service: Service) -> dict[str, Any]:
    return {**service.environment(), "AIMLAPI_KEY": KEY}


def rows_of(service: Service, output: str) -> dict[str, Any]:
    report = json.loads((folder_of(service) / output / "report.json").read_text("utf-8"))
    return {job["id"]: job for job in report["jobs"]}


def numbers_of(service: Service, output: str) -> dict[str, Any]:
    """What the checks measured of each clip, by job."""
    names = ("state", "quality", "width_px", "height_px", "duration_s", "warnings")
    return {key: {name: row.get(name) for name in names} for key, row in rows_of(service, output).items()}


def arguments(output: str, workers: str, manifest: str = "batch.yaml") -> list[str | Path]:
    return ["run", manifest, "--output", output, "--reuse", "off", "--no-progress", "--workers", workers]


@pytest.fixture(scope="module")
def by_threads(service: Service) -> dict[str, Any]:
    done = call(*arguments("threads", "threads"), cwd=folder_of(service), **variables_of(service))
    assert done.returncode == 0, done.stderr
    found = numbers_of(service, "threads")
    assert len(found) == CLIPS
    assert all(row["state"] == "succeeded" and row["quality"] for row in found.values())
    assert len({json.dumps(row["quality"], sort_keys=True) for row in found.values()}) > 1, "clips that differ"
    return found


@pytest.mark.parametrize("lost", ["worker", "scheduler"])
def test_200_clips_have_the_same_numbers_although_a_process_is_lost(
    lost: str, service: Service, by_threads: dict[str, Any], dask: DaskProcesses, tmp_path: Path
) -> None:
    log, before = tmp_path / "log", len(service.accepted())
    with Command(arguments(lost, dask.spec), folder_of(service), log, **variables_of(service)) as run:
        run.says("succeeded")
        dask.kill(dask.workers[0] if lost == "worker" else dask.scheduler)
        assert run.end() == 0, run.output
    assert numbers_of(service, lost) == by_threads
    assert len(service.accepted()) == before + CLIPS, "each job is paid for once"
    if lost == "scheduler":
        assert "does not answer: the work on clips continues on this machine" in run.output
        assert "nothing is paid again" in run.output


class Recorder:
    """Passes connections on to a port, and keeps every byte that the client sends."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.sent = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                scheduler = socket.create_connection(("127.0.0.1", self._target))
                for pair in ((client, scheduler, self.sent), (scheduler, client, bytearray())):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with suppress(OSError), closing(source), closing(target):
            while block := source.recv(1 << 16):
                kept += block
                target.sendall(block)

    def close(self) -> None:
        self._server.close()


def test_the_key_is_not_sent_and_verify_and_report_use_the_workers(service: Service, dask: DaskProcesses) -> None:
    with closing(Recorder(dask.port)) as recorder:
        spec = f"dask://127.0.0.1:{recorder.port}"
        folder, variables = folder_of(service), variables_of(service)
        done = call(*arguments("few", spec, "few.yaml"), cwd=folder, **variables)
        assert done.returncode == 0, done.stderr
        rows = rows_of(service, "few")
        assert len(rows) == 10
        in_run = bytes(recorder.sent)
        assert all(row["sha256"].encode() in in_run for row in rows.values())

        recorder.sent.clear()
        checked = call("verify", "few", "--workers", spec, cwd=folder, **variables)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert all(row["sha256"].encode() in recorder.sent for row in rows.values())
        (clip := folder / "few" / next(iter(rows.values()))["file"]).write_bytes(b"other")
        checked = call("verify", "few", "--workers", spec, cwd=folder, **variables)
        assert checked.returncode == 1
        assert clip.name in checked.stdout

        recorder.sent.clear()
        clip.unlink()
        again = call(*arguments("few", spec, "few.yaml"), cwd=folder, **variables)
        assert again.returncode == 0, again.stderr
        assert clip.exists()
        assert b"fetch_clip" in recorder.sent, "a worker fetched it again"
        in_run += bytes(recorder.sent)

        for poster in (folder / "few" / ".batchrunner" / "posters").iterdir():
            poster.unlink()
        written = call("report", "few", "--workers", spec, cwd=folder, **variables)
        assert written.returncode == 0, written.stderr
        assert any((folder / "few" / ".batchrunner" / "posters").iterdir())
    assert KEY.encode() not in in_run + recorder.sent
    assert b"AIMLAPI_KEY" not in in_run + recorder.sent


def test_a_scheduler_that_does_not_answer_stops_the_run_before_it_pays(service: Service) -> None:
    before = len(service.accepted())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = f"dask://127.0.0.1:{silent.getsockname()[1]}"
        done = call(*arguments("silent", spec, "few.yaml"), cwd=folder_of(service), **variables_of(service))
    assert done.returncode == 2
    assert f"no Dask scheduler at {spec}: no answer in 10 s" in done.stderr
    assert "Nothing was submitted. Start it with: dask scheduler" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(service.accepted()) == before
