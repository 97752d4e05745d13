"""Posters: small pictures of clips and inputs for the gallery of the report.

The poster of a result is a strip of its first, middle and last frame; that of a reference clip is its middle frame;
that of a character image is the image. Posters are stored in ``.batchrunner/posters/`` in three sizes and named by the
SHA-256 of their source, so each is made once. `Posters` makes them during a run in a thread of its own; `make_missing`
makes the missing ones. `make` decodes in a worker process with limits.
Rule: a poster is optional. A failure here leaves a picture out and has no other effect.
"""

import base64
import io
import itertools
import os
import struct
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple, Self
from urllib.parse import quote

from batchrunner.events import Alive, Event, JobMoved, Listener
from batchrunner.job import Entry, Media, Move, Record, Snapshot, State
from batchrunner.media import probe
from batchrunner.media.decoder import FRAMES_ONLY, Allow, allow_pixels, bound
from batchrunner.media.decoder_pool import Decoders, NoDecoder
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import RunDir

if TYPE_CHECKING:
    from av.container import InputContainer
    from PIL.Image import Image

# The sum of all posters as base64 text in the page: with 2,000 jobs the page stays under 20 MB.
BUDGET_BYTES = 13_000_000
_MOST_FRAMES = 300  # decoded after each seek: ten seconds of a clip without key frames
_LARGEST_POSTER_BYTES = 200_000
_LEFT_BEHIND = 300  # missing posters that the end of a run makes: half a minute
_LEAST_FREE_BYTES = 32 << 20  # on a disk with less, no posters are made: the space is for clips
_BATCH_JOBS = 8  # jobs per batch: a stopped run waits for one batch


class _Size(NamedTuple):
    """A size of posters: the longer side of a frame, pixels, and WebP's quality."""

    name: str
    side_px: int
    quality: int


_SIZES = (_Size("large", 320, 62), _Size("medium", 176, 50), _Size("small", 88, 38))
SIZE_NAMES = tuple(size.name for size in _SIZES)


class Wanted(NamedTuple):
    """A picture that the report shows. key: its name. kind: ``strip``, ``video`` or ``image``. path: its source."""

    key: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures and clips on the page, by key. posters: data URIs. clips: relative URLs of the reference clips."""

    posters: Mapping[str, str] = field(default_factory=dict)
    clips: Mapping[str, str] = field(default_factory=dict)


class Posters:
    """Makes posters during a run, one after the other. Use as a context manager."""

    def __init__(self, rundir: RunDir, decoders: Decoders) -> None:
        self._rundir = rundir
        self._decoders = decoders
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="posters")
        self._making: Future[None] | None = None
        self._hurry = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hurry.set()
        self._executor.shutdown(cancel_futures=True)

    EVENTS = (JobMoved, Alive)  # for the listener

    def listener(self, entries: Iterable[Entry]) -> Listener:
        """Return a listener that queues the posters of each delivered clip."""
        names = {entry.job.fingerprint: entry.file for entry in entries}
        due: deque[tuple[Record, str]] = deque(maxlen=_LEFT_BEHIND)

        def listen(event: Event) -> None:
            if type(event) is JobMoved:
                if event.move is Move.DELIVER and (name := names.get(event.record.job.fingerprint)) is not None:
                    due.append((event.record, name))
            elif due and (self._making is None or self._making.done()):
                # If clips arrive faster than posters are made, the end of the run makes some and `report` the others.
                now = [due.popleft() for _ in range(min(len(due), _BATCH_JOBS))]
                self._making = self._executor.submit(self._make, now)

        return listen

    def _make(self, delivered: Sequence[tuple[Record, str]]) -> None:
        """Make the posters of delivered clips. delivered: their records and names."""
        wanted = [item for record, name in delivered for item in wanted_by(record, f"{self._rundir.path}/{name}")]
        _make_each(self._rundir.posters, wanted, self._decoders, enough=self._hurry.is_set)

    def finish(self, snapshot: Snapshot) -> "Future[None]":
        """Finish the queued posters and some missing ones of earlier runs. If the run stops early, finish at once."""
        if self._making is not None:
            self._making.cancel()
        return self._executor.submit(
            make_missing, self._rundir, snapshot, self._decoders, _LEFT_BEHIND, self._hurry.is_set
        )

    def hurry(self) -> None:
        """Stop making posters, because the run should end."""
        self._hurry.set()


def make_missing(
    rundir: RunDir,
    snapshot: Snapshot,
    decoders: Decoders,
    most: int | None = None,
    enough: Callable[[], bool] = lambda: False,
    width: int = 1,
) -> None:
    """Make the missing posters of the report of `snapshot`. Blocks.

    most: the maximum number; None for all. enough: called before each poster; True stops. width: how many at once.
    """
    _make_each(rundir.posters, _all_wanted(rundir, snapshot), decoders, most, enough, width)


def pictures(
    rundir: RunDir, snapshot: Snapshot, page: Path | None = None, budget_bytes: int = BUDGET_BYTES
) -> Pictures:
    """Return the existing posters, in the largest size in which all fit, and the paths of the reference clips.

    page: the folder of the page; None for the run directory. budget_bytes: for the posters, as text in the page.
    """
    folder = rundir.path if page is None else page
    wanted = {item.key: item for item in _all_wanted(rundir, snapshot)}
    found: dict[str, Path] = {}
    small = rundir.posters
    for size in _SIZES:
        found = {key: path for key in wanted if (path := _path(small, key, size)).is_file()}
        if sum(map(_encoded_bytes, found.values())) <= budget_bytes:
            break
    posters: dict[str, str] = {}
    left_bytes = budget_bytes
    for key, path in found.items():
        left_bytes -= _encoded_bytes(path)
        content = _whole(path) if left_bytes >= 0 else None
        if content is not None:
            posters[key] = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    videos = {key: Path(item.path) for key, item in wanted.items() if item.kind == "video"}
    clips = {
        key: quote(os.path.relpath(path.resolve(), folder.resolve()), errors="replace")
        for key, path in videos.items()
        if path.is_file()
    }
    return Pictures(posters, clips)


def wanted_by(record: Record, clip: str | None) -> list[Wanted]:
    """Return the pictures of one job: its result at `clip`, its reference clip and its character image."""
    found = []
    if clip is not None and record.state is State.SUCCEEDED and record.result is not None:
        found.append(Wanted(f"strip-{record.result.sha256}", "strip", clip))
    for item in record.job.inputs.values():
        if key := key_of(item):
            assert item.path is not None
            found.append(Wanted(key, item.kind, str(item.path)))
    return found


def key_of(item: Media) -> str | None:
    """Return the name of an input's poster, or None for a remote input."""
    return f"{item.kind}-{item.sha256}" if item.path is not None and item.sha256 else None


