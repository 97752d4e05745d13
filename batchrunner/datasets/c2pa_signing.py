"""Add a signed C2PA manifest to an MP4, with the package c2pa-python and the user's own key and certificate.

A signature contains the time and random bytes, so two exports differ. No time-stamp authority is asked: nothing is
sent. Rule: the key is read from a file. It reaches no argument, message or file.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchrunner.datasets.xmp import VOCABULARY
from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.media import synthetic_marks
from batchrunner.storage import durable_files

_MOST_PEM_BYTES = 1 << 20
_ALGORITHMS = (b"es256", b"es384", b"es512", b"ps256", b"ed25519")
_HINT = "Nothing was written."


class C2paMarker:
    """Signs copies (`batchrunner.datasets.marking.Marker`). key, certificates: PEM files; the chain without its root.

    Raises UsageError if the package or a file is missing, or if the key cannot be used.
    """

    name = "c2pa"

    def __init__(self, key: Path | None, certificates: Path | None, version: str) -> None:
        if key is None or certificates is None:
            hint = "Name the PEM files of your key and your certificates with --c2pa-key and --c2pa-certificates."
            raise UsageError("--mark c2pa needs a key and certificates", hint)
        try:
            import c2pa
        except ImportError:
            hint = "pip install 'batchrunner[c2pa]'"
            raise UsageError("--mark c2pa needs the package c2pa-python", hint) from None
        self._c2pa: Any = c2pa
        self._version = version
        self._signer = self._signer_of(_read(key), _read(certificates))
        if self._signer is None:
            message = f"{printable(str(key))} and {printable(str(certificates))} cannot sign"
            raise UsageError(message, f"{_HINT} The key is PKCS #8 in PEM, without a passphrase.")

    def _signer_of(self, secret: bytes, chain: bytes) -> Any:
        """Return a signer with the one algorithm that the key has, or None."""
        for algorithm in _ALGORITHMS:
            with suppress(self._c2pa.C2paError):
                return self._c2pa.Signer.from_info(self._c2pa.C2paSignerInfo(algorithm, chain, secret, None))
        return None

    def mark(self, copy: Path, source_type: str) -> str:
        """Sign the file `copy`. Return why it stays as it is, or "". Raises UsageError if signing fails."""
        with copy.open("rb") as file:
            if synthetic_marks.C2PA in synthetic_marks.read(file, copy.stat().st_size):
                return "it has a C2PA manifest already"
        signed = copy.with_name(f"{copy.name}.signed")
        builder = self._c2pa.Builder(json.dumps(self._manifest(source_type)))
        try:
            signed.unlink(missing_ok=True)
            with copy.open("rb") as source, signed.open("x+b") as target:
                builder.sign(self._signer, "video/mp4", source, target)
        except self._c2pa.C2paError as error:
            signed.unlink(missing_ok=True)
            why = printable(str(error))[:200]
            raise UsageError(f"a clip could not be signed: {why}", f"{_HINT} Check the certificates.") from None
        signed.replace(copy)
        return ""

    def _manifest(self, source_type: str) -> dict[str, Any]:
        action = {"action": "c2pa.created", "digitalSourceType": VOCABULARY + source_type}
        return {
            "claim_generator_info": [{"name": "batchrunner", "version": self._version}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }


def _read(path: Path) -> bytes:
    try:
        with durable_files.open_plain(path, follow=True) as file:
            return file.read(_MOST_PEM_BYTES)
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be read: {error.strerror or error}", _HINT) from error
