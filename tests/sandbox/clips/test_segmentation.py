"""The network in numpy: its operations against plain loops, and its result for pictures with known content."""

import numpy as np
import pytest
from PIL import Image

from batchrunner.sandbox.clips.segmentation import convolve, double, person
from tests.conftest import ROOT


def test_a_portrait_is_a_person_and_its_background_is_not() -> None:
    with Image.open(ROOT / "manifests/media/astronaut.jpg") as image:
        score = person(np.asarray(image.resize((256, 256))))
    assert score[40:55, 100:120].min() > 0.9  # the face
    assert score[150:200, 70:100].min() > 0.9  # the chest
    assert score[:60, 170:].max() < 0.1  # the wall beside it


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_has_no_person(value: int) -> None:
    assert person(np.full((256, 256, 3), value, np.uint8)).mean() < 0.05


@pytest.mark.parametrize(("side", "kernel_px", "out_rows"), [(8, 3, 4), (8, 3, 8), (9, 5, 9), (8, 5, 4), (6, 1, 6)])
def test_convolutions_match_the_definition(side: int, kernel_px: int, out_rows: int) -> None:
    """With TensorFlow's "same" padding: an odd extra pixel goes to the right and to the bottom."""
    random = np.random.default_rng(side * kernel_px)
    picture, bias = random.random((side, side, 3), np.float32), random.random(4, np.float32)
    kernel = random.random((4, kernel_px, kernel_px, 3), np.float32)
    stride = side // out_rows
    before = max((out_rows - 1) * stride + kernel_px - side, 0) // 2
    wide = np.pad(picture, ((before, 9), (before, 9), (0, 0)))
    expected = np.zeros((out_rows, out_rows, 4))
    for row, column in np.ndindex(out_rows, out_rows):
        place = wide[row * stride :, column * stride :][:kernel_px, :kernel_px]
        expected[row, column] = (kernel * place).sum((1, 2, 3)) + bias
    assert convolve(False, out_rows, picture, kernel, bias) == pytest.approx(expected, abs=1e-4)
    depthwise = convolve(True, out_rows, picture, kernel[:1], bias[:3])
    for channel in range(3):
        one = np.zeros_like(kernel[:1])
        one[..., channel] = kernel[:1, ..., channel]
        assert depthwise[..., channel] == pytest.approx(
            convolve(False, out_rows, picture, one, bias[channel : channel + 1])[..., 0], abs=1e-4
        )


def test_doubling_keeps_slopes() -> None:
    ramp = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 4, 2), np.float32)
    wide = double(ramp)
    assert wide.shape == (12, 8, 2)
    assert wide[1:-1, 0, 0] == pytest.approx(np.arange(0.25, 5, 0.5))
