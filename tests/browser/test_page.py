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
from batchrunner.report import overview, writer
from batchrunner.report.gallery import MOST as MOST_CARDS
from batchrunner.review.verdicts import Verdict, VerdictLog
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
    assert page.locator(".headline").inner_text() == overview.headline(report)
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
    assert card.locator("img").count() == 3
    card.locator("summary").click()
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
    page.get_by_role("combobox", name="Tag").select_option("take: 1")
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
    page.locator(".card:visible").last.scroll_into_view_if_needed()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert no_sideways_scroll(page)


def test_two_thousand_jobs_load_and_filter(visit: Any, large: Path) -> None:
    assert large.stat().st_size + BUDGET_BYTES < 20_000_000, "with as many posters as a page may have"
    page = visit(large, reduced_motion="reduce").page  # hovering plays nothing
    assert page.locator(".card").count() == 2000
    assert page.locator("video, .card img").count() == 0
    assert page.locator(".card *").count() < 2000 * 40
    assert page.locator(".card:visible").count() == 60
    page.get_by_role("button", name="Show 60 more").click()
    assert page.locator(".card:visible").count() == 120
    page.locator(".chips [value=in_doubt]").click()
    assert page.locator(".card:visible").count() == page.locator(".card[data-state=in_doubt]").count() > 0
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Show all 2,000").click()
    assert page.locator(".card:visible").count() == 2000
    assert not page.locator(".opener").is_visible()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, large: Path) -> dict[int, Path]:
    """Pages of 3, 70, 319 and 2,000 jobs."""
    found = {2000: large}
    for jobs in (3, 70, 319):
        folder = tmp_path_factory.mktemp(f"jobs-{jobs}")
        writer.write(sample_batches.sample_batch(jobs), folder, "0.1.0")
        found[jobs] = folder / "report.html"
    return found


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize("jobs", [3, 319, 2000])
def test_a_page_of_any_size_is_short_and_has_no_holes(
    visit: Any, pages: dict[int, Path], jobs: int, width_px: int
) -> None:
    page = visit(pages[jobs], viewport={"width": width_px, "height": 900}).page
    assert page.evaluate("document.documentElement.scrollHeight") <= 6000
    assert no_sideways_scroll(page)
    assert page.locator(".tile").count() == 4
    assert page.locator(".card:visible").count() == min(jobs, 60 if width_px > 640 else 10)
    boxes = page.locator(".card:visible").evaluate_all(
        "(cards) => cards.map((card) => card.getBoundingClientRect()).map((box) => [box.top, box.height, box.width])"
    )
    rows: dict[float, set[tuple[float, float]]] = {}
    for top, height, width in boxes:
        rows.setdefault(round(top), set()).add((round(height), round(width)))
    assert all(len(sizes) == 1 for sizes in rows.values()), "the cards of a row have one size"
    if width_px == 1280:
        line_px = page.locator(".headline").evaluate("(line) => parseFloat(getComputedStyle(line).lineHeight)")
        assert page.locator(".headline").bounding_box()["height"] < 1.5 * line_px, "one line"


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal of four jobs: three takes of one, a rejected clip, one with marks, one with the id of its inputs."""
    shot = sample_batches.sample_batch(12)
    done = [entry for entry in shot.entries if shot.records[entry.job.fingerprint].result][:6]
    names = (("a", 1), ("b", 1), ("a.t2", 2), ("walk-admiral-480p-0123456789", 1), ("a.t3", 3), ("Élodie danse", 1))
    entries = tuple(
        replace(entry, id=name, job=replace(entry.job, take=take))
        for entry, (name, take) in zip(done, names, strict=True)
    )
    records = dict(shot.records)
    for entry, frames in ((entries[1], 20), (entries[5], 90)):
        record = records[entry.job.fingerprint]
        assert record.result is not None
        measures = {"version": 1, "frames": 150, "measured_frames": 150, "duration_s": 2.4, "frozen_frames": frames}
        result = replace(record.result, quality={**measures, "digest": entry.id})
        records[entry.job.fingerprint] = replace(record, result=result)
    folder = tmp_path_factory.mktemp("reviewed")
    (folder / ".batchrunner").mkdir()
    with VerdictLog(folder) as log:
        for entry, verdict, reasons in ((entries[2], "accept", ()), (entries[4], "reject", ("hands", "<b>face</b>"))):
            clip = records[entry.job.fingerprint].result
            assert clip is not None
            log.append(Verdict(entry.id, entry.take, entry.job.fingerprint, clip.sha256, verdict, reasons, 2, by="ann"))
    writer.write(Snapshot(replace(shot.run, provider="sandbox"), entries, records), folder, "0.1.0")
    return folder / "report.html"


def test_takes_stay_together_and_verdicts_and_stand_ins_are_shown(visit: Any, reviewed: Path) -> None:
    page = visit(reviewed, reduced_motion="reduce").page
    assert shown(page) == ["a", "a", "a", "b", "walk \N{MULTIPLICATION SIGN} admiral", "Élodie danse"]
    assert page.locator(".badge.take").all_inner_texts() == ["take 1", "take 2", "take 3"]
    assert page.locator(".card .badge.accept").all_inner_texts() == ["✓ accepted"]
    assert page.locator(".card .badge.reject").all_inner_texts() == ["✕ rejected: hands, <b>face</b>"]
    assert page.locator(".pane.result .cap").all_inner_texts() == ["stand-in"] * 6
    assert "stand-ins" in page.locator("header").inner_text()
    assert "1 accepted, 1 rejected" in page.locator(".tiles").inner_text()
    page.get_by_role("button", name="rejected").click()
    assert page.locator(".card:visible .badge.take").all_inner_texts() == ["take 3"]
    assert page.url.endswith("#verdict=reject")
    page.locator(".card:visible summary").click()
    assert "rejected: hands, <b>face</b>; rating 2; by ann" in page.locator(".card:visible dl").inner_text()
    page.get_by_role("button", name="rejected").click()
    page.get_by_role("button", name="marked").click()
    assert shown(page) == ["b", "Élodie danse"]


@pytest.mark.parametrize("view", ["Gallery", "Table"])
def test_both_views_can_be_sorted_by_suspicion(visit: Any, reviewed: Path, view: str) -> None:
    page = visit(reviewed, reduced_motion="reduce").page
    page.get_by_role("button", name=view).click()
    names = ".card:visible h3 bdi" if view == "Gallery" else ".table tbody th"
    page.get_by_role("combobox", name="Order").select_option("most suspicious first")
    found = page.locator(names).all_inner_texts()
    assert found[:2] == ["Élodie danse", "b"]
    assert "sort=suspicion" in page.url
    assert ("view=table" in page.url) == (view == "Table")
    page.get_by_role("combobox", name="Order").select_option("manifest")
    assert page.locator(names).first.inner_text() in {"a", "a take 1"}


def test_the_table_has_a_row_for_each_job_with_its_marks(visit: Any, reviewed: Path) -> None:
    page = visit(reviewed, reduced_motion="reduce").page
    page.get_by_role("button", name="Table").click()
    assert page.locator(".card:visible").count() == 0
    rows = page.locator(".table tbody tr").all_inner_texts()
    assert len(rows) == 6
    assert "✕ rejected: hands, <b>face</b>" in rows[2]
    assert "90 frames repeat the frame before them" in rows[5]
    page.get_by_role("searchbox").fill("0123456789")
    assert page.locator(".table tbody th").all_inner_texts() == ["walk \N{MULTIPLICATION SIGN} admiral"], (
        "also the id finds a job"
    )
    page.reload()
    assert page.locator(".table tbody tr").count() == 1


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


@pytest.mark.parametrize(
    ("which", "scheme"),
    [("run", "light"), ("run", "dark"), ("many", "dark"), ("many", "light"), ("table", "light"), ("table", "dark")],
)
def test_axe_finds_no_violation(
    visit: Any, request: pytest.FixtureRequest, pages: dict[int, Path], scheme: str, which: str
) -> None:
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        absent("axe is not installed (pip install -e '.[browser]')")
        return
    if which == "run":
        path = request.getfixturevalue("run_folder") / "report.html"
    else:
        path = pages[70] if which == "many" else request.getfixturevalue("reviewed")
    page = visit(path, color_scheme=scheme).page
    if which == "table":
        page.get_by_role("button", name="Table").click()
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
