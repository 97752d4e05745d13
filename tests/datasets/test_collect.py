"""Which clips become items, in which split, and what is refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from batchrunner.datasets.collect import Choice, Collection
from batchrunner.datasets.splits import Splits
from batchrunner.errors import UsageError
from batchrunner.storage.run_directory import RunDir
from tests.datasets.sample_batches import Sample, accept, make_batch, open_batch

HALVES = Splits.parse("train=.5,test=.5")


def collected(folder: Path, *samples: Sample, choice: Choice | None = None) -> Collection:
    return Collection([open_batch(make_batch(folder, samples))], choice or Choice())


def ids_of(collection: Collection) -> dict[str, list[str]]:
    return {split: [item.id for item in collection.items(split)] for split in collection.splits}


def refusals_of(collection: Collection) -> dict[str, tuple[str, bool]]:
    return {f"{item.item} {item.path.name}": (item.why, item.is_clip) for item in collection.refusals}


def test_delivered_clips_are_items_in_manifest_order(tmp_path: Path) -> None:
    collection = collected(tmp_path, Sample("b"), Sample("a"), Sample("failed", content=None))
    assert ids_of(collection) == {"train": ["b", "a"]}
    assert collection.skipped == {"failed": 1}
    item = next(collection.items("train"))
    assert item.clip.path.read_bytes() == b"clip of b"
    assert {role: media.path.name for role, media in item.inputs.items()} == {
        "character": "hero.jpg",
        "reference": "walk.mp4",
    }
    assert len(item.key) == 64
    assert collection.roles == ("character", "reference")


def test_remote_inputs_are_addresses_without_query(tmp_path: Path) -> None:
    collection = collected(tmp_path, Sample("a", reference=None, image=None))
    item = next(collection.items("train"))
    assert item.inputs == {}
    assert item.values["reference_source"] == "https://example.com/walk.mp4"
    assert item.values["reference_sha256"] is None
    assert not collection.refusals


def test_only_accepted_clips(tmp_path: Path) -> None:
    rundir = make_batch(tmp_path, [Sample("a"), Sample("b"), Sample("c")])
    accept(rundir, "a")
    accept(rundir, "b", verdict="reject")
    collection = Collection([open_batch(rundir)], Choice(only_accepted=True))
    assert ids_of(collection) == {"train": ["a"]}
    assert collection.skipped == {"rejected": 1, "without a verdict": 1}
    everything = Collection([open_batch(rundir)], Choice())
    assert [item.values["verdict"] for item in everything.items("train")] == ["accept", "reject", None]


def test_equal_jobs_of_several_batches_are_one_item_with_all_ids(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
    one = open_batch(make_batch(first, [Sample("a", b"A", key="same"), Sample("b", key="only")]))
    two = open_batch(make_batch(second, [Sample("z", b"Z", key="same"), Sample("b", key="another")]))
    collection = Collection([one, two], Choice())
    assert [item.ids for item in collection.items("train")] == [("a", "z"), ("b",), ("b",)]
    (first / "run" / "a.mp4").unlink()
    collection = Collection([one, two], Choice())
    assert [item.ids for item in collection.items("train")] == [("z", "a"), ("b",), ("b",)]
    assert refusals_of(collection) == {"a a.mp4": ("is missing", True)}


def test_clips_of_one_reference_are_in_one_split_and_new_jobs_move_none(tmp_path: Path) -> None:
    samples = [Sample(f"{number}.{take}", reference=f"ref{number}".encode()) for number in range(20) for take in (1, 2)]
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    choice = Choice(splits=HALVES)
    before = ids_of(collected(few, *samples[::2], choice=choice))
    after = ids_of(collected(many, *samples, choice=choice))
    assert all(before.values())
    for split, names in before.items():
        assert set(names) <= set(after[split])
        assert {name.partition(".")[0] for name in names} == {name.partition(".")[0] for name in after[split]}


@pytest.mark.parametrize("group_by", ["image", "tags.person"])
def test_another_property_groups(tmp_path: Path, group_by: str) -> None:
    samples = [
        Sample(f"{n}", reference=f"r{n}".encode(), image=f"i{n % 2}".encode(), tags={"person": f"p{n % 2}"})
        for n in range(12)
    ]
    split_of = {
        name: split
        for split, names in ids_of(collected(tmp_path, *samples, choice=Choice(False, HALVES, group_by))).items()
        for name in names
    }
    assert len({split_of[f"{n}"] for n in range(0, 12, 2)}) == len({split_of[f"{n}"] for n in range(1, 12, 2)}) == 1


def test_a_clip_without_the_property_is_grouped_by_its_reference(tmp_path: Path) -> None:
    choice = Choice(False, HALVES, "tags.person")
    collection = collected(tmp_path, Sample("a", tags={"person": "x"}), Sample("b"), choice=choice)
    assert collection.ungrouped == 1


def test_the_tag_split_wins(tmp_path: Path) -> None:
    tagged = [Sample(f"{n}", tags={"split": "test"}) for n in range(8)]
    choice = Choice(splits=Splits.parse("train=1,test=0"))
    assert ids_of(collected(tmp_path, *tagged, Sample("x"), choice=choice))["train"] == ["x"]


def test_without_shares_the_tags_decide(tmp_path: Path) -> None:
    tags: list[Mapping[str, str]] = [{"split": "test"}, {"split": "extra"}, {"split": "val"}, {}]
    samples = [Sample(f"{n}", tags=item) for n, item in enumerate(tags)]
    assert ids_of(collected(tmp_path, *samples)) == {"train": ["3"], "val": ["2"], "test": ["0"], "extra": ["1"]}


@pytest.mark.parametrize(
    ("samples", "choice", "message"),
    [
        ([Sample("a", tags={"split": "dev"})], Choice(splits=HALVES), "'dev', which --split does not name"),
        ([Sample("a", tags={"split": "../x"})], Choice(), "the tag 'split' of a: '../x' cannot be the name"),
        ([Sample("a")], Choice(group_by="tags.x"), "--group-by: no clip has tags.x"),
        ([Sample("a")], Choice(group_by="mask"), "--group-by: no clip has mask"),
    ],
)
def test_choices_that_cannot_work_are_refused(
    tmp_path: Path, samples: list[Sample], choice: Choice, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        collected(tmp_path, *samples, choice=choice)
    assert message in error.value.message


def test_equal_jobs_with_different_split_tags_are_refused(tmp_path: Path) -> None:
    samples = [Sample("a", key="k", tags={"split": "train"}), Sample("b", key="k", tags={"split": "test"})]
    with pytest.raises(UsageError, match=r"equal jobs have different tags 'split': a \(train\) and b \(test\)"):
        collected(tmp_path, *samples)


def swap_for_link(path: Path) -> None:
    content = path.read_bytes()
    outside = path.parent.parent / "outside"
    outside.write_bytes(content)
    path.unlink()
    path.symlink_to(outside)


def swap_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [
    (Path.unlink, "is missing"),
    (lambda path: path.write_bytes(b"longer than before"), "has 18 bytes instead of"),
    (swap_for_folder, "is not a plain file"),
]


@pytest.mark.parametrize(("harm", "why"), [*HARMS, (swap_for_link, "is a symbolic link")])
def test_a_clip_that_is_not_the_delivered_one_is_refused(tmp_path: Path, harm: object, why: str) -> None:
    rundir = make_batch(tmp_path, [Sample("a"), Sample("b")])
    assert callable(harm)
    harm(rundir.path / "a.mp4")
    collection = Collection([open_batch(rundir)], Choice())
    assert ids_of(collection) == {"train": ["b"]}
    ((found, is_clip),) = refusals_of(collection).values()
    assert is_clip
    assert found.startswith(why)


@pytest.mark.parametrize(("harm", "why"), HARMS)
def test_an_input_that_changed_is_left_out_and_its_clip_is_not(tmp_path: Path, harm: object, why: str) -> None:
    rundir = make_batch(tmp_path, [Sample("a")])
    assert callable(harm)
    harm(tmp_path / "media" / "walk.mp4")
    collection = Collection([open_batch(rundir)], Choice())
    item = next(collection.items("train"))
    assert list(item.inputs) == ["character"]
    assert item.values["reference_sha256"]
    ((found, is_clip),) = refusals_of(collection).values()
    assert not is_clip
    assert found.startswith(why)


def test_an_input_may_be_a_link(tmp_path: Path) -> None:
    """Unlike a clip: the manifest may name a link, and the content is compared with the recorded hash."""
    rundir = make_batch(tmp_path, [Sample("a")])
    swap_for_link(tmp_path / "media" / "walk.mp4")
    assert set(next(Collection([open_batch(rundir)], Choice()).items("train")).inputs) == {"character", "reference"}


def test_a_report_without_a_journal_is_enough(tmp_path: Path) -> None:
    """A run directory that was copied to another machine, with the manifest and its media beside it."""
    from batchrunner.journal.journal import read
    from batchrunner.report import writer

    rundir = make_batch(tmp_path, [Sample("a"), Sample("b", reference=None)])
    snapshot = read(rundir.journal)
    assert snapshot is not None
    writer.write(snapshot, rundir.path, "0")
    whole = Collection([open_batch(rundir)], Choice())
    rundir.internal_dir.rename(tmp_path / "elsewhere")
    assert {item.values["run_id"] for item in whole.items("train")} == {snapshot.run.run_id}
    copied = Collection([open_batch(RunDir(rundir.path))], Choice())
    assert list(copied.items("train")) == list(whole.items("train"))
    assert copied.columns == whole.columns


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"jobs": [1]}', '{"jobs": [{"id": 1}]}', "[" * 100_000])
def test_a_file_that_is_no_report_is_refused_with_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match=r"is not a report of batchrunner"):
        open_batch(RunDir(tmp_path))


def test_a_report_cannot_name_files_outside(tmp_path: Path) -> None:
    from batchrunner.journal.journal import read
    from batchrunner.report import writer

    rundir = make_batch(tmp_path, [Sample("a")])
    snapshot = read(rundir.journal)
    assert snapshot is not None
    writer.write(snapshot, rundir.path, "0")
    rundir.internal_dir.rename(tmp_path / "elsewhere")
    (rundir.path / "a.mp4").rename(tmp_path / "a.mp4")
    report = rundir.path / "report.json"
    report.write_text(report.read_text().replace('"a.mp4"', '"../a.mp4"'))
    collection = Collection([open_batch(rundir)], Choice())
    assert refusals_of(collection) == {"a a.mp4": ("is outside the run directory", True)}
