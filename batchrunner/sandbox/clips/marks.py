"""The mark at the end of every clip that the sandbox makes: which generation it is, of which order. Pure.

A clip carries its mark in an MP4 box of the type ``uuid``, which players skip. So whoever holds a file can tell whether
it is the clip of the job under whose name it stands, without asking the program that stored it.
"""

import json
import struct
from typing import Any

# The box's extended type: batchrunner's own, made once at random.
KIND = bytes.fromhex("5d0c6c1ef64e4bd2a3b1f3f0c2a97e14")
_HEAD = struct.Struct(">I4s16s")


def mark(generation_id: str, fingerprint: str, client_request_id: str | None) -> bytes:
    """The box to append to a clip. fingerprint: of the order, as the ledger has it."""
    content = {"generation_id": generation_id, "fingerprint": fingerprint, "client_request_id": client_request_id}
    encoded = json.dumps(content, separators=(",", ":")).encode()
    return _HEAD.pack(_HEAD.size + len(encoded), b"uuid", KIND) + encoded


def read(clip: bytes) -> dict[str, Any] | None:
    """What the mark at the end of `clip` says, or None where there is none."""
    start = clip.rfind(b"uuid" + KIND) - 4
    if start < 0:
        return None
    size_bytes, _, _ = _HEAD.unpack_from(clip, start)
    if start + size_bytes != len(clip):
        return None
    try:
        content = json.loads(clip[start + _HEAD.size :])
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
