"""A real Chromium for tests of the page, and the report of a real run against the sandbox.

Without a browser these tests are skipped with a message; with ``BATCHRUNNER_BROWSER=required`` (CI) they fail.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MEDIA, made_once
from tests.required import not_tested
from tests.soak.processes import call

ENGINES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE_TAG = "<script>alert(1)</script><img src=x onerror=alert(2)> \u05d0\u05d1\u05d2 &amp; {{ 7*7 }}"


def absent(why: str) -> None:
    """Skip with a message, or fail if a browser is required."""
    not_tested("the page in a real browser", "BATCHRUNNER_BROWSER", why)


@pytest.fixture(scope="module")  # not longer: the driver keeps an event loop running
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed (pip install -e '.[browser]')")
    found = next(filter(None, map(shutil.which, ENGINES)), None)
    if found is None:
        absent("there is no Chromium (apt-get install chromium)")
    with sync_playwright() as driver:
        # Root cannot have Chromium's sandbox, and the pages are our own.
        engine = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield engine
        engine.close()


class Visit:
    """A page opened from disk, with its console messages and requests."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append("a dialog")
        dialog.dismiss()

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a file in a new page; at the end, fail if there was a console message or a request beyond the disk."""
    visits: list[Visit] = []

    def opened(path: Path, **options: Any) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield opened
    for visited in visits:
        assert visited.complaints == []
        assert [url for url in visited.requests if not url.startswith(("file:", "data:"))] == []
        visited.close()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Path:
    """The run directory of a real run: clips refused for their content, one job in doubt, the others delivered."""
    return made_once(tmp_path_factory, "night", _run) / "run dir"


def _run(folder: Path) -> None:
    for name in ("bunny.mp4", "hopper.jpg", "astronaut.jpg"):
        shutil.copy(MEDIA / name, folder / f"a #1 {name}")
    jobs = [
        {
            "id": f"scene-{number}",
            "video": "a #1 bunny.mp4",
            "image": f"a #1 {'hopper' if number % 2 else 'astronaut'}.jpg",
            "resolution": "480p" if number < 4 else "720p",
            "num_inference_steps": 20 + number,
            "tags": {"take": str(number % 2), "note": HOSTILE_TAG},
        }
        for number in range(6)
    ]
    manifest = {"version": 1, "name": "bad night", "provider": "sandbox", "poll_interval": "200ms", "jobs": jobs}
    faults = {
        "service": {"duration": "300ms", "logs": False},
        "faults": [
            {"on": "generation", "kind": "content_policy", "first": 2},
            {"on": "submit", "kind": "lost_reply", "first": 1},
        ],
    }  # fmt: skip
    (folder / "night.yaml").write_text(yaml.safe_dump(manifest), "utf-8")
    (folder / "faults.yaml").write_text(yaml.safe_dump(faults), "utf-8")
    done = call("run", "night.yaml", "--faults", "faults.yaml", "--output", "run dir", "--in-doubt", "hold", cwd=folder)
    assert done.returncode == 1, done.stderr
