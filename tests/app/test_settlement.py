"""A run settles its charges at its end, in one short try on which nothing depends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account import transactions
from batchrunner.account.index import Index
from batchrunner.app import late_charges
from batchrunner.app.status import read_snapshot, read_with_charges
from batchrunner.events import Noticed, Overrun
from batchrunner.providers.base import Charge
from batchrunner.report import writer
from batchrunner.sandbox import Fault
from batchrunner.storage.run_directory import RunDir
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run
from tests.conftest import NOW
from tests.scenarios.test_stories import Simulation, entries, play

PRICED: dict[str, Any] = {"assume_length": "10s"}


def charged(sim: Simulation) -> float:
    """Return what the service has charged, in US dollars, by its own ledger."""
    return float(sum(event.get("charged", 0) for event in sim.service.ledger())) / 2_000_000


def notices(sim: Simulation) -> list[str]:
    return [event.message for event in sim.events if isinstance(event, Noticed) and "charge" in event.message]


def money(sim: Simulation) -> Mapping[str, Any]:
    found: Mapping[str, Any] = sim.report["money"]
    return found


def test_the_charges_are_settled_before_the_report_is_written(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c"), **PRICED) == 0
        assert money(sim)["settled_usd"] == money(sim)["spent_usd"] == pytest.approx(charged(sim))
        assert (money(sim)["quoted_usd"], money(sim)["unsettled"]) == (0, 0)
        [row, *_] = sim.report["jobs"]
        assert row["cost"]["settled_usd"] == row["cost"]["usd"] > 0
        assert row["attempts"][0]["settled"] == row["attempts"][0]["credits"]
        assert [event["status"] for event in sim.report["timeline"] if event["kind"] == "charges"] == ["settled"]
        assert len(notices(sim)) == 1

    play(tmp_path, story)


def test_charges_that_are_listed_late_are_settled_by_the_next_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b"), **PRICED) == 0
        assert (money(sim)["settled_usd"], money(sim)["unsettled"]) == (0, 2)
        assert "2 charges not listed yet" in notices(sim)[0]
        command = money(sim)["settle_command"]
        assert command == "batchrunner account"
        assert f"2 charges not settled yet ({command}" in writer.status_text(sim.report)
        await sim.clock.sleep(3600)
        assert await sim.run(entries("a", "b", "c"), **PRICED) == 0
        assert (money(sim)["unsettled"], money(sim)["settled_usd"]) == (1, pytest.approx(charged(sim) * 2 / 3))

    play(tmp_path, story, settle_delay_s=1800.0)


@pytest.mark.parametrize("kind", ["hang", "cut", "server_error", "html_200", "unauthorized"])
def test_an_unusable_page_of_transactions_holds_and_fails_nothing(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        began = sim.clock.now()
        assert await sim.run(entries("a"), **PRICED) == 0
        assert sim.clock.now() - began < 60 + 40
        assert (money(sim)["settled_usd"], money(sim)["unsettled"]) == (0, 1)
        [message] = notices(sim)
        assert "could not be settled, and stay as quoted" in message

    play(tmp_path, story, Fault(on="transactions", kind=kind))


def test_a_service_without_billing_pages_is_no_error_and_no_command_is_offered(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a"), **PRICED) == 0
        assert (money(sim)["unsettled"], money(sim)["settle_command"]) == (1, None)
        assert "does not list its charges" in notices(sim)[0]

    play(tmp_path, story, billing=False)


def test_a_run_that_a_signal_stops_waits_two_seconds_at_most(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c", "d", "e"), interrupt_at_s=100.0, **PRICED) == 130
        assert sim.loop.time() < 105
        assert money(sim)["unsettled"] == 2

    play(tmp_path, story, Fault(on="transactions", kind="hang"))


def test_a_settled_charge_above_the_estimate_is_an_overrun_and_prices_the_next_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a"), **PRICED) == 0
        [overrun] = [event for event in sim.events if isinstance(event, Overrun)]
        assert overrun.record.last.settled == pytest.approx(5 * (overrun.record.last.credits or 0))
        assert money(sim)["overrun_usd"] > 0
        assert "overrun" in [event["kind"] for event in sim.report["timeline"]]
        assert await sim.run(entries("a", "b"), max_cost=f"{1.5 * charged(sim)}USD", **PRICED) == 3
        assert len(sim.accepted()) == 1, "the second would cost as much as the first"

    play(tmp_path, story, Fault(on="generation", kind="overcharged"), overcharge=5.0)


def test_a_run_without_new_generations_asks_for_nothing(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a"), **PRICED) == 0
        assert await sim.run(entries("a"), **PRICED) == 0
        assert notices(sim) == []

    play(tmp_path, story)


def test_report_and_status_show_what_the_account_has_settled_since(tmp_path: Path) -> None:
    wanted = jobs(1)

    async def body() -> Path:
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.deliver(wanted[0])
        await first.end()
        return first.directory

    rundir, environment = RunDir(run(body())), {"BATCHRUNNER_STATE": str(tmp_path / "state")}
    assert read_with_charges(rundir, environment) == read_snapshot(rundir)
    index = Index(tmp_path / "state")
    charges = [Charge("gen0", 3 * PRICE, NOW)]
    index.write([lambda connection: transactions.settle_charges(connection, ACCOUNT, charges)], durable=True)
    index.close()
    [record] = read_with_charges(rundir, environment).records.values()
    assert record.last.settled == 3 * PRICE
    assert late_charges.late_charges(rundir, {"BATCHRUNNER_STATE": str(tmp_path / "nowhere")}) == {}
