"""The work on clips in real Slurm jobs, by dask-jobqueue."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from batchrunner.media.decoder_pool import Here
from batchrunner.workers.dask_cluster import start_slurm
from batchrunner.workers.engines import on_cluster
from tests.conftest import encoded
from tests.slurm.conftest import Cluster
from tests.soak.processes import wait_for

pytestmark = pytest.mark.filterwarnings("default")  # of Dask and its libraries
KEY = "sk-test-key-that-must-not-travel-4712"


def test_clips_are_checked_in_a_job_that_has_no_key(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("dask_jobqueue") is None:
        pytest.fail("NOT TESTED, Slurm: dask-jobqueue is not installed (pip install -e '.[dask]')")
    import dask
    import dask_jobqueue  # noqa: F401 (it loads its defaults)

    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment()[name])
    monkeypatch.setenv("AIMLAPI_KEY", KEY)
    monkeypatch.chdir(tmp_path)  # of Slurm's own files
    (clip := tmp_path / "a.mp4").write_bytes(content := encoded(9))
    item = {"path": str(clip), "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    options = {"cores": 1, "job-directives-skip": ["--mem"], "scheduler-options": {"host": "127.0.0.1"}}
    notices: list[str] = []
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **options}}):
        jobs = start_slurm(1)
        try:
            wait_for(lambda: not jobs.problem(), f"a worker in a job {cluster.logs()}")
            with on_cluster(jobs, jobs.width, notices.append) as workers:
                assert workers.remote is not None
                assert workers.remote.submit(os.getenv, "SLURM_JOB_ID").result(60), "it runs in a job"
                assert workers.remote.submit(os.getenv, "AIMLAPI_KEY").result(60) is None
                assert jobs._client.run_on_scheduler(os.getenv, "AIMLAPI_KEY") is None
                assert workers.decoders.run_all("clip", [item, item]) == Here().run_all("clip", [item, item])
        finally:
            jobs.close()
    assert notices == []
    wait_for(lambda: cluster.call("squeue", "-h") == "", "the end of the job")
