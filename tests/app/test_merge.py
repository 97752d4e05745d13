"""``report --merge``: what it reads, what it refuses, and what a kill leaves. ``status`` of a folder with shards."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrunner.app import merge as merging
from batchrunner.app import shard_status, status
from batchrunner.app.shards import folders_of
from batchrunner.cli import cli
from batchrunner.errors import BatchrunnerError, ExitStatus, LocalFault, UsageError
from batchrunner.job import Entry, Record, Snapshot, State
from batchrunner.journal.journal import Journal
from batchrunner.manifest.shards import Shard
from batchrunner.report import writer
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import REPORTS, Lock, RunDir
from tests.conftest import NOW, Inline, make_record, make_run, result_of

CLIP = b"a clip"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the shards 1 and 2 of 2: one job done in each, and one failed in the second."""
    folder = tmp_path_factory.mktemp("stored") / "night"
    done: dict[str, Any] = {"result": result_of(CLIP)}
    make_shard(folder, 1, {0: make_record("a", State.SUCCEEDED, **done)})
    make_shard(folder, 2, {1: make_record("b", State.SUCCEEDED, **done), 2: make_record("c", State.FAILED)})
    return folder


@pytest.fixture
def batch(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(stored, Path("night")))


def make_shard(folder: Path, index: int, records: dict[int, Record]) -> None:
    import asyncio

    rundir = RunDir(folder / Shard(index, 2).folder)
    rundir.make()
    names = "abc"
    entries = [Entry(at, names[at], item.job) for at, item in records.items()]
    settings = {"shard": f"{index}/2", "options": ["--shard", f"{index}/2"]}
    run = make_run(f"run{index}", provider="sandbox", settings_json=json.dumps(settings))

    async def write() -> Snapshot:
        journal = Journal(rundir.journal, Inline())
        await journal.begin(run, entries, records.values())
        await journal.finish(replace(run, finished_at=NOW + 60, exit_status=int(len(records) > 1)))
        snapshot = journal.snapshot()
        journal.close()
        assert snapshot is not None
        return snapshot

    writer.write(asyncio.run(write()), rundir.path, "0.1.0")
    (rundir.path / f"{names[index - 1]}.mp4").write_bytes(CLIP)


def invoke(*arguments: str | Path) -> tuple[int, str]:
    """Return exit status and output of the command. Errors are printed as the command prints them."""
    done = CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)
    if isinstance(done.exception, BatchrunnerError):
        return done.exception.exit_status, f"{done.exception.message}\n{done.exception.hint}"
    assert done.exception is None, done.exception
    return done.return_value, done.output


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return report


@pytest.mark.parametrize("named", [["night"], ["night/shard-2-of-2", "night/shard-1-of-2", "night/shard-1-of-2"]])
def test_the_shards_of_a_folder_become_one_report(batch: Path, named: list[str]) -> None:
    code, output = invoke("report", "--merge", *named, batch)
    assert code == ExitStatus.OK
    assert "2 of 3 jobs succeeded" in output
    report = report_of(batch)
    assert [(row["id"], row["file"]) for row in report["jobs"]] == [
        ("a", "shard-1-of-2/a.mp4"), ("b", "shard-2-of-2/b.mp4"), ("c", None)
    ]  # fmt: skip
    assert report["exit_status"] == 1
    assert (batch / "results.csv").read_text().splitlines()[1].startswith("a,succeeded,shard-1-of-2/a.mp4,")
    assert "batchrunner report of 2 run directories" in (batch / "report.html").read_text()
    assert invoke("verify", batch)[1].startswith("2 files checked, 0 bad")


def test_a_merge_is_replaced_by_a_later_one_and_is_the_same_again(batch: Path) -> None:
    invoke("report", "--merge", batch, batch)
    before = {name: (batch / name).read_bytes() for name in REPORTS}
    (batch / "report.html").unlink()
    assert invoke("report", "--merge", batch, batch)[0] == ExitStatus.OK
    assert {name: (batch / name).read_bytes() for name in REPORTS} == before


def test_a_copy_without_a_journal_is_merged_from_its_report(batch: Path) -> None:
    invoke("report", "--merge", batch, "one")
    for folder in folders_of([batch]):
        shutil.rmtree(folder / ".batchrunner")
    assert invoke("report", "--merge", *sorted(batch.iterdir()), "two")[0] == ExitStatus.OK
    one, two = report_of(Path("one")), report_of(Path("two"))
    assert one == two


