"""Check a place in a bucket against its SHA256SUMS, or the clips there against its report.json.

Each object is read whole: the hash that its upload recorded proves nothing about its bytes.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from batchrunner.app.verify_files import (
    EXTRA,
    MISSING,
    UNREADABLE,
    Check,
    Expected,
    Finding,
    check_all,
    is_clip_file,
    read_report,
    read_sums,
)
from batchrunner.datasets import sums
from batchrunner.errors import CallError, UsageError
from batchrunner.storage.beneath import Folder
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.blocking import ObjectReader, blocking
from batchrunner.transfer.bucket_delivery import KEPT
from batchrunner.workers.engines import Workers

REPORT = "report.json"


@dataclass(frozen=True)
class ObjectCheck(Check):
    """Checks single objects below a prefix: each is copied to a temporary folder, and checked there."""

    objects: ObjectReader | None = None
    prefix: ObjectAddress | None = None
    names: frozenset[str] = frozenset()

    def one(self, expected: Expected) -> Finding:
        """Compare one object with the list."""
        assert self.objects is not None
        assert self.prefix is not None
        if expected.problem or sums.outside(expected.name):
            return super().one(expected)
        name = "/".join(sums.components(expected.name))
        if name not in self.names:
            return Finding(expected.name, MISSING, "missing")
        try:
            with TemporaryDirectory(prefix="batchrunner-") as temporary:
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    self.objects.read_into(str(self.prefix.child(name)), file)
                with Folder(Path(temporary)) as folder:
                    return Check(folder, Workers(self.workers.local), self.deep, self.outputs_only).one(expected)
        except CallError as error:
            return Finding(expected.name, UNREADABLE, error.message)
        except OSError as error:
            return Finding(expected.name, UNREADABLE, f"cannot be copied: {error.strerror or error}")


def verify_bucket(text: str, workers: Workers, objects: ObjectReader, *, deep: bool) -> Iterator[Finding]:
    """Check a data set in a bucket, or delivered clips. Raises UsageError, CallError, ValueError, OSError."""
    prefix = ObjectAddress.parse(text)
    names = _names(prefix, objects)
    source = next((name for name in (sums.SUMS, REPORT) if name in names), None)
    if source is None:
        hint = "Name the prefix of a data set that batchrunner export has uploaded, or of delivered clips."
        raise UsageError(f"{prefix} has no {sums.SUMS} and no {REPORT}: there is nothing to check against", hint)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="batchrunner-")))
        with (temporary / source).open("xb") as file:
            objects.read_into(str(prefix.child(source)), file)
        is_dataset = source == sums.SUMS
        check = partial(ObjectCheck, stack.enter_context(Folder(temporary)), workers, deep, is_dataset)
        expected = [*(read_sums if is_dataset else read_report)(temporary / source)]
        yield from check_all(check(objects=objects, prefix=prefix, names=names), expected)
    known = {source, *("/".join(sums.components(item.name)) for item in expected)}
    for name in sorted(names - known):
        if is_dataset or (is_clip_file(name) and not name.startswith(f"{KEPT}/")):
            yield Finding(name, EXTRA, f"extra: {source} does not name it")


def _names(prefix: ObjectAddress, objects: ObjectReader) -> frozenset[str]:
    async def read() -> frozenset[str]:
        start = prefix.child("x").key.removesuffix("x")
        listed = objects.open(prefix).list(prefix.key.rstrip("/"))
        return frozenset([key.removeprefix(start) async for key, _ in listed])

    return blocking(read)
