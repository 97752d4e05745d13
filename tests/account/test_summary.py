"""What all batches of an account have done, and the settlement of charges."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account import checksums, transactions
from batchrunner.account.index import Index, connect, viewed
from batchrunner.account.limits import Limits, day_of, month_of
from batchrunner.account.summary import Summary, current_spend, first_unsettled_at, summarize
from batchrunner.errors import Problem
from batchrunner.job import Move
from batchrunner.plan.resume import RECHECKED
from batchrunner.providers.base import Charge
from batchrunner.storage.run_directory import RunDir
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run, set_version
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
        current = current_spend(connection, ACCOUNT, Limits(), NOW + DAY_S)
        return summarize(connection, ACCOUNT, (first, last), current)


def test_spend_is_summed_by_day_batch_and_model(tmp_path: Path) -> None:
    run(worked(tmp_path))
    found = summary(tmp_path, *month_of(NOW))
    assert [(row.name, row.credits, row.reserved) for row in found.days] == [
        (str(day_of(NOW)), PRICE, 0.0),
        (str(day_of(NOW + DAY_S)), 2 * PRICE, 2 * PRICE),
    ]
    assert [row.generations for row in found.batches] == [1, 1]
    assert [(row.credits, row.reserved) for row in found.models] == [(3 * PRICE, 2 * PRICE)]
    assert (found.settled, found.quoted, found.estimated) == (0.0, 2 * PRICE, PRICE)
    assert (found.current.spent_today, found.current.reserved_today) == (2 * PRICE, 2 * PRICE)
    assert (found.current.spent_month, found.current.reserved_month) == (3 * PRICE, 2 * PRICE)
    assert (found.credits, found.reserved) == (3 * PRICE, 2 * PRICE)
    assert [row.generation_id for row in found.in_flight] == ["gen3"]
    assert [row.generation_id for row in found.in_doubt] == [None]


@pytest.mark.parametrize("state", ["claimed", "submitting", "in_flight", "in_doubt", "completed", "withheld", "failed"])
def test_spent_and_reserved_agree_with_their_tables_in_each_state(tmp_path: Path, state: str) -> None:
    async def body() -> None:
        limits = Limits(credits_per_day=1e9)  # without limits, the submission of a claim is stored later
        process = await Process(tmp_path / "state", tmp_path / "first", jobs(1), limits).start()
        [job] = process.jobs
        await (process.claim(job) if state == "claimed" else process.submit(job, None))
        if state == "in_doubt":
            await process.move(job, Move.DOUBT)
        elif state not in ("claimed", "submitting"):
            await process.move(job, Move.ACCEPT, generation_id="gen0", accepted_at=NOW)
        if state == "completed":  # its clip is not delivered yet
            await process.store(process.records[job.fingerprint].with_attempt(completed_at=NOW))
        elif state == "withheld":
            await process.move(job, Move.FAIL, error=Problem(min(RECHECKED), "its result is not shown"))
        elif state == "failed":
            await process.move(job, Move.FAIL)
        await process.session.close(None)
        process.die()

    run(body())
    with closing(connect(str(next((tmp_path / "state").glob("index-*.db"))))) as connection:
        current = current_spend(connection, ACCOUNT, Limits(), NOW)
        found = summarize(connection, ACCOUNT, (day_of(NOW), day_of(NOW)), current)
        assert connection.execute("SELECT sum(cost) FROM spend_by_day").fetchone() == (found.credits + found.reserved,)
    spent, reserved = {"completed": (PRICE, 0.0), "withheld": (PRICE, 0.0), "failed": (0.0, 0.0)}.get(
        state, (0.0, PRICE)
    )
    assert (found.credits, found.reserved) == (spent, reserved)
    assert (found.current.spent_today, found.current.reserved_today) == (spent, reserved)
    for table in (found.days, found.batches, found.models):
        assert [(row.generations, row.credits, row.reserved) for row in table] == (
            [(int(spent > 0), spent, reserved)] if spent or reserved else []
        )


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
    assert (found.settled, found.quoted, found.estimated) == (4.5 * PRICE, 0.0, 0.0)
    assert found.reserved == 2 * PRICE
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


def repeat(connection: Any) -> None:
    """Store a row of another request for each settled generation, as an earlier version did."""
    names = checksums.COLUMNS["submissions"]
    rows = connection.execute(f"SELECT {', '.join(names)} FROM submissions WHERE generation_id = 'gen0'").fetchall()
    transactions.put(connection, "submissions", [(row[0], f"{row[1]}.early", *row[2:]) for row in rows])


@pytest.mark.parametrize("settled", [False, True])
def test_a_generation_of_a_recovered_journal_counts_once(tmp_path: Path, settled: bool) -> None:
    """The journal that is put back lacks the generation; the recovery finds it, under another request id."""

    async def body() -> None:
        wanted = jobs(2)
        first = await Process(tmp_path / "state", tmp_path / "first", wanted).start()
        await first.end()
        early = RunDir(tmp_path / "first").journal.read_bytes()
        again = await Process(tmp_path / "state", tmp_path / "first", wanted, number=2).start()
        await again.submit(wanted[0], "gen0")
        await again.deliver(wanted[0])
        if settled:
            again.session.settled([Charge("gen0", PRICE / 2, NOW)])
        await again.end()
        RunDir(tmp_path / "first").journal.write_bytes(early)
        recovered = await Process(tmp_path / "state", tmp_path / "first", wanted, number=5).start()
        await recovered.move(wanted[0], Move.BEGIN_SUBMIT, request_id="found", submitted_at=NOW, estimate=PRICE)
        await recovered.move(wanted[0], Move.ACCEPT, generation_id="gen0", accepted_at=NOW)
        await recovered.deliver(wanted[0])
        await recovered.end()

    run(body())
    found = summary(tmp_path, *month_of(NOW))
    cost = PRICE / 2 if settled else PRICE
    assert [(row.generations, row.credits) for row in (*found.days, *found.batches, *found.models)] == [(1, cost)] * 3
    assert (found.settled, found.estimated) == ((cost, 0.0) if settled else (0.0, cost))
    assert found.credits == cost


def test_an_index_of_version_3_with_two_rows_of_a_generation_counts_it_once(tmp_path: Path) -> None:
    run(worked(tmp_path))
    before = summary(tmp_path, *month_of(NOW))
    index = Index(tmp_path / "state")
    index.write([repeat], durable=True)
    assert index.read(lambda connection: connection.execute("SELECT sum(cost) FROM spend_by_day").fetchone()) == (
        before.credits + before.reserved + PRICE,
    )
    index.write([partial(set_version, version=3)], durable=True)
    index.close()
    assert summary(tmp_path, *month_of(NOW)) == before  # in a copy in memory
    Index(tmp_path / "state").close()
    with closing(connect(str(next((tmp_path / "state").glob("index-*.db"))))) as connection:
        checksums.require_all_valid(connection)
        query = "SELECT request_id LIKE '%.early' FROM submissions WHERE generation_id = 'gen0'"
        assert connection.execute(query).fetchall() == [(0,)]
        assert connection.execute("SELECT sum(cost) FROM spend_by_day").fetchone() == (
            before.credits + before.reserved,
        )
