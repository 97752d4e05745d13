"""Each local input is encoded once, within limits of disk and open files."""

import asyncio
import base64
import errno
import gc
import hashlib
import os
import weakref
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Media
from batchrunner.media import probe
from batchrunner.media.encoded_inputs import EncodedInputs
from batchrunner.storage import durable_files
from tests.conftest import Inline


def written(path: Path, content: bytes) -> Media:
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Media("video", path.name, path, sha256=digest, size_bytes=len(content), mime="video/mp4")


@pytest.fixture
def media(tmp_path: Path) -> Media:
    return written(tmp_path / "walk.mp4", os.urandom(3_000_001))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The input files that were opened for reading."""
    paths: list[Path] = []
    real = durable_files.open_plain

    def open_plain(path: Path, *, follow: bool = False) -> Any:
        paths.append(path)
        return real(path, follow=follow)

    monkeypatch.setattr(durable_files, "open_plain", open_plain)
    return paths


def uri(content: bytes) -> bytes:
    return b"data:video/mp4;base64," + base64.b64encode(content)


async def text_of(inputs: EncodedInputs, media: Media) -> bytes | None:
    async with inputs.use(media) as text:
        return None if text is None else bytes(text)


def test_fifty_submissions_at_once_and_in_sequence_read_an_input_once(
    media: Media, opened: list[Path], executor: Executor
) -> None:
    assert media.path is not None
    content = media.path.read_bytes()

    async def main() -> None:
        inputs = EncodedInputs(executor)
        assert set(await asyncio.gather(*(text_of(inputs, media) for _ in range(25)))) == {uri(content)}
        for _ in range(25):
            assert await text_of(inputs, media) == uri(content)

    asyncio.run(main())
    assert opened == [media.path]


def test_a_text_does_not_change_with_its_file(media: Media) -> None:
    async def main() -> None:
        assert media.path is not None
        inputs = EncodedInputs(Inline())
        before = await text_of(inputs, media)
        media.path.write_bytes(bytes(3_000_001))
        assert await text_of(inputs, media) == before

    asyncio.run(main())


def test_a_changed_file_is_refused_each_time_and_keeps_nothing(media: Media) -> None:
    async def main() -> None:
        assert media.path is not None
        inputs = EncodedInputs(Inline())
        content = media.path.read_bytes()
        media.path.write_bytes(bytes(3_000_001))
        for _ in range(2):
            with pytest.raises(LocalFault) as caught:
                await text_of(inputs, media)
            assert caught.value.kind == "input_changed"
            assert inputs.size_bytes == 0
        media.path.write_bytes(content)
        assert await text_of(inputs, media) == uri(content)

    asyncio.run(main())


def test_the_texts_of_a_large_batch_stay_within_the_limit(tmp_path: Path) -> None:
    clips = [written(tmp_path / f"{number}.mp4", os.urandom(30_000)) for number in range(12)]
    length = probe.data_uri_length(clips[0])

    async def main() -> None:
        inputs = EncodedInputs(Inline(), limit_bytes=3 * length)
        for clip in clips:
            assert await text_of(inputs, clip) is not None
            assert inputs.size_bytes <= 3 * length
        async with AsyncExitStack() as stack:
            texts = [await stack.enter_async_context(inputs.use(clip)) for clip in clips]
            assert [text is not None for text in texts] == [True] * 3 + [False] * 9  # these are read as they are sent
            assert inputs.size_bytes == 3 * length

    asyncio.run(main())


def test_unused_texts_have_few_open_files(tmp_path: Path) -> None:
    clips = [written(tmp_path / f"{number}.mp4", os.urandom(300)) for number in range(100)]

    async def main() -> int:
        inputs = EncodedInputs(Inline())
        for clip in clips:
            await text_of(inputs, clip)
        return inputs.size_bytes

    assert asyncio.run(main()) == 32 * probe.data_uri_length(clips[0])


def test_a_text_lives_as_long_as_somebody_uses_it(media: Media) -> None:
    async def main() -> None:
        inputs = EncodedInputs(Inline(), limit_bytes=5_000_000)
        async with inputs.use(media) as text:
            assert text is not None
            mapping = weakref.ref(text.obj)
            piece = text[:10]
        del inputs, text
        gc.collect()
        assert mapping() is not None
        assert bytes(piece) == b"data:video"
        del piece
        gc.collect()
        assert mapping() is None

    asyncio.run(main())


def test_the_temporary_file_has_no_name(media: Media, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()

    async def main() -> None:
        async with EncodedInputs(Inline(), folder).use(media) as text:
            assert text is not None
            assert list(folder.iterdir()) == []

    asyncio.run(main())


def test_a_full_temporary_folder_is_reported_and_inputs_are_read_for_each_submission(
    media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    small = written(tmp_path / "small.mp4", b"small")
    monkeypatch.setattr(durable_files, "free_bytes", lambda _: 5_000_000)

    async def main() -> EncodedInputs:
        inputs = EncodedInputs(Inline())
        assert await asyncio.gather(*(text_of(inputs, media) for _ in range(5))) == [None] * 5
        assert inputs.size_bytes == 0
        assert await text_of(inputs, small) == uri(b"small")
        return inputs

    problem = asyncio.run(main()).problem
    assert problem.endswith("temporary folder: it has 5.0 MB of free space. TMPDIR names another folder")
    assert opened.count(media.path or Path()) == 1  # the other four do not try it


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EACCES])
def test_a_file_that_cannot_be_written_is_reported(media: Media, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    inputs = EncodedInputs(Inline())
    assert asyncio.run(text_of(inputs, media)) is None
    assert os.strerror(code) in inputs.problem


def test_a_cancelled_encoding_leaves_no_open_file_and_the_next_one_succeeds(media: Media, executor: Executor) -> None:
    async def main() -> None:
        inputs = EncodedInputs(executor)
        task = asyncio.get_running_loop().create_task(text_of(inputs, media))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inputs.size_bytes == 0
        assert await text_of(inputs, media) is not None

    asyncio.run(main())


def test_a_text_is_there_once_it_was_used_and_until_its_space_is_needed(media: Media, executor: Executor) -> None:
    inputs, none = EncodedInputs(executor), EncodedInputs(executor, limit_bytes=0)
    assert not inputs.has(media)
    asyncio.run(text_of(inputs, media))
    assert inputs.has(media)
    assert none.has(media), "nothing can be encoded before"
