"""Synthetic clips: seeded scenes that move, with planted faults, as grey pictures or as MP4 files."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from batchrunner.quality.measures import HEIGHT, WIDTH, Clip

Pictures = NDArray[np.uint8]
FPS = 25


def scene(seed: int, frames: int = 150, width_px: int = WIDTH, height_px: int = HEIGHT) -> Pictures:
    """Return a smooth background that pans, a subject that walks across it, and sensor noise."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width_px) / width_px, np.arange(height_px) / height_px)
    waves = [(rng.uniform(2, 12), rng.uniform(2, 12), rng.uniform(0, 6), rng.uniform(10, 30)) for _ in range(4)]
    speed, brightness = rng.uniform(0.2, 0.8), rng.uniform(80, 150)
    pictures = np.empty((frames, height_px, width_px), np.uint8)
    for number in range(frames):
        time = number / FPS
        picture = np.full((height_px, width_px), brightness)
        for along, down, phase, depth in waves:
            picture += depth * np.sin(along * (x + speed * time / 4) + down * y + phase)
        center = 0.2 + 0.6 * (0.5 + 0.5 * np.sin(speed * time * 3))
        picture[(np.abs(x - center) < 0.08) & (np.abs(y - 0.55) < 0.3)] = 40 + 12 * np.sin(8 * time)
        pictures[number] = np.clip(picture + rng.normal(0, 1.0, picture.shape), 0, 255)
    return pictures


def with_other_subject(pictures: Pictures, seed: int) -> Pictures:
    """Return the scene with another, bright subject, as a model would return it."""
    rng = np.random.default_rng(seed)
    dark = pictures < 60
    level = rng.uniform(170, 230)
    return np.where(dark, (level + 0.3 * pictures).clip(0, 255).astype(np.uint8), pictures)


def clip(pictures: Pictures, audio_peak: float | None = None) -> Clip:
    return Clip(pictures, len(pictures), len(pictures) / FPS, audio_peak)


def tone(frames: int) -> NDArray[np.float32]:
    """Return a tone as long as so many frames."""
    samples: NDArray[np.float32] = 0.3 * np.sin(0.06 * np.arange(48_000 * frames // FPS)).astype(np.float32)
    return samples


def silence(frames: int) -> NDArray[np.float32]:
    return np.zeros_like(tone(frames))


def write(path: Path, pictures: Pictures, sound: Callable[[int], Any] | None = None, crf: int = 20) -> Path:
    """Encode the pictures, and the sound of that length, as an MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": str(crf), "preset": "ultrafast"})
        stream.height, stream.width = pictures.shape[1:]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        audio = container.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound(len(pictures))[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = 48_000, 0
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path
