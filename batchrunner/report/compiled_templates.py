"""Compiled templates beside the templates, as Python keeps compiled modules in ``__pycache__``.

A file is used only if it was made from the same template, by the same versions of Python and Jinja, and under the same
settings; a damaged file is not used. A package that cannot be written has none: the templates are then compiled in
each process.
"""

import hashlib
import importlib.util
import marshal
import os
import sys
from contextlib import suppress
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

_DIGEST_BYTES = hashlib.sha256().digest_size


class CompiledTemplates(BytecodeCache):
    """Compiled templates in `folder`. settings: what else the compiled code depends on."""

    def __init__(self, folder: Path, settings: bytes) -> None:
        self._folder = folder
        self._settings = settings

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load the code, if there is any."""
        with suppress(OSError):
            content = self._path(bucket).read_bytes()
            digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if digest == self._digest(bucket, code):
                bucket.code = marshal.loads(code)  # noqa: S302 (its digest is right: this program wrote it)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code. A folder that cannot be written is no error."""
        if sys.dont_write_bytecode or bucket.code is None:
            return
        code = marshal.dumps(bucket.code)
        path = self._path(bucket)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            try:
                temporary.write_bytes(self._digest(bucket, code) + code)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _path(self, bucket: Bucket) -> Path:
        return self._folder / f"template-{bucket.key}.{sys.implementation.cache_tag}"

    def _digest(self, bucket: Bucket, code: bytes) -> bytes:
        versions = f"{bucket.checksum} {jinja2.__version__} {importlib.util.MAGIC_NUMBER.hex()}"
        return hashlib.sha256(b"\0".join((versions.encode(), self._settings, code))).digest()
