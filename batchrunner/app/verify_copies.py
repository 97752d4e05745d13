"""Check the copy of a clip in a bucket: read it back, compare its hash, and decode it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from batchrunner.app.verify_files import ALTERED, MISSING, UNDECODABLE, UNFINISHED, UNREADABLE, Expected, Finding
from batchrunner.errors import CallError
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Decoders, one
from batchrunner.storage.objects.blocking import ObjectReader

_KINDS = {"object_missing": MISSING, "object_differs": ALTERED}


def check_copy(objects: ObjectReader, decoders: Decoders | None, expected: Expected) -> Finding:
    """Compare the object of a clip with the list. decoders: decode it, too. Raises UsageError for its bucket."""
    address = expected.address
    objects.require_allowed(address)
    try:
        with TemporaryDirectory(prefix="batchrunner-") as folder:
            path = Path(folder) / "clip.mp4"
            objects.fetch(address, expected.sha256, path)
            if decoders is not None:
                one(decoders, "clip", {"path": str(path), "size_bytes": path.stat().st_size})
    except CallError as error:
        return Finding(address, _KINDS.get(error.kind, UNREADABLE), error.message)
    except OSError as error:
        return Finding(address, UNREADABLE, f"cannot be read: {error.strerror or error}")
    except CheckLimit as error:
        return Finding(address, UNFINISHED, f"could not be checked to its end: {error}")
    except ValueError as error:
        return Finding(address, UNDECODABLE, str(error))
    return Finding(address, clips=int(decoders is not None))
