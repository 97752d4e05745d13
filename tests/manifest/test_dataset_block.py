"""The manifest's `dataset` block, and the hashes of the files that a manifest reads. Neither changes a job."""

import hashlib
import json
from pathlib import Path

from batchrunner.app import setup
from batchrunner.manifest import load
from tests.manifest_tools import job, loaded, refused

BLOCK = {
    "license": "cc-by-4.0",
    "pretty_name": "Heroes of ${SHOW}",
    "citation": "@misc{heroes,\n  title={Heroes}\n}",
    "creators": ["Ada", {"name": "Studio", "type": "organization", "url": "https://example.com"}],
    "responsible_ai": {
        "data_biases": ["adults only", "indoors"],
        "personal_sensitive_information": "actors who agreed",
    },
}


def test_the_block_is_read_and_changes_no_job(tmp_path: Path) -> None:
    bare = loaded(tmp_path, {"jobs": [job(tags={"scene": "1"})]})
    batch = loaded(tmp_path, {"vars": {"SHOW": "pilot"}, "dataset": BLOCK, "jobs": [job(tags={"scene": "1"})]})
    assert batch.dataset == BLOCK | {"pretty_name": "Heroes of pilot"}
    assert json.loads(json.dumps(batch.dataset)) == batch.dataset
    assert bare.dataset is None
    assert batch.entries == bare.entries
    assert batch.entries[0].job.fingerprint == (
        "sha256:7a6a3adc1786f417640c1f2759c3117f150b2b9a03aec2aca6eb9708430888d9"
    )
    assert batch.settings == bare.settings


def test_a_table_as_manifest_has_no_block(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("video,image\nhttps://example.com/a.mp4,https://example.com/b.png\n")
    batch = load(tmp_path / "jobs.csv")
    assert batch.dataset is None
    digest = hashlib.sha256((tmp_path / "jobs.csv").read_bytes()).hexdigest()
    assert batch.digests == ((str(tmp_path / "jobs.csv"), digest),)


def test_every_file_that_is_read_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    texts = {
        "lists/a.csv": "\ufeffvideo;image\r\nhttps://example.com/a.mp4;https://example.com/b.png\r\n\r\n",
        "b.jsonl": '{"video": "https://example.com/c.mp4", "image": "https://example.com/d.png"}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    batch = loaded(tmp_path, {"jobs_from": [*texts, "b.jsonl"], "name": "two"})
    expected = {
        str(tmp_path / name): hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("batch.yaml", *texts)
    }
    assert dict(batch.digests) == expected
    assert [name for name, _ in batch.digests] == list(expected)


def test_a_run_stores_the_block_and_the_hashes(tmp_path: Path) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(json.dumps({"provider": "sandbox", "dataset": {"license": "mit"}, "jobs": [job()]}))
    run = setup.run_of(setup.load(path, {"output": str(tmp_path / "out")}, {}), "", "run-1", 0.0)
    stored = json.loads(run.settings_json)
    assert stored["dataset"] == {"license": "mit"}
    assert stored["manifest_files"] == [{"path": str(path), "sha256": run.manifest_sha256}]


def test_hints_in_the_block_are_not_those_of_a_job(tmp_path: Path) -> None:
    found = refused(tmp_path, {"dataset": {"seed": 1, "licence": "mit"}, "jobs": [job()]})
    hints = {item.message: item.hint for item in found}
    assert hints["'dataset' has no key 'licence'"] == "did you mean 'license'?"
    assert hints["'dataset' has no key 'seed'"].startswith("known keys: license, pretty_name, ")


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, {"dataset": {"homepage": "https://ada:secret@example.com/x"}, "jobs": [job()]})
    assert "secret" not in found.message
    assert "without a password" in found.message
