"""The person segmentation network in numpy: 106,401 weights, a MobileNetV3-like encoder and decoder.

`segmentation.npz` is the selfie segmentation model of MediaPipe 0.10.21, (c) The MediaPipe Authors, Apache-2.0: `prog`
lists the operations in order as [name, tensor numbers, output number, output shape], `t<number>` holds a weight.
Does not belong here: which of the people in a picture is meant.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

SIZE_PX = 256


def person(picture: Bytes) -> Floats:
    """Return how likely each pixel shows a person, 0 to 1: (256, 256, 3) RGB to (256, 256)."""
    network, weights = _network()
    tensors: dict[int, Floats] = {int(network["input"]): picture.astype(np.float32) / 255}
    for name, numbers, out, shape in network["ops"]:
        arguments = [tensors[one] if one in tensors else weights[one] for one in numbers]
        tensors[out] = _operation(name, arguments, shape)
    return tensors[network["output"]][..., 0]


@cache
def _network() -> tuple[Any, dict[int, Floats]]:
    with np.load(Path(__file__).with_name("segmentation.npz"), allow_pickle=False) as stored:
        weights = {int(name[1:]): stored[name].astype(np.float32) for name in stored.files if name != "prog"}
        return json.loads(stored["prog"].tobytes()), weights


def _operation(name: str, arguments: list[Floats], shape: list[int]) -> Floats:
    if name == "CONV_2D":
        return convolve(arguments[0], arguments[1], arguments[2], shape[0])
    if name == "DEPTHWISE_CONV_2D":
        return convolve_depthwise(arguments[0], arguments[1], arguments[2], shape[0])
    if name == "Convolution2DTransposeBias":
        picture, kernel, bias = arguments
        blocks: Floats = np.einsum("hwc,ijc->hiwj", picture, kernel[0], optimize=True) + bias
        return blocks.reshape(*shape)
    result: Floats = _SIMPLE[name](*arguments)
    return result


def convolve(picture: Floats, kernel: Floats, bias: Floats, out_rows: int) -> Floats:
    """Convolve with "same" padding: (h, w, c) with (d, k, k, c) to (out_rows, ..., d); the stride is h / out_rows."""
    if kernel.shape[1] == 1:
        product: Floats = picture @ kernel[:, 0, 0].T + bias
        return product
    total: Floats = bias + sum(view @ kernel[:, i, j].T for view, i, j in _views(picture, kernel.shape[1], out_rows))
    return total


def convolve_depthwise(picture: Floats, kernel: Floats, bias: Floats, out_rows: int) -> Floats:
    """Convolve each channel by itself: (h, w, c) with (1, k, k, c) to (out_rows, ..., c)."""
    total: Floats = bias + sum(view * kernel[0, i, j] for view, i, j in _views(picture, kernel.shape[1], out_rows))
    return total


def _views(picture: Floats, kernel_px: int, out_rows: int) -> list[tuple[Floats, int, int]]:
    rows, columns = picture.shape[:2]
    stride = rows // out_rows
    before = max((out_rows - 1) * stride + kernel_px - rows, 0) // 2
    padded = np.pad(picture, ((before, kernel_px), (before, kernel_px), (0, 0)))
    return [
        (padded[i : i + rows : stride, j : j + columns : stride], i, j)
        for i in range(kernel_px)
        for j in range(kernel_px)
    ]


def double(picture: Floats) -> Floats:
    """Double both sides bilinearly, with half-pixel centres: (h, w, c) to (2h, 2w, c)."""
    for _ in range(2):
        near = 0.75 * picture
        pair = (
            near + 0.25 * picture[[0, *range(len(picture) - 1)]],
            near + 0.25 * picture[[*range(1, len(picture)), -1]],
        )
        picture = np.stack(pair, 1).reshape(-1, *picture.shape[1:]).swapaxes(0, 1)
    return picture


_SIMPLE: dict[str, Any] = {
    "RELU": lambda a: np.maximum(a, 0),
    "HARD_SWISH": lambda a: a * np.clip(a + 3, 0, 6) / 6,
    "LOGISTIC": lambda a: 1 / (1 + np.exp(-np.clip(a, -60, 60))),
    "AVERAGE_POOL_2D": lambda a: a.mean((0, 1), keepdims=True),
    "ADD": lambda a, b: a + b,
    "MUL": lambda a, b: a * b,
    "RESIZE_BILINEAR": double,
}
