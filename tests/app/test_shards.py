"""Shards of a batch in a folder: what a run refuses, and what each shard does."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import setup as prepare
from batchrunner.app import start
from batchrunner.app.shards import find
from batchrunner.app.takes import settled
from batchrunner.errors import BatchLocked, UsageError
from batchrunner.events import Event, RunStarted
from batchrunner.journal import journal
from batchrunner.storage.run_directory import RunDir

NO_JOB = "matrix: [{video: none/*.mp4, image: none/*.png, allow_empty: true}]\n"
JOBS = "jobs:\n" + "".join(
    f"  - {{id: {name}, video: https://example.com/{name}.mp4, image: https://example.com/hero.png, takes: 2}}\n"
    for name in "abcdefgh"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepared(text: str = NO_JOB, **flags: Any) -> prepare.Setup:
    Path("m.yaml").write_text(f"provider: sandbox\nconcurrency: 20\n{text}")
    return prepare.load(Path("m.yaml"), flags, {})


def run(text: str = NO_JOB, **flags: Any) -> int:
    return start.run_batch(prepared(text, **flags), {}, lambda _: None)


def refused(**flags: Any) -> UsageError:
    before = {path for path in Path("output").rglob("*") if "sandbox" not in path.parts}
    with pytest.raises(UsageError) as caught:
        run(**flags)
    assert {path for path in Path("output").rglob("*") if "sandbox" not in path.parts} == before
    assert "Nothing was submitted" in caught.value.hint
    return caught.value


def test_a_shard_without_jobs_succeeds_in_a_directory_of_its_own() -> None:
    assert run(shard="2/4") == run(shard="2/4") == 0
    assert [str(rundir.path) for rundir in find(Path("output/m")).values()] == ["output/m/shard-2-of-4"]
    assert Path("output/m/shard-2-of-4/report.html").exists()
    assert run(shard="1/4", output="elsewhere") == 0
    assert Path("elsewhere/shard-1-of-4/report.json").exists()


def test_another_number_of_shards_and_the_whole_batch_are_refused_beside_shards() -> None:
    run(shard="2/4")
    assert "has shards of 4, so shard 2/8 cannot be in it" in refused(shard="2/8").message
    assert run(shard="1/4") == 0
    error = refused()
    assert "has the shards 1/4, 2/4 of this batch" in error.message
    assert "--shard 1/4 to 4/4" in error.hint
    assert "batchrunner report --merge output/m output/m" in error.hint
    assert run(output="elsewhere") == 0


def test_shards_are_refused_in_the_folder_of_a_whole_batch() -> None:
    run()
    error = refused(shard="1/4")
    assert "output/m has the whole batch, so shard 1/4 cannot be in it" in error.message
    assert "--output" in error.hint


def test_the_directory_of_one_shard_is_not_used_for_another_or_for_the_whole_batch() -> None:
    run(shard="1/4")
    shard = Path("output/m/shard-1-of-4")
    assert "is the run directory of shard 1/4, not of the whole batch" in refused(output=str(shard)).message
    shard.rename("output/m/shard-2-of-4")
    error = refused(shard="2/4")
    assert "output/m/shard-2-of-4 is the run directory of shard 1/4, not of shard 2/4" in error.message
    assert "--shard 1/4" in error.hint
    run(output="whole/shard-1-of-4")
    assert "of the whole batch, not of shard 1/4" in refused(shard="1/4", output="whole").message


@pytest.mark.parametrize("other", ["shard-1-of-8", ""])
def test_a_run_that_another_process_has_begun_counts_before_it_has_a_journal(other: str) -> None:
    folder = Path("output/m", other)
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        refused(shard="1/4")
    finally:
        os.close(descriptor)
    assert run(shard="1/4") == 0, "a folder that no run has finished to make counts for nothing"


@pytest.mark.parametrize("flags", [{"shard": "1/4"}, {}])
def test_runs_that_begin_at_one_time_do_not_both_go_on(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run begins between the first look at the folder and the lock."""
    make, descriptors = RunDir.make, list[int]()

    def make_both(rundir: RunDir) -> None:
        make(rundir)
        other = RunDir(Path("output/m/shard-1-of-8"))
        make(other)
        descriptors.append(os.open(other.path, os.O_RDONLY))
        fcntl.flock(descriptors[-1], fcntl.LOCK_EX)

    monkeypatch.setattr(RunDir, "make", make_both)
    with pytest.raises(UsageError, match=r"shards of 8|shard 1/8"):
        run(**flags)
    os.close(descriptors[0])
    assert not list(Path("output").rglob("journal.db"))


