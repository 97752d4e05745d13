"""``review`` without a page: verdicts by id are stored for the clip that the job has now, all or none."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.app import review
from batchrunner.app.review import VerdictRequest, give
from batchrunner.errors import UsageError
from batchrunner.job import Record, State
from batchrunner.journal.journal import Journal
from batchrunner.journal.witness import Witness
from batchrunner.review.verdicts import ACCEPT, NONE, REJECT, Verdict, load
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import Lock, RunDir
from tests.conftest import NOW, Inline, make_entries, make_record, make_run, placed_of, result_of

CLIPS = {"walk": b"clip of walk", "run": b"clip of run"}


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    """A run directory with two clips, a failed job and a job in flight."""
    rundir = RunDir(tmp_path)
    rundir.make()
    asyncio.run(fill(rundir))
    return rundir


async def fill(rundir: RunDir, clips: dict[str, bytes] | None = None) -> None:
    entries = make_entries("walk", "run", "jump", "sit")
    contents = clips or CLIPS
    records: list[Record] = [
        *(make_record(name, State.SUCCEEDED, result=result_of(content)) for name, content in contents.items()),
        make_record("jump", State.FAILED),
        make_record("sit", State.IN_FLIGHT),
    ]
    journal = Journal(rundir.journal, Inline(), Witness(rundir.witness, Disk()))
    await journal.begin(make_run(f"run-{len(contents)}"), entries, records)
    for entry in entries:
        if entry.id in contents:
            (rundir.path / entry.file).write_bytes(contents[entry.id])
            await journal.place(entry.file, placed_of(entry.job, contents[entry.id]))
    journal.close()


def request(accept: tuple[str, ...] = (), reject: tuple[str, ...] = (), clear: tuple[str, ...] = ()) -> VerdictRequest:
    return VerdictRequest({ACCEPT: accept, REJECT: reject, NONE: clear})


def stored(rundir: RunDir) -> dict[str, Verdict]:
    return load(rundir.path, {name: result_of(content).sha256 for name, content in CLIPS.items()})


def test_verdicts_are_bound_to_the_clips(rundir: RunDir) -> None:
    lines = give(rundir, replace(request(("walk",), ("run",)), reasons=("hands",), note="n", rating=2), {})
    assert lines[:2] == ["walk: accepted", "run: rejected"]
    assert lines[2].endswith(f"To write them to the reports: batchrunner report {rundir.path}")
    walk, run = stored(rundir)["walk"], stored(rundir)["run"]
    assert (walk.verdict, walk.sha256) == (ACCEPT, result_of(CLIPS["walk"]).sha256)
    assert (run.verdict, run.reasons, run.rating, run.note) == (REJECT, ("hands",), 2, "n")
    assert run.fingerprint.startswith("sha256:")
    assert run.by == review.reviewer({})
    assert run.at.endswith("Z")


def test_a_verdict_can_be_changed_and_withdrawn(rundir: RunDir) -> None:
    for one, expected in (
        (request(("walk",)), ACCEPT),
        (request((), ("walk",)), REJECT),
        (request(clear=("walk",)), NONE),
    ):
        give(rundir, one, {})
        assert stored(rundir)["walk"].verdict == expected
    assert rundir.review.read_bytes().count(b"\n") == 3


def test_the_same_verdict_again_adds_no_line(rundir: RunDir) -> None:
    give(rundir, request(("walk",)), {})
    assert give(rundir, request(("walk", "walk")), {})[0] == "walk: accepted already"
    assert rundir.review.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (request(("walk", "wakl")), "the batch has no job wakl; did you mean walk?"),
        (request(("walk",), ("zzz",)), "the batch has no job zzz"),
        (request(("walk", "jump")), "jump has no clip: it is failed"),
        (request((), ("sit", "walk")), "sit has no clip: it is in flight"),
        (request(clear=("walk", "sit")), "sit has no clip"),
        (request(("walk",), ("walk",)), "walk has two verdicts"),
        (replace(request(("walk",)), rating=6), "--rating 6 is not from 1 to 5"),
        (replace(request(("walk",)), note="n" * 10_001), "--note has more than 10,000 characters"),
    ],
)
def test_a_mistake_stores_no_verdict_at_all(rundir: RunDir, one: VerdictRequest, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        give(rundir, one, {})
    assert message in caught.value.message
    assert "No verdict was stored" in caught.value.hint
    assert not rundir.review.exists()


def test_many_unknown_ids_are_one_short_message(rundir: RunDir) -> None:
    with pytest.raises(UsageError, match=r"; and 95 more$"):
        give(rundir, request(tuple(f"x{number}" for number in range(100))), {})


@pytest.mark.parametrize("content", [None, b"another clip, and longer"])
def test_a_clip_that_is_missing_or_changed_is_not_accepted_but_may_be_rejected(
    rundir: RunDir, content: bytes | None
) -> None:
    path = rundir.path / "walk.mp4"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"walk cannot be accepted: walk\.mp4 is (missing|not the clip)"):
        give(rundir, request(("walk",)), {})
    give(rundir, request((), ("walk",)), {})
    assert stored(rundir)["walk"].verdict == REJECT


def test_verdicts_are_stored_while_a_run_goes_on(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        lines = give(rundir, request(("walk",)), {})
    assert lines[-1].endswith("The run writes them to the reports at its end.")
    assert stored(rundir)["walk"].verdict == ACCEPT


def test_the_api_key_is_not_stored(rundir: RunDir) -> None:
    key = "sk-recognisable-0123456789"
    one = replace(request(("walk",)), note=f"made with {key}", reasons=(f"see {key}",))
    give(rundir, one, {"AIMLAPI_KEY": key})
    assert key not in rundir.review.read_text("utf-8")


def test_foreign_lines_are_named(rundir: RunDir) -> None:
    rundir.review.write_text("mine\n")
    lines = give(rundir, request(("walk",)), {})
    assert lines[1] == f"warning: {rundir.review}: line 1 is not a verdict and does not count"
    assert rundir.review.read_text("utf-8").startswith("mine\n")


@pytest.mark.parametrize("name", ["quality", "on_clip"])
def test_a_person_is_never_mistaken_for_a_check(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LOGNAME", name)
    assert not Verdict("a", 1, "", "", ACCEPT, by=review.reviewer({})).is_automatic


def test_a_user_without_a_name_can_review(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 4321")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert review.reviewer({}) == "unknown"


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no batch"):
        give(RunDir(tmp_path / "none"), request(("walk",)), {})