def test_a_journal_knows_more_than_an_old_report(batch: Path) -> None:
    report = report_of(batch / "shard-1-of-2")
    report["jobs"][0] |= {"state": "pending", "file": None}
    (batch / "shard-1-of-2" / "report.json").write_text(json.dumps(report))
    invoke("report", "--merge", batch, batch)
    assert report_of(batch)["totals"]["succeeded"] == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda report: "", "it is not JSON"),
        (lambda report: json.dumps(report)[:-20], "it is not JSON"),
        (lambda report: "[" * 200_000, "it is not JSON"),
        (lambda report: "[]", "it is not a report"),
        (lambda report: {**report, "schema_version": 3}, "a newer version of batchrunner wrote it"),
        (lambda report: {**report, "schema_version": 1}, "an earlier version of batchrunner wrote it"),
        (lambda report: {**report, "schema_version": "2"}, "its schema_version is not a whole number"),
        (lambda report: {**report, "sources": []}, "is a merged report"),
        (lambda report: {**report, "jobs": {}}, "jobs: {} is not of type 'array'"),
        (lambda report: {name: value for name, value in report.items() if name != "money"}, "'money' is a required"),
        (lambda report: {**report, "settings": {"options": 7}}, "the setting options of a run has a value of another"),
        (lambda report: {**report, "settings": {"max_cost": float("nan")}}, "the setting max_cost of a run"),
        (lambda report: with_row(report, file="../../secret.mp4"), "is not in the run directory"),
        (lambda report: with_row(report, file="/etc/passwd"), "is not in the run directory"),
        (lambda report: with_row(report, state="done"), "'done' is not one of"),
        (lambda report: with_row(report, attempts=[7]), r"jobs[0].attempts[0]: 7 is not of type 'object'"),
        (lambda report: with_row(report, id=None), "jobs[0].id"),
    ],
)
def test_a_damaged_report_is_refused_and_nothing_is_written(
    batch: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    shard = batch / "shard-1-of-2"
    damaged = damage(report_of(shard))
    shutil.rmtree(shard / ".batchrunner")
    (shard / "report.json").write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    code, output = invoke("report", "--merge", shard, batch / "shard-2-of-2", "out")
    assert code == ExitStatus.USAGE
    assert message in output
    assert "Nothing was written" in output
    assert not Path("out").exists()


def with_row(report: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**report, "jobs": [report["jobs"][0] | changes]}


@pytest.mark.parametrize("text", ["1/99999", "0/0", "9999999999/9999999999", "x"])
def test_a_shard_of_another_form_in_a_report_does_no_harm(batch: Path, text: str) -> None:
    shard = batch / "shard-1-of-2"
    report = report_of(shard)
    report["settings"]["shard"] = text
    shutil.rmtree(shard / ".batchrunner")
    (shard / "report.json").write_text(json.dumps(report))
    assert invoke("report", "--merge", shard, "out")[0] == ExitStatus.OK
    assert len(report_of(Path("out"))["stopped"] or "") < 200


def test_a_damaged_journal_and_a_folder_without_a_batch_are_refused(batch: Path) -> None:
    Path("empty").mkdir()
    code, output = invoke("report", "--merge", batch, "empty", "out")
    assert (code, "empty contains no batch" in output) == (ExitStatus.USAGE, True)
    (batch / "shard-1-of-2" / ".batchrunner" / "journal.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    code, output = invoke("report", "--merge", batch, "out")
    assert code != ExitStatus.OK
    assert "journal" in output
    assert not Path("out").exists()


def _report_of_something_else(out: Path) -> None:
    out.mkdir()
    (out / "report.json").write_text('{"schema_version": 2, "name": "x", "jobs": []}')


def _page_of_something_else(out: Path) -> None:
    out.mkdir()
    (out / "report.html").write_text("mine")


def _link_to_a_merge(out: Path) -> None:
    invoke("report", "--merge", "night", "merged")
    out.mkdir()
    (out / "report.json").symlink_to(Path("merged/report.json").resolve())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_report_of_something_else, "out has report.json of something else"),
        (_page_of_something_else, "out has report.html of something else"),
        (_link_to_a_merge, "out has report.json of something else"),
        (lambda out: out.write_text("a file"), "out is not a folder"),
        (lambda out: RunDir(out).make(), "out is a run directory"),
    ],
)
def test_only_an_earlier_merge_is_replaced(batch: Path, prepare: Callable[[Path], Any], message: str) -> None:
    out = Path("out")
    prepare(out)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, output = invoke("report", "--merge", batch, out)
    assert (code, message in output) == (ExitStatus.USAGE, True), output
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_the_last_name_is_the_folder_of_the_report(batch: Path) -> None:
    assert "is a run directory" in invoke("report", "--merge", batch / "shard-1-of-2", batch / "shard-2-of-2")[1]
    inside = invoke("report", "--merge", batch, batch / "shard-1-of-2" / "sub")[1]
    assert "is inside the run directory" in inside
    shutil.rmtree(batch / "shard-1-of-2" / ".batchrunner")
    same = invoke("report", "--merge", batch / "shard-1-of-2", batch / "shard-1-of-2")[1]
    assert "is one of the directories to merge" in same


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("after", range(6))
def test_a_killed_merge_leaves_whole_files_and_is_repeated(
    batch: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Each file is the old or the new one at any time, and the next merge replaces all."""
    invoke("report", "--merge", batch / "shard-2-of-2", "out")
    old = {name: Path("out", name).read_bytes() for name in REPORTS}
    invoke("report", "--merge", batch, "new")
    left = after

    def step(function: Callable[..., None]) -> Callable[..., None]:
        def counted(self: Disk, *arguments: Any) -> None:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            function(self, *arguments)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(Disk, "flush", step(Disk.flush))
        patched.setattr(Disk, "rename", step(Disk.rename))
        with pytest.raises(Killed):
            merging.write(merging.read(folders_of([batch]), Path("out"), {}, "0"), Path("out"))
    invoke("report", "--merge", batch, "new")
    for name in REPORTS:
        content = Path("out", name).read_bytes()
        assert content == old[name] or b"shard-1-of-2" in content, "the old one or the new one"
    assert invoke("report", "--merge", batch, "out")[0] == ExitStatus.OK
    for name in REPORTS:
        assert Path("out", name).read_bytes() == Path("new", name).read_bytes()


def test_a_full_disk_is_named_and_the_old_report_stays(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    invoke("report", "--merge", batch, "out")
    before = Path("out/report.json").read_bytes()
    monkeypatch.setattr(Disk, "flush", fail)
    with pytest.raises(LocalFault, match="could not be written"):
        merging.write(merging.read(folders_of([batch]), Path("out"), {}, "0"), Path("out"))
    assert Path("out/report.json").read_bytes() == before
    assert {path.name for path in Path("out").iterdir()} == {*REPORTS}


def test_what_is_missing_and_what_runs_is_said(batch: Path) -> None:
    inputs = merging.read([batch / "shard-2-of-2"], Path("out"), {}, "0")
    assert merging.warnings_of(inputs)[0] == "not in this report: shard 1/2"
    with Lock(RunDir(batch / "shard-1-of-2"), NOW):
        assert any(
            "is running" in line for line in merging.warnings_of(merging.read(folders_of([batch]), batch, {}, "0"))
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "night", "out"), "Name one run directory"),
        (("report", "--merge", "night"), "--merge needs at least one run directory and the folder OUT"),
        (("report", "--merge", "--junit", "x.xml", "night", "out"), "cannot be used with --merge"),
    ],
)
def test_other_arguments_are_refused(batch: Path, arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code == ExitStatus.USAGE
    assert message in done.output


def shown(folder: Path, **options: bool) -> str:
    stream = io.StringIO()
    assert shard_status.report(folder, stream, "0", **{"as_json": False, "watch": False, **options})
    return stream.getvalue()


def test_the_status_of_a_folder_has_a_line_for_each_shard_and_a_sum(batch: Path) -> None:
    assert shown(batch).splitlines()[:3] == [
        "1/2      1 of 1 job done · $0.00 spent · complete",
        "2/2      1 of 2 jobs done · $0.00 spent · 1 needs attention",
        "all      2 of 3 jobs done, 1 failed · $0.00 spent · 2 shards started",
    ]
    assert shown(batch).splitlines()[3:] == [
        "next     batchrunner status night/shard-2-of-2",
        "report   batchrunner report --merge night night",
    ]
    report = json.loads(shown(batch, as_json=True))
    assert [row["file"] for row in report["jobs"]][:2] == ["shard-1-of-2/a.mp4", "shard-2-of-2/b.mp4"]
    shutil.rmtree(batch / "shard-1-of-2")
    with Lock(RunDir(batch / "shard-2-of-2"), NOW):
        lines = shown(batch).splitlines()
    assert lines[0] == "1/2      not started"
    assert "running: " in lines[1]
    assert "open     run each of these with --shard: 1/2" in lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "screens"), [(Terminal(), 3), (io.StringIO(), 1)])
def test_watching_repeats_the_lines_until_no_shard_runs(
    batch: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, screens: int
) -> None:
    locks = [Lock(RunDir(batch / f"shard-{number}-of-2"), NOW).__enter__() for number in (1, 2)]
    monkeypatch.setattr(shard_status, "pause", lambda _: locks.pop().__exit__(None, None, None))
    assert shard_status.report(batch, stream, "0", as_json=False, watch=True)
    found = [screen for screen in stream.getvalue().split("\x1b[H\x1b[2J") if screen]
    assert len(found) == screens
    assert [screen.count("running: ") for screen in found] == [2, 1, 0][3 - screens :]


def test_a_damaged_shard_does_not_hide_the_others(batch: Path) -> None:
    (batch / "shard-1-of-2" / ".batchrunner" / "journal.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    lines = shown(batch).splitlines()
    assert "journal" in lines[0]
    assert "1 of 2 jobs done" in lines[1]


@pytest.mark.parametrize("damage", ["copy", "journal"])
def test_a_shard_that_was_started_is_not_called_open(batch: Path, damage: str) -> None:
    internal = batch / "shard-1-of-2" / ".batchrunner"
    if damage == "copy":
        shutil.rmtree(internal)
        (batch / "shard-1-of-2" / ".batchrunner.witness").unlink(missing_ok=True)
    else:
        (internal / "journal.db").write_bytes(b"rubbish")
    text = shown(batch)
    assert "journal" in text.splitlines()[0]
    assert "not started" not in text
    assert "run each of these" not in text
    assert "batchrunner status night/shard-1-of-2" in text


def test_the_commands_that_status_shows_can_be_pasted(batch: Path) -> None:
    folder = batch.rename("my night")
    text = shown(folder)
    assert "batchrunner report --merge 'my night' 'my night'" in text
    assert "batchrunner status 'my night/shard-2-of-2'" in text


def test_the_merge_of_a_folder_has_the_copy_of_a_shard(batch: Path) -> None:
    shutil.rmtree(batch / "shard-1-of-2" / ".batchrunner")
    assert invoke("report", "--merge", batch, batch)[0] == ExitStatus.OK
    assert report_of(batch)["totals"]["jobs"] == 3


@pytest.mark.parametrize("command", ["status", "report", "review"])
def test_the_folder_of_a_merged_report_is_not_taken_for_a_lost_run_directory(batch: Path, command: str) -> None:
    options = ["--accept", "a"] if command == "review" else []
    for out in (batch, Path("all")):
        assert invoke("report", "--merge", batch, out)[0] == ExitStatus.OK
        if (command, out) == ("status", batch):  # it shows all shards
            continue
        code, output = invoke(command, out, *options)
        assert code == ExitStatus.USAGE
        assert "has a merged report" in output
        assert "--recover" not in output
        assert ("name one, as night/shard-1-of-2" if out == batch else "table of its report.html") in output


def test_commands_on_one_run_directory_name_the_shards(batch: Path) -> None:
    for command in ("report", "review"):
        code, output = invoke(command, batch, *(["--accept", "a"] if command == "review" else []))
        assert code == ExitStatus.USAGE
        assert "It has the shards 1/2, 2/2: name one, as night/shard-1-of-2" in output
    assert "It has the shards 1/2, 2/2" in invoke("verify", batch)[1]
    with pytest.raises(UsageError, match="contains no batch"):
        status.read_snapshot(RunDir(batch))


def test_an_export_of_a_folder_has_the_clips_of_all_shards(batch: Path) -> None:
    assert invoke("export", batch, "set", "--format", "folder")[0] == ExitStatus.OK
    assert "2 clips" in invoke("export", batch, "set", "--format", "folder")[1]
