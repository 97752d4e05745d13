"""report.html in a real Chromium, opened from disk: it loads, plays and filters, and its text cannot act.

The `visit` fixture fails every test whose page writes to the console or opens a connection.
"""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from batchrunner.job import Entry, Snapshot
from batchrunner.media.posters import BUDGET_BYTES
from batchrunner.report import writer
from batchrunner.report.gallery import MOST as MOST_CARDS
from batchrunner.report.timeline import MOST_ROWS
from tests.browser import sample_batches
from tests.browser.conftest import HOSTILE_TAG, absent
from tests.report.test_report import HOSTILE, built, hostile

PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True}


def shown(page: Any) -> list[str]:
    """Return the ids of the visible cards."""
    return list(page.locator(".card:visible h3 bdi").all_text_contents())


def no_sideways_scroll(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 jobs, without posters."""
    folder = tmp_path_factory.mktemp("large")
    writer.write(sample_batches.sample_batch(2000), folder, "0.1.0")
    return folder / "report.html"


@pytest.fixture(scope="module")
def wicked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile text in every field, and names of 300 characters."""
    shot = hostile()
    long = tuple(
        Entry(number, mark * 300, replace(shot.entries[0].job, fingerprint=f"sha256:{number:064x}"), {"t": mark * 300})
        for number, mark in enumerate(("w", "\u05d0", "\u202e"), 2)
    )
    folder = tmp_path_factory.mktemp("wicked")
    writer.write(Snapshot(shot.run, (*shot.entries, *long), shot.records), folder, "0.1.0")
    return folder / "report.html"


def test_the_summary_says_what_happened_and_what_to_do(visit: Any, run_folder: Path) -> None:
    page = visit(run_folder / "report.html").page
    report = json.loads((run_folder / "report.json").read_bytes())
    assert page.locator(".headline").inner_text() == writer.headline(report)
    totals = report["totals"]
    assert totals["failed"] in {1, 2}, "one of the two refused jobs may be the one in doubt"
    assert (totals["in_doubt"], totals["succeeded"]) == (1, 5 - totals["failed"])
    causes = page.locator(".cause").all_inner_texts()
    assert len(causes) == 2
    assert "content checker" in causes[0]
    assert "The same request would fail again." in causes[0]
    assert "batchrunner resolve" in causes[1]
    assert page.locator("svg.timeline").is_visible()
    assert page.locator("svg.chart").count() == 3
    assert page.locator(".gallery .card").count() == 6


def test_posters_of_clip_reference_and_character_are_shown(visit: Any, run_folder: Path) -> None:
    page = visit(run_folder / "report.html").page
    card = page.locator(".card[data-state=succeeded]").first
    card.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('.card img')].every((image) => image.naturalWidth > 0)")
    assert card.locator("img").count() == 4
    assert card.locator(".strip img").get_attribute("alt").startswith("First, middle and last frame of scene-")
    wide = card.locator(".strip img").evaluate("(image) => image.naturalWidth / image.naturalHeight")
    assert wide == pytest.approx(3, abs=0.05)


