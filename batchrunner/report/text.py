"""The report in words: one sentence, and the lines the ``status`` command prints. Pure.

Rule: everything is read off the report's dict, so that the sentence on the terminal, in the log and on the page agree.
Names and messages from outside are made printable here.
"""

from collections.abc import Sequence
from datetime import datetime
from textwrap import wrap
from typing import Any

from batchrunner.formatting import count_text, length_text, printable, size_text
from batchrunner.plan.prices import dollars
from batchrunner.report.failure_groups import Cause, causes

_CAUSES = 8
_NAMES = 3
_LABEL = 18
_NARROW = 60
_MESSAGE_MOST = 300
_NAME_MOST = 100
_STATE_TEXTS = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}
_NEXT = {"in_flight": "continue", "pending": "continue", "failed": "try again", "in_doubt": "settle doubts"}


def headline(report: dict[str, Any]) -> str:
    """One sentence: ``5 of 8 jobs succeeded in 12 s, 1 failed, 2 in doubt; 1.2 MB, 6 generations, $0.78 spent.``

    A batch that was continued did not take the time of its last run: that is told apart.
    """
    totals = report["totals"]
    parts_text = [f", {totals[state]:,} {name}" for state, name in _STATE_TEXTS.items() if totals[state]]
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
    counts = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} succeeded{took}"
    return f"{counts}{''.join(parts_text)}; {paid}{continued}."


def status_text(report: dict[str, Any], files: Sequence[str] = (), width: int | None = None) -> str:
    """How the batch stands, in lines: the outcome, what is open and why, the cost, and what to type next.

    files: where the report can be read. width: columns to wrap words at; commands stay whole, to be copied.
    """
    lines = _wrapped("", f"{printable(report['name'], _NAME_MOST)} ({report['provider']}): {headline(report)}", width)
    if report["stopped"]:
        lines += _wrapped("stopped", printable(report["stopped"], _MESSAGE_MOST), width)
    found = causes(report)
    # What only the end of the run kept from going on has been told.
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
        lines += _wrapped("earlier", f"{number} for jobs that the manifest names no more", width)
    if cost := _cost(report):
        lines += _wrapped("cost", cost, width)
    lines += [f"{'report':<{_LABEL}}{printable(path)}" for path in files]
    return "\n".join([*lines, *_next(found, width)])


def _cause(cause: Cause, width: int | None) -> list[str]:
    """A cause, its first words, its first jobs, and what to do about it."""
    other = len(cause.messages) - 1 + cause.more
    more = f" (and {count_text(other, 'other wording')})" if other else ""
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
    """What the headline leaves open about the cost, or ""."""
    money = report["money"]
    notes = []
    if money["reserved"]:
        notes.append(f"{dollars(money['reserved'])} more at most, for what is in flight or in doubt")
    if money["unpriced"]:
        notes.append(f"{count_text(money['unpriced'], 'generation')} of unknown price")
    if report["provider"] == "sandbox" and (money["spent"] or money["reserved"]):
        notes.append("it is the sandbox's own money: nothing is paid")
    return "; ".join(notes)


def _next(found: Sequence[Cause], width: int | None) -> list[str]:
    """What to type next, each command once."""
    commands: dict[str, Cause] = {}
    for state in ("in_flight", "pending", "failed", "in_doubt"):
        for cause in found:
            if cause.state == state:
                commands.setdefault(cause.command, cause)
    lines = []
    for command, cause in commands.items():
        lines.append(f"{_NEXT[cause.state]:<{_LABEL}}{command}")
        lines += _wrapped("", f"{'':{_LABEL}}{cause.note}", width)
    return lines


def _wrapped(label: str, text: str, width: int | None) -> list[str]:
    """`text` behind its label, in lines of at most `width` columns that keep clear of the label's column."""
    whole = f"{label:<{_LABEL - 1}} {text}" if label else text
    if width is None or len(whole) <= width:
        return [whole]
    if width < _NARROW:
        return wrap(f"{label} {text}".strip(), max(width, _LABEL), subsequent_indent="  ")
    indent = " " * (_LABEL if label or text.startswith(" ") else 0)
    return wrap(whole, width, subsequent_indent=indent, break_on_hyphens=False)
