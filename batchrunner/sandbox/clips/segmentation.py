"""The person segmentation network in numpy: 106,401 weights, a MobileNetV3-like encoder and decoder.

`segmentation.npz` is the selfie segmentation model of MediaPipe 0.10.21, (c) The MediaPipe Authors, Apache-2.0: `prog`
lists the operations in order as [name, tensor numbers, output number, output shape], `t<number>` holds a weight.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from batchrunner.sandbox.clips.pictures import Bytes, Floats

SIZE_PX = 256


def person(picture: Bytes) -> Floats:
    """Return how likely each pixel shows a person, 0 to 1: (256, 256, 3) RGB to (256, 256)."""
    network, tensors = _network()
    tensors = tensors | {network["input"]: picture.astype(np.float32) / 255}
    for name, numbers, output, shape in network["ops"]:
        arguments = [tensors[number] for number in numbers]
        if name.endswith("CONV_2D"):
            tensors[output] = convolve(name.startswith("DEPTHWISE"), shape[0], *arguments)
        else:
            tensors[output] = _OPERATIONS[name](*arguments)
    return tensors[network["output"]][..., 0]


@cache
def _network() -> tuple[Any, dict[int, Floats]]:
    with np.load(Path(__file__).with_name("segmentation.npz"), allow_pickle=False) as stored:
        weights = {int(name[1:]): stored[name].astype(np.float32) for name in stored.files if name != "prog"}
        return json.loads(stored["prog"].tobytes()), weights


def convolve(depthwise: bool, out_rows: int, picture: Floats, kernel: Floats, bias: Floats) -> Floats:
    """Convolve with "same" padding, with the stride h / out_rows: (h, w, c) with (d, k, k, c) to (out_rows, ..., d).

    depthwise: each channel by itself, with (1, k, k, c) to (out_rows, ..., c).
    """
    rows, stride, kernel_px = len(picture), len(picture) // out_rows, kernel.shape[1]
    before = max((out_rows - 1) * stride + kernel_px - rows, 0) // 2
    padded = np.pad(picture, ((before, kernel_px), (before, kernel_px), (0, 0))) if kernel_px > 1 else picture
    total: Floats = bias
    for i, j in np.ndindex(kernel_px, kernel_px):
        view = padded[i : i + rows : stride, j : j + rows : stride]
        total = total + (view * kernel[0, i, j] if depthwise else view @ kernel[:, i, j].T)
    return total


def double(picture: Floats) -> Floats:
    """Double both sides bilinearly, with half-pixel centres: (h, w, c) to (2h, 2w, c)."""
    for _ in range(2):
        wide = np.repeat(picture, 2, 0)
        padded = np.pad(wide, ((1, 1), (0, 0), (0, 0)), "edge")
        picture = ((padded[:-2] + 2 * wide + padded[2:]) / 4).swapaxes(0, 1)
    return picture


_OPERATIONS: dict[str, Any] = {
    "RELU": lambda a: np.maximum(a, 0),
    "HARD_SWISH": lambda a: a * np.clip(a + 3, 0, 6) / 6,
    "LOGISTIC": lambda a: 1 / (1 + np.exp(-np.clip(a, -60, 60))),
    "AVERAGE_POOL_2D": lambda a: a.mean((0, 1), keepdims=True),
    "ADD": np.add,
    "MUL": np.multiply,
    "RESIZE_BILINEAR": double,
    "Convolution2DTransposeBias": lambda a, k, b: (np.einsum("hwc,ijc->hiwj", a, k[0]) + b).reshape(2 * len(a), -1, 1),
}
