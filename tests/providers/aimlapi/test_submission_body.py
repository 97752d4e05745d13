"""Bodies of submissions: JSON of a known length, complete only when the last bytes are passed on."""

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Media
from batchrunner.providers.aimlapi.submission_body import SubmissionBody
from tests.conftest import Inline, make_job, remote

CONTENT = bytes(range(256)) * 3000
KINDS = ("video", "image")
LINKS = {"video": remote(), "image": remote("image", "https://example.com/h\u00e9ro.png")}


def local(folder: Path, kind: str) -> Media:
    path = folder / kind
    path.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Media(kind, kind, path=path, sha256=digest, size_bytes=len(CONTENT), mime=f"{kind}/x")


def data_uri(media: Media) -> str:
    return f"data:{media.mime};base64,{base64.b64encode(CONTENT).decode()}"


class Writer:
    """Takes the body as aiohttp does. complete: whether the body counted as complete at each write."""

    def __init__(self, body: SubmissionBody) -> None:
        self.body, self.written, self.complete = body, b"", [body.complete]

    async def write(self, chunk: bytes | memoryview) -> None:
        self.complete.append(self.body.complete)
        self.written += chunk


def write(body: SubmissionBody) -> Writer:
    writer: Any = Writer(body)
    asyncio.run(body.write(writer))
    return writer  # type: ignore[no-any-return]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("files", [(), ("video",), ("image",), KINDS])
def test_a_body_is_json_of_the_declared_length(tmp_path: Path, files: tuple[str, ...], mapped: bool) -> None:
    inputs = {kind: local(tmp_path, kind) if kind in files else LINKS[kind] for kind in KINDS}
    job = make_job(video=inputs["video"], image=inputs["image"], resolution="480p", seed=1)
    texts = {kind: memoryview(data_uri(inputs[kind]).encode()) if mapped else None for kind in files}
    body = SubmissionBody(job, Inline(), texts)
    writer = write(body)
    assert len(writer.written) == body.size
    sources = {f"{kind}_url": data_uri(media) if kind in files else media.uri for kind, media in inputs.items()}
    assert json.loads(writer.written) == {"model": job.model, **job.params, **sources}


def test_a_body_is_complete_only_with_its_last_write(tmp_path: Path) -> None:
    job = make_job(video=local(tmp_path, "video"))
    writer = write(SubmissionBody(job, Inline()))
    assert writer.complete == [False] * (len(writer.complete) - 1) + [True]
    assert len(writer.complete) > 3


def test_a_body_whose_input_cannot_be_read_is_never_complete(tmp_path: Path) -> None:
    media = local(tmp_path, "image")
    (tmp_path / "image").unlink()
    body = SubmissionBody(make_job(image=media), Inline())
    with pytest.raises(LocalFault) as caught:
        write(body)
    assert body.fault is caught.value
    assert not body.complete
