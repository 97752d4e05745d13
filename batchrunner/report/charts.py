"""Small charts off the report's dict, as geometry for the page: times of generations, cost, polls. Pure.

Rule: a chart is a dict of plain numbers and texts in the pixels of its own drawing, and a summary that says in a
sentence what the drawing shows; None where there is nothing to draw. How it looks is the style sheet's business.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median, quantiles
from typing import Any

from batchrunner.prices import usd
from batchrunner.report.axis import Axis, nice_seconds, nice_step
from batchrunner.report.text import dollars
from batchrunner.text import count_text, length_text

Chart = dict[str, Any]

WIDTH, HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 24
_MOST_BINS = 24


def seconds_of(time: str | None) -> float | None:
    """A time of the report as seconds since the epoch."""
    return None if time is None else datetime.fromisoformat(time).timestamp()


def generation_times(report: dict[str, Any]) -> Chart | None:
    """How long generations took, queue included."""
    took = sorted(
        each["completed_at"] - each["accepted_at"]
        for each in attempts(report["jobs"])
        if each["completed_at"] and each["accepted_at"] and each["completed_at"] >= each["accepted_at"]
    )
    if not took:
        return None
    step = nice_seconds(took[-1], _MOST_BINS)
    counts = [0] * (int(took[-1] // step) + 1)
    for each in took:
        counts[int(each // step)] += 1
    names = [f"{length_text(step * n)} to {length_text(step * (n + 1))}" for n in range(len(counts))]
    every = -(-len(counts) // 6)
    ticks = [(n, _length(step * n)) for n in range(0, len(counts) + 1, every)]
    chart = _bars(counts, names, ticks)
    middle = median(took)
    chart["marks"] = [{"x": _x(middle / step, len(counts)), "label": f"median {length_text(middle)}"}]
    slow = f"; one in ten took more than {length_text(quantiles(took, n=10)[-1])}" if len(took) >= 10 else ""
    chart["summary"] = f"{count_text(len(took), 'generation')}, median {length_text(middle)}{slow}."
    return chart


def polls(report: dict[str, Any]) -> Chart | None:
    """How often each generation was looked at."""
    asked = [each["polls"] for each in attempts(report["jobs"]) if each["generation_id"]]
    if not asked or not max(asked):
        return None
    step = max(1, int(nice_step(max(asked) + 1, _MOST_BINS)))
    counts = [0] * (max(asked) // step + 1)
    for each in asked:
        counts[each // step] += 1
    names = [str(n) if step == 1 else f"{step * n} to {step * (n + 1) - 1}" for n in range(len(counts))]
    every = -(-len(counts) // 8)
    chart = _bars(counts, [f"{name} polls" for name in names], [])
    chart["x_ticks"] = [
        {"x": _x(n + 0.5, len(counts)), "label": names[n].partition(" ")[0]} for n in range(0, len(counts), every)
    ]
    chart["summary"] = f"{count_text(sum(asked), 'poll')}, {sum(asked) / len(asked):.1f} a generation."
    return chart


def cost(report: dict[str, Any], spans: Sequence[tuple[float, float]]) -> Chart | None:
    """What was spent by when, on the time axis of `spans`."""
    paid = sorted(
        (each["completed_at"], price)
        for each in attempts([*report["jobs"], *report["earlier_jobs"]])
        if each["completed_at"] and each["outcome"] != "failed"
        if (price := each["estimate"] if each["credits"] is None else each["credits"])
    )
    if not paid:
        return None
    axis = Axis(spans, _LEFT, WIDTH - _RIGHT)
    total = sum(credits_ for _, credits_ in paid)
    budget = report["money"]["budget_credits"]
    most = max(total, budget) if budget and budget < 4 * total else total
    step = nice_step(usd(most), 4)
    top = step * -(-usd(most) // step)

    def y(credits_: float) -> float:
        return HEIGHT - _BOTTOM - usd(credits_) / top * (HEIGHT - _TOP - _BOTTOM)

    path, spent = f"M{_LEFT} {y(0):.1f}", 0.0
    for at, credits_ in paid:
        path += f"H{axis.x(at):.1f}"
        spent += credits_
        path += f"V{y(spent):.1f}"
    path += f"H{WIDTH - _RIGHT}"
    digits = 0 if step >= 1 else 2 if step >= 0.01 else 4
    levels = [step * n for n in range(round(top / step) + 1)]
    return {
        "bars": [],
        "line": path,
        "under": f"{path}V{y(0):.1f}H{_LEFT}Z",
        "limit": {"y": y(budget), "label": "budget"} if budget and most == max(total, budget) else None,
        "x_ticks": [{"x": x, "moment": moment} for moment, x in axis.ticks(70)],
        "y_ticks": [{"y": y(level * 2_000_000), "label": f"${level:,.{digits}f}"} for level in levels],
        "marks": [],
        "summary": f"{dollars(total)} ({total:,.0f} credits) for {count_text(len(paid), 'completed generation')}.",
    }


def attempts(jobs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every attempt of `jobs` once, its times in seconds since the epoch. Jobs under several ids share theirs."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        for each in job["attempts"]:
            if each["request_id"] not in found:
                times = {name: seconds_of(value) for name, value in each.items() if name.endswith("_at")}
                found[each["request_id"]] = {**each, **times}
    return list(found.values())


def _length(seconds: float) -> str:
    """A round length of time, as short as it goes."""
    one, unit = next(((one, unit) for one, unit in ((3600, "h"), (60, "min")) if seconds >= one), (1, "s"))
    return f"{seconds / one:g} {unit}" if seconds else "0"


def _x(place: float, bins: int) -> float:
    return _LEFT + place / bins * (WIDTH - _LEFT - _RIGHT)


def _bars(counts: Sequence[int], names: Sequence[str], ticks: Sequence[tuple[int, str]]) -> Chart:
    """A histogram. names: of the bins. ticks: edges of bins and what they are called."""
    step = max(1.0, nice_step(max(counts), 4))
    top = step * -(-max(counts) // step)
    room = HEIGHT - _TOP - _BOTTOM
    bars = [
        {
            "x": _x(n, len(counts)) + 1,
            "w": max(1.0, (WIDTH - _LEFT - _RIGHT) / len(counts) - 2),
            "y": HEIGHT - _BOTTOM - count / top * room,
            "h": count / top * room,
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
        "y_ticks": [{"y": HEIGHT - _BOTTOM - level / top * room, "label": f"{level:,.0f}"} for level in levels],
        "marks": [],
        "summary": "",
    }
