"""The command as a user runs it: exit statuses, messages, no traceback, and no API key in any file or output.

One batch runs against a sandbox in a thread, with a renderer that returns a finished clip immediately. Most commands
then read a copy of its run directory in this process. Tests that need a process start one.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchrunner import __version__, cli
from batchrunner.sandbox import SandboxConfig, start
from batchrunner.settings import SETTINGS, Setting
from batchrunner.storage.run_directory import Lock, RunDir
from tests.conftest import MEDIA, NOW, ROOT
from tests.soak.processes import call

KEY = "sk-recognisable-0123456789-abcdef"
COMMANDS = ["init", "run", "validate", "plan", "status", "report", "verify", "sandbox", "schema"]
SCRIPT = Path(sys.executable).with_name("batchrunner")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-c", "from batchrunner.cli import main; main()"]

MANIFEST = f"""
name: night
poll_interval: 20ms
jobs:
  - {{id: first, video: {MEDIA}/bunny.mp4, image: {MEDIA}/astronaut.jpg}}
  - {{id: second, video: {MEDIA}/bunny.mp4, image: {MEDIA}/hopper.jpg, tags: {{who: admiral}}}}
  - {{id: twin, video: {MEDIA}/bunny.mp4, image: {MEDIA}/astronaut.jpg}}
"""


class Service:
    """A sandbox in a separate thread. url: its address."""

    def __init__(self, clip: bytes) -> None:
        self.url = ""
        self._clip = clip
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="sandbox")
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        async def ready(_: Any) -> bytes:
            return self._clip

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        config = SandboxConfig(queue_wait_s=0.01, duration_s=0.02, spread=0.0, logs=True)
        self.local = await start(config, render=ready)
        self.url = self.local.url
        self._up.set()
        await self._over.wait()
        await self.local.close()

    def accepted(self) -> int:
        return sum(event["event"] == "accepted" for event in self.local.ledger())

    def close(self) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def service(clip: bytes) -> Iterator[Service]:
    service = Service(clip)
    yield service
    service.close()


@dataclass
class Ran:
    status: int
    out: str
    err: str


class Shell:
    """A working directory and an environment for the command."""

    def __init__(
        self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.run_dir = folder / "output" / "night"
        monkeypatch.chdir(folder)
        for name in list(os.environ):
            if name.startswith(("BATCHRUNNER_", "AIML")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("AIMLAPI_BASE_URL", url)
        monkeypatch.setenv("AIMLAPI_KEY", KEY)
        (folder / "night.yaml").write_text(MANIFEST)

    def __call__(self, *arguments: str) -> Ran:
        """Run the command in this process."""
        self.monkeypatch.setattr(sys, "argv", ["batchrunner", *arguments])
        # Under `python -m pytest`, click would otherwise call the program "python -m pytest.batchrunner".
        self.monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return self._ran(int(caught.value.code or 0), *self.capsys.readouterr())

    def spawn(self, *arguments: Any, **more: Any) -> Ran:
        """Run the installed command."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, env=environment, check=False, timeout=60, **more
        )
        return self._ran(done.returncode, *(text.decode("utf-8", "replace") for text in (done.stdout, done.stderr)))

    def fork(self, *arguments: str) -> Ran:
        """Run the command in a forked process."""
        variables = {name: os.environ[name] for name in ("AIMLAPI_BASE_URL", "AIMLAPI_KEY")}
        done = call(*arguments, cwd=self.folder, **variables)
        return self._ran(done.returncode, done.stdout, done.stderr)

    def _ran(self, status: int, out: str, err: str) -> Ran:
        assert "Traceback" not in out + err
        assert KEY not in out + err
        return Ran(status, out, err)


