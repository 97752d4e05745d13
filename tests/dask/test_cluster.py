"""The decoders over a real Dask cluster whose processes are killed."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Here
from batchrunner.workers.dask_cluster import connect
from batchrunner.workers.engines import on_cluster, open_workers
from batchrunner.workers.resending import Patience
from batchrunner.workers.spec import parse
from tests.conftest import encoded
from tests.dask.conftest import DaskProcesses

pytestmark = pytest.mark.filterwarnings("default")  # of Dask and its libraries
IMPATIENT = Patience(0.2, 2)
LONGEST_S = 60.0


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder, found = tmp_path_factory.mktemp("clips"), []
    for number in range(12):
        (path := folder / f"{number}.mp4").write_bytes(content := encoded(8 + number))
        digest = hashlib.sha256(content).hexdigest()
        found.append({"path": str(path), "size_bytes": len(content), "sha256": digest, "quality": True})
    return found


@pytest.fixture(scope="module")
def expected(items: list[dict[str, Any]]) -> list[Any]:
    return Here().run_all("clip", items)


def without_workers(dask: DaskProcesses) -> None:
    for worker in dask.workers:
        dask.kill(worker)


def without_scheduler(dask: DaskProcesses) -> None:
    dask.kill(dask.scheduler)


@pytest.mark.parametrize("loss", [without_workers, without_scheduler], ids=["all workers", "scheduler"])
def test_the_work_continues_here_and_goes_back_to_the_cluster(
    loss: Any, dask: DaskProcesses, items: list[dict[str, Any]], expected: list[Any]
) -> None:
    notices: list[str] = []
    is_back = threading.Event()

    def note(message: str) -> None:
        notices.append(message)
        if "is back:" in message:
            is_back.set()

    cluster = connect(parse(dask.spec).address)
    assert cluster.width == 4
    with on_cluster(cluster, cluster.width, note, IMPATIENT) as workers:
        assert workers.decoders.run_all("clip", items[:2]) == expected[:2]
        loss(dask)
        assert workers.decoders.run_all("clip", items) == expected
        assert any("continues on this machine" in notice for notice in notices)
        if loss is without_scheduler:
            dask.restart_scheduler()
        dask.add_worker()
        assert is_back.wait(LONGEST_S)
        assert workers.decoders.run_all("clip", items) == expected


def test_a_damaged_clip_and_one_that_workers_do_not_see_are_judged_here(
    dask: DaskProcesses, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    (torn := tmp_path / "torn.mp4").write_bytes(Path(items[0]["path"]).read_bytes()[:-50])
    wrong = {"path": str(torn), "size_bytes": torn.stat().st_size}
    with open_workers(parse(dask.spec)) as workers:
        [outcome] = workers.decoders.run_all("clip", [wrong])
    assert str(outcome) == str(Here().run_all("clip", [wrong])[0])
    assert not isinstance(outcome, CheckLimit)
