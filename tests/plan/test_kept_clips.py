"""Which delivered clips a run moves away. tests/transfer/test_delivery.py compares this with what a run does."""

import pytest

from batchrunner.job import Snapshot, State
from batchrunner.plan import plan, render
from batchrunner.plan.kept_clips import FOLDER, kept_clips
from tests.conftest import NOW, make_entries, make_job, make_record, make_run, result_of
from tests.plan.test_plan import PRICES, projection_of

SIZE = len(b"clip")
ALL = {"a.mp4": SIZE, "b.mp4": SIZE}


def snapshot(*names: str) -> Snapshot:
    entries = make_entries(*names)
    records = (make_record(state=State.SUCCEEDED, job=entry.job, result=result_of(b"clip")) for entry in entries)
    return Snapshot(make_run(), entries, {record.job.fingerprint: record for record in records})


def moving(
    now: tuple[str, ...], sizes: dict[str, int], *, before: tuple[str, ...] = ("a", "b")
) -> list[tuple[str, str]]:
    """Return id and file of the clips that move when the manifest has the entries `now`."""
    known = snapshot(*before)
    owners = {entry.file: entry.job.fingerprint for entry in known.entries}
    owners |= {name: make_job("a").fingerprint for name in sizes if name.startswith(FOLDER)}
    return [(clip.id, clip.file) for clip in kept_clips(make_entries(*now), known, owners, sizes.get)]


@pytest.mark.parametrize(
    ("now", "sizes", "expected"),
    [
        (("a", "b"), ALL, []),
        (("a",), ALL, [("b", "b.mp4")]),
        ((), ALL, [("a", "a.mp4"), ("b", "b.mp4")]),
        (("a", "b=new"), ALL, [("b", "b.mp4")]),
        (("a", "other=b"), ALL, []),
        (("a=b", "b=a"), ALL, []),
        (("a",), {"a.mp4": SIZE}, []),
        (("a",), {"a.mp4": SIZE, "b.mp4": SIZE + 1}, []),
        (("b",), {**ALL, f"{FOLDER}/{make_job('a').key}.mp4": SIZE}, [("a", "a.mp4")]),
    ],
    ids=["same", "removed", "all", "another job", "renamed", "swapped", "missing", "edited", "one is kept already"],
)
def test_a_clip_moves_if_its_job_has_the_name_no_more(
    now: tuple[str, ...], sizes: dict[str, int], expected: list[tuple[str, str]]
) -> None:
    assert moving(now, sizes) == expected


def test_a_second_name_of_a_job_moves_too() -> None:
    assert moving(("a",), {"a.mp4": SIZE, "twin.mp4": SIZE}, before=("a", "twin=a")) == [("twin", "twin.mp4")]


def test_the_plan_shows_the_clips_as_text_and_as_json() -> None:
    known = snapshot(*(f"job{number:02}" for number in range(12)))
    owners = {entry.file: entry.job.fingerprint for entry in known.entries}
    kept = kept_clips((), known, owners, lambda _: SIZE)
    built = plan.build((), known, PRICES)._replace(kept=kept)
    projection = projection_of(built)
    text = render.as_text(built, projection, NOW)
    assert f"12 clips move to {FOLDER}/" in text
    assert "  job09.mp4\n  and 2 more (--all lists all)" in text
    assert "  job11.mp4" in render.as_text(built, projection, NOW, every=True)
    document = render.as_json(built, projection)
    assert document["kept"][0] == {"id": "job00", "file": "job00.mp4", "fingerprint": kept[0].fingerprint}
    assert FOLDER not in render.as_text(built._replace(kept=kept[:0]), projection, NOW)