@pytest.fixture
def shell(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(tmp_path, service.url, monkeypatch, capsys)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Path:
    """A working directory in which the installed command has completed the batch."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "night.yaml").write_text(MANIFEST)
    before = service.accepted()
    done = call("run", "night.yaml", cwd=folder, AIMLAPI_BASE_URL=service.url, AIMLAPI_KEY=KEY)
    (folder / "terminal").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert service.accepted() - before == 2, "equal jobs are paid for once"
    return folder


@pytest.fixture
def finished(shell: Shell, template: Path) -> Shell:
    shutil.copytree(template, shell.folder, dirs_exist_ok=True)
    return shell


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shell: Shell, command: str) -> None:
    for flag in ("--help", "-h"):
        ran = shell(command, flag)
        assert ran.status == 0
        assert ran.out.startswith(f"Usage: batchrunner {command}")
        assert ran.err == ""
        assert len(max(ran.out.splitlines(), key=len)) <= 100


def test_the_front_page_names_every_command_and_status(shell: Shell) -> None:
    ran = shell("--help")
    assert ran.status == 0
    places = [ran.out.index(f"\n  {command}") for command in COMMANDS]
    assert places == sorted(places), "in the order of their definition"
    for status in ("0", "1", "2", "3", "4", "130, 143"):
        assert f"\n    {status}  " in ran.out


def test_every_setting_is_an_option_of_run(shell: Shell) -> None:
    text = shell("run", "--help").out
    for setting in SETTINGS:
        assert "--" + setting.name.replace("_", "-") in text


def test_the_version_option_prints_the_version(shell: Shell) -> None:
    assert shell("--version") == Ran(0, f"batchrunner {__version__}\n", "")


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "batchrunner", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"batchrunner {__version__}\n")


def test_without_a_command_it_shows_the_help_and_fails(shell: Shell) -> None:
    ran = shell()
    assert ran.status == 2
    assert "Usage: batchrunner" in ran.out + ran.err


# Bad usage


BAD: list[list[str]] = [
    ["nope"],
    ["--nope"],
    ["run"],
    ["run", "missing.yaml"],
    ["run", "."],
    ["run", "binary"],
    ["run", "/dev/null"],
    ["run", "night.yaml", "extra"],
    ["run", "night.yaml", "--concurrency", "0"],
    ["run", "night.yaml", "--concurrency", "many"],
    ["run", "night.yaml", "--concurrency"],
    ["run", "night.yaml", "--provider", "other"],
    ["run", "night.yaml", "--poll-interval", "15"],
    ["run", "night.yaml", "--in-doubt", "perhaps"],
    ["run", "night.yaml", "--output", ""],
    ["run", "night.yaml", "--output", "binary"],
    ["run", "night.yaml", "--output", "binary/below"],
    ["run", "night.yaml", "--output", "/proc/nowhere"],
    ["plan"],
    ["plan", "missing.yaml"],
    ["plan", "night.yaml", "--output", ""],
    ["status", "missing"],
    ["status", "."],
    ["status", "binary"],
    ["report", "missing"],
    ["report", "binary"],
    ["report", "."],
    ["verify", "missing"],
    ["verify", "."],
    ["validate"],
    ["validate", "missing.yaml"],
    ["validate", "night.yaml", "binary"],
    ["schema", "extra"],
    ["sandbox", "--port", "99999"],
    ["sandbox", "--port", "x"],
    ["sandbox", "--duration", "x"],
    ["sandbox", "--faults", "missing.yaml"],
    ["sandbox", "--faults", "binary"],
    ["sandbox", "--host", "no.such.host.invalid", "--port", "0"],
    ["sandbox", "--state", "binary", "--port", "0"],
    ["sandbox", "--capacity", "0", "--port", "0"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_usage_gives_a_message_and_exits_2(shell: Shell, service: Service, arguments: list[str]) -> None:
    (shell.folder / "binary").write_bytes(bytes(range(256)))
    before = service.accepted()
    ran = shell(*arguments)
    assert ran.status == 2
    assert ran.err.strip()
    assert service.accepted() == before


def test_a_bad_manifest_is_reported_with_places(shell: Shell) -> None:
    (shell.folder / "bad.yaml").write_text("jobs:\n  - {video: no.mp4, image: no.png, resolutoin: 480p}\n")
    for command in ("run", "validate", "plan"):
        ran = shell(command, "bad.yaml")
        assert ran.status == 2
        assert "bad.yaml:2:13: error: no such file: no.mp4" in ran.err
        assert "did you mean 'resolution'?" in ran.err
        assert "nothing was submitted" in ran.err
    assert not (shell.folder / "output").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BATCHRUNNER_CONCURRENCY", "x"),
        ("BATCHRUNNER_POLL_INTERVAL", "fast"),
        ("BATCHRUNNER_PROVIDER", "other"),
        ("AIMLAPI_BASE_URL", "http://api.example.com"),
        ("AIMLAPI_BASE_URL", "ftp://127.0.0.1"),
        ("AIMLAPI_BASE_URL", "nonsense"),
        ("AIMLAPI_BASE_URL", "https://"),
        ("AIMLAPI_BASE_URL", "https://[::1"),
        ("AIMLAPI_BASE_URL", "https://127.0.0.1:port"),
        ("AIMLAPI_KEY", " "),
        ("AIMLAPI_KEY", KEY + "\n" + KEY),
        ("AIMLAPI_KEY", KEY + "é"),
    ],
)
def test_an_invalid_environment_exits_2(shell: Shell, service: Service, variable: str, value: str) -> None:
    before = service.accepted()
    shell.monkeypatch.setenv(variable, value)
    ran = shell("run", "night.yaml")
    assert ran.status == 2
    assert variable in ran.err
    assert service.accepted() == before


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_counts_as_unset(shell: Shell, setting: Setting, value: str) -> None:
    shell.monkeypatch.setenv(f"BATCHRUNNER_{setting.name.upper()}", value)
    ran = shell("plan", "night.yaml")
    assert ran.status == 0
    assert "BATCHRUNNER_" not in ran.err


def test_a_mistyped_variable_gives_a_warning_with_the_nearest_name(shell: Shell) -> None:
    shell.monkeypatch.setenv("BATCHRUNNER_CONCURENCY", "2")
    shell.monkeypatch.setenv("BATCHRUNNER_VAR_ANYTHING", "x")
    for command in ("plan", "run"):
        ran = shell(command, "night.yaml")
        assert ran.status == 0
        assert ran.err.count("BATCHRUNNER_CONCURENCY") == 1
        assert "did you mean BATCHRUNNER_CONCURRENCY?" in ran.err
        assert "BATCHRUNNER_VAR_ANYTHING" not in ran.err


ASKING = MANIFEST.replace("who: admiral", "who: '${RES:-admiral}'")


def test_the_environment_is_read_only_with_the_users_consent(shell: Shell, service: Service) -> None:
    (shell.folder / "night.yaml").write_text(ASKING)
    shell.monkeypatch.setenv("RES", "480p")
    before = service.accepted()
    for command in ("run", "plan", "validate", "status"):
        ran = shell(command, "night.yaml")
        assert ran.status == 2
        assert "night.yaml:6:" in ran.err
        assert "--env RES" in ran.err
        assert "480p" not in ran.err
    assert service.accepted() == before
    plan = json.loads(shell("plan", "night.yaml", "--json", "--env", "RES").out)
    assert plan["egress"]["variables"] == ["RES"]
    shell.monkeypatch.setenv("BATCHRUNNER_ENV", "OTHER, RES")
    assert shell("validate", "night.yaml").status == 0
    assert shell("run", "night.yaml", "--env", "RES").status == 0
    report = json.loads((shell.run_dir / "report.json").read_text())
    assert report["jobs"][1]["tags"] == {"who": "480p"}
    assert report["settings"]["options"] == ["--env", "RES"], "a command that is suggested names it again"


@pytest.mark.parametrize("name", ["AIMLAPI_KEY", "GITHUB_TOKEN", "BATCHRUNNER_NOTIFY", "a-b"])
def test_a_secret_name_cannot_be_allowed(shell: Shell, name: str) -> None:
    shell.monkeypatch.setenv("GITHUB_TOKEN", "gh-0123456789")
    for variables in ({}, {"BATCHRUNNER_ENV": name}):
        for variable, value in variables.items():
            shell.monkeypatch.setenv(variable, value)
        ran = shell("plan", "night.yaml", *(() if variables else ("--env", name)))
        assert ran.status == 2
        assert name in ran.err


def test_plan_lists_the_data_that_leaves_the_machine(shell: Shell) -> None:
    shell.monkeypatch.setenv("BATCHRUNNER_NOTIFY", "https://hooks.example.com/T0/XXXXSECRET")
    text = shell("plan", "night.yaml").out
    host = "127.0.0.1"
    size = 2 * (MEDIA / "bunny.mp4").stat().st_size
    size += sum((MEDIA / name).stat().st_size for name in ("astronaut.jpg", "hopper.jpg"))
    assert f"2 submissions to {host}" in text
    assert "4 local inputs" in text
    assert "webhook at hooks.example.com" in text
    assert "XXXXSECRET" not in text
    egress = json.loads(shell("plan", "night.yaml", "--json").out)["egress"]
    assert egress == {
        "host": host,
        "submissions": 2,
        "files": 4,
        "file_bytes": size,
        "urls": 0,
        "url_hosts": [],
        "variables": [],
        "webhook": "hooks.example.com",
    }
    assert "Nothing leaves this machine." in shell("plan", "night.yaml", "--provider", "sandbox").out


def test_a_manifest_cannot_set_a_webhook(shell: Shell) -> None:
    (shell.folder / "night.yaml").write_text("notify: https://hooks.example.com/x\n" + MANIFEST)
    for command in ("plan", "validate"):
        ran = shell(command, "night.yaml")
        assert ran.status == 0
        assert "night.yaml:1:1:" in ran.err
        assert "--notify" in ran.err
        assert "hooks.example.com" not in ran.out


def test_arguments_cannot_control_the_terminal(shell: Shell) -> None:
    for arguments in (["plan", "no\x9b31m\u202e.yaml"], ["plan", "--no\x9b"], ["run", "night.yaml", "--set", "\x9b"]):
        ran = shell(*arguments)
        assert ran.status == 2
        assert all(line.isprintable() for line in ran.err.split("\n")), ascii(ran.err)


def test_an_unknown_provider_in_the_manifest_is_reported(shell: Shell) -> None:
    (shell.folder / "night.yaml").write_text("provider: other\n" + MANIFEST)
    ran = shell("run", "night.yaml")
    assert ran.status == 2
    assert "night.yaml:1:11" in ran.err


# The key


def test_a_run_without_a_key_does_nothing(shell: Shell) -> None:
    shell.monkeypatch.delenv("AIMLAPI_KEY")
    ran = shell("run", "night.yaml")
    assert ran.status == 2
    assert "AIMLAPI_KEY" in ran.err
    assert "--provider sandbox" in ran.err
    assert not (shell.folder / "output").exists()


def test_the_key_is_in_no_file_and_no_output(finished: Shell) -> None:
    assert KEY in os.environ["AIMLAPI_KEY"]
    checked = 0
    for path in finished.folder.rglob("*"):
        if path.is_file():
            checked += 1
            assert KEY.encode() not in path.read_bytes(), path
            assert KEY not in str(path)
    assert checked > 8
    for command in (["status", "night.yaml", "--json"], ["plan", "night.yaml", "--json"], ["verify", "output/night"]):
        finished(*command)  # the shell checks the output for the key


def test_the_older_variable_of_the_key_is_read_too(shell: Shell) -> None:
    shell.monkeypatch.setenv("AIML_API_KEY", KEY)
    shell.monkeypatch.delenv("AIMLAPI_KEY")
    assert shell("run", "night.yaml", "--quiet").status == 0


# A finished batch


def test_a_finished_run_has_its_files(finished: Shell) -> None:
    names = sorted(path.name for path in finished.run_dir.iterdir())
    reports = ["report.html", "report.json", "results.csv"]
    assert names == [".batchrunner", ".batchrunner.witness", "first.mp4", *reports, "second.mp4", "twin.mp4"]
    assert list((finished.run_dir / ".batchrunner" / "parts").glob("*.part")) == []
    report = json.loads((finished.run_dir / "report.json").read_text())
    assert (report["exit_status"], report["totals"]["succeeded"], report["totals"]["generations"]) == (0, 3, 2)
    assert [job["id"] for job in report["jobs"]] == ["first", "second", "twin"]


def test_a_second_run_has_nothing_to_do(finished: Shell, service: Service) -> None:
    before = service.accepted()
    times = {path: path.stat().st_mtime_ns for path in finished.run_dir.glob("*.mp4")}
    assert finished("run", "night.yaml").status == 0
    assert service.accepted() == before
    assert {path: path.stat().st_mtime_ns for path in finished.run_dir.glob("*.mp4")} == times


def test_a_lost_file_is_downloaded_again_at_no_cost(finished: Shell, service: Service) -> None:
    before = service.accepted()
    (finished.run_dir / "second.mp4").unlink()
    assert finished("run", "night.yaml").status == 0
    assert service.accepted() == before
    assert finished("verify", "output/night").status == 0


def test_plan_prints_the_remaining_jobs(shell: Shell, finished: Shell) -> None:
    fresh = json.loads(shell("plan", "night.yaml", "--json", "--output", "fresh").out)
    assert (fresh["submissions"], fresh["totals"]) == (2, {"new": 3})
    assert not (shell.folder / "fresh").exists(), "plan writes nothing"
    done = finished("plan", "night.yaml")
    assert done.status == 0
    assert "A run would make 0 submissions." in done.out
    assert "the same job as first: paid for once" in done.out


def test_status_by_manifest_and_by_directory(finished: Shell) -> None:
    by_manifest, by_directory = finished("status", "night.yaml"), finished("status", "output/night")
    for ran in (by_manifest, by_directory):
        ran.out = re.sub(r"Ended \d+ s ago", "Ended", ran.out)  # a second may pass between the two
    assert by_manifest == by_directory
    assert by_manifest.status == 0
    data = json.loads(finished("status", "output/night", "--json").out)
    report = json.loads((finished.run_dir / "report.json").read_text())
    assert data == report


def test_report_writes_the_same_files_again(finished: Shell) -> None:
    names = ["report.json", "report.html", "results.csv"]
    before = {name: (finished.run_dir / name).read_bytes() for name in names}
    for name in before:
        (finished.run_dir / name).unlink()
    ran = finished("report", "output/night")
    assert ran.status == 0
    assert ran.out.splitlines()[-3:] == [f"output/night/{name}" for name in names]
    assert {name: (finished.run_dir / name).read_bytes() for name in before} == before


def test_a_foreign_file_in_a_reports_place_is_moved_and_reported(finished: Shell) -> None:
    path = finished.run_dir / "report.json"
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    ran = finished("report", "output/night")
    kept = Path("output/night/.batchrunner/kept/report.1.json")
    assert ran.status == 0
    assert ran.err == f"output/night/report.json is not a report of batchrunner; it was moved to {kept}\n"
    assert (kept / "in the way").exists()
    assert json.loads(path.read_text())["schema_version"] == 2


def test_verify_checks_the_files(finished: Shell) -> None:
    assert finished("verify", "output/night") == Ran(0, "3 results checked, 0 bad\n", "")
    clip = bytearray((finished.run_dir / "first.mp4").read_bytes())
    clip[len(clip) // 2] ^= 1
    (finished.run_dir / "first.mp4").unlink()  # it may share its content with the twin's file
    (finished.run_dir / "first.mp4").write_bytes(clip)
    ran = finished("verify", "output/night")
    assert ran.status == 1
    assert "first.mp4: its content has changed" in ran.out
    assert ran.out.endswith("3 results checked, 1 bad: 1 altered\n")
    (finished.run_dir / "second.mp4").unlink()
    ran = finished("verify", "output/night")
    assert ran.status == 1
    assert "second.mp4: cannot be read: No such file or directory" in ran.out
    assert ran.out.endswith("3 results checked, 2 bad: 1 altered, 1 missing\n")


def test_a_finished_batch_is_left_unchanged(finished: Shell, service: Service) -> None:
    def standing() -> dict[str, tuple[int, bytes]]:
        files = [path for path in finished.run_dir.rglob("*") if path.is_file()]
        changing = {"lock", "lease", "journal.db-wal", "journal.db-shm"}
        kept = [path for path in files if path.name not in changing and path.stem not in changing]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}

    before, accepted = standing(), service.accepted()
    ran = finished("run", "night.yaml")
    assert ran.status == 0
    assert "nothing to do" in ran.err
    assert "3 of 3 jobs succeeded" in ran.err
    assert standing() == before
    assert finished("run", "night.yaml", "--quiet") == Ran(0, "", "")
    (finished.run_dir / "second.mp4").unlink()
    ran = finished("run", "night.yaml")
    assert ran.status == 0
    assert "nothing to do" not in ran.err
    assert (finished.run_dir / "second.mp4").exists()
    assert service.accepted() == accepted


def test_another_provider_needs_another_run_directory(finished: Shell) -> None:
    ran = finished("run", "night.yaml", "--provider", "sandbox", "--output", "output/night")
    assert ran.status == 2
    assert "--output" in ran.err


@pytest.mark.parametrize("harm", [b"", b"garbage" * 1000], ids=["empty", "garbage"])
def test_a_damaged_journal_stops_every_command(finished: Shell, service: Service, harm: bytes) -> None:
    journal = finished.run_dir / ".batchrunner" / "journal.db"
    journal.write_bytes(harm)
    before = service.accepted()
    reads = [[command, "output/night"] for command in ("status", "report", "verify")]
    for command in (["run", "night.yaml"], ["plan", "night.yaml"], *reads):
        ran = finished(*command)
        assert ran.status == 2
        assert "journal" in ran.err
    assert journal.read_bytes() == harm
    assert service.accepted() == before


def test_a_batch_that_another_process_runs_is_locked(finished: Shell, service: Service) -> None:
    before = service.accepted()
    with Lock(RunDir(finished.run_dir), NOW):
        ran = finished.spawn("run", "night.yaml")
        assert ran.status == 4
        assert f"pid {os.getpid()}" in ran.err
        for command in (["plan", "night.yaml"], ["status", "output/night"], ["verify", "output/night"]):
            assert finished(*command).status == 0
    assert service.accepted() == before
    assert finished("run", "night.yaml").status == 0


# Verdicts


def test_review_stores_verdicts_and_the_report_shows_them(finished: Shell) -> None:
    ran = finished("review", "night.yaml", "--accept", "first", "--reject", "second", "--reason", "hands")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("first: accepted\nsecond: rejected\n2 verdicts in ")
    now = json.loads(finished("status", "night.yaml", "--json").out)
    assert [row["verdict"] and row["verdict"]["verdict"] for row in now["jobs"]] == ["accept", "reject", None]
    with (finished.run_dir / "review.jsonl").open("a") as file:
        file.write("mine\n")
    ran = finished("report", "output/night")
    assert "line 3 is not a verdict" in ran.err
    assert json.loads((finished.run_dir / "report.json").read_text())["jobs"] == now["jobs"]


def test_remarks_without_an_id_are_a_usage_error(finished: Shell) -> None:
    """They must not open the page."""
    ran = finished("review", "output/night", "--reason", "hands")
    assert ran.status == 2
    assert "need --accept ID" in ran.err


def test_a_run_rejects_by_marks_and_by_the_hook(shell: Shell) -> None:
    """The sandbox returns one clip for all jobs, so the second job's clip is a duplicate."""
    hook = shell.folder / "hook.py"
    hook.write_text(
        "import json, os, sys\n"
        "row = json.load(sys.stdin)\n"
        f"log = open({str(hook)!r} + '.log', 'a')\n"
        "print(row['id'], os.path.getsize(row['path']), 'AIMLAPI_KEY' in os.environ, file=log)\n"
        "print('no face')\n"
        "sys.exit(10 if row['id'] == 'first' else 0)\n"
    )
    command = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(hook))}"
    ran = shell("run", "night.yaml", "--quality", "duplicate=reject", "--on-clip", command)
    assert ran.status == 0
    report = json.loads((shell.run_dir / "report.json").read_text())
    found = {row["id"]: (row["verdict"]["by"], row["verdict"]["reasons"]) for row in report["jobs"] if row["verdict"]}
    assert found["second"] == ("quality", ["duplicate"])
    assert found["first"] == found["twin"] == ("on_clip", ["no face"])
    assert report["totals"]["rejected"] == 3
    size = report["jobs"][0]["bytes"]
    log = Path(f"{hook}.log")
    assert sorted(log.read_text().splitlines()) == [f"first {size} False", f"second {size} False"]
    assert shell("run", "night.yaml", "--quality", "duplicate=reject", "--on-clip", command).status == 0
    assert len(log.read_text().splitlines()) == 2, "once for each clip"