def test_a_clip_plays_beside_its_reference(visit: Any, run_folder: Path) -> None:
    page = visit(run_folder / "report.html").page
    card = page.locator(".card[data-state=succeeded]").first
    card.locator(".play").focus()
    page.keyboard.press("Enter")
    playing = "() => [...document.querySelectorAll('video')].filter((each) => each.currentTime > 0.2).length === 2"
    page.wait_for_function(playing)
    assert card.locator("video[controls]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("video").count() == 0
    card.locator(".play").hover()
    page.wait_for_function(playing)
    assert page.locator("video[controls]").count() == 0
    page.mouse.move(0, 0)
    page.wait_for_function("() => !document.querySelector('video')")


def test_filters_work_and_are_kept_in_the_address(visit: Any, run_folder: Path) -> None:
    opened = visit(run_folder / "report.html")
    page = opened.page
    everything = shown(page)
    assert everything == [f"scene-{number}" for number in range(6)]
    page.get_by_role("button", name="failed").focus()
    page.keyboard.press("Space")
    failed = shown(page)
    assert 0 < len(failed) < 3
    assert page.locator("output").inner_text() == f"{len(failed)} of 6 jobs"
    assert page.url.endswith("#state=failed")
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("() => document.querySelector('output').textContent === '6 jobs'")
    page.get_by_role("searchbox").fill("SCENE-4")
    assert shown(page) == ["scene-4"]
    page.get_by_role("searchbox").fill("")
    page.get_by_role("combobox").select_option("take: 1")
    assert shown(page) == ["scene-1", "scene-3", "scene-5"]
    page.get_by_role("button", name="720p").click()
    assert shown(page) == ["scene-5"]
    page.get_by_role("searchbox").fill("scene-4")
    assert shown(page) == []
    assert page.get_by_text("No job matches these filters.").is_visible()
    page.goto((run_folder / "report.html").as_uri() + "#resolution=720p&q=scene")
    page.reload()
    assert shown(page) == ["scene-4", "scene-5"]
    assert page.get_by_role("button", name="720p").get_attribute("aria-pressed") == "true"


def test_provenance_is_shown_on_request(visit: Any, run_folder: Path) -> None:
    page = visit(run_folder / "report.html").page
    job = json.loads((run_folder / "report.json").read_bytes())["jobs"][0]
    card = page.locator(".card").first
    card.locator("summary").click()
    text = card.locator("dl").inner_text()
    for fact in (job["fingerprint"], job["inputs"]["video"]["sha256"], job["attempts"][0]["request_id"]):
        assert fact in text


def test_a_command_can_be_copied(visit: Any, large: Path) -> None:
    page = visit(large, permissions=["clipboard-read", "clipboard-write"]).page
    page.locator(".cause .copy").first.click()
    page.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "batchrunner run nights/heroes.yaml --retry-failed"


def test_the_page_works_without_the_clips(visit: Any, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes((run_folder / "report.html").read_bytes())
    opened = visit(tmp_path / "report.html")
    opened.page.locator(".play").first.click()
    opened.page.wait_for_function("() => document.querySelector('.pane.result[title*=\"not in the directory\"]')")
    assert opened.page.locator(".play").first.is_visible()
    assert all("ERR_FILE_NOT_FOUND" in said for said in opened.complaints)
    opened.complaints.clear()


def test_hostile_text_is_inert(visit: Any, run_folder: Path, wicked: Path) -> None:
    page = visit(run_folder / "report.html").page
    assert page.locator(".tag", has_text=HOSTILE_TAG).count() == 6
    page = visit(wicked).page
    assert page.locator("h1").inner_text().startswith("<script>alert(1)</script>")
    for summary in page.locator("summary:visible").all():
        summary.click()
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img").count() == 0
    text = page.locator("body").inner_text()
    assert "\\x1b[2J" in text
    assert "\\u202e" in text
    assert not re.search("[\x1b\u202e]", text)
    assert HOSTILE not in text


@pytest.mark.parametrize("which", ["run_folder", "wicked", "large"])
def test_a_phone_needs_no_sideways_scroll(visit: Any, which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    page = visit(path / "report.html" if which == "run_folder" else path, **PHONE).page
    page.locator(".card").last.scroll_into_view_if_needed()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert no_sideways_scroll(page)


def test_two_thousand_jobs_load_and_filter(visit: Any, large: Path) -> None:
    assert large.stat().st_size + BUDGET_BYTES < 20_000_000, "with as many posters as a page may have"
    page = visit(large).page
    assert page.locator(".card").count() == 2000
    assert page.locator("video, .card img").count() == 0
    assert page.locator(".card *").count() < 2000 * 40
    page.locator(".chips [value=in_doubt]").click()
    assert page.locator(".card:visible").count() == page.locator(".card[data-state=in_doubt]").count() > 0


def test_a_batch_with_more_jobs_than_cards_says_so(visit: Any, tmp_path: Path) -> None:
    shot = sample_batches.sample_batch(2200)
    writer.write(shot, tmp_path, "0.1.0")
    page = visit(tmp_path / "report.html").page
    assert page.locator(".card").count() == MOST_CARDS
    text = page.locator(".left-out").inner_text()
    assert text.startswith("2,000 of 2,200 jobs are shown here: ")
    assert "results.csv and report.json have every job" in text
    chips = page.locator(".chips [name=state] small").all_inner_texts()
    assert sum(int(count.replace(",", "")) for count in chips) == MOST_CARDS
    for name in page.locator(".left-out a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))"):
        assert (tmp_path / name).exists()


def test_without_scripts_the_page_has_all_its_text(visit: Any, run_folder: Path) -> None:
    page = visit(run_folder / "report.html", java_script_enabled=False).page
    assert page.locator(".card").count() == 6
    assert page.locator("noscript").is_visible()
    assert not page.locator(".filters").is_visible()


def test_the_page_prints(visit: Any, run_folder: Path) -> None:
    pdf = visit(run_folder / "report.html").page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Subtype /Image") + pdf.count(b"/Subtype/Image") > 3, "posters are printed, visible or not"


@pytest.mark.parametrize(("which", "scheme"), [("run", "light"), ("many", "dark")])
def test_axe_finds_no_violation(visit: Any, run_folder: Path, tmp_path: Path, scheme: str, which: str) -> None:
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        absent("axe is not installed (pip install -e '.[browser]')")
        return
    path = run_folder / "report.html"
    if which == "many":
        writer.write(sample_batches.sample_batch(MOST_ROWS + 1), tmp_path, "0.1.0")
        path = tmp_path / "report.html"
    page = visit(path, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate(Path(spec.origin).with_name("axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert [
        (violation["impact"], violation["id"], violation["nodes"][0]["html"]) for violation in found["violations"]
    ] == []
    assert len(found["passes"]) > 20


def test_a_page_without_jobs_opens(visit: Any, tmp_path: Path) -> None:
    shot = sample_batches.sample_batch(1)
    writer.write(Snapshot(shot.run, (), {}), tmp_path, "0.1.0")
    assert visit(tmp_path / "report.html").page.get_by_text("Nothing has been submitted yet.").is_visible()


def test_the_hostile_snapshot_is_valid() -> None:
    assert built(hostile())["totals"]["jobs"] == 2
