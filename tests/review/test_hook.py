"""The hook: its arguments, what it gets, what its exit status means, and that nothing of it survives."""

import json
import os
import select
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault, UsageError
from batchrunner.redaction import without_secrets
from batchrunner.review.hook import Hook, Outcome, Outcomes, arguments_of
from batchrunner.storage.run_directory import RunDir

KEY = "sk-recognisable-0123456789"
ROW: dict[str, Any] = {"id": "walk", "file": "Élodie danse.mp4", "path": "/x/Élodie danse.mp4"}


def shell(script: str, environment: dict[str, str] | None = None, within_s: float = 20.0) -> Hook:
    return Hook(("/bin/sh", "-c", script), {"PATH": os.environ["PATH"], **(environment or {})}, within_s)


def has_ended(pid: int) -> bool:
    """Return whether a process ends: at once, because it was killed before."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


# The command


def test_a_command_is_split_and_not_expanded() -> None:
    assert arguments_of("sh -c 'echo $HOME; rm *' \"a b\" $X") == ("sh", "-c", "echo $HOME; rm *", "a b", "$X")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'open", "not complete: no closing quotation"),
        ("", "is empty"),
        ("no-such-program-here --x", "not found or not executable: no-such-program-here"),
        ("/etc/passwd", "not found or not executable"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_the_run(command: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        arguments_of(command)
    assert "Nothing was submitted" in caught.value.hint


# What it decides


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", Outcome(is_decided=True)),
        ("echo fine; exit 0", Outcome(is_decided=True)),
        ("echo no face; echo more; exit 10", Outcome(is_decided=True, reason="no face")),
        ("printf '\\n\\n  two hands \\n'; exit 10", Outcome(is_decided=True, reason="two hands")),
        ("exit 10", Outcome(is_decided=True, reason="rejected by the hook")),
        ("printf '\\033[31mred'; exit 10", Outcome(is_decided=True, reason="\\x1b[31mred")),
        ("exit 3", Outcome(is_decided=False, problem="ended with status 3")),
        (
            "echo one >&2; echo no model >&2; exit 1",
            Outcome(is_decided=False, problem="ended with status 1: no model"),
        ),
        ("kill -SEGV $$", Outcome(is_decided=False, problem="was ended by SIGSEGV")),
    ],
)
def test_the_exit_status_decides(script: str, expected: Outcome) -> None:
    assert shell(script).run(ROW) == expected


def test_a_program_that_cannot_be_started_is_a_problem() -> None:
    assert Hook(("/no/such/program",), {}).run(ROW).problem == "cannot be started: No such file or directory"


def test_it_gets_the_row_as_json(tmp_path: Path) -> None:
    assert shell(f"cat > '{tmp_path}/row'").run(ROW | {"note": "\udcff"}).is_decided
    assert json.loads((tmp_path / "row").read_bytes()) == ROW | {"note": "\udcff"}


def test_a_hook_that_reads_nothing_and_writes_much_is_followed() -> None:
    row = {"text": "x" * 300_000}
    many = "head -c 300000 /dev/zero | tr '\\0' x"
    outcome = shell(f"echo blurred; {many}; {many} >&2; exit 10").run(row)
    assert outcome == Outcome(is_decided=True, reason="blurred")


def test_a_long_reason_is_cut() -> None:
    assert len(shell("head -c 100000 /dev/zero | tr '\\0' x; exit 10").run(ROW).reason) == 300


# Secrets


def test_its_environment_has_no_secret(tmp_path: Path) -> None:
    environment = {
        "AIMLAPI_KEY": KEY, "AIML_API_KEY": KEY, "COPY": f"Bearer {KEY}", "BATCHRUNNER_NOTIFY": "https://h/T0/x",
        "DB_PASSWORD": "hunter2hunter2", "HTTPS_PROXY": "http://me:password9@proxy:3128", "MODEL": "faces-v2",
    }  # fmt: skip
    shell(f"env > '{tmp_path}/env'", environment).run(ROW)
    text = (tmp_path / "env").read_text()
    assert "MODEL=faces-v2" in text
    assert "PATH=" in text
    assert not [value for value in (KEY, "hunter2", "password9", "T0") if value in text]


def test_names_that_only_look_like_secrets_stay() -> None:
    plain = {"XDG_SESSION_ID": "1", "SSH_AUTH_SOCK": "/run/x", "HOME": "/root", "KEYBOARD": "de", "AUTHOR": "Ann"}
    assert without_secrets(plain) == plain


def test_a_secret_that_it_prints_is_not_kept() -> None:
    assert KEY not in shell(f"echo {KEY}; exit 10", {"AIMLAPI_KEY": KEY}).run(ROW).reason
    assert KEY not in shell(f"echo {KEY} >&2; exit 1", {"AIMLAPI_KEY": KEY}).run(ROW).problem


# Its end


def test_a_late_hook_ends_with_its_children(tmp_path: Path) -> None:
    outcome = shell(f"sleep 60 & echo $! > '{tmp_path}/child'; wait", within_s=0.3).run(ROW)
    assert outcome == Outcome(is_decided=False, problem="did not end within 0.3 s and was stopped")
    assert has_ended(int((tmp_path / "child").read_text()))


def test_a_child_that_it_leaves_ends_and_delays_nothing(tmp_path: Path) -> None:
    outcome = shell(f"sleep 60 & echo $! > '{tmp_path}/child'; exit 10").run(ROW)
    assert outcome.reason == "rejected by the hook"
    assert has_ended(int((tmp_path / "child").read_text()))


def test_stop_ends_running_calls_with_their_children_and_starts_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "up")
    hook = shell(f"sleep 60 & echo $! > '{tmp_path}/child'; echo > '{tmp_path}/up'; wait")
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(hook.run(ROW)))
    thread.start()
    (tmp_path / "up").read_text()  # waits until the hook runs
    hook.stop()
    thread.join(20)
    assert outcomes == [Outcome(is_decided=False)], "no warning: the run ends"
    assert has_ended(int((tmp_path / "child").read_text()))
    assert hook.run(ROW) == Outcome(is_decided=False)


def test_it_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C in the terminal reaches only the run, which decides."""
    script = f"import os; open({str(tmp_path / 'sid')!r}, 'w').write(str(os.getsid(0) == os.getpid()))"
    assert Hook((sys.executable, "-S", "-c", script), {}).run(ROW).is_decided
    assert (tmp_path / "sid").read_text() == "True"


