"""The format `parquet` without pyarrow. `tests/loaders` reads the files."""

import sys
from pathlib import Path

import pytest

from batchrunner.app.export import ExportRequest, export, format_options
from batchrunner.datasets.formats import FormatOptions
from batchrunner.errors import UsageError
from tests.datasets.sample_batches import Sample, make_batch


def test_without_pyarrow_nothing_is_written_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir = make_batch(tmp_path, [Sample("one")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pyarrow") as error:
        export([rundir.path], tmp_path / "out", ExportRequest("parquet"), print, print)
    assert "pip install 'batchrunner[parquet]'" in (error.value.hint or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "run"]


@pytest.mark.parametrize(("text", "size_bytes"), [(None, 1_000_000_000), ("500MB", 500_000_000), ("1MiB", 1 << 20)])
def test_the_size_of_a_shard(text: str | None, size_bytes: int) -> None:
    assert format_options("parquet", text) == FormatOptions(size_bytes)


@pytest.mark.parametrize("text", ["0", "", "-1MB", "many", "nan", "5 parsecs"])
def test_a_bad_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard-size"):
        format_options("webdataset", text)


def test_a_folder_has_no_shards() -> None:
    with pytest.raises(UsageError, match="folder has no shards"):
        format_options("folder", "1GB")
