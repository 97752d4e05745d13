"""The service dies during a batch, and the network between them fails: nothing is paid twice or lost."""

from functools import partial
from pathlib import Path

import pytest

from tests.soak.batch import Batch, make_batch, make_picture
from tests.soak.oracle import check_batch
from tests.soak.processes import Service, plain_clips, wait_for
from tests.soak.proxy import SHORT_BYTES, Harm, Proxy


@pytest.mark.parametrize("seed", [1, 2])
def test_the_service_is_killed_and_restarted_during_a_batch(tmp_path: Path, seed: int) -> None:
    with Service(
        tmp_path, "--duration", "400ms", "--capacity", "4", "--seed", str(seed), *plain_clips(tmp_path)
    ) as service:
        # Up to eight submissions are active at a kill. Three jobs in doubt stop the others until the log can be read.
        batch = make_batch(tmp_path, 16, dict(service.environment()))
        with batch.start(forked=True) as command:
            for share in (3, 9):  # while submissions are active, and later
                wait_for(partial(_has_accepted, service, share), f"{share} submissions are accepted")
                service.kill()
                assert command.process.poll() is None, command.output
                service.start()
            status = command.end()
        in_doubt = _submissions_in_doubt(batch)
        figures = check_batch(batch, service.ledger(), in_doubt)
        assert not figures.wrong, figures.table("service kill")
        # A submission that was active at a kill is in doubt: it is found in the log, or it was never accepted and stays
        # in doubt.
        assert figures.in_doubt <= 2 * 8
        assert status == (1 if in_doubt else 0), batch.log()
        assert figures.accepted + figures.in_doubt == figures.jobs


@pytest.mark.parametrize("harm", Harm)
def test_connections_are_damaged_in_the_middle(tmp_path: Path, harm: Harm) -> None:
    with (
        Service(tmp_path, "--duration", "300ms") as service,
        Proxy(service.port, 3, rate=0.5, harms=[harm]) as proxy,
    ):
        batch = make_batch(tmp_path, 24, {**service.environment(), "AIMLAPI_BASE_URL": proxy.url})
        make_picture(tmp_path / "picture.png", 100, noisy=True)  # bodies long enough to be cut in the middle
        status = batch.run()
        summary = f"{proxy.done}\n{batch.log()}"
        assert min(proxy.done[harm, True], proxy.done[harm, False]) > 0, summary
        in_doubt = _submissions_in_doubt(batch)
        figures = check_batch(batch, service.ledger(), in_doubt)
        assert not figures.wrong, f"{figures.table('harm')}\n{summary}"
        assert status == (1 if in_doubt else 0), summary
        assert figures.in_doubt <= proxy.done.total(), summary

        # The log has settled all listed submissions, so the others were never accepted: on request, each is paid once.
        proxy.leave_alone()
        assert batch.run("--in-doubt", "resubmit") == 0, batch.log()
        figures = check_batch(batch, service.ledger(), set())
        assert not figures.wrong, figures.table("harm")
        assert figures.accepted == figures.jobs


def test_a_black_hole_ends_and_the_batch_continues(tmp_path: Path) -> None:
    with (
        Service(tmp_path, "--duration", "300ms", *plain_clips(tmp_path)) as service,
        Proxy(service.port, 5, rate=1.0, hole_s=3.0, harms=[Harm.HOLE], within=[SHORT_BYTES]) as proxy,
    ):
        batch = make_batch(tmp_path, 6, {**service.environment(), "AIMLAPI_BASE_URL": proxy.url})
        with batch.start(forked=True) as command:
            wait_for(lambda: proxy.done.total() >= 6, "six connections fall into the hole")
            proxy.leave_alone()
            status = command.end()
        in_doubt = _submissions_in_doubt(batch)
        figures = check_batch(batch, service.ledger(), in_doubt)
        assert not figures.wrong, f"{figures.table('hole')}\n{batch.log()}"
        assert status == (1 if in_doubt else 0), batch.log()
        assert figures.accepted + figures.in_doubt == figures.jobs


def _has_accepted(service: Service, count: int) -> bool:
    return len(service.accepted()) >= count


def _submissions_in_doubt(batch: Batch) -> set[str]:
    """Return the request ids of the submissions in doubt in the report."""
    return {row["attempts"][-1]["request_id"] for row in batch.report()["jobs"] if row["state"] == "in_doubt"}
