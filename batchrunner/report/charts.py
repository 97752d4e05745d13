"""The small charts of the report (generation times, cost, polls) as geometry. Pure.

Rule: a chart is a dict of numbers and texts in pixels, and a summary sentence; None if there is no data. The style
sheet defines the appearance.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import nan
from statistics import median, quantiles
from typing import Any, NamedTuple

from batchrunner.formatting import count_text, length_text
from batchrunner.plan.prices import dollars, usd
from batchrunner.report.time_axis import Axis, nice_seconds, nice_step

Chart = dict[str, Any]

WIDTH, HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 24
_MOST_BINS = 24
_TIMES = ("submitted_at", "accepted_at", "generating_at", "completed_at", "ended_at")
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

    A batch can have 100,000 attempts: they are stored as bare numbers and created on iteration. Charts read the columns
    that they need.
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
                self._figures.extend(_figures(item))

    def __iter__(self) -> Iterator[Try]:
        figures = iter(self._figures)
        # A comparison with NaN is false.
        for outcome, submitted, *found, poll_count, is_accepted in zip(self._outcomes, *[figures] * 8, strict=True):
            accepted, generating, completed, ended, price = [item if item > 0 or item <= 0 else None for item in found]
            times = (submitted, accepted, generating, completed, ended)
            yield Try(outcome, *times, price, int(poll_count), bool(is_accepted))

    @property
    def durations_s(self) -> list[float]:
        """The generation times, queue included. One is negative if the wall clock was set back."""
        times = zip(self._column("accepted_at"), self._column("completed_at"), strict=True)
        # NaN differs from itself.
        return [took for start, end in times if (took := end - start) == took]

    @property
    def poll_counts(self) -> list[int]:
        """The number of polls of each accepted generation."""
        counts = zip(self._column("polls"), self._column("is_accepted"), strict=True)
        return [int(count) for count, is_accepted in counts if is_accepted]

    @property
    def payments(self) -> list[tuple[float, float]]:
        """The time of completion and the price of each generation that was paid for, in credits."""
        found = zip(self._outcomes, self._column("completed_at"), self._column("price"), strict=True)
        # A comparison with NaN is false.
        return [(at, price) for outcome, at, price in found if outcome != "failed" and at > 0 and abs(price) > 0]

    def _column(self, name: str) -> "array[float]":
        return self._figures[Try._fields.index(name) - 1 :: len(Try._fields) - 1]


def seconds_of(time: str | None) -> float | None:
    """Return a time of the report as seconds since the epoch."""
    return None if time is None else datetime.fromisoformat(time).timestamp()


def generation_times(tried_s: Iterable[float]) -> Chart | None:
    """Return the chart of generation times. tried_s: `AttemptTable.durations_s`."""
    durations_s = sorted([took for took in tried_s if took >= 0])
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


def polls(poll_counts: Sequence[int]) -> Chart | None:
    """Return the chart of polls per generation. poll_counts: of each generation."""
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


def cost(
    budget: float | None, payments: Iterable[tuple[float, float]], spans: Sequence[tuple[float, float]]
) -> Chart | None:
    """Return the chart of cumulated cost on the time axis of `spans`. budget: credits. payments: see `AttemptTable`."""
    paid = sorted(payments)
    if not paid:
        return None
    axis = Axis(spans, _LEFT, WIDTH - _RIGHT)
    total = sum([credits_ for _, credits_ in paid])
    most = max(total, budget) if budget and budget < 4 * total else total
    step = nice_step(usd(most), 4)
    top = step * -(-usd(most) // step)

    def y(credits_: float) -> float:
        return HEIGHT - _BOTTOM - usd(credits_) / top * (HEIGHT - _TOP - _BOTTOM)

    steps, spent = dict[str, float](), 0.0  # one step per pixel, for any number of payments
    for at, credits_ in paid:
        spent += credits_
        steps[f"{axis.x(at):.1f}"] = spent
    path = f"M{_LEFT} {y(0):.1f}" + "".join(f"H{x}V{y(spent):.1f}" for x, spent in steps.items())
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


def _figures(attempt: Mapping[str, Any]) -> list[float]:
    """Return the values of an attempt in the order of `Try`'s fields, without the first one; NaN for None."""
    price = attempt["estimate"] if attempt["credits"] is None else attempt["credits"]
    return [
        *[nan if (at := attempt[name]) is None else datetime.fromisoformat(at).timestamp() for name in _TIMES],
        nan if (known := price if attempt["settled"] is None else attempt["settled"]) is None else known,
        attempt["polls"],
        attempt["generation_id"] is not None,
    ]


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
