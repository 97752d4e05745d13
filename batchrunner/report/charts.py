"""The small charts of the report (generation times, cost, polls) as geometry. Pure.

Rule: a chart is a dict of numbers and texts in pixels, and a summary sentence; None if there is no data. The style
sheet defines the appearance.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from math import isnan, nan
from statistics import median, quantiles
from typing import Any, NamedTuple

from batchrunner.formatting import count_text, length_text
from batchrunner.plan.prices import dollars, usd
from batchrunner.report.time_axis import Axis, nice_seconds, nice_step

Chart = dict[str, Any]

WIDTH, HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 24
_MOST_BINS = 24
_LABEL_MOST = 6  # characters that fit on the left


class Try(NamedTuple):
    """An attempt.

    Times are seconds since the epoch. price: the charge, or the estimate if it is unknown, in credits.
    """

    outcome: str | None
    submitted_at: float
    accepted_at: float | None = None
    generating_at: float | None = None
    completed_at: float | None = None
    ended_at: float | None = None
    price: float | None = None
    polls: int = 0
    is_accepted: bool = False


class AttemptTable:
    """The attempts of some rows of the report, each once even if several entries share the job. rows: rows with
    attempts.

    A batch can have 100,000 attempts: they are stored as bare numbers and created on iteration.
    """

    def __init__(self, jobs: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rows = 0
        self._outcomes: list[str | None] = []
        self._figures = array("d")  # of each attempt, in the order of `Try`'s fields; NaN if unknown
        self._known: set[str] = set()
        for job in jobs:
            self.add(job["attempts"])

    def add(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        """Add the attempts of a row."""
        self.rows += bool(attempts)
        for item in attempts:
            if item["request_id"] not in self._known:
                self._known.add(item["request_id"])
                self._outcomes.append(item["outcome"])
                self._figures.extend([nan if value is None else value for value in _figures(item)])

    def __iter__(self) -> Iterator[Try]:
        figures = iter(self._figures)
        for outcome, submitted, *found, poll_count, is_accepted in zip(self._outcomes, *[figures] * 8, strict=True):
            accepted, generating, completed, ended, price = [None if isnan(item) else item for item in found]
            times = (submitted, accepted, generating, completed, ended)
            yield Try(outcome, *times, price, int(poll_count), bool(is_accepted))


def seconds_of(time: str | None) -> float | None:
    """Return a time of the report as seconds since the epoch."""
    return None if time is None else datetime.fromisoformat(time).timestamp()


def generation_times(tries: Iterable[Try]) -> Chart | None:
    """Return the chart of generation times, queue included."""
    durations_s = sorted(
        item.completed_at - item.accepted_at
        for item in tries
        if item.completed_at and item.accepted_at and item.completed_at >= item.accepted_at
    )
    if not durations_s:
        return None
    step = nice_seconds(durations_s[-1], _MOST_BINS)
    counts = [0] * (int(durations_s[-1] // step) + 1)
    for item in durations_s:
        counts[int(item // step)] += 1
    names = [f"{length_text(step * n)} to {length_text(step * (n + 1))}" for n in range(len(counts))]
    every = -(-len(counts) // 6)
    ticks = [(n, _length(step * n)) for n in range(0, len(counts) + 1, every)]
    chart = _bars(counts, names, ticks)
    middle = median(durations_s)
    chart["marks"] = [{"x": _x(middle / step, len(counts)), "label": f"median {length_text(middle)}"}]
    slow = (
        f"; one in ten takes more than {length_text(quantiles(durations_s, n=10)[-1])}"
        if len(durations_s) >= 10
        else ""
    )
    chart["summary"] = f"{count_text(len(durations_s), 'generation')}, median {length_text(middle)}{slow}."
    return chart


def polls(tries: Iterable[Try]) -> Chart | None:
    """Return the chart of polls per generation."""
    poll_counts = [item.polls for item in tries if item.is_accepted]
    if not poll_counts or not max(poll_counts):
        return None
    step = max(1, int(nice_step(max(poll_counts) + 1, _MOST_BINS)))
    counts = [0] * (max(poll_counts) // step + 1)
    for item in poll_counts:
        counts[item // step] += 1
    names = [str(n) if step == 1 else f"{step * n} to {step * (n + 1) - 1}" for n in range(len(counts))]
    every = -(-len(counts) // 8)
    chart = _bars(counts, [f"{name} polls" for name in names], [])
    chart["x_ticks"] = [
        {"x": _x(n + 0.5, len(counts)), "label": names[n].partition(" ")[0]} for n in range(0, len(counts), every)
    ]
    chart["summary"] = (
        f"{count_text(sum(poll_counts), 'poll')}, {sum(poll_counts) / len(poll_counts):.1f} per generation."
    )
    return chart


def cost(budget: float | None, tries: Iterable[Try], spans: Sequence[tuple[float, float]]) -> Chart | None:
    """Return the chart of cumulated cost on the time axis of `spans`. budget: credits."""
    paid = sorted(
        (item.completed_at, item.price)
        for item in tries
        if item.completed_at and item.price and item.outcome != "failed"
    )
    if not paid:
        return None
    axis = Axis(spans, _LEFT, WIDTH - _RIGHT)
    total = sum(credits_ for _, credits_ in paid)
    most = max(total, budget) if budget and budget < 4 * total else total
    step = nice_step(usd(most), 4)
    top = step * -(-usd(most) // step)

    def y(credits_: float) -> float:
        return HEIGHT - _BOTTOM - usd(credits_) / top * (HEIGHT - _TOP - _BOTTOM)

    path, spent = f"M{_LEFT} {y(0):.1f}", 0.0
    # one step per pixel, for any number of payments
    for x, there in groupby(paid, lambda item: f"{axis.x(item[0]):.1f}"):
        spent += sum(credits_ for _, credits_ in there)
        path += f"H{x}V{y(spent):.1f}"
    path += f"H{WIDTH - _RIGHT}"
    digits = 0 if step >= 1 else 2 if step >= 0.01 else 4
    levels = [step * n for n in range(round(top / step) + 1)]
    return {
        "bars": [],
        "line": path,
        "under": f"{path}V{y(0):.1f}H{_LEFT}Z",
        "limit": {"y": y(budget), "label": "budget"} if budget and most == max(total, budget) else None,
        "x_ticks": [{"x": x, "moment": moment} for moment, x in axis.ticks(70)],
        "y_ticks": [{"y": y(level * 2_000_000), "label": _level(level, top, "$", digits)} for level in levels],
        "marks": [],
        "summary": f"{dollars(total)} ({total:,.0f} credits) for {count_text(len(paid), 'completed generation')}.",
    }


def _figures(attempt: Mapping[str, Any]) -> tuple[float | None, ...]:
    return (
        seconds_of(attempt["submitted_at"]),
        seconds_of(attempt["accepted_at"]),
        seconds_of(attempt["generating_at"]),
        seconds_of(attempt["completed_at"]),
        seconds_of(attempt["ended_at"]),
        next((attempt[name] for name in ("settled", "credits", "estimate") if attempt[name] is not None), None),
        attempt["polls"],
        attempt["generation_id"] is not None,
    )


def _length(seconds: float) -> str:
    """Return a round length of time in the largest unit that gives a whole number."""
    one, unit = next(((one, unit) for one, unit in ((3600, "h"), (60, "min")) if not seconds % one), (1, "s"))
    return f"{seconds / one:g} {unit}" if seconds else "0"


def _level(level: float, top: float, sign: str = "", digits: int = 0) -> str:
    """Return a label of the vertical axis, in thousands if the largest label is too long."""
    if len(f"{sign}{top:,.{digits}f}") <= _LABEL_MOST or not level:
        return f"{sign}{level:,.{digits}f}"
    return f"{sign}{level / 1000:,g}k"


def _x(place: float, bins: int) -> float:
    return _LEFT + place / bins * (WIDTH - _LEFT - _RIGHT)


def _bars(counts: Sequence[int], names: Sequence[str], ticks: Sequence[tuple[int, str]]) -> Chart:
    """Return a histogram. names: of the bins. ticks: edges of bins and their labels."""
    step = max(1.0, nice_step(max(counts), 4))
    top = step * -(-max(counts) // step)
    height_px = HEIGHT - _TOP - _BOTTOM
    bars = [
        {
            "x": _x(n, len(counts)) + 1,
            "w": max(1.0, (WIDTH - _LEFT - _RIGHT) / len(counts) - 2),
            "y": HEIGHT - _BOTTOM - count / top * height_px,
            "h": count / top * height_px,
            "title": f"{name}: {count:,}",
        }
        for n, (count, name) in enumerate(zip(counts, names, strict=True))
        if count
    ]
    levels = [step * n for n in range(round(top / step) + 1)]
    return {
        "bars": bars,
        "line": "",
        "under": "",
        "limit": None,
        "x_ticks": [{"x": _x(n, len(counts)), "label": label} for n, label in ticks],
        "y_ticks": [{"y": HEIGHT - _BOTTOM - level / top * height_px, "label": _level(level, top)} for level in levels],
        "marks": [],
        "summary": "",
    }
