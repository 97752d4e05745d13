"""The Python API: the documented example runs, the classes match their documentation, and the import is light."""

import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.errors import ManifestError, UsageError
from tests.conftest import MEDIA, ROOT, encoded

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
URLS = "- {id: walk, video: https://example.com/walk.mp4, image: https://example.com/hero.png}\n"
NO_JOB = "matrix: [{video: none/*.mp4, image: none/*.png, allow_empty: true}]\n"
FAILS = """
import batchrunner, json
batch = batchrunner.load("batch.yaml", provider="sandbox", faults="faults.yaml", generation_retries=0)
events = []
result = batch.run(on_event=lambda event: events.append(type(event).__name__))
job, = result.jobs
known = {"RunStarted", "RunFinished"} <= set(events)
print(json.dumps([result.exit_status, result.ok, job.state, job.file, job.error.kind, known]))
"""


def manifest(folder: Path, text: str = URLS) -> Path:
    path = folder / "batch.yaml"
    path.write_text(text, "utf-8")
    return path


def python(code: str, folder: Path) -> str:
    """Return the output of a program that uses the package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHRUNNER_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=120,
        env=kept | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def local(folder: Path) -> None:
    """Write a manifest of one job that the sandbox renders quickly."""
    (folder / "walk.mp4").write_bytes(encoded(8))
    job = {"id": "walk", "video": "walk.mp4", "image": str(MEDIA / "hopper.jpg")}
    manifest(folder, json.dumps({"poll_interval": "100ms", "jobs": [job]}))


def test_the_documented_example_runs(tmp_path: Path) -> None:
    local(tmp_path)
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example
    first, second = python(example[1], tmp_path).splitlines()
    assert re.fullmatch(r"1 submissions, \d{2,3},000 credits", first)
    file = Path(second.removeprefix("walk succeeded "))
    assert (tmp_path / file).stat().st_size > 1000


def test_a_failed_job_is_part_of_the_result(tmp_path: Path) -> None:
    local(tmp_path)
    (tmp_path / "faults.yaml").write_text("- {on: generation, kind: content_policy}\n")
    result = json.loads(python(FAILS, tmp_path))
    assert result == [1, False, "failed", None, "content_refused", True]


def test_the_import_loads_no_other_module(tmp_path: Path) -> None:
    code = "import sys, batchrunner\nprint(*(name for name in sys.modules if name.startswith('batchrunner')))"
    assert python(code, tmp_path).split() == ["batchrunner"]


def test_each_exported_name_exists_and_no_other() -> None:
    assert sorted(batchrunner.__all__) == batchrunner.__all__
    for name in batchrunner.__all__:
        assert getattr(batchrunner, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = batchrunner.lode  # type: ignore[attr-defined]  # the mistake that is tested


@pytest.mark.parametrize(
    "cls", [batchrunner.Plan, batchrunner.PlannedJob, batchrunner.RunResult, batchrunner.JobResult], ids=str
)
def test_the_classes_are_documented(cls: type) -> None:
    row = re.search(rf"^\| `{cls.__name__}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert row
    names = {field.name for field in dataclasses.fields(cls)} | {
        name for name, value in vars(cls).items() if isinstance(value, property)
    }
    assert set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", row[1]))) == names


def test_the_members_of_a_batch_are_documented() -> None:
    members = {name for name in vars(batchrunner.Batch) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)(?:\(.*\))?` \|", PAGE, re.MULTILINE)) >= members


def test_a_plan_is_computed_without_a_run(tmp_path: Path) -> None:
    batch = batchrunner.load(manifest(tmp_path), environment={}, output=str(tmp_path / "out"), assume_length="2s")
    plan = batch.plan()
    assert (batch.name, batch.run_directory, plan.submissions, plan.unpriced) == ("batch", tmp_path / "out", 1, 0)
    assert [(job.id, job.action, job.credits) for job in plan.jobs] == [("walk", "new", plan.credits)]
    assert not batch.run_directory.exists()


def test_settings_and_variables_are_those_of_the_command_line(tmp_path: Path) -> None:
    path = manifest(tmp_path, URLS.replace("walk,", '"${name}",'))
    environment = {"BATCHRUNNER_OUTPUT": str(tmp_path / "elsewhere"), "who": "hero"}
    named = batchrunner.load(path, environment=environment, variables={"name": "run"})
    assert (named.plan().jobs[0].id, named.run_directory) == ("run", tmp_path / "elsewhere")
    allowed = batchrunner.load(
        manifest(tmp_path, URLS.replace("walk,", '"${who}",')), environment=environment, allowed_variables=["who"]
    )
    assert allowed.plan().jobs[0].id == "hero"


def test_a_bucket_has_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    path = manifest(tmp_path, "- {video: s3://clips/a.mp4, image: https://example.com/hero.png}\n")
    (tmp_path / "batchrunner").mkdir()
    config = tmp_path / "batchrunner" / "config.yaml"
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}

    def problem(**options: Any) -> str:
        with pytest.raises(ManifestError) as caught:
            batchrunner.load(path, provider="sandbox", environment=environment, **options)
        (found,) = caught.value.diagnostics
        return f"{found.message} {found.hint}"

    assert "--allow-bucket s3://clips" in problem()
    assert "--allow-bucket s3://clips" in problem(allow_bucket="gs://clips")
    assert "pip install" in problem(allow_bucket="clips")
    assert "pip install" in problem(allow_bucket=["s3://clips"])
    config.write_text("buckets: [clips]")
    assert "pip install" in problem()


def test_a_setup_shows_no_secret(tmp_path: Path) -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "hidden-0123456789", "XDG_CONFIG_HOME": str(tmp_path)}
    batch = batchrunner.load(manifest(tmp_path), provider="sandbox", environment=environment)
    assert "hidden-0123456789" not in repr(batch._setup)


def test_user_errors_share_a_base_class(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'concurency'") as caught:
        batchrunner.load(manifest(tmp_path), environment={}, concurency=3)
    assert caught.value.hint == "did you mean 'concurrency'?"
    with pytest.raises(batchrunner.ManifestError) as wrong:
        batchrunner.load(manifest(tmp_path, "- {video: https://example.com/a.mp4}\n"), environment={})
    assert [item.code for item in wrong.value.diagnostics] == ["missing-key"]
    assert issubclass(batchrunner.ManifestError, batchrunner.BatchrunnerError)


def test_a_run_needs_the_main_thread_and_no_event_loop(tmp_path: Path) -> None:
    batch = batchrunner.load(
        manifest(tmp_path, NO_JOB), environment={}, provider="sandbox", output=str(tmp_path / "out")
    )
    caught = []

    def run() -> None:
        try:
            batch.run()
        except UsageError as error:
            caught.append(error.message)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    async def inside() -> None:
        run()

    asyncio.run(inside())
    assert caught == ["a batch runs in the main thread only", "a batch cannot run inside an event loop"]
    assert not batch.run_directory.exists()
