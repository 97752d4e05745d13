"""A time axis for the charts. It shows the time of the runs and omits the time between them. Pure.

Rule: moments are seconds since the epoch, positions are pixels. A moment outside the axis is drawn at its edge.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

_GAP_PX = 26.0
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


class Piece(NamedTuple):
    """A period and its position on the axis."""

    start: float
    end: float
    left: float
    right: float


class Axis:
    """A time axis from `left` to `right`. spans: the times of the runs, oldest first; they may touch and overlap."""

    def __init__(self, spans: Sequence[tuple[float, float]], left: float, right: float) -> None:
        merged: list[list[float]] = []
        total_s = max(1.0, sum(end - start for start, end in spans))
        for start, end in sorted(spans):
            # A pause shorter than a twentieth of the chart is drawn to scale.
            if merged and start - merged[-1][1] < total_s / 20:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, max(end, start + 1.0)])
        width_px = right - left - _GAP_PX * (len(merged) - 1)
        scale = max(width_px, 1.0) / sum(end - start for start, end in merged)
        self.px_per_s = scale
        self.pieces: list[Piece] = []
        for start, end in merged:
            at = self.pieces[-1].right + _GAP_PX if self.pieces else left
            self.pieces.append(Piece(start, end, at, at + (end - start) * scale))

    def x(self, moment: float) -> float:
        """Return the position of `moment`."""
        for piece in self.pieces:
            if moment < piece.start:
                return piece.left
            if moment <= piece.end:
                return piece.left + (moment - piece.start) * self.px_per_s
        return self.pieces[-1].right

    def moment(self, x: float) -> float:
        """Return the moment at position `x`."""
        for piece in self.pieces:
            if x <= piece.right:
                return piece.start + max(0.0, x - piece.left) / self.px_per_s
        return self.pieces[-1].end

    def ticks(self, apart_px: float) -> list[tuple[float, float]]:
        """Return round moments and their positions, at least `apart_px` apart."""
        step = next((step for step in _STEPS_S if step * self.px_per_s >= apart_px), _STEPS_S[-1])
        found: list[tuple[float, float]] = []
        for piece in self.pieces:
            at = float(ceil(piece.start / step) * step)
            while at <= piece.end and len(found) < 100:
                x = self.x(at)
                if not found or x - found[-1][1] >= apart_px:
                    found.append((at, x))
                at += step
        return found

    @property
    def breaks(self) -> list[tuple[float, float]]:
        """The omitted pauses: position and length in seconds."""
        pairs = zip(self.pieces, self.pieces[1:], strict=False)
        return [((one.right + two.left) / 2, two.start - one.end) for one, two in pairs]


def nice_step(most: float, steps: int) -> float:
    """Return a round step (1, 2 or 5 times a power of ten) that reaches `most` in at most `steps` steps."""
    raw = max(most, 1e-9) / steps
    power = 1.0
    while power * 10 <= raw:
        power *= 10
    while power > raw:
        power /= 10
    return next(power * item for item in (1, 2, 5, 10) if power * item >= raw)


def nice_seconds(most: float, steps: int) -> float:
    """Return a round length of time that reaches `most` in at most `steps` steps."""
    return next((float(step) for step in _STEPS_S if step * steps >= most), nice_step(most, steps))
