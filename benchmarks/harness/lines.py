"""A line plot with two logarithmic axes, as SVG. Text only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]
_COLOURS = ("#0b6e4f", "#1040a0", "#c08030", "#a03060", "#606060")
_WIDE, _HIGH, _LEFT, _TOP, _RIGHT, _BOTTOM = 470, 330, 58, 40, 340, 280  # of a panel, and its frame in it
_LINE = 15  # height of a label


@dataclass(frozen=True, slots=True)
class Panel:
    """A title and its lines by name. straight: add a dashed line of proportional growth to each."""

    title: str
    lines: Mapping[str, Sequence[Point]]
    straight: bool = False


def plot(panels: Sequence[Panel], across: str) -> str:
    """Return the panels side by side. across: the label of the x axis."""
    view = f'viewBox="0 0 {_WIDE * len(panels)} {_HIGH}" font-family="sans-serif" font-size="13"'
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" {view}>', '<rect width="100%" height="100%" fill="#fff"/>']
    for at, item in enumerate(panels):
        drawn.append(f'<g transform="translate({_WIDE * at},0)">{_panel(item, across)}</g>')
    return "\n".join([*drawn, "</svg>", ""])


def _panel(panel: Panel, across: str) -> str:
    guides = {name: [line[0], _grown(line[0], line[-1][0])] for name, line in panel.lines.items() if panel.straight}
    points = [point for line in (*panel.lines.values(), *guides.values()) for point in line]
    xs, ys = _ends([x for x, _ in points]), _ends([y for _, y in points])

    def at(point: Point) -> Point:
        return (
            _LEFT + _share(point[0], xs) * (_RIGHT - _LEFT),
            _BOTTOM - _share(point[1], ys) * (_BOTTOM - _TOP),
        )

    elements = [
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(panel.title)}</text>',
        *_grid(xs, ys, {x for x, _ in points}),
    ]
    elements.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HIGH - 12}" text-anchor="middle">{escape(across)}</text>')
    labels = _apart({name: at(line[-1])[1] for name, line in panel.lines.items()})
    for colour, (name, line) in zip(_COLOURS, panel.lines.items(), strict=False):
        if name in guides:
            elements.append(_drawn(list(map(at, guides[name])), colour, 'stroke-width="1" stroke-dasharray="3 4"'))
        elements.append(_drawn(list(map(at, line)), colour, 'stroke-width="2"'))
        elements += [f'<circle r="3" cx="{x:.1f}" cy="{y:.1f}" fill="{colour}"/>' for x, y in map(at, line)]
        elements.append(f'<text x="{_RIGHT + 8}" y="{labels[name] + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(elements)


def _grid(xs: Point, ys: Point, marks: Iterable[float]) -> list[str]:
    """Return the grid. marks: the x values of the points."""
    elements = []
    for tick in sorted(marks):
        x = _LEFT + _share(tick, xs) * (_RIGHT - _LEFT)
        elements.append(f'<path d="M{x:.1f} {_TOP}V{_BOTTOM}" stroke="#e0e0e0"/>')
        elements.append(f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{tick:,g}</text>')
    for tick in _ticks(*ys):
        y = _BOTTOM - _share(tick, ys) * (_BOTTOM - _TOP)
        elements.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#e0e0e0"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    return elements


def _drawn(line: Sequence[Point], colour: str, style: str) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" {style}/>'


def _grown(first: Point, x: float) -> Point:
    return x, first[1] * x / first[0]


def _ends(values: Sequence[float]) -> Point:
    return min(values) / 1.2, max(values) * 1.2


def _share(value: float, ends: Point) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two values: powers of ten, and their doubles and halves if there are few."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)]
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = [factor * power for power in powers for factor in factors if low <= factor * power <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Return the heights of labels, moved down if they would overlap."""
    placed: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = placed[name] = max(height, last + _LINE)
    return placed
