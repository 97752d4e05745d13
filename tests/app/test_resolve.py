"""`resolve`: a submission in doubt is settled by hand, in its own batch or from another one of the account."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrunner.app.resolve import settle
from batchrunner.errors import UsageError
from batchrunner.job import State
from batchrunner.journal import journal
from batchrunner.storage.run_directory import RunDir
from tests.account.batches import Process, jobs, run
from tests.soak.batch import Batch, make_batch
from tests.soak.processes import Service, call

LOST_REPLY = "service: {render: tiny}\nfaults: [{on: submit, kind: lost_reply, rate: 1}]"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that accepts submissions, never answers them, and shows no log."""
    faults = tmp_path / "faults.yaml"
    faults.write_text(LOST_REPLY)
    options = ("--duration", "50ms", "--no-logs", "--faults", str(faults))
    with Service(tmp_path, *options) as running:
        yield running


def doubted(folder: Path, service: Service, jobs: int = 1, name: str = "one") -> Batch:
    """A batch all of whose submissions are in doubt, or held."""
    batch = make_batch(folder / name, jobs, dict(service.environment()), name=name)
    assert batch.run() == 1, batch.log()
    return batch


def states(batch: Batch) -> list[State]:
    snapshot = journal.read(batch.journal)
    assert snapshot is not None
    return [snapshot.records[entry.job.fingerprint].state for entry in snapshot.entries]


def resolve(batch: Batch, *arguments: str) -> tuple[int, str]:
    done = call("resolve", batch.output, *arguments, cwd=batch.folder, **batch.environment)
    return done.returncode, done.stdout + done.stderr


def test_an_adopted_generation_is_delivered_and_no_other_job_can_have_it(tmp_path: Path, service: Service) -> None:
    batch = doubted(tmp_path, service, jobs=2)
    by_request = {event["client_request_id"]: event["generation_id"] for event in service.accepted()}
    rows = json.loads((batch.output / "report.json").read_bytes())["jobs"]
    ids = [by_request[row["attempts"][-1]["request_id"]] for row in rows]
    status, output = resolve(batch, "job-000", "--adopt", ids[0])
    assert (status, states(batch)) == (0, [State.IN_FLIGHT, State.IN_DOUBT]), output
    status, output = resolve(batch, "job-001", "--adopt", ids[0])
    assert status == 2, output
    assert "belongs to job" in output
    status, output = resolve(batch, "job-001", "--adopt", "00000000-0000-4000-8000-000000000000")
    assert status == 2, output
    assert "does not know it" in output
    assert states(batch) == [State.IN_FLIGHT, State.IN_DOUBT]
    assert resolve(batch, "job-001", "--adopt", ids[1])[0] == 0
    assert batch.run() == 0, batch.log()
    assert len(service.accepted()) == 2


def test_a_doubt_of_another_batch_is_settled_from_here(tmp_path: Path, service: Service) -> None:
    first = doubted(tmp_path, service, name="one")
    second = doubted(tmp_path, service, name="two")
    assert states(second) == [State.PENDING], "the job is held, and not submitted"
    [event] = service.accepted()
    status, output = resolve(second, "job-000", "--adopt", event["generation_id"])
    assert status == 0, output
    assert states(first) == [State.IN_FLIGHT]
    assert second.run() == 0, second.log()
    assert first.run() == 0, first.log()
    assert len(service.accepted()) == 1


def test_an_id_that_another_batch_has_is_refused(tmp_path: Path, service: Service) -> None:
    first = doubted(tmp_path, service, name="one")
    [event] = service.accepted()
    assert resolve(first, "job-000", "--adopt", event["generation_id"])[0] == 0
    other = make_batch(tmp_path / "two", 1, dict(service.environment()), name="two", first=5)
    assert other.run() == 1, other.log()
    status, output = resolve(other, "job-005", "--adopt", event["generation_id"])
    assert status == 2
    assert f"belongs to a job of the batch {first.manifest.parent.name}" in output


def test_a_released_job_is_pending(tmp_path: Path, service: Service) -> None:
    batch = doubted(tmp_path, service)
    status, output = resolve(batch, "job-000", "--release")
    assert (status, states(batch)) == (0, [State.PENDING]), output
    assert "batchrunner run" in output


def test_a_job_that_is_not_in_doubt_is_refused(tmp_path: Path, service: Service) -> None:
    batch = doubted(tmp_path, service)
    assert resolve(batch, "job-000", "--release")[0] == 0
    with pytest.raises(UsageError, match="not in doubt"):
        settle(RunDir(batch.output), "job-000", None, batch.environment)
    with pytest.raises(UsageError, match="has no job job-00"):
        settle(RunDir(batch.output), "job-00", None, batch.environment)
    assert resolve(batch, "job-000")[0] == 2
    assert resolve(batch, "job-000", "--release", "--adopt", "x")[0] == 2


def test_an_id_is_looked_for_in_the_account_of_the_batch(tmp_path: Path) -> None:
    """The manifest names the account, and the environment does not."""

    wanted = jobs(2)

    async def body() -> None:
        first = await Process(tmp_path / "state", tmp_path / "first", wanted, account="studio@https://e.com").start()
        second = await Process(tmp_path / "state", tmp_path / "second", wanted, account="studio@https://e.com").start()
        await first.submit(wanted[0], None)
        await second.submit(wanted[1], "gen1")
        first.die()
        await second.end()

    run(body())
    environment = {"BATCHRUNNER_STATE": str(tmp_path / "state")}
    with pytest.raises(UsageError, match="gen1 belongs to a job of the batch second"):
        settle(RunDir(tmp_path / "first"), wanted[0].key, "gen1", environment)
