"""The review page in a real Chromium, driven by keyboard: verdicts, undo, a killed server, and pages of any size.

Every test fails if the page writes to the console or opens a connection beyond its server, unless the test kills it.
"""

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.job import Entry, Record
from batchrunner.review.verdicts import load
from batchrunner.storage.run_directory import RunDir
from tests.browser.conftest import HOSTILE_TAG, absent
from tests.conftest import MEDIA, NOW, make_run, remote
from tests.review import sample_runs
from tests.soak.processes import DEADLINE_S, call, command, environment, wait_for

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
STILL = {"reduced_motion": "reduce"}
JOBS = 4
TAKES = 3


class Server:
    """`batchrunner review` as a process. url: of its page."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        arguments = [*command(), "review", str(folder), "--no-open", "--port", str(port)]
        self.process = subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("review page: "), self.process.communicate(timeout=DEADLINE_S)
        self.url = line.split()[-1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def stop(self, number: int = signal.SIGINT) -> str:
        """End it and return its output."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        assert errors == ""
        return output


class Reviewer:
    """A page of a server, with its console messages and requests."""

    def __init__(self, browser: Any, url: str, context: Any = None, **options: Any) -> None:
        self.context = context or browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **STILL, **options}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.locator(".item").first.wait_for(state="attached")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def current(self) -> str:
        """The id of the clip on the stage."""
        return str(self.page.locator("#subtitle").text_content())

    def says(self, place: str, text: str) -> None:
        """Wait until an element has this text."""
        self.page.locator(place, has_text=re.compile(text)).wait_for(state="attached")

    def saved(self) -> None:
        self.says("#saved", "^All saved$")


@pytest.fixture
def servers() -> Iterator[Any]:
    started: list[Server] = []

    def start(folder: Path, port: int = 0) -> Server:
        started.append(Server(folder, port))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    pages: list[tuple[str, Reviewer]] = []

    def opened(url: str, **options: Any) -> Reviewer:
        pages.append((url, Reviewer(browser, url, **options)))
        return pages[-1][1]

    yield opened
    for url, reviewer in pages:
        assert reviewer.complaints == []
        assert [name for name in reviewer.requests if not name.startswith((url, "data:"))] == []
        reviewer.context.close()


def make_batch(tmp_path: Path, clip: bytes, other_clip: bytes) -> RunDir:
    """A batch of four jobs with three takes each, local inputs and hostile tags. The second take of `job-2` failed."""
    (tmp_path / "walk.mp4").write_bytes(clip)
    pictures = [tmp_path / f"{name}.jpg" for name in ("astronaut", "admiral")]
    for path, source in zip(pictures, ("astronaut.jpg", "hopper.jpg"), strict=True):
        path.write_bytes((MEDIA / source).read_bytes())
    video = sample_runs.local("video", tmp_path / "walk.mp4")
    entries: list[Entry] = []
    records: list[Record] = []
    for number in range(JOBS):
        image = sample_runs.local("image", pictures[number % 2])
        for take in range(1, TAKES + 1):
            name = f"job-{number}"
            job = sample_runs.job_of(name, video, image, take)
            content = None if (number, take) == (2, 2) else (clip, other_clip)[take % 2]
            quality = {"frozen_frames": 40, "frozen_at_s": 0.1} if (number, take) == (3, 1) else {"digest": job.key}
            records.append(sample_runs.record_of(job, content, quality))
            entries.append(Entry(len(entries), name if take == 1 else f"{name}.t{take}", job, {"note": HOSTILE_TAG}))
    contents = {hashlib.sha256(content).hexdigest(): content for content in (clip, other_clip)}
    return sample_runs.write(tmp_path / "run", entries, records, contents)


@pytest.fixture
def batch(tmp_path: Path, clip: bytes, other_clip: bytes) -> RunDir:
    return make_batch(tmp_path, clip, other_clip)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, clip: bytes, other_clip: bytes) -> Iterator[Server]:
    """A server for tests that accept any verdicts of each other."""
    server = Server(make_batch(tmp_path_factory.mktemp("shared"), clip, other_clip).path)
    yield server
    server.stop()


