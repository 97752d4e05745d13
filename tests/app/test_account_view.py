"""`batchrunner account`: what it shows as text, as JSON and as metrics, and the scan of run directories."""

import asyncio
import json
import shutil
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account.limits import AccountBudgets
from batchrunner.account.summary import Amount
from batchrunner.app.account_directories import scan
from batchrunner.app.account_view import answer_of, as_json, as_prometheus, as_text, view
from batchrunner.errors import ServiceFault, UsageError
from batchrunner.providers.base import CREDITS_PER_USD
from tests.soak.batch import make_batch
from tests.soak.processes import Service, call, plain_clips

KEY = "key-0123456789abcdef"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A batch of two jobs that has ended, in a folder with the state and a config.yaml; and its environment."""
    folder = tmp_path_factory.mktemp("account")
    with Service(folder, "--duration", "50ms", *plain_clips(folder)) as service:
        environment = {**service.environment(), "AIMLAPI_KEY": KEY}
        config = folder / "config" / "batchrunner"
        config.mkdir(parents=True)
        (config / "config.yaml").write_text("accounts: {default: {concurrency: 8, max_cost_per_day: $20}}")
        batch = make_batch(folder / "one", 2, environment, name="one", assume_length="1s")
        assert batch.run() == 0, batch.log()
        done = call("account", "--json", cwd=folder, **environment)
        assert done.returncode == 0, done.stderr
        (folder / "shown.json").write_text(done.stdout)
    return folder, environment


def test_the_command_shows_balance_spend_and_budgets(ran: tuple[Path, dict[str, str]]) -> None:
    shown = json.loads((ran[0] / "shown.json").read_text())
    assert shown["balance_usd"] > 0
    assert shown["today_usd"] == shown["month_usd"] == shown["spent_usd"] > 0
    assert shown["limits"]["max_cost_per_day_usd"] == 20
    assert [row["generations"] for row in shown["by_batch"]] == [2]
    assert shown["reserved_usd"] == shown["today_reserved_usd"] == shown["by_batch"][0]["reserved_usd"] == 0
    assert shown["in_flight"] == shown["in_doubt"] == []


def test_the_state_folder_does_not_contain_the_key(ran: tuple[Path, dict[str, str]]) -> None:
    files = [path for path in (ran[0] / "state").rglob("*") if path.is_file()]
    assert any(path.name.startswith("index-") for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_without_the_service_the_balance_is_unknown_and_the_rest_is_shown(ran: tuple[Path, dict[str, str]]) -> None:
    found = view({**ran[1], "AIMLAPI_KEY": ""}, None, "")
    text = as_text(found)
    assert "balance           unknown: no API key" in text
    assert "of $20.00" in text
    assert "by day:" in text
    assert "by model:" in text
    assert as_json(found)["balance_usd"] is None
    metrics = as_prometheus(found)
    assert "batchrunner_account_in_flight{account=" in metrics
    assert 'period="month"' in metrics
    assert "balance" not in metrics


def test_spent_and_reserved_have_names_of_their_own(ran: tuple[Path, dict[str, str]]) -> None:
    found = view({**ran[1], "AIMLAPI_KEY": ""}, None, None)
    limits = found.summary.limits._replace(credits_per_day=6 * CREDITS_PER_USD)
    money = {"spent_today": 1.5 * CREDITS_PER_USD, "reserved_today": 0.5 * CREDITS_PER_USD}
    rows = [Amount("one", 3, 1.5 * CREDITS_PER_USD, 0.5 * CREDITS_PER_USD)]
    summary = found.summary._replace(
        settled=1.5 * CREDITS_PER_USD,
        quoted=0.0,
        estimated=0.0,
        reserved=0.5 * CREDITS_PER_USD,
        batches=rows,
        current=AccountBudgets(limits, **money),
    )
    shown = replace(found, summary=summary)
    text = as_text(shown)
    assert "today             $1.50 spent and $0.50 reserved of $6.00, $4.00 left" in text
    assert "(UTC): $1.50\n  $1.50 settled\nreserved " in text
    assert "(UTC): $0.50 for submissions that have not ended" in text
    assert "       $1.50       3  one, $0.50 reserved" in text
    as_data = as_json(shown)
    assert (as_data["today_usd"], as_data["today_reserved_usd"]) == (1.5, 0.5)
    assert (as_data["spent_usd"], as_data["reserved_usd"]) == (1.5, 0.5)
    assert as_data["by_batch"] == [{"name": "one", "generations": 3, "usd": 1.5, "reserved_usd": 0.5}]
    assert 'reserved_usd{account="' in as_prometheus(shown)


def test_a_month_that_is_none_is_refused(ran: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(UsageError, match="is not a month"):
        view({**ran[1], "AIMLAPI_KEY": ""}, None, "2026-13")
    assert view({**ran[1], "AIMLAPI_KEY": ""}, None, "2020-01").summary.credits == 0


def test_a_scan_adds_run_directories_to_another_index(ran: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, environment = ran
    shutil.copytree(folder / "one", tmp_path / "output" / "copied")
    environment = {**environment, "AIMLAPI_KEY": "", "XDG_STATE_HOME": str(tmp_path / "state")}
    assert view(environment, None, "").summary.credits == 0
    [line] = scan(environment, None, [tmp_path / "output" / "copied"])
    assert "2 jobs of the batch one" in line
    assert view(environment, None, "").summary.credits > 0
    with pytest.raises(UsageError, match="not a folder"):
        scan(environment, None, [tmp_path / "missing"])


def test_a_call_that_fails_or_hangs_gives_its_reason_and_hides_no_other_answer() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def refuse() -> None:
        raise ServiceFault("server_error", "the service answers 500")

    def answered(call: Coroutine[Any, Any, None]) -> tuple[None, str]:
        return asyncio.run(answer_of(call, 0.01))

    assert answered(hang()) == (None, "the service did not answer in time")
    assert answered(refuse()) == (None, "the service answers 500")
