"""Collect the raw material of the measures while a clip is decoded: small grey pictures and the peak of the sound.

It runs in the process that decodes (`batchrunner.media.decode_worker`). `Collector` takes the frames of the decode
check, so a clip is decoded once. `reference` decodes a reference clip, which no check decodes completely.
Rule: a failure to measure is not damage to the clip. It makes the measures unknown and has no other effect.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from batchrunner.media import playback, probe
from batchrunner.media.decoder import FRAMES_ONLY, Allow, bound
from batchrunner.quality import measures
from batchrunner.quality.measures import HEIGHT, MOST_FRAMES, WIDTH, Clip
from batchrunner.storage import durable_files

if TYPE_CHECKING:
    from av.container import InputContainer

Frame = av.VideoFrame | av.AudioFrame

_HEAD_BYTES = 64
# By type of samples: the value of silence, and full scale. Floating-point samples have 0 and 1.
_SCALES = {"u1": (128.0, 128.0), "i2": (0.0, 2.0**15), "i4": (0.0, 2.0**31), "i8": (0.0, 2.0**63)}
# Threads cost more than so small a picture, and each of them counts against the memory limit. Old versions of PyAV have
# no such argument, and one thread.
_ONE_THREAD: Mapping[str, Any] = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}
_FAILURES = (av.error.FFmpegError, ValueError, TypeError, LookupError, OSError, MemoryError)


class Collector:
    """Takes the decoded frames of one clip. `begin` returns the function that takes them, and forgets earlier ones."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._reformatter = VideoReformatter()
        self._pictures: list[bytes] = []
        self._frames = 0
        self._peak: float | None = None
        self._has_failed = False

    def begin(self) -> Callable[[Frame], None]:
        """Start over, because the clip is decoded from its start, and return the function that takes its frames."""
        self._begin()
        return self.take

    def take(self, frame: Frame) -> None:
        """Take one decoded frame. Raises nothing that a frame can cause."""
        if self._has_failed:
            return
        try:
            if isinstance(frame, av.AudioFrame):
                self._peak = max(self._peak or 0.0, _peak(frame))
                return
            self._frames += 1
            if self._frames <= MOST_FRAMES:
                self._pictures.append(_picture(self._reformatter, frame))
        except _FAILURES:
            self._has_failed = True
            self._pictures.clear()

    def clip(self, duration_s: float | None) -> Clip | None:
        """Return what was collected; None if that failed."""
        if self._has_failed or not self._frames:
            return None
        pictures = np.frombuffer(b"".join(self._pictures), np.uint8).reshape(-1, HEIGHT, WIDTH)
        return Clip(pictures, self._frames, duration_s, self._peak)


def numbers(collector: Collector, duration_s: float | None, signature: Mapping[str, Any] | None) -> Any:
    """Return the measures of a decoded clip; None if they are unknown. signature: of its reference, or None."""
    try:
        clip = collector.clip(duration_s)
        if clip is None:
            return None
        return measures.numbers_of(clip, None if signature is None else measures.signature_from(signature))
    except _FAILURES:
        return None


def reference(path: Path, allow: Allow) -> dict[str, Any]:
    """Decode the reference clip at `path`, and return its signature (`measures.signature_of`).

    Raises ValueError or OSError if it cannot be decoded, CheckLimit if it is too large.
    """
    av.logging.set_level(None)  # FFmpeg's own messages would go to the terminal
    collector = Collector()
    try:
        with durable_files.open_plain(path, follow=True) as file:
            found = probe.sniff(file.read(_HEAD_BYTES))
            file.seek(0)
            if found is None or found.kind != "video":
                raise ValueError("it is no video")
            with av.open(file, mode="r", format=found.decoder, options=FRAMES_ONLY) as container:
                length_s = _decode(container, collector, allow)
    except av.error.FFmpegError as error:
        raise ValueError(f"it does not decode: {error.strerror}") from None
    clip = collector.clip(length_s)
    if clip is None:
        raise ValueError("its frames cannot be measured")
    return measures.signature_of(measures.reference_of(clip))


def _decode(container: "InputContainer", collector: Collector, allow: Allow) -> float | None:
    """Decode the picture and the sound of a reference, at most MOST_FRAMES frames. Return the length in seconds."""
    stream = playback.moving_stream(container)
    if stream is None:
        raise ValueError("it has no moving picture")
    length_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if length_s is None and container.duration:
        length_s = container.duration / av.time_base
    declared = stream.frames or round((length_s or 0.0) * float(stream.average_rate or 0))
    allow(bound(stream, FRAMES_ONLY), min(declared, MOST_FRAMES))
    sounds = [sound for sound in container.streams.audio if sound.codec_context is not None]
    for sound in sounds:
        bound(sound, FRAMES_ONLY)
    taken = 0
    for packet in container.demux([stream, *sounds]):
        for frame in packet.decode():
            if isinstance(frame, Frame):
                collector.take(frame)
                taken += isinstance(frame, av.VideoFrame)
        if taken >= MOST_FRAMES:
            return None  # its frame rate would be wrong
    return length_s


def _picture(reformatter: VideoReformatter, frame: av.VideoFrame) -> bytes:
    """Return the frame as 64x36 grey levels."""
    plane = reformatter.reformat(frame, WIDTH, HEIGHT, "gray", interpolation="AREA", **_ONE_THREAD).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return bytes(rows[:HEIGHT, :WIDTH].tobytes())


def _peak(frame: av.AudioFrame) -> float:
    """Return the largest sample of a sound frame, as a share of full scale."""
    samples = frame.to_ndarray()
    if not samples.size:
        return 0.0
    middle, scale = _SCALES.get(samples.dtype.str[1:], (0.0, 1.0))
    return float(np.abs(samples.astype(np.float64) - middle).max()) / scale