def test_the_keyboard_gives_every_verdict_and_goes_on(visit: Any, servers: Any, batch: RunDir) -> None:
    reviewer = visit(servers(batch.path).url)
    assert reviewer.current == "job-0"
    reviewer.press("ArrowRight", "2", "3", "x")
    assert reviewer.current == "job-0.t3"
    reviewer.press("a")  # it settles the job: the next clip is of the next job
    assert reviewer.current == "job-1"
    reviewer.press("p")
    assert reviewer.current == "job-2"
    reviewer.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "u")
    assert reviewer.current == "job-1"
    reviewer.press("x", "ArrowLeft", "9")
    reviewer.saved()
    reviewer.says("#tally", "^1 of 4 jobs decided · 1 accepted · 2 rejected$")
    stored = load(batch.path)
    assert {name: (verdict.verdict, verdict.reasons) for name, verdict in stored.items()} == {
        "job-0.t2": ("reject", ("face", "hands")),
        "job-0.t3": ("accept", ()),
        "job-1": ("reject", ("other",)),
    }
    assert stored["job-0.t2"].take == 2
    reviewer.press("z", "z")
    reviewer.saved()
    assert load(batch.path)["job-1"].verdict == "none"
    reviewer.press("?")
    assert reviewer.page.locator("#help").is_visible()
    reviewer.press("Escape", "n")
    reviewer.page.keyboard.type("left hand")
    reviewer.press("Tab", "Tab", "Enter")
    reviewer.says(".noted", "^Note: left hand$")
    reviewer.saved()
    assert load(batch.path)["job-1"].note == "left hand"
    reviewer.press("/")
    reviewer.page.keyboard.type("job-3 frozen")
    reviewer.says("#shown", "^1 of 11 clips$")
    reviewer.press("Enter")
    assert reviewer.current == "job-3"


