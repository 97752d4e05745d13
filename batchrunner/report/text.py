"""The report as text: the headline and the next steps. Pure.

Rule: all data comes from the report's dict, so terminal, log and page show the same sentences. Names and messages from
outside are made printable here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from batchrunner.formatting import count_text, length_text, size_text
from batchrunner.plan.prices import dollars
from batchrunner.report.failure_groups import Cause, causes, ending

STATE_TEXTS = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}
_NEXT = {"in_flight": "continue", "pending": "continue", "failed": "try again", "in_doubt": "resolve"}
_FIRST, _TO_DO = "first", "to do"


def headline(report: dict[str, Any]) -> str:
    """Return one sentence: ``5 of 8 jobs succeeded in 12 s, 1 failed, 2 in doubt; 1.2 MB, 6 generations, $0.78 spent.``

    For a continued batch, the duration of the last run is listed separately.
    """
    totals = report["totals"]
    paid = f"{size_text(totals['bytes'])}, {count_text(totals['generations'], 'generation')}"
    if report["money"]["spent"]:
        paid += f", {dollars(report['money']['spent'])} spent"
        paid += " (earlier manifests included)" if report["earlier_jobs"] else ""
    counts, _, continued = outcome(report).partition(";")
    return f"{counts}; {paid}{f';{continued}' if continued else ''}."


def outcome(report: dict[str, Any]) -> str:
    """Return the states of the jobs and the duration: ``5 of 8 jobs succeeded in 12 s, 1 failed, 2 in doubt``."""
    totals = report["totals"]
    state_counts = [f", {totals[state]:,} {name}" for state, name in STATE_TEXTS.items() if totals[state]]
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
    done = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} succeeded"
    return f"{done}{took}{''.join(state_counts)}{continued}"


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
