"""What a plan and a start say of other batches of the account."""

from pathlib import Path

from batchrunner.account.base import HELD_BY_BATCH, Hold, Reuse, Source
from batchrunner.account.names import account_of
from batchrunner.app.account import overview
from batchrunner.app.setup import Setup, plan_batch
from batchrunner.errors import Problem
from batchrunner.job import Entry, Job
from batchrunner.manifest import Batch
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from tests.account.batches import ACCOUNT, Process, jobs, run


def planned(folder: Path, wanted: list[Job], **flags: object) -> dict[str, tuple[str, str]]:
    """Return action and note of each job of a new batch in `folder`."""
    entries = tuple(Entry(place, f"job{place}", job) for place, job in enumerate(wanted))
    batch = Batch("second", folder / "second.yaml", "0" * 64, {}, entries, ())
    setup = Setup(
        batch,
        resolve({"assume_length": "10s", **flags}, {}, {}),
        RunDir(folder / "second"),
        account=account_of(ACCOUNT),
        state=folder / "state",
    )
    plan, projection, _ = plan_batch(setup)
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
