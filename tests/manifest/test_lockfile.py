"""Lock files: the content depends only on manifest and inputs, has no secrets, and is read with plain messages."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import UsageError
from batchrunner.manifest import load, lockfile
from batchrunner.manifest.loader import LoadOptions
from batchrunner.manifest.trace import Content, Trace
from batchrunner.providers import registry

WALK, HERO = Content("ab" * 32, 1000), Content("cd" * 32, 20)
FILES = {"clips/walk.mp4": WALK, "clips/hero.png": HERO}
JOB = {"id": "a", "video": "clips/walk.mp4", "image": "clips/hero.png"}
NO_VARIABLES: Mapping[str, str] = {}


def locked(
    folder: Path,
    manifest: object,
    assignments: Mapping[str, str] = NO_VARIABLES,
    files: Mapping[str, Content] = FILES,
    name: str = "batch.yaml",
) -> lockfile.Document:
    path = folder / name
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    trace = Trace()
    return lockfile.build(load(path, assignments, {}, (), None, LoadOptions(trace, files)), trace)


def parsed(text: str) -> lockfile.Document:
    return lockfile.parse(text, "batch.yaml.lock", "batchrunner lock batch.yaml")


# Content


def test_the_content_lists_all_that_determines_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,video,image,tags.who\nb,clips/walk.mp4,clips/hero.png,hero\n")
    found = locked(
        tmp_path,
        {
            "vars": {"res": "480p", "unused": "x"},
            "jobs": [{**JOB, "resolution": "${res}", "shift": 2, "takes": 2, "file": "{id}-x"}],
            "jobs_from": "rows.csv",
        },
    )
    assert found["inputs"] == {
        "clips/walk.mp4": {"sha256": WALK.sha256, "bytes": 1000},
        "clips/hero.png": {"sha256": HERO.sha256, "bytes": 20},
    }
    assert found["tables"]["rows.csv"]["bytes"] == (tmp_path / "rows.csv").stat().st_size
    assert found["variables"] == {"res": "480p"}
    assert found["models"][registry.DEFAULT_MODEL]["defaults"]["resolution"] == "480p"
    assert list(found["jobs"]) == ["a", "a.t2", "b"]
    second = found["jobs"]["a.t2"]
    assert (second["take"], second["params"], second["file"]) == (2, {"shift": 2.0}, "a-x.t2.mp4")
    assert second["inputs"] == {"video": "clips/walk.mp4", "image": "clips/hero.png"}
    assert found["jobs"]["b"]["tags"] == {"who": "hero"}


def test_the_text_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{**JOB, "id": f"job{number}", "tags": {"b": "2", "a": "ä\u202e"}} for number in range(20)]
    first = lockfile.text_of(locked(tmp_path, {"jobs": rows, "max_cost": "3USD"}))
    random.Random(1).shuffle(rows)
    assert lockfile.text_of(locked(tmp_path, {"jobs": rows})) == first
    assert parsed(first) == locked(tmp_path, {"jobs": rows})
    assert sum('"fingerprint":' in line for line in first.splitlines()) == 20
    assert "ä" in first
    assert "\u202e" not in first


def test_a_settled_manifest_without_jobs_has_a_lock(tmp_path: Path) -> None:
    found = locked(tmp_path, {"matrix": [{"video": "none/*.mp4", "image": "none/*.png"}], "allow_empty": True})
    assert parsed(lockfile.text_of(found)) == found
    assert found["jobs"] == {}


def test_rows_with_equal_contents_list_each_path(tmp_path: Path) -> None:
    """Equal jobs share one Job, whose inputs have the paths of the first row."""
    files = {**FILES, "clips/copy.mp4": WALK}
    found = locked(tmp_path, {"jobs": [JOB, {**JOB, "id": "b", "video": "clips/copy.mp4"}]}, files=files)
    assert found["jobs"]["b"]["inputs"]["video"] == "clips/copy.mp4"
    assert found["jobs"]["b"]["fingerprint"] == found["jobs"]["a"]["fingerprint"]
    assert "clips/copy.mp4" in found["inputs"]


def test_a_table_has_the_digest_of_all_its_bytes(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfvideo,image\r\nclips/walk.mp4,clips/hero.png\r\n\r\n"
    (tmp_path / "rows.csv").write_bytes(data)
    found = locked(tmp_path, data.decode(), name="rows.csv")
    data = (tmp_path / "rows.csv").read_bytes()
    assert found["tables"] == {"rows.csv": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}


# Secrets

SIGNATURE = "X-Amz-Signature=0123456789abcdef"


@pytest.mark.parametrize(
    ("manifest", "assignments"),
    [
        ({"jobs": [{**JOB, "video": f"https://example.com/a.mp4?{SIGNATURE}"}]}, {}),
        ({"jobs": [{**JOB, "video": "${src}"}]}, {"src": f"https://example.com/a.mp4?{SIGNATURE}"}),
        ({"jobs": [{**JOB, "video": "https://example.com/a.mp4?${sig}"}]}, {"sig": SIGNATURE}),
        ({"jobs": [{**JOB, "tags": {"n": "${token}"}, "file": "x"}]}, {"token": SIGNATURE}),
        ({"jobs": [{**JOB, "tags": {"src": f"https://u:{SIGNATURE}@example.com/?{SIGNATURE}"}}]}, {}),
        ({"vars": {"src": f"https://example.com/a.mp4?{SIGNATURE}"}, "jobs": [{**JOB, "video": "${src}"}]}, {}),
    ],
    ids=["query", "variable", "part of a query", "secret name", "tag", "own variable"],
)
def test_no_signature_is_in_the_text(tmp_path: Path, manifest: Any, assignments: Mapping[str, str]) -> None:
    found = locked(tmp_path, manifest, assignments)
    text = lockfile.text_of({**found, "jobs": {}} if "token" in assignments else found)
    assert "0123456789abcdef" not in text
    assert parsed(lockfile.text_of(found)) == found


def test_urls_that_differ_in_their_query_are_different_inputs(tmp_path: Path) -> None:
    jobs = [{**JOB, "id": str(number), "video": f"https://example.com/a.mp4?v={number}"} for number in (1, 2)]
    values = locked(tmp_path, {"jobs": jobs})["inputs"]["https://example.com/a.mp4?…"]
    assert len({value["url_sha256"] for value in values}) == 2


# Reading


GOOD: Mapping[str, Any] = {
    "lock_version": 1,
    "fingerprint_recipe": 1,
    **{section: {} for section in ("models", "tables", "variables", "inputs", "jobs")},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ('{"lock_version": 1,\n"a', "not valid JSON from line 2, column 1"),
        ('{"lock_version": 1,\n<<<<<<< HEAD\n', "line 2 is a marker of an unresolved merge conflict"),
        ("[1]", "not a JSON object"),
        ("{}", "no lock_version"),
        ('{"lock_version": "1"}', "no lock_version"),
        ('{"lock_version": 1, "jobs": {"a": 1, "a": 2}}', "the key a is there twice"),
        ("[" * 100_000, "not valid JSON"),
        ({"jobs": []}, "no section 'jobs'"),
        ({"jobs": {"a\x1b": 1}}, r"'jobs' has an invalid value for a\x1b"),
        ({"jobs": {"a": {"fingerprint": "x", "model": "m", "inputs": {"video": 1}}}}, "invalid value for a"),
        ({"inputs": {"a": []}}, "'inputs' has an invalid value for a"),
        ({"tables": {"a": {"sha256": "x", "bytes": "1"}}}, "'tables' has an invalid value for a"),
        ({"variables": {"a": 1}}, "'variables' has an invalid value for a"),
        ({"models": {"a": {"defaults": 1}}}, "'models' has an invalid value for a"),
        ({"fingerprint_recipe": None}, "no fingerprint_recipe"),
    ],
)
def test_a_damaged_lock_file_gives_a_plain_message(text: str | dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=r"batch\.yaml\.lock cannot be used") as caught:
        parsed(text if isinstance(text, str) else json.dumps({**GOOD, **text}))
    assert message in caught.value.message
    assert "batchrunner lock batch.yaml" in caught.value.hint


def test_a_newer_lock_file_asks_for_a_newer_program() -> None:
    with pytest.raises(UsageError, match="version 2") as caught:
        parsed(json.dumps({"lock_version": 2, "jobs": "in another form"}))
    assert "newer" in caught.value.hint
    assert lockfile.newer_version('{"lock_version": 2') == 2
    assert lockfile.newer_version(json.dumps(GOOD)) is None
