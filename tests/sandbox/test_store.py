"""What the sandbox stores on disk."""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrunner.sandbox.store import Store


def test_equal_concurrent_inputs_are_all_stored(tmp_path: Path) -> None:
    """Earlier, each upload of a burst wrote the same temporary file, and the later ones were answered with 500."""
    data = bytes(2_000_000)
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            work = [threads.submit(store.keep_input, f"input-{number}", data) for _ in range(8)]
            for item in work:
                item.result()
            assert (tmp_path / "inputs" / f"input-{number}").stat().st_size == len(data)
    store.close()
    assert not list((tmp_path / "inputs").glob("*.part"))


def test_a_store_on_a_full_disk_can_be_closed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # writes fail, as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            store.append({"at": 1})
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    Store(tmp_path).close()
