import sys
from pathlib import Path

import pytest

from batchrunner.errors import UsageError
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.store import Access, open_store


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    access = Access(AllowedBuckets.of(["clips"]), {}, Path("/nonexistent"))
    with pytest.raises(UsageError) as caught:
        open_store(ObjectAddress("s3", "clips", "a.mp4"), access)
    assert "pip install 'batchrunner[s3]'" in caught.value.hint