def test_two_processes_on_one_shard() -> None:
    run(shard="1/4")
    descriptor = os.open("output/m/shard-1-of-4", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(BatchLocked):
            run(shard="1/4")
        assert run(shard="2/4") == 0
    finally:
        os.close(descriptor)


def test_the_shards_have_all_jobs_once_with_the_ids_of_the_whole_batch() -> None:
    whole = prepared(JOBS).batch.entries
    found = [prepared(JOBS, shard=f"{index}/4") for index in (1, 2, 3, 4)]
    assert sorted(entry.position for one in found for entry in one.batch.entries) == list(range(16))
    assert sorted((e for one in found for e in one.batch.entries), key=lambda entry: entry.position) == list(whole)
    assert [one.settings.concurrency for one in found] == [5, 5, 5, 5]
    assert [one.options[-2:] for one in found] == [("--shard", f"{index}/4") for index in (1, 2, 3, 4)]
    auto = prepare.load(Path("m.yaml"), {"shard": "auto/4"}, {"JOB_COMPLETION_INDEX": "2"})
    assert (auto.rundir, auto.options, auto.batch.entries) == (
        found[2].rundir,
        found[2].options,
        found[2].batch.entries,
    )


def test_ids_of_other_shards_choose_nothing_and_unknown_ids_are_refused() -> None:
    found = [prepared(JOBS, shard=f"{index}/4", only=("a", "b.t2")) for index in (1, 2, 3, 4)]
    assert sorted(entry.id for one in found for entry in settled(one).chosen) == ["a", "a.t2", "b.t2"]
    with pytest.raises(UsageError, match="--only z: no job"):
        settled(prepared(JOBS, shard="1/4", only=("a", "z")))
    found = [prepared(JOBS, shard=f"{index}/4", retake=("a", "c.t7")) for index in (1, 2, 3, 4)]
    assert sorted(name for one in found for name in one.retake if name == "a") == ["a"]
    with pytest.raises(UsageError, match="--retake z: no job"):
        settled(prepared(JOBS, shard="1/4", retake=("z",)))


def test_a_command_without_caps_needs_no_values_for_each_shard() -> None:
    text = JOBS + "max_generations: 2\n"
    with pytest.raises(UsageError, match="max_generations"):
        prepared(text, shard="1/4")
    options = prepared(text, shard="1/4", per_shard=("max_generations=1",)).options
    assert options[-4:] == ("--shard", "1/4", "--per-shard", "max_generations=1")
    located = prepare.load(Path("m.yaml"), {"shard": "1/4"}, {}, has_inputs=False)
    assert str(located.rundir.path) == "output/m/shard-1-of-4"
    with pytest.raises(UsageError, match="--per-shard needs --shard"):
        prepared(text, per_shard=("concurrency=1",))


def test_the_journal_keeps_the_positions_of_the_whole_manifest() -> None:
    setup = prepared(JOBS + "max_runtime: 1ms\n", shard="1/4")
    events: list[Event] = []
    start.run_batch(setup, {}, events.append)
    snapshot = journal.read(setup.rundir.journal)
    assert snapshot is not None
    assert snapshot.entries
    assert [entry.position for entry in snapshot.entries] == [entry.position for entry in setup.batch.entries]
    assert any(isinstance(event, RunStarted) for event in events)
