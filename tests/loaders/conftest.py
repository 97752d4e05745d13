"""The loaders of other projects, offline.

Without a package its tests are skipped with a message; with ``BATCHRUNNER_LOADERS=required`` (CI) they fail.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MEDIA, encoded, made_once
from tests.required import not_tested
from tests.soak.processes import call


def require(package: str) -> Any:
    """Return the package; without it, skip with a message, or fail if the loaders are required."""
    try:
        return importlib.import_module(package)
    except ImportError:
        why = "it is not installed (pip install -e '.[loaders]')"
        not_tested(f"data sets in {package}", "BATCHRUNNER_LOADERS", why)


@pytest.fixture(scope="session")
def twenty_clips(tmp_path_factory: pytest.TempPathFactory, hugging_face: Any) -> Path:
    """The run directory of 20 jobs that the sandbox rendered: five short reference videos, two characters."""
    assert hugging_face  # loaded first: no fixture may import it before its variables are set
    return made_once(tmp_path_factory, "twenty", _render_twenty) / "output" / "twenty"


def _render_twenty(folder: Path) -> None:
    clip = encoded(3)
    for number in range(5):
        box = (8 + number).to_bytes(4, "big") + b"free" + bytes(number)  # readers skip it
        (folder / f"walk-{number}.mp4").write_bytes(clip + box)
    jobs = [
        {
            "id": f"test.train {number:02}",
            "video": f"walk-{number % 5}.mp4",
            "image": str(MEDIA / ("astronaut.jpg" if number // 5 % 2 else "hopper.jpg")),
            "num_inference_steps": 10 + number // 10,
            "tags": {"scene": f"s{number}"} if number > 8 else {},
        }
        for number in range(20)
    ]
    head = {"version": 1, "name": "twenty", "provider": "sandbox", "concurrency": 20, "poll_interval": "50ms"}
    (folder / "twenty.yaml").write_text(yaml.safe_dump({**head, "jobs": jobs}))
    done = call("run", "twenty.yaml", "--quiet", cwd=folder, XDG_STATE_HOME=str(folder / "state"))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package `datasets` without network, with its caches in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hugging-face")))
        datasets = require("datasets")
        assert datasets.config.HF_HUB_OFFLINE
        datasets.disable_progress_bars()
        yield datasets