def test_a_hook_that_cannot_run_is_refused_before_anything_is_submitted(shell: Shell, service: Service) -> None:
    before = service.accepted()
    for command in ("no-such-program-here", "sh 'open"):
        ran = shell("run", "night.yaml", "--on-clip", command)
        assert ran.status == 2
        assert "--on-clip" in ran.err
    assert service.accepted() == before


def test_a_manifest_cannot_set_a_hook(shell: Shell) -> None:
    mark = shell.folder / "mark"
    (shell.folder / "night.yaml").write_text(f"on_clip: touch {mark}\n" + MANIFEST)
    ran = shell("run", "night.yaml")
    assert ran.status == 0
    assert "'on_clip' is ignored in a manifest: use --on-clip or BATCHRUNNER_ON_CLIP" in ran.err
    assert not mark.exists()


def test_review_of_an_unknown_id_is_a_usage_error(finished: Shell) -> None:
    ran = finished("review", "output/night", "--accept", "first", "--reject", "secnd")
    assert ran.status == 2
    assert "the batch has no job secnd; did you mean second?" in ran.err
    assert not (finished.run_dir / "review.jsonl").exists()


# Takes


def test_a_rejected_clip_gets_exactly_one_more_generation(finished: Shell, service: Service) -> None:
    before = service.accepted()
    assert finished("review", "night.yaml", "--reject", "second").status == 0
    planned = json.loads(finished("plan", "night.yaml", "--retake", "rejected", "--json").out)
    assert planned["submissions"] == 1
    assert planned["money"]["expected_usd"] > 0
    assert [(row["id"], row["job"], row["take"], row["action"]) for row in planned["jobs"]] == [
        ("first", "first", 1, "done"),
        ("second", "second", 1, "done"),
        ("second.t2", "second", 2, "new"),
        ("twin", "twin", 1, "done"),
    ]
    assert service.accepted() == before
    assert finished("run", "night.yaml", "--retake", "rejected").status == 0
    assert service.accepted() - before == 1
    assert (finished.run_dir / "second.t2.mp4").exists()
    ran = finished("run", "night.yaml", "--retake", "rejected")
    assert ran.status == 0
    assert "no job's latest take is rejected" in ran.err
    assert "nothing to do" in finished("run", "night.yaml").err
    assert service.accepted() - before == 1
    shown = json.loads(finished("status", "night.yaml", "--json").out)
    assert [row["id"] for row in shown["jobs"]] == ["first", "second", "second.t2", "twin"]
    assert finished("review", "night.yaml", "--reject", "second.t2").status == 0
    assert finished("run", "night.yaml", "--retake", "rejected", "--retake", "second").status == 0
    assert service.accepted() - before == 2


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retake", "secnd"], "--retake secnd: no job of the manifest has this id; did you mean second?"),
        (["--retake", "first", "--only", "first.t3"], "--only first.t3: no job of the manifest has this id"),
    ],
)
def test_a_retake_of_an_unknown_id_changes_nothing(
    finished: Shell, service: Service, command: str, options: list[str], message: str
) -> None:
    before = service.accepted()
    ran = finished(command, "night.yaml", *options)
    assert ran.status == 2
    assert message in ran.err
    assert service.accepted() == before
    assert "nothing to do" in finished("run", "night.yaml").err


