"""What a plan and a start say of other batches of the account."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.account.base import HELD_BY_BATCH, Hold, Reuse, Source
from batchrunner.account.limits import Limits
from batchrunner.account.names import account_of
from batchrunner.app.account import overview
from batchrunner.app.setup import Setup, plan_batch, prices_of
from batchrunner.clock import wall_time
from batchrunner.errors import ExitStatus, JournalError, Problem, UsageError
from batchrunner.job import Entry, Job
from batchrunner.manifest import Batch
from batchrunner.plan.prices import dollars, usd
from batchrunner.plan.render import AccountView, as_json, as_text
from batchrunner.providers.base import Balance
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run


def setup_of(folder: Path, wanted: list[Job], flags: Mapping[str, object], limits: str = "") -> Setup:
    """Return the setup of a new batch in `folder`. limits: the fields of the default account in config.yaml."""
    entries = tuple(Entry(place, f"job{place}", job) for place, job in enumerate(wanted))
    config = folder / "config.yaml"
    if limits:
        config.write_text(f"accounts: {{default: {{{limits}}}}}")
    return Setup(
        Batch("second", folder / "second.yaml", "0" * 64, {}, entries, ()),
        resolve({"assume_length": "10s", **flags}, {}, {}),
        RunDir(folder / "second"),
        account=account_of(ACCOUNT),
        state=folder / "state",
        limits_file=config,
    )


def planned(folder: Path, wanted: list[Job], **flags: object) -> dict[str, tuple[str, str]]:
    """Return action and note of each job of a new batch in `folder`."""
    plan, projection, _ = plan_batch(setup_of(folder, wanted, flags))
    assert projection.submissions == plan.submissions
    return {row.id: (row.action, row.note) for row in plan.rows}


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_shows_what_other_batches_have_and_writes_nothing(tmp_path: Path) -> None:
    wanted = jobs(5)

    async def body() -> Process:
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.deliver(wanted[0])
        await first.submit(wanted[1], "gen1")
        await first.submit(wanted[2], None)
        await first.claim(wanted[3])
        first.die()
        return first

    first = run(body())
    before = files(tmp_path)
    actions = planned(tmp_path, wanted)
    assert [action for action, _ in actions.values()] == ["reuse", "reuse", "held", "new", "new"]
    assert f"reused from {first.directory}" in actions["job0"][1]
    assert "in flight" in actions["job1"][1]
    assert str(first.directory) in actions["job2"][1]
    assert files(tmp_path) == before


def test_a_plan_with_reuse_off_submits_everything(tmp_path: Path) -> None:
    wanted = jobs(1)

    async def body() -> None:
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.deliver(wanted[0])
        await first.end()

    run(body())
    assert [action for action, _ in planned(tmp_path, wanted, reuse="off").values()] == ["new"]
    assert [action for action, _ in planned(tmp_path, wanted).values()] == ["reuse"]


@pytest.mark.parametrize("reuse", ["on", "off"])
def test_a_plan_refuses_an_older_copy_and_changes_nothing(tmp_path: Path, reuse: str) -> None:
    """The run directory and its witness are as before the last job was submitted."""
    wanted, place, copy = jobs(3), tmp_path / "second", tmp_path / "copy"

    async def body() -> None:
        first = await Process(tmp_path / "state", place, wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.end()
        shutil.copytree(place, copy)
        again = await Process(tmp_path / "state", place, wanted, number=2).start()
        await again.submit(wanted[1], "gen1")
        await again.end()

    run(body())
    setup = setup_of(tmp_path, wanted, {"reuse": reuse, "provider": "sandbox"})
    plan_batch(setup)
    plan_batch(replace(setup, rundir=RunDir(copy)))  # beside the batch, a copy is another batch
    shutil.rmtree(place)
    copy.rename(place)
    before = files(tmp_path)
    with pytest.raises(JournalError, match="lacks the last 3 commits and submissions of 1 job") as refused:
        plan_batch(setup)
    assert refused.value.exit_status == ExitStatus.USAGE
    assert "--recover" in refused.value.hint
    assert files(tmp_path) == before


def test_a_start_says_where_the_other_batch_is() -> None:
    source = Source("id", "hero", "/out/hero")
    found: dict[str, Reuse | Hold] = {
        "a": Reuse("gen", source),
        "b": Reuse("gen2", source),
        "c": Hold(source, Problem(HELD_BY_BATCH, "held", "hint")),
    }
    [message] = overview(found)
    assert message.startswith("the batch hero is in /out/hero: ")
    assert "2 jobs paid for there will be delivered here at no charge; 1 job will wait for it" in message


def test_a_plan_shows_the_limits_of_money_and_the_smallest(tmp_path: Path) -> None:
    """The account has spent one clip and reserved another one today, in a batch that runs."""
    wanted = jobs(8)

    async def body() -> Process:
        limits = Limits(credits_per_day=1e9)
        first = await Process(tmp_path / "state", tmp_path / "first", wanted, limits, now=wall_time()).start()
        await first.submit(wanted[0], "gen0")
        await first.deliver(wanted[0])
        await first.submit(wanted[1], "gen1")
        await first.session.claim(first.records[wanted[2].fingerprint], "stores what has changed", None)
        return first

    first = run(body())
    price = prices_of(setup_of(tmp_path, wanted, {})).estimate(wanted[0]).credits
    assert price is not None
    day = usd(2 * PRICE + 3.5 * price)
    setup = setup_of(tmp_path, wanted[3:], {"max_cost": "100USD"}, f"max_cost_per_day: {day:.6f}USD")
    plan, projection, now = plan_batch(setup)
    account = AccountView(Balance(usd(4.5 * price), now))
    text = as_text(plan, projection, now, account=account)
    assert (
        f"Budget of the account: {dollars(2 * PRICE + 3.5 * price)} (max_cost_per_day), {dollars(3.5 * price)} left "
        f"after {dollars(PRICE)} spent and {dollars(PRICE)} reserved today, enough for 3 of 5 jobs."
    ) in text
    assert "The smallest limit is max_cost_per_day: it pays for 3 of 5 jobs." in text
    assert "2 jobs would not be submitted: the account's budget is reached: max_cost_per_day" in text
    assert projection.submissions == 3
    money = as_json(plan, projection, account=account)["money"]
    assert [(row["name"], row["jobs"]) for row in money["limits"]] == [
        ("max_cost", 5),
        ("max_cost_per_day", 3),
        ("balance", 4),
    ]
    assert money["smallest_limit"] == "max_cost_per_day"
    assert [row["reserved_usd"] for row in money["limits"]] == [0.0, round(usd(PRICE), 6), 0.0]
    first.die()


def test_a_plan_without_limits_names_none(tmp_path: Path) -> None:
    plan, projection, now = plan_batch(setup_of(tmp_path, jobs(2), {}))
    assert "smallest limit" not in as_text(plan, projection, now)
    money = as_json(plan, projection)["money"]
    assert (money["limits"], money["smallest_limit"]) == ([], None)


def test_without_a_usable_state_folder_a_plan_says_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    plan, projection, now = plan_batch(setup_of(tmp_path, jobs(2), {}))
    assert projection.submissions == 2
    assert "Not known: what other batches have paid for, because the account's index" in as_text(plan, projection, now)
    assert len(as_json(plan, projection)["notes"]) == 1
    with pytest.raises(UsageError, match=r"limits of the account .* cannot be kept"):
        plan_batch(setup_of(tmp_path, jobs(2), {}, "concurrency: 2"))
