"""runs.jsonl: the run directories that the index is made again from."""

from pathlib import Path

from batchrunner.account.runs_log import NAME, Line, append, forget, read

LINE = Line("id1", "https://api.example.com", "/out/one", "one", "api.example.com")


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def test_lines_are_appended_once(tmp_path: Path) -> None:
    append(tmp_path, [LINE])
    append(tmp_path, [LINE, LINE._replace(batch_id="id2")])
    assert read(tmp_path) == [LINE, LINE._replace(batch_id="id2")]
    assert (tmp_path / NAME).read_text().count("\n") == 2


def test_the_latest_line_of_a_batch_counts(tmp_path: Path) -> None:
    moved = LINE._replace(directory="/out/moved")
    append(tmp_path, [LINE])
    append(tmp_path, [moved])
    assert read(tmp_path) == [moved]


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"batch_id": 3}\nnull\n\xff\xfe\n{"batch_id": "id0", "acc')
    append(tmp_path, [LINE])
    assert read(tmp_path) == [LINE]


def test_a_forgotten_batch_is_not_listed_until_it_runs_again(tmp_path: Path) -> None:
    other = LINE._replace(batch_id="id2")
    append(tmp_path, [LINE, other])
    forget(tmp_path, [LINE])
    assert read(tmp_path) == [other]
    append(tmp_path, [LINE])
    assert read(tmp_path) == [other, LINE]