def test_a_recovery_adds_no_takes(finished: Shell) -> None:
    ran = finished("run", "night.yaml", "--recover", "--retake", "first")
    assert (ran.status, "cannot be used together" in ran.err) == (2, True)


def test_a_retake_does_not_overwrite_an_input(finished: Shell, service: Service) -> None:
    before = service.accepted()
    (finished.run_dir / "first.t2.mp4").write_bytes((MEDIA / "bunny.mp4").read_bytes())
    lines = finished.folder / "night.yaml"
    more = f"  - {{id: more, video: output/night/first.t2.mp4, image: {MEDIA}/hopper.jpg, shift: 6}}\n"
    lines.write_text(lines.read_text() + more)
    ran = finished("run", "night.yaml", "--retake", "first")
    assert ran.status == 2
    assert "first.t2.mp4" in ran.err
    assert service.accepted() == before


# Other commands


def test_validate_checks_a_manifest(shell: Shell) -> None:
    ran = shell("validate", "night.yaml")
    assert (ran.status, ran.out) == (0, "night.yaml: 3 jobs, 1 warning\n")
    assert "night.yaml:7:5: warning: 'twin' is the same job as 'first'" in ran.err
    demo = str(ROOT / "manifests" / "demo.yaml")
    assert shell("validate", demo) == Ran(0, f"{demo}: 3 jobs, no problems\n", "")
    (shell.folder / "bad.yaml").write_text("jobs: 5\n")
    both = shell("validate", "bad.yaml", "night.yaml")
    assert both.status == 2
    assert "bad.yaml:1:" in both.err
    assert "night.yaml: 3 jobs" in both.out


