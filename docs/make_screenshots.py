"""Make docs/report.png, the README's picture of report.html, from a run against the sandbox.

    python docs/make_screenshots.py        # needs the extra 'browser', and Chromium on the path

The run is real: real files, real clips, scripted failures. It costs nothing and sends nothing to other machines.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "report.png"
WIDTH_PX, HEIGHT_PX = 1280, 1640
LARGEST_BYTES = 400_000
SCENES = ("park", "harbour", "attic", "street")
FAULTS = {
    "service": {"duration": "1500ms", "seed": 7},
    "faults": [
        {"on": "generation", "kind": "content_policy", "first": 1},
        {"on": "generation", "kind": "face_detection", "first": 1},
        {"on": "submit", "kind": "unavailable", "first": 2},
    ],
}


def run_batch(folder: Path) -> Path:
    """Run a batch of 15 jobs in `folder`, three rows of the gallery; return its run directory."""
    for name in ("bunny.mp4", "astronaut.jpg", "hopper.jpg"):
        shutil.copy(ROOT / "manifests" / "media" / name, folder / name)
    jobs = [
        {
            "id": f"{SCENES[number % 4]}-{number // 4 + 1}-{face}",
            "video": "bunny.mp4",
            "image": {"astronaut": "astronaut.jpg", "admiral": "hopper.jpg"}[face],
            "resolution": ("480p", "720p")[number % 3 == 2],
            "num_inference_steps": 20 + number,
            "tags": {"scene": SCENES[number % 4], "character": face},
        }
        for number, face in enumerate((("astronaut", "admiral") * 8)[:15])
    ]
    settings = {"name": "nightly-heroes", "max_cost": "5USD", "poll_interval": "250ms", "concurrency": 4}
    manifest = {"version": 1, **settings, "jobs": jobs}
    (folder / "heroes.yaml").write_text(yaml.safe_dump(manifest), "utf-8")
    (folder / "faults.yaml").write_text(yaml.safe_dump(FAULTS), "utf-8")
    program = Path(sys.executable).with_name("batchrunner")
    command = [str(program), "run", "heroes.yaml", "--provider", "sandbox", "--faults", "faults.yaml", "--quiet"]
    done = subprocess.run(command, cwd=folder, check=False)  # noqa: S603 (our own program and files)
    if done.returncode != 1:
        raise SystemExit(f"the run should end with status 1 and ended with {done.returncode}")
    return folder / "output" / "nightly-heroes-rehearsal"


def photograph(page_file: Path, target: Path) -> None:
    """Take a screenshot of the top of the page."""
    engine = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if engine is None:
        raise SystemExit("there is no Chromium (apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=engine, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
        page.goto(page_file.as_uri())
        page.wait_for_selector(".card img")
        page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        page.wait_for_timeout(500)  # decoded is not painted yet
        page.screenshot(path=target)
        browser.close()


def shrink(target: Path) -> None:
    """Reduce the picture to 256 colours, a third of the bytes. Without k-means, rare greens turn grey."""
    with Image.open(target) as image:
        small = image.convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(target, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        photograph(run_batch(Path(name)) / "report.html", TARGET)
    shrink(TARGET)
    size_bytes = TARGET.stat().st_size
    if size_bytes > LARGEST_BYTES:
        raise SystemExit(f"{TARGET} has {size_bytes:,} bytes, more than {LARGEST_BYTES:,}")
    print(f"{TARGET.relative_to(ROOT)}: {size_bytes:,} bytes")  # noqa: T201 (a script that says what it made)