def test_takes_play_in_step_and_move_by_frames(visit: Any, shared: Server) -> None:
    page = visit(shared.url, reduced_motion="no-preference").page
    page.locator("#filter").select_option("all")
    videos = "[...document.querySelectorAll('video')]"
    times = f"() => {videos}.map((video) => [video.currentTime, video.paused, video.readyState])"

    def moving() -> bool:
        state = page.evaluate(times)
        return len(state) == TAKES + 1 and all(at > 0.05 and ready >= 2 for at, _, ready in state)

    wait_for(moving, "three takes and the reference play")
    page.keyboard.press("Space")
    state = page.evaluate(times)
    assert all(paused for _, paused, _ in state)
    assert max(at for at, _, _ in state) - min(at for at, _, _ in state) < 0.35
    page.keyboard.press("Home")
    for _ in range(30):
        page.keyboard.press(",")
    wait_for(lambda: {round(at, 3) for at, _, _ in page.evaluate(times)} == {0.05}, "all show the first frame")
    page.keyboard.press(".")
    page.keyboard.press(".")
    wait_for(lambda: {round(at, 3) for at, _, _ in page.evaluate(times)} == {0.25}, "all show the third frame")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.locator("#title", has_text="walk").wait_for()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a manifest with three jobs that ran in the sandbox, with plain clips."""
    jobs = [
        {"id": name, "video": str(MEDIA / "bunny.mp4"), "image": str(MEDIA / "hopper.jpg"), "shift": number + 1}
        for number, name in enumerate("abc")
    ]
    manifest = {"version": 1, "name": "choice", "provider": "sandbox", "poll_interval": "200ms", "jobs": jobs}
    (tmp_path / "choice.yaml").write_text(yaml.safe_dump(manifest), "utf-8")
    service = {"service": {"duration": "200ms", "render": "stub"}}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(service), "utf-8")
    done = call("run", "choice.yaml", "--faults", "plain.yaml", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def accepted(folder: Path) -> int:
    """Return the number of generations in the sandbox's ledger."""
    ledger = (folder / "out" / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    return sum(json.loads(line)["event"] == "accepted" for line in ledger)


def test_verdicts_survive_a_killed_server_and_a_rejected_job_gets_one_more_take(
    servers: Any, run_folder: Path, browser: Any
) -> None:
    out = run_folder / "out"
    server = servers(out)
    reviewer = Reviewer(browser, server.url)
    reviewer.press("x", "x", "z")
    reviewer.saved()
    server.stop(signal.SIGKILL)
    reviewer.context.close()
    server = servers(out)
    reviewer = Reviewer(browser, server.url)
    reviewer.says("#tally", "^1 of 3 jobs decided · 0 accepted · 1 rejected$")
    assert reviewer.page.locator(".item .id").all_text_contents() == ["b", "c"], "the undecided clips"
    assert reviewer.complaints == []
    reviewer.context.close()
    output = server.stop()
    assert "3 clips: 0 accepted, 1 rejected, 2 undecided." in output
    assert output.rstrip().endswith("--retake rejected")
    done = call(*output.rstrip().splitlines()[-1].split()[1:], "--faults", "plain.yaml", cwd=run_folder)
    assert done.returncode == 0, done.stderr
    assert accepted(run_folder) == 4, "exactly one more generation"


def test_a_verdict_that_is_not_saved_is_shown_and_saved_after_a_restart(
    servers: Any, batch: RunDir, browser: Any
) -> None:
    server = servers(batch.path)
    reviewer = Reviewer(browser, server.url)
    server.stop(signal.SIGKILL)
    reviewer.press("x", "a")
    reviewer.says("#saved", "^Not saved: 2 verdicts. The server does not answer; trying again.$")
    assert load(batch.path) == {}
    again = servers(batch.path, server.port)
    reviewer.says("#saved", "^Not saved: 2 verdicts. The server was started again")
    newer = Reviewer(browser, again.url, context=reviewer.context)
    newer.says("#tally", "1 of 4 jobs decided · 1 accepted · 1 rejected")
    wait_for(
        lambda: (
            {name: item.verdict for name, item in load(batch.path).items()} == {"job-0": "reject", "job-0.t2": "accept"}
        ),
        "both are saved",
    )
    assert newer.complaints == []
    reviewer.context.close()


def test_clips_appear_while_the_run_goes_on(visit: Any, servers: Any, batch: RunDir, clip: bytes) -> None:
    reviewer = visit(servers(batch.path).url)
    reviewer.says("#shown", "^11 clips$")
    snapshot = sample_runs.snapshot(batch)
    entry = next(entry for entry in snapshot.entries if entry.id == "job-2.t2")
    (batch.path / entry.file).write_bytes(clip)
    sample_runs.save(
        batch, make_run("run2", started_at=NOW + 500), snapshot.entries, [sample_runs.record_of(entry.job, clip)]
    )
    reviewer.says("#shown", "^12 clips$")
    assert reviewer.current == "job-0", "the page stays where it is"


def test_hostile_text_is_inert(visit: Any, shared: Server) -> None:
    reviewer = visit(shared.url)
    reviewer.says(".tag", "^note: <script>alert\\(1\\)</script><img src=x onerror")
    assert reviewer.page.locator("script").count() == 1
    assert reviewer.page.locator("img[src=x]").count() == 0


def test_the_contact_sheet_shows_the_chosen_takes(visit: Any, servers: Any, batch: RunDir) -> None:
    reviewer = visit(servers(batch.path).url)
    reviewer.press("ArrowRight", "a", "c")
    contacts = reviewer.page.locator("#sheet")
    assert contacts.locator(".line.head .name").all_inner_texts() == ["astronaut", "admiral"]
    assert contacts.locator(".line:not(.head) .name").all_inner_texts() == ["walk"]
    labels = [button.get_attribute("aria-label") for button in contacts.locator(".clip").all()]
    assert labels[0] == "walk \u00d7 astronaut, take 2 of 3, accepted"
    assert len(labels) == JOBS
    contacts.locator(".clip").nth(2).focus()
    reviewer.press("Enter")
    assert reviewer.page.locator("#clips").is_visible()


def axe() -> str:
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        absent("axe is not installed (pip install -e '.[browser]')")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"color_scheme": "light"}, "x13"),
        ({"color_scheme": "dark"}, "x1?"),
        ({"color_scheme": "dark", **PHONE}, "ax"),
        ({"color_scheme": "light"}, "axc"),
    ],
    ids=["light", "dark with help", "phone", "contact sheet"],
)
def test_axe_finds_no_violation(visit: Any, shared: Server, options: dict[str, Any], keys: str) -> None:
    reviewer = visit(shared.url, **options)
    reviewer.press(*keys)
    reviewer.saved()
    reviewer.page.evaluate(axe())
    found = reviewer.page.evaluate("axe.run()")
    assert [(item["impact"], item["id"], item["nodes"][0]["html"]) for item in found["violations"]] == []
    assert len(found["passes"]) > 15
    assert reviewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_has_large_buttons(visit: Any, shared: Server) -> None:
    reviewer = visit(shared.url, **PHONE)
    page = reviewer.page
    for name in ("accept", "reject", "clear", "undo", "previous", "next", "play", "pane-open"):
        box = page.locator(f"#{name}").bounding_box()
        assert min(box["width"], box["height"]) >= 44, name
    current = reviewer.current
    page.locator("#reject").tap()
    assert reviewer.current != current
    page.locator("#undo").tap()
    assert reviewer.current == current
    reviewer.saved()
    page.locator("#pane-open").tap()
    page.locator(".item").nth(2).tap()
    assert not page.locator("#pane").is_visible()


def test_a_large_batch_has_few_elements(visit: Any, servers: Any, tmp_path: Path, clip: bytes) -> None:
    jobs = [sample_runs.job_of(str(number), remote(), remote("image")) for number in range(1200)]
    entries = [Entry(number, f"clip {number:04}", job) for number, job in enumerate(jobs)]
    records = [sample_runs.record_of(job, clip) for job in jobs]
    rundir = sample_runs.write(tmp_path / "run", entries, records, {hashlib.sha256(clip).hexdigest(): clip})
    reviewer = visit(servers(rundir.path).url)
    reviewer.says("#shown", "^1,200 clips$")
    reviewer.press("End")
    reviewer.says(".item[aria-selected=true] .id", "^clip 1199$")
    assert reviewer.page.locator(".item").count() < 40
    reviewer.says(".inputs", "https://example.com/walk.mp4")
    assert not [url for url in reviewer.requests if "example.com" in url]