def test_schema_prints_the_manifests_schema(shell: Shell) -> None:
    import jsonschema

    schema = json.loads(shell("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)


def test_file_names_that_are_not_text_cause_no_traceback(shell: Shell) -> None:
    """File names are bytes. No command fails with a traceback for any name."""
    odd = os.fsdecode(b"n\xff\x1b[31m.yaml")
    (shell.folder / odd).write_text(MANIFEST.replace("name: night", ""))
    runs = {
        "validate": shell.spawn("validate", odd),  # the others are forked: they get the same text
        "run": shell.fork("run", odd),
        "status": shell.fork("status", odd),
    }
    for command, ran in runs.items():
        assert ran.status == 0, (command, ran)
        assert "\x1b" not in ran.out + ran.err
    assert shell.fork("run", os.fsdecode(b"missing\xff.yaml")).status == 2


def test_a_closed_pipe_is_not_an_error(shell: Shell) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*COMMAND, "schema"], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60, cwd=ROOT
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b""), "a closed reader does not change the exit status"


# Closed and full streams

NOTHING = "provider: sandbox\nmatrix: [{video: none/*.mp4, image: none/*.png, allow_empty: true}]\n"


def through_a_shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"AIMLAPI_KEY": "", "PYTHONPATH": str(ROOT)}
    line = line.replace("batchrunner", f"{shlex.quote(sys.executable)} -m batchrunner")
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env=environment
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_stop_a_run(tmp_path: Path, closed: str) -> None:
    (tmp_path / "none.yaml").write_text(NOTHING)
    done = through_a_shell(f"batchrunner run none.yaml --no-progress {closed}", tmp_path)
    assert (done.returncode, (tmp_path / "output" / "none" / "report.json").exists()) == (0, True), done