# Outcomes


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    RunDir(tmp_path).make()
    return tmp_path


def test_outcomes_are_known_after_a_restart(run_dir: Path) -> None:
    Outcomes(run_dir).add("sha256:1", "aa", "h1")
    again = Outcomes(run_dir)
    assert again.has("sha256:1", "aa", "h1")
    assert not again.has("sha256:1", "bb", "h1"), "another clip"
    assert not again.has("sha256:1", "aa", "h2"), "another command"
    assert shell("exit 0").digest != shell("exit 1").digest


def test_torn_and_foreign_lines_of_outcomes_are_passed_over(run_dir: Path) -> None:
    Outcomes(run_dir).add("sha256:1", "aa", "h")
    path = RunDir(run_dir).hook_outcomes
    path.write_bytes(path.read_bytes() + b'\xff\n[]\nnull\n{"fingerprint": "sha256:2", "sha')
    Outcomes(run_dir).add("sha256:3", "cc", "h")
    found = Outcomes(run_dir)
    assert found.has("sha256:1", "aa", "h")
    assert found.has("sha256:3", "cc", "h")


def test_outcomes_that_cannot_be_read_or_stored_are_faults(run_dir: Path) -> None:
    found = Outcomes(run_dir)
    RunDir(run_dir).hook_outcomes.mkdir()
    with pytest.raises(LocalFault, match="could not be read"):
        Outcomes(run_dir)
    with pytest.raises(LocalFault, match="could not be stored"):
        found.add("sha256:1", "aa", "h")
    assert not found.has("sha256:1", "aa", "h")