def _all_wanted(rundir: RunDir, snapshot: Snapshot) -> Iterator[Wanted]:
    """Return all wanted pictures, results first: they have priority if space is short."""
    pairs = [(snapshot.records.get(entry.job.fingerprint), f"{rundir.path}/{entry.file}") for entry in snapshot.entries]
    found = [wanted for record, path in pairs if record is not None for wanted in wanted_by(record, path)]
    yield from sorted(found, key=lambda wanted: wanted.kind != "strip")


def poster_name(key: str, size: str) -> str:
    """Return the name of a poster's file. size: a name of SIZE_NAMES."""
    return f"{key}.{size}.webp"


def _path(folder: Path, key: str, size: _Size) -> Path:
    return folder / poster_name(key, size.name)


def _encoded_bytes(path: Path) -> int:
    try:
        return 4 * (path.stat().st_size + 2) // 3
    except OSError:
        return 0


def _whole(path: Path) -> bytes | None:
    """Return a complete poster, or None. Posters are not flushed, so a power cut may truncate them."""
    try:
        with durable_files.open_plain(path) as file:
            content = file.read(_LARGEST_POSTER_BYTES)
    except OSError:
        return None
    declared_bytes = int.from_bytes(content[4:8], "little") + 8
    return content if content[:4] == b"RIFF" and content[8:12] == b"WEBP" and declared_bytes == len(content) else None


def _make_each(
    folder: Path,
    wanted: Iterable[Wanted],
    decoders: Decoders,
    most: int | None = None,
    enough: Callable[[], bool] = lambda: False,
    width: int = 1,
) -> None:
    by_key = {item.key: item for item in wanted}  # jobs share inputs, and equal results: each key is read once
    missing = (
        item for key, item in by_key.items() if not all(_whole(_path(folder, key, size)) is not None for size in _SIZES)
    )

    def make_one(item: Wanted) -> None:
        task = {"folder": str(folder), "key": item.key, "kind": item.kind, "path": item.path}
        with suppress(OSError, NoDecoder):
            if not enough() and not durable_files.is_full(folder.parent, _LEAST_FREE_BYTES):
                decoders.run_all("poster", [task], enough)

    chosen = itertools.islice(missing, most)
    if width == 1:
        for item in chosen:
            make_one(item)
        return
    with ThreadPoolExecutor(max_workers=width, thread_name_prefix="posters") as threads:
        list(threads.map(make_one, chosen))


