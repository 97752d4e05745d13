"""Draw docs/states.svg from the table of job states, `batchrunner.job.TRANSITIONS`.

Run it with ``python docs/draw_states.py``. A test compares the file with the table. A new state needs a place in
PLACES.
"""

from collections import defaultdict
from math import hypot
from pathlib import Path

from batchrunner.job import TRANSITIONS, State

# Centre of each state's box, in pixels.
PLACES = {
    State.FAILED: (510, 50),
    State.PENDING: (90, 190),
    State.SUBMITTING: (370, 190),
    State.IN_FLIGHT: (650, 190),
    State.SUCCEEDED: (930, 190),
    State.IN_DOUBT: (510, 330),
}
_WIDTH, _HEIGHT = 1020, 380
_BOX = (120, 40)
_APART = 11  # px from the centre line, where two states have arrows in both directions
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="#456"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
<g font-family="system-ui, sans-serif" font-size="14" text-anchor="middle">"""


def svg() -> str:
    """Return the whole picture."""
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (old, move), new in TRANSITIONS.items():
        arrows[old, new].append(str(move))
    label = "The states of a job: " + "; ".join(f"{a} to {b}: {', '.join(m)}" for (a, b), m in arrows.items())
    lines = [_HEAD.format(width=_WIDTH, height=_HEIGHT, label=label)]
    lines += [_arrow(old, new, moves, two_way=(new, old) in arrows) for (old, new), moves in arrows.items()]
    lines += [_box(state) for state in State]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _box(state: State) -> str:
    x, y = PLACES[state]
    width, height = _BOX
    return (
        f'<rect x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="8" '
        f'fill="#eef3f8" stroke="#456"/><text x="{x}" y="{y + 5}" font-weight="600" fill="#123">{state}</text>'
    )


def _arrow(old: State, new: State, moves: list[str], *, two_way: bool) -> str:
    (x1, y1), (x2, y2) = PLACES[old], PLACES[new]
    length = hypot(x2 - x1, y2 - y1)
    along = ((x2 - x1) / length, (y2 - y1) / length)
    aside = _APART if two_way else 0
    shift = (-along[1] * aside, along[0] * aside)
    start, end = _edge(along, shift), length - _edge((-along[0], -along[1]), shift)
    label = start + (end - start) * (0.36 if two_way and y1 != y2 else 0.5)
    (ax, ay), (bx, by), (tx, ty) = (
        (x1 + shift[0] + along[0] * at, y1 + shift[1] + along[1] * at) for at in (start, end, label)
    )
    return (
        f'<path d="M{ax:.0f} {ay:.0f}L{bx:.0f} {by:.0f}" stroke="#456" fill="none" marker-end="url(#tip)"/>'
        f'<text x="{tx:.0f}" y="{ty + 5:.0f}" fill="#345" stroke="#fff" stroke-width="5" '
        f'paint-order="stroke">{", ".join(moves)}</text>'
    )


def _edge(along: tuple[float, float], shift: tuple[float, float]) -> float:
    """Return the distance from a box's shifted centre to its edge, in this direction."""
    half = (_BOX[0] / 2 + 1, _BOX[1] / 2 + 1)
    ways = zip(half, along, shift, strict=True)
    return min(
        (size - moved * (1 if piece > 0 else -1)) / abs(piece) for size, piece, moved in ways if abs(piece) > 1e-9
    )


if __name__ == "__main__":
    (Path(__file__).parent / "states.svg").write_text(svg(), "utf-8")
