"""The setting `workers`: its forms, and what is refused."""

import pytest

from batchrunner.errors import UsageError
from batchrunner.settings import SETTINGS, parse
from batchrunner.workers import spec
from batchrunner.workers.spec import WorkerSpec

ROW = next(row for row in SETTINGS if row.name == "workers")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("threads", WorkerSpec("threads")),
        ("threads:8", WorkerSpec("threads", 8)),
        ("processes", WorkerSpec("processes")),
        ("processes:1", WorkerSpec("processes", 1)),
        ("slurm", WorkerSpec("slurm")),
        ("slurm:16", WorkerSpec("slurm", 16)),
        ("dask://10.0.0.5:8786", WorkerSpec("dask", address="tcp://10.0.0.5:8786")),
        ("dask://head.cluster:8786/", WorkerSpec("dask", address="tcp://head.cluster:8786")),
        ("dask://[::1]:8786", WorkerSpec("dask", address="tcp://[::1]:8786")),
    ],
)
def test_the_forms_are_read(text: str, found: WorkerSpec) -> None:
    assert spec.parse(text) == found
    assert found.is_remote == text.startswith(("dask", "slurm"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(
            (text, "names no engine")
            for text in ("", "ray", "thread", "threads:", "threads:x", "threads:-1", "slurm:1:2")
        ),
        *((text, "not from 1 to 1,024") for text in ("threads:0", "processes:1025", "slurm:999999999")),
        *(
            (f"dask{suffix}", "is not dask://HOST:PORT")
            for suffix in ("", ":", "://", "://host", "://:8786", "://host:0")
        ),
        *(
            (f"dask://{suffix}", "is not dask://HOST:PORT")
            for suffix in ("h:99999", "h:x", "u:p@h:1", "h:1/x", "h:1?q", "[::1:1")
        ),
    ],
)
def test_a_bad_one_is_one_line_with_the_forms(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse(ROW, text, "--workers")
    assert caught.value.message.startswith("--workers: ")
    assert "dask://HOST:PORT" in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_manifest_cannot_name_workers() -> None:
    """A stranger's manifest would choose which host gets the links and runs the checks."""
    assert ROW.by_user
