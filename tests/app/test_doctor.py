"""`doctor` finds what would stop a run later, and says what to do about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchrunner.account import runs_log
from batchrunner.account.names import account_of
from batchrunner.app.doctor import (
    Finding,
    Level,
    answer,
    as_json,
    as_text,
    balance,
    clock,
    disk,
    examine,
    exit_status,
    folder,
    key,
    shared_folder,
    time_zone,
)
from batchrunner.errors import AccountFault, ExitStatus, UsageError
from batchrunner.moments import Moment
from batchrunner.providers.base import Balance
from batchrunner.providers.endpoint import address_of
from batchrunner.settings import resolve
from tests.conftest import NOW

GB = 1 << 30


@pytest.mark.parametrize(
    ("found", "level"),
    [(None, Level.WARNING), (Balance(0.0, NOW), Level.PROBLEM), (Balance(12.5, NOW), Level.OK)],
)
def test_an_empty_account_is_a_problem(found: Balance | None, level: Level) -> None:
    assert balance(found).level is level


@pytest.mark.parametrize(
    ("skew_s", "level", "text"),
    [(5.0, Level.OK, "as at the service"), (-90.0, Level.WARNING, "behind"), (3600.0, Level.PROBLEM, "ahead of")],
)
def test_a_wrong_clock_is_found(skew_s: float, level: Level, text: str) -> None:
    finding = clock(NOW, NOW + skew_s)
    assert finding.level is level
    assert text in finding.message


def test_a_service_without_a_date_header_gives_a_warning() -> None:
    assert clock(None, NOW).level is Level.WARNING


@pytest.mark.parametrize(
    ("free_bytes", "free_inodes", "level"),
    [
        (50 * GB, 10**6, Level.OK),
        (GB // 2, None, Level.WARNING),
        (1000, None, Level.PROBLEM),
        (50 * GB, 10, Level.PROBLEM),
        (None, None, Level.WARNING),
    ],
)
def test_a_full_disk_is_a_problem(free_bytes: int | None, free_inodes: int | None, level: Level) -> None:
    assert disk(Path("/srv"), free_bytes, free_inodes).level is level


@pytest.mark.parametrize(("missing", "level"), [("", Level.OK), ("byte-range locks (fcntl)", Level.PROBLEM)])
def test_the_network_file_system_of_a_run_directory_is_judged(missing: str, level: Level) -> None:
    finding = shared_folder(Path("/srv"), "nfs4", missing)
    assert finding.level is level
    assert "network file system (nfs4)" in finding.message
    assert missing in finding.message
    assert bool(finding.step) == bool(missing)


def test_the_run_directory_is_examined_where_it_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.app.doctor.network_type", lambda _: "nfs4")
    found = examine(resolve({"provider": "sandbox"}, {}, {}), {}, {"run directory": tmp_path / "output"})
    assert "shared folder" in [finding.check for finding in found]
    assert list(tmp_path.iterdir()) == []


def test_a_start_outside_the_window_is_a_warning() -> None:
    noon = 1_764_504_000.0  # 12:00 UTC
    assert time_zone(noon, None).level is Level.OK
    assert time_zone(noon, Moment("2027-01-31T06:00")).level is Level.OK
    assert time_zone(noon, Moment("2020-01-31T06:00")).level is Level.WARNING


def test_refused_keys_and_folders_are_problems_with_a_next_step() -> None:
    findings = [
        key(UsageError("no API key", "Set it."), "api.example"),
        answer(AccountFault("unauthorized", "the key is refused", "Set AIMLAPI_KEY."), "api.example"),
        folder("cache", Path("/x"), "Permission denied"),
    ]
    assert all(item.level is Level.PROBLEM and item.step for item in findings)
    assert exit_status(findings) is ExitStatus.FAILED
    assert exit_status([Finding("key", Level.OK, "set")]) is ExitStatus.OK
    assert "-> Set it." in as_text(findings)
    assert [item["check"] for item in json.loads(as_json(findings))] == ["key", "service", "cache"]


def doctor(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchrunner", "doctor", *arguments]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AIML")}
    return subprocess.run(
        command, cwd=place, env=plain | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_a_key_doctor_names_the_variable(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert "problem  key" in done.stdout
    assert "export AIMLAPI_KEY" in done.stdout


def test_an_unreachable_service_is_a_problem(tmp_path: Path) -> None:
    done = doctor(tmp_path, AIMLAPI_KEY="a-key-of-many-characters", AIMLAPI_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    assert "problem  service" in done.stdout
    assert "a-key-of-many-characters" not in done.stdout + done.stderr


def account_findings(folder: Path, config: str = "") -> dict[str, tuple[Level, str]]:
    """Return what is found about the account, by the name of the check."""
    (folder / "config" / "batchrunner").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "batchrunner" / "config.yaml").write_text(config)
    environment = {"XDG_CONFIG_HOME": str(folder / "config"), "BATCHRUNNER_STATE": str(folder / "state")}
    found = examine(resolve({}, {}, {}), environment, {"run directory": folder})
    return {item.check: (item.level, item.message) for item in found}


def test_a_config_yaml_that_would_refuse_a_run_is_a_problem(tmp_path: Path) -> None:
    level, message = account_findings(tmp_path, "accounts: {default: {concurency: 1}}")["config.yaml"]
    assert level is Level.PROBLEM
    assert "1:22: account 'default' has no key 'concurency'" in message
    found = account_findings(tmp_path, "accounts: {default: {concurrency: 1}}")
    assert [found[name][0] for name in ("config.yaml", "state folder", "account index")] == [Level.OK] * 3
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("config", "level"), [("", Level.WARNING), ("accounts: {default: {concurrency: 1}}", Level.PROBLEM)]
)
def test_an_unusable_state_folder_is_a_problem_only_where_limits_depend_on_it(
    tmp_path: Path, config: str, level: Level
) -> None:
    (tmp_path / "state").write_text("not a folder")
    assert account_findings(tmp_path, config)["state folder"][0] is level


def test_a_run_directory_that_the_index_lacks_is_a_problem(tmp_path: Path) -> None:
    line = runs_log.Line("id", account_of(address_of({})).key, "/out/one", "one", "api.example.com")
    (tmp_path / "state").mkdir()
    runs_log.append(tmp_path / "state", [line])
    level, message = account_findings(tmp_path)["account index"]
    assert level is Level.PROBLEM
    assert "/out/one (its batch is not there)" in message