def test_a_manifest_from_a_closed_stream_is_empty(tmp_path: Path) -> None:
    done = through_a_shell("batchrunner validate - <&-", tmp_path)
    assert done.returncode == 2
    assert "<stdin>:1:1: error: the manifest is empty" in done.stderr


@pytest.mark.parametrize("command_line", ["schema", "plan none.yaml", "--help", "validate none.yaml --format json"])
def test_unwritable_output_gives_a_one_line_error(tmp_path: Path, command_line: str) -> None:
    (tmp_path / "none.yaml").write_text(NOTHING)
    done = through_a_shell(f"batchrunner {command_line} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "batchrunner: the output could not be written: No space left on device\n"
    assert through_a_shell(f"batchrunner {command_line} >/dev/full 2>/dev/full", tmp_path).returncode == 1


# The manifest instead of the run directory


def test_every_command_accepts_the_manifest_with_the_options_of_run(shell: Shell) -> None:
    """For a finished rehearsal, each command reports the end in the rehearsal's time."""
    (shell.folder / "faults.yaml").write_text("service: {queue_wait: 1s, duration: 5s, spread: 0, render: tiny}\n")
    (shell.folder / "named.yaml").write_text(MANIFEST.replace("name: night", "name: ${NAME}"))
    command_line = ["named.yaml", "--provider", "sandbox", "--fast", "--faults", "faults.yaml", "--set", "NAME=x"]
    command_line += ["--output", "elsewhere"]
    command = partial(call, cwd=shell.folder, XDG_STATE_HOME=os.environ["XDG_STATE_HOME"])
    first = command("run", *command_line, "--poll-interval", "5s")
    assert first.returncode == 0, first.stderr
    again = command("run", *command_line, "--poll-interval", "5s")
    assert (again.returncode, "nothing to do" in again.stderr) == (0, True), again.stderr
    for name, expected in (
        ("status", "succeeded"),
        ("report", "report.json"),
        ("verify", "0 bad"),
        ("plan", "0 submissions"),
    ):
        ran = command(name, *command_line)
        assert (ran.returncode, expected in ran.stdout) == (0, True), ran
    assert command("verify", "named.yaml", "--set", "NAME=x").returncode == 2, "nothing was paid for"
