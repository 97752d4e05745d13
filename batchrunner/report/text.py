"""The report as text: the headline, and the lines of the ``status`` command. Pure.

Rule: all data comes from the report's dict, so terminal, log and page show the same sentences. Names and messages from
outside are made printable here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from textwrap import wrap
from typing import Any

from batchrunner.formatting import count_text, length_text, printable, size_text
from batchrunner.plan.prices import dollars
from batchrunner.report.failure_groups import Cause, causes, ending

_CAUSES = 8
_NAMES = 3
_LABEL = 18
_NARROW = 60
_MESSAGE_MOST = 300
_NAME_MOST = 100
_STATE_TEXTS = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}
_NEXT = {"in_flight": "continue", "pending": "continue", "failed": "try again", "in_doubt": "resolve"}
_FIRST, _TO_DO = "first", "to do"


def headline(report: dict[str, Any]) -> str:
    """Return one sentence: ``5 of 8 jobs succeeded in 12 s, 1 failed, 2 in doubt; 1.2 MB, 6 generations, $0.78 spent.``

    For a continued batch, the duration of the last run is listed separately.
    """
    totals = report["totals"]
    state_counts = [f", {totals[state]:,} {name}" for state, name in _STATE_TEXTS.items() if totals[state]]
    took = continued = ""
    if report["finished_at"] is None:
        took = " so far"
    else:
        seconds = datetime.fromisoformat(report["finished_at"]) - datetime.fromisoformat(report["started_at"])
        length = length_text(seconds.total_seconds())
        if report["first_submitted_at"] and report["first_submitted_at"] < report["started_at"]:
            continued = f"; this run took {length}"
        else:
            took = f" in {length}"
    paid = f"{size_text(totals['bytes'])}, {count_text(totals['generations'], 'generation')}"
    if report["money"]["spent"]:
        paid += f", {dollars(report['money']['spent'])} spent"
        paid += " (earlier manifests included)" if report["earlier_jobs"] else ""
    counts = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} succeeded{took}"
    return f"{counts}{''.join(state_counts)}; {paid}{continued}."


def status_text(report: dict[str, Any], files: Sequence[str] = (), width: int | None = None) -> str:
    """Return the state of the batch as lines: outcome, open jobs with their causes, cost, next commands.

    files: paths of the report. width: columns to wrap text at; commands are not wrapped, so they can be copied.
    """
    lines = _wrapped("", f"{printable(report['name'], _NAME_MOST)} ({report['provider']}): {headline(report)}", width)
    if report["stopped"]:
        lines += _wrapped("stopped", printable(report["stopped"], _MESSAGE_MOST), width)
    found = causes(report)
    # A cause that repeats the reason of the stop is listed already.
    listed = [item for item in found if not report["stopped"] or report["stopped"] not in item.messages[0][0]]
    for cause in listed[:_CAUSES]:
        lines += _cause(cause, width)
    unlisted = sum(cause.jobs for cause in listed[_CAUSES:])
    if unlisted:
        lines += _wrapped(
            "", f"{'':{_LABEL}}and {count_text(unlisted, 'job')} for other reasons; see the report", width
        )
    if report["earlier_jobs"]:
        number = count_text(len(report["earlier_jobs"]), "generation")
        lines += _wrapped("earlier", f"{number} for jobs that the manifest no longer contains", width)
    if cost := _cost(report):
        lines += _wrapped("cost", cost, width)
    lines += [f"{'report':<{_LABEL}}{printable(path)}" for path in files]
    for step in next_steps(report, found):
        lines += _step(step, width)
    return "\n".join(lines)


def _cause(cause: Cause, width: int | None) -> list[str]:
    """Return the lines of a cause: its first message, its first jobs, and the next step."""
    other = len(cause.messages) - 1 + cause.more
    more = f" (and {count_text(other, 'other message')})" if other else ""
    label = f"{cause.jobs:,} {_STATE_TEXTS[cause.state]}"
    lines = _wrapped(label, f"{printable(cause.messages[0][0], _MESSAGE_MOST)}{more}", width)
    if cause.state in {"failed", "in_doubt"}:
        names = [printable(item, _NAME_MOST) for item in cause.ids[:_NAMES]]
        unnamed = f" and {cause.jobs - _NAMES:,} more" if cause.jobs > _NAMES else ""
        lines += _wrapped("", f"{'':{_LABEL}}{', '.join(names)}{unnamed}", width)
    if cause.state == "failed" and cause.hints:
        lines += _wrapped("", f"{'':{_LABEL}}-> {printable(cause.hints[0], _MESSAGE_MOST)}", width)
    return lines


def _cost(report: dict[str, Any]) -> str:
    """Return the parts of the cost that the headline lacks, or ""."""
    money = report["money"]
    notes = []
    if money["reserved"]:
        notes.append(f"{dollars(money['reserved'])} more at most, for submissions in flight or in doubt")
    if money.get("overrun_usd"):
        notes.append(f"the service charged ${money['overrun_usd']:,.2f} more than was estimated")
    if money["unpriced"]:
        notes.append(f"{count_text(money['unpriced'], 'generation')} of unknown price")
    if report["provider"] == "sandbox" and (money["spent"] or money["reserved"]):
        notes.append("sandbox money only: nothing is paid")
    return "; ".join(notes)


@dataclass(frozen=True, slots=True)
class NextStep:
    """A next step.

    command: the command, or "". text: its effect, or the action of a person. choices: commands in the text, of which a
    person chooses one.
    """

    label: str
    command: str
    text: str
    choices: tuple[str, ...] = ()


def next_steps(report: dict[str, Any], found: Sequence[Cause] | None = None) -> list[NextStep]:
    """Return the next steps, each once: actions of a person first, then commands. found: the causes, if known."""
    found = causes(report) if found is None else found
    last = ending(report)
    unfinished = report["totals"]["pending"] + report["totals"]["in_flight"]
    steps: dict[tuple[str, str], NextStep] = {}
    if last is not None and last.advice and unfinished:
        steps["", last.advice] = NextStep(_FIRST, "", last.advice)
    for state in ("in_flight", "pending", "failed", "in_doubt"):
        for cause in found:
            if cause.state == state:
                key = (cause.command, "" if cause.command else cause.note)
                label = _TO_DO if state == "failed" and not cause.command else _NEXT[state]
                step = steps.setdefault(key, NextStep(label, cause.command, cause.note, cause.choices))
                if cause.note not in step.text:  # one command does several things
                    steps[key] = replace(step, text=f"{step.text} {cause.note}")
    return list(steps.values())


def _step(step: NextStep, width: int | None) -> list[str]:
    """A step in lines. A command is never wrapped, to be copied."""
    if not step.command:
        return _wrapped(step.label, step.text, width)
    return [f"{step.label:<{_LABEL}}{step.command}", *_wrapped("", f"{'':{_LABEL}}{step.text}", width)]


def _wrapped(label: str, text: str, width: int | None) -> list[str]:
    """Wrap `text` to `width` columns, indented to the right of its label."""
    whole = f"{label:<{_LABEL - 1}} {text}" if label else text
    if width is None or len(whole) <= width:
        return [whole]
    if width < _NARROW:
        return wrap(f"{label} {text}".strip(), max(width, _LABEL), subsequent_indent="  ")
    indent = " " * (_LABEL if label or text.startswith(" ") else 0)
    return wrap(whole, width, subsequent_indent=indent, break_on_hyphens=False)
