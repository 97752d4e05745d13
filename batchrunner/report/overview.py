"""The first screen of the page: a headline, four tiles, bars, and what to do about each problem. Pure.

Rules: all values come from the report's dict. A problem has one action. `batchrunner.plan.endings` decides which
commands make progress (`batchrunner.report.failure_groups`); this module only arranges them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from batchrunner.formatting import count_text
from batchrunner.plan.prices import dollars
from batchrunner.report.failure_groups import Cause, ending

_WIDTH = 1000  # of a bar's drawing
_STATE_TEXTS = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}
_OPEN = ("in_flight", "pending")
_NEEDY = ("failed", "in_doubt")


class Tile(NamedTuple):
    """One figure. kind: names its colour, or ""."""

    label: str
    value: str
    note: str
    kind: str = ""


class Segment(NamedTuple):
    """A piece of a bar. x, w: of its drawing, which is 1000 wide."""

    kind: str
    x: float
    w: float
    text: str


class Bar(NamedTuple):
    """A bar. text: its content as one sentence."""

    label: str
    text: str
    segments: tuple[Segment, ...]


class Action(NamedTuple):
    """What to do about jobs that did not succeed.

    causes: the causes that the action settles. command: the command, or "". choices: commands of which a person chooses
    one. text: the effect of the command, or what a person does.
    """

    causes: tuple[Cause, ...]
    command: str
    choices: tuple[str, ...]
    text: str


def headline(report: Mapping[str, Any]) -> str:
    """Return one line: ``5 of 8 jobs done · $0.78 of $2.00 spent · 3 need attention``."""
    totals = report["totals"]
    done = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} done"
    return " · ".join((done, _spent(report), _state(report)))


def _spent(report: Mapping[str, Any]) -> str:
    money = report["money"]
    limit = "" if money["budget_credits"] is None else f" of {dollars(money['budget_credits'])}"
    return f"{dollars(money['spent'])}{limit} spent"


def _state(report: Mapping[str, Any]) -> str:
    needy, left = (sum(report["totals"][state] for state in states) for states in (_NEEDY, _OPEN))
    if report["finished_at"] is None:
        state = "not finished"
    elif report["stopped"]:
        state = "stopped early"
    else:
        state = "" if needy else f"ended with {counted(report, _OPEN)}" if left else "complete"
    return ", ".join(filter(None, (state, f"{needy:,} {'needs' if needy == 1 else 'need'} attention" if needy else "")))


def counted(report: Mapping[str, Any], states: Sequence[str]) -> str:
    """Return the numbers of jobs in these states: ``1 failed, 2 in doubt``, or ""."""
    totals = report["totals"]
    return ", ".join(f"{totals[state]:,} {_STATE_TEXTS[state]}" for state in states if totals[state])


def tiles(report: Mapping[str, Any]) -> list[Tile]:
    """Return the four tiles: done, problems, left, and spent."""
    totals, money = report["totals"], report["money"]
    share = f" ({100 * totals['succeeded'] // totals['jobs']} %)" if totals["jobs"] else ""
    needy, left = (sum(totals[state] for state in states) for states in (_NEEDY, _OPEN))
    verdicts = [f"{totals[name]:,} {name}" for name in ("accepted", "rejected") if totals.get(name)]
    done = [f"of {count_text(totals['jobs'], 'job')}{share}", *verdicts]
    setting = f" ({money['budget_setting']})" if money["budget_setting"] else ""
    is_over = money["budget_credits"] is not None and money["spent"] > money["budget_credits"]
    budget = f"of {dollars(money['budget_credits'])}{setting}" if money["budget_credits"] is not None else "no budget"
    return [
        Tile("done", f"{totals['succeeded']:,}", ", ".join(done), "succeeded"),
        Tile("problems", f"{needy:,}", counted(report, _NEEDY) or "nothing failed", _worst(totals)),
        Tile("left", f"{left:,}", counted(report, _OPEN) or "nothing is left", ""),
        Tile(
            "spent",
            dollars(money["spent"]),
            "sandbox money" if report["provider"] == "sandbox" else budget,
            "failed" if is_over else "",
        ),
    ]


def _worst(totals: Mapping[str, Any]) -> str:
    return next((state for state in _NEEDY if totals[state]), "")


def money_notes(report: Mapping[str, Any]) -> list[str]:
    """Return the facts about money that tiles and bars lack."""
    money = report["money"]
    notes = []
    if money.get("settled_usd"):
        notes.append(f"${money['settled_usd']:,.2f} settled by the service's transactions")
    if command := money.get("settle_command"):
        notes.append(
            f"{count_text(money['unsettled'], 'charge')} not settled yet; {command} settles what the service lists"
        )
    if money["reserved"]:
        notes.append(f"{dollars(money['worst_case'])} at most, with jobs in flight and in doubt")
    if money["overrun_usd"]:
        notes.append(f"${money['overrun_usd']:,.2f} charged above the estimates")
    if money["unpriced"]:
        notes.append(f"{count_text(money['unpriced'], 'generation')} of unknown price, not in the sums")
    return notes


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """Return the bar of the jobs by state, and the bars of the budgets that the batch has."""
    totals, money = report["totals"], report["money"]
    states = [(state, totals[state], _STATE_TEXTS.get(state, "done")) for state in ("succeeded", *_NEEDY, *_OPEN)]
    pieces = [(state, number, f"{number:,} {text}") for state, number, text in states if number]
    found = [_bar("Jobs", pieces, totals["jobs"])] if totals["jobs"] else []
    if money["budget_credits"] is not None:
        texts = [f"{dollars(money['spent'])} spent", f"{dollars(money['reserved'])} reserved"]
        found.append(
            _budget_bar("Budget", (money["spent"], money["reserved"]), texts, money["budget_credits"], dollars)
        )
    if money["budget_generations"] is not None:
        accepted, most = money["generations"], money["budget_generations"]
        texts = [count_text(accepted, "generation"), ""]
        found.append(_budget_bar("Limit", (accepted, 0), texts, most, "{:,}".format))
    return found


def _budget_bar(
    label: str, used: tuple[float, float], texts: Sequence[str], limit: float, text: Callable[[float], str]
) -> Bar:
    """Return the bar of a limit. used: spent and reserved, with their texts. text: formats an amount."""
    spent, reserved = used
    left = limit - spent - reserved
    pieces = [("spent", min(spent, limit), texts[0])]
    if reserved:
        pieces.append(("reserved", max(0.0, min(reserved, limit - spent)), texts[1]))
    pieces.append(
        ("rest", left, f"{text(left)} left") if left >= 0 else ("over", -left, f"{text(-left)} above the limit")
    )
    return _bar(label, pieces, limit)


def _bar(label: str, pieces: Sequence[tuple[str, float, str]], whole: float) -> Bar:
    """Return a bar. pieces: kind, amount and text of each. If they are more than the whole, they fill the bar."""
    scale = _WIDTH / max(sum(amount for _, amount, _ in pieces), whole, 1e-9)
    segments, x = [], 0.0
    for kind, amount, text in pieces:
        segments.append(Segment(kind, x, amount * scale, text))
        x += amount * scale
    return Bar(label, ", ".join(text for _, _, text in pieces), tuple(segments))


def advice(report: Mapping[str, Any]) -> str:
    """Return what a person does before the batch can continue, or ""."""
    found = ending(report)
    unfinished = report["totals"]["pending"] + report["totals"]["in_flight"]
    return found.advice if found is not None and unfinished else ""


def actions(causes: Sequence[Cause]) -> list[Action]:
    """Return one action for each problem, failures first, then the actions for the jobs that are left."""
    found = [Action((cause,), cause.command, cause.choices, cause.note) for cause in causes if cause.state in _NEEDY]
    left: dict[tuple[str, str], list[Cause]] = {}
    for cause in causes:
        if cause.state in _OPEN:
            left.setdefault((cause.command, "" if cause.command else cause.note), []).append(cause)
    for group in left.values():
        notes = dict.fromkeys(cause.note for cause in group)
        found.append(Action(tuple(group), group[0].command, group[0].choices, " ".join(notes)))
    return found