def _decode_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that decoders raise for damaged files."""
    import av
    from PIL import Image

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    plain = (OSError, ValueError, EOFError, SyntaxError, LookupError, TypeError, ArithmeticError, MemoryError)
    return (av.error.FFmpegError, struct.error, *bombs, *plain)


def make(folder: Path, wanted: Wanted, allow: Allow = allow_pixels) -> None:
    """Make one poster in each size. Runs in a worker of `batchrunner.media.decoder_pool`.

    allow: called with the declared size before the file is decoded. Raises ValueError, OSError, MemoryError.
    """
    try:
        _make(folder, wanted, allow)
    except (MemoryError, OSError):
        raise
    except _decode_errors() as error:
        raise ValueError(str(error)) from None


def _make(folder: Path, wanted: Wanted, allow: Allow) -> None:
    with durable_files.open_plain(Path(wanted.path), follow=wanted.kind != "strip") as file:
        found = probe.sniff(file.read(64))
        file.seek(0)
        if found is None or not found.decoder:
            return
        frames = [_picture(file, found.decoder)] if wanted.kind == "image" else _frames(file, found.decoder, allow)
    if wanted.kind == "video":
        frames = frames[1:2]
    folder.mkdir(exist_ok=True)
    for size in _SIZES:
        path = _path(folder, wanted.key, size)
        temporary = path.with_suffix(f".{os.getpid()}.new")
        try:
            with durable_files.Disk().open(temporary, "wb") as target:
                target.write(_encoded(frames, size))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _picture(file: IO[bytes], decoder: str) -> "Image":
    """Load an image upright, no larger than a poster."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=[decoder]) as image:
            image.draft("RGB", (2 * _SIZES[0].side_px, 2 * _SIZES[0].side_px))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((_SIZES[0].side_px, _SIZES[0].side_px))
    return upright


def _frames(file: IO[bytes], demuxer: str, allow: Allow) -> "list[Image]":
    """Return the first, middle and last frame of a clip, or the nearest ones if it cannot be searched."""
    import av
    import av.logging

    av.logging.set_level(None)  # keep the libraries' messages off standard error
    with av.open(file, mode="r", format=demuxer, options=FRAMES_ONLY) as container:
        stream = container.streams.video[0]
        allow(bound(stream, FRAMES_ONLY), 3 * _MOST_FRAMES)
        start, length = stream.start_time or 0, stream.duration or 0
        return [_frame_at(container, start + round(length * fraction)) for fraction in (0.0, 0.5, 1.0)]


def _frame_at(container: "InputContainer", at: int) -> "Image":
    """Return the frame shown at a time (in the stream's time base), or the last one before it, in poster size."""
    stream = container.streams.video[0]
    container.seek(at, stream=stream)
    shown = None
    for frame in itertools.islice(container.decode(stream), _MOST_FRAMES):
        if shown is not None and frame.pts is not None and frame.pts > at:
            break
        shown = frame
    if shown is None:
        raise ValueError("no frame to show")
    scale = min(1.0, _SIZES[0].side_px / max(shown.width, shown.height))
    width_px, height_px = (max(2, round(side_px * scale)) for side_px in (shown.width, shown.height))
    image: Image = shown.to_image(width=width_px, height=height_px)  # type: ignore[no-untyped-call]  # the library has no types
    return image


def _encoded(frames: "Sequence[Image]", size: _Size) -> bytes:
    """Return frames side by side as WebP."""
    from PIL import (
        Image,
        WebPImagePlugin,  # noqa: F401 (it registers itself; otherwise Pillow loads all its formats)
    )

    first = frames[0]
    scale = min(1.0, size.side_px / max(first.size))
    width_px, height_px = (max(1, round(side_px * scale)) for side_px in first.size)
    strip = Image.new("RGB", (width_px * len(frames), height_px))
    for number, frame in enumerate(frames):
        strip.paste(frame.resize((width_px, height_px), Image.Resampling.BILINEAR), (number * width_px, 0))
    target = io.BytesIO()
    strip.save(target, "WEBP", quality=size.quality, method=1)  # a third of the time, a fifth more bytes
    return target.getvalue()
