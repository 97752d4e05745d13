"""What all batches of an account have done, and the settlement of charges."""

from pathlib import Path
from typing import Any

from batchrunner.account import transactions
from batchrunner.account.index import Index, viewed
from batchrunner.account.limits import Limits, day_of, month_of
from batchrunner.account.summary import Summary, current_spend, first_unsettled_at, summarize
from batchrunner.job import Move
from batchrunner.providers.base import Charge
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run
from tests.conftest import NOW

DAY_S = 86_400.0


async def worked(folder: Path) -> None:
    """Two batches: one day with two generations, the next with one, one in flight and one in doubt; one failed."""
    wanted = jobs(6)
    first = await Process(folder / "state", folder / "first", wanted).start()
    await first.submit(wanted[0], "gen0")
    await first.deliver(wanted[0])
    await first.submit(wanted[1], "gen1")
    await first.move(wanted[1], Move.FAIL)
    await first.end()
    second = await Process(folder / "state", folder / "second", wanted).start()
    second.now += DAY_S
    await second.submit(wanted[2], None)
    await second.move(wanted[2], Move.ACCEPT, generation_id="gen2", credits=2 * PRICE)
    await second.deliver(wanted[2])
    await second.submit(wanted[3], "gen3")
    await second.submit(wanted[4], None)
    await second.move(wanted[4], Move.DOUBT)
    await second.end()


def summary(folder: Path, first: int, last: int) -> Summary:
    with viewed(folder / "state") as connection:
        current = current_spend(connection, ACCOUNT, NOW + DAY_S, month_of(NOW))
        return summarize(connection, ACCOUNT, Limits(), (first, last), current)


def test_spend_is_summed_by_day_batch_and_model(tmp_path: Path) -> None:
    run(worked(tmp_path))
    found = summary(tmp_path, *month_of(NOW))
    assert [(row.name, row.credits) for row in found.days] == [
        (str(day_of(NOW)), PRICE),
        (str(day_of(NOW + DAY_S)), 4 * PRICE),
    ]
    assert [row.generations for row in found.batches] == [1, 3]
    assert [row.credits for row in found.models] == [5 * PRICE]
    assert (found.settled, found.quoted, found.estimated) == (0.0, 2 * PRICE, 3 * PRICE)
    assert (found.today, found.month) == (4 * PRICE, 5 * PRICE)
    assert found.credits == 5 * PRICE
    assert [row.generation_id for row in found.in_flight] == ["gen3"]
    assert [row.generation_id for row in found.in_doubt] == [None]


def test_a_submission_of_a_killed_batch_is_listed_as_in_doubt(tmp_path: Path) -> None:
    async def body() -> None:
        process = await Process(tmp_path / "state", tmp_path / "first", jobs(1)).start()
        await process.submit(process.jobs[0], None)
        process.die()

    run(body())
    assert [row.fingerprint for row in summary(tmp_path, *month_of(NOW)).in_doubt] == [jobs(1)[0].fingerprint]


def test_a_period_leaves_out_other_days(tmp_path: Path) -> None:
    run(worked(tmp_path))
    found = summary(tmp_path, day_of(NOW), day_of(NOW))
    assert found.credits == PRICE


def test_a_settled_charge_counts_instead_of_its_quote(tmp_path: Path) -> None:
    run(worked(tmp_path))
    index = Index(tmp_path / "state")
    assert index.read(lambda connection: first_unsettled_at(connection, ACCOUNT, NOW)) == NOW
    charges = [
        Charge("gen0", 3 * PRICE, NOW),
        Charge("gen2", -0.5 * PRICE, NOW + 1),
        Charge("gen2", 2 * PRICE, NOW),
        Charge("other", 9.0, NOW),
    ]

    def settle(connection: Any) -> None:
        transactions.settle_charges(connection, ACCOUNT, charges)

    index.write([settle], durable=True)
    index.close()
    found = summary(tmp_path, *month_of(NOW))
    assert (found.settled, found.quoted, found.estimated) == (4.5 * PRICE, 0.0, 2 * PRICE)
    assert found.overrun == 2.5 * PRICE
    with viewed(tmp_path / "state") as connection:
        assert connection.execute("SELECT sum(cost) FROM spend_by_day").fetchone() == (6.5 * PRICE,)


def test_a_later_reply_does_not_replace_a_settled_charge(tmp_path: Path) -> None:
    run(worked(tmp_path))
    index = Index(tmp_path / "state")
    index.write(
        [lambda connection: transactions.settle_charges(connection, ACCOUNT, [Charge("gen3", 7.0, NOW)])], durable=True
    )
    [batch] = [row for row in index.read(transactions.batch_rows) if row.name == "second"]
    index.close()

    async def body() -> None:
        again = await Process(tmp_path / "state", tmp_path / "second", jobs(6), number=9).start()
        await again.deliver(jobs(6)[3])
        await again.end()

    run(body())
    with viewed(tmp_path / "state") as connection:
        query = "SELECT cost FROM submissions WHERE generation_id = 'gen3' AND batch_id = ?"
        assert connection.execute(query, (batch.batch_id,)).fetchone() == (7.0,)
