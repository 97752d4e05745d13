"""The card's head is valid YAML for any text, names each split's files, and makes nothing up."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.datasets.card import card
from batchrunner.datasets.collect import Choice, Collection
from batchrunner.datasets.folder import FolderFormat
from batchrunner.datasets.items import Description
from batchrunner.datasets.splits import Splits
from tests.datasets.sample_batches import Sample, make_batch, open_batch


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder: Path = tmp_path_factory.mktemp("card")
    rundir = make_batch(folder, [Sample("train-me"), Sample("test-me")], name="a | b\n# `c` <script>")
    return Collection([open_batch(rundir)], Choice(splits=Splits.parse("train=1,test=0")))


def head_and_body(collection: Collection, details: dict[str, Any]) -> tuple[dict[str, Any], str]:
    old = collection.description
    collection.description = Description(old.name, details, old.reports)
    _, head, body = card(collection, FolderFormat()).decode().split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_head_names_the_files_of_each_split_that_has_clips(collection: Collection) -> None:
    head, _ = head_and_body(collection, {})
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}]
    assert head["size_categories"] == ["n<1K"]
    assert "synthetic" in head["tags"]


def test_what_is_missing_is_named_and_no_licence_is_made_up(collection: Collection) -> None:
    head, body = head_and_body(collection, {})
    assert "license" not in head
    assert "- `license`: the licence" in body


HOSTILE = "x: 1\n---\n- 'a' \"b\" #c {d} [e] &f *g !h |i >j %k @l `m` \u2028 ü"


@pytest.mark.parametrize("key", ["license", "pretty_name"])
def test_any_text_gives_a_valid_head(collection: Collection, key: str) -> None:
    head, _ = head_and_body(collection, {key: HOSTILE})
    assert head[key] == HOSTILE


def test_keywords_are_tags(collection: Collection) -> None:
    head, _ = head_and_body(collection, {"keywords": [HOSTILE, "video"]})
    assert head["tags"].count("video") == 1
    assert HOSTILE in head["tags"]


def test_the_address_of_a_licence_is_a_link(collection: Collection) -> None:
    head, _ = head_and_body(collection, {"license": "https://example.com/licence"})
    assert (head["license"], head["license_link"]) == ("other", "https://example.com/licence")


def test_names_from_outside_are_no_markup(collection: Collection) -> None:
    _, body = head_and_body(collection, {})
    title = next(line for line in body.splitlines() if line.startswith("# "))
    assert "\\<script\\>" in title
    assert "\n# `c`" not in body
    assert "<script>" not in body.replace("\\<script\\>", "")
