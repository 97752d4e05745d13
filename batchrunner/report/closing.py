"""The closing block of a run: outcome, money, what is left, the next command. Pure.

`run` prints it at its end and `status` later. All data comes from the report's dict. A mark stands beside each state:
nothing depends on colour. A command is never broken inside an argument. If it is too long for the window, it continues
after a backslash, so it can be copied as it is.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from batchrunner.errors import ExitStatus
from batchrunner.formatting import UNICODE_MARKS, Marks, count_text, printable, short_names, size_text
from batchrunner.plan.prices import dollars
from batchrunner.report.failure_groups import Cause, causes, command
from batchrunner.report.text import STATE_TEXTS, NextStep, next_steps, outcome

Span = tuple[str, str]  # text and style: "", "bold", "dim", "good", "bad", "busy"
Spans = list[Span]

_CAUSES = 8
_NAMES = 3
_LABEL = 20
_NARROW = 60
_MESSAGE_MOST = 300
_NAME_MOST = 100
_ID_MOST = 40
_STYLES = {"failed": "bad", "in_doubt": "bad", "in_flight": "busy", "pending": ""}
_FLAG_AND_VALUE = re.compile(r"(--[a-z][a-z-]*) (?=[\w./'\"$])")
_FLAG = re.compile(r"--[a-z][a-z-]*")
_ARGUMENT = re.compile(r"""(?:\$'(?:\\.|[^'\\])*'|'[^']*'|"[^"]*"|[^\s'"])+""")
_FIXED = "\xa0"  # a blank at which a line is not broken


def status_text(
    report: dict[str, Any], files: Sequence[str] = (), width: int | None = None, marks: Marks = UNICODE_MARKS
) -> str:
    """Return the closing block as plain text."""
    return "\n".join("".join(text for text, _ in spans) for spans in closing(report, files, width, marks))


def closing(
    report: dict[str, Any], files: Sequence[str] = (), width: int | None = None, marks: Marks = UNICODE_MARKS
) -> list[Spans]:
    """Return the closing block as lines of styled text.

    files: paths of the report. width: columns of the window; None: lines are not broken. marks: characters that the
    output can show.
    """
    block = _Block(width, marks)
    found = causes(report)
    mark, style = _mark_of(report, marks)
    name = printable(report["name"], _NAME_MOST)
    block.text("", f"{mark} {name} ({report['provider']}): {outcome(report)}.", style)
    if report["stopped"]:
        block.text("stopped", printable(report["stopped"], _MESSAGE_MOST))
    block.text("money", _money(report))
    for cause in found[:_CAUSES]:
        _cause(block, cause, report["stopped"] or "")
    unlisted = sum(cause.jobs for cause in found[_CAUSES:])
    if unlisted:
        block.text("", f"and {count_text(unlisted, 'job')} for other reasons; see the report", indented=True)
    if report["earlier_jobs"]:
        number = count_text(len(report["earlier_jobs"]), "generation")
        block.text("earlier", f"{number} for jobs that the manifest no longer contains")
    _bucket(block, report)
    marked = _clips(block, report)
    for path in files:
        block.text("report", printable(path).replace(" ", _FIXED))
    for step in next_steps(report, found):
        _step(block, step)
    if marked:
        _step(block, NextStep("review", command(report, name="review"), "Shows the clips, to accept or reject them."))
    return block.lines


def summed_up(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with what `closing` shows of its rows. This takes long with many jobs, and `closing` does not.

    Its ``clips`` are those with a mark or a rejection.
    """
    clips = [clip for row in report["jobs"] if (clip := summed_up_clip(row)) is not None]
    return {**report, "causes": causes(report), "clips": clips}


def summed_up_clip(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what `closing` shows of the clip of a row; None if it has no mark and was not rejected."""
    quality, verdict = _review_of(row)
    if not quality.get("marks") and verdict != "reject":
        return None
    return {"quality": {"marks": list(quality.get("marks", ()))}, "verdict": {"verdict": verdict}}


class _Block:
    """Lines of labels and texts."""

    def __init__(self, width: int | None, marks: Marks) -> None:
        self.lines: list[Spans] = []
        self.marks = marks
        self._width = width
        self._is_narrow = width is not None and width < _NARROW
        self._column = 2 if self._is_narrow else _LABEL

    @property
    def columns_of_text(self) -> int:
        """The columns beside a label."""
        return _MESSAGE_MOST if self._width is None else max(2 * self._column, self._width) - self._column

    def text(self, label: str, text: str, style: str = "dim", *, indented: bool = False) -> None:
        """Add a text beside its label, or indented like such a text. style: of the label, or of a text without one."""
        text = _FLAG_AND_VALUE.sub(rf"\1{_FIXED}", text)
        blanks = " " * self._column
        head = f"{label}  " if label and self._is_narrow else f"{label:<{_LABEL - 1}} " if label else ""
        lines = [f"{blanks if indented else head}{text}"]
        if self._width is not None:
            further = blanks if label or indented else "  "
            lines = wrap(text, max(self._width, 2 * self._column), initial_indent=blanks if indented else head,
                         subsequent_indent=further, break_on_hyphens=False, break_long_words=False)  # fmt: skip
        for number, line in enumerate(line.replace(_FIXED, " ") for line in lines):
            if indented or (label and number):
                self.lines.append([(line, "")])
            elif label:
                self.lines.append([(head, style), (line[len(head) :], "")])
            else:
                self.lines.append([(line, style if not number else "")])

    def command(self, label: str, command: str, further: int = 0) -> None:
        """Add a command that can be copied. further: columns to indent it more."""
        head = f"{label:<{_LABEL}}" if label else " " * self._column
        if label and self._is_narrow:
            self.lines.append([(label, "dim")])
            head = " " * self._column
        indent = len(head) + further
        for number, line in enumerate(_fitting(command, None if self._width is None else self._width - indent)):
            start = head if not number else " " * self._column
            self.lines.append([(start + " " * further, "dim"), (("  " if number else "") + line, "bold")])


def _fitting(command: str, columns: int | None) -> list[str]:
    """Break a command between its arguments, with a backslash at the end of all lines but the last."""
    if columns is None or len(command) <= columns:
        return [command]
    arguments: list[str] = []
    for argument in _ARGUMENT.findall(command):
        takes_value = bool(arguments) and bool(_FLAG.fullmatch(arguments[-1])) and not argument.startswith("-")
        arguments[len(arguments) - takes_value :] = [f"{arguments[-1]} {argument}" if takes_value else argument]
    lines = [arguments[0]]
    for argument in arguments[1:]:
        fits = len(lines[-1]) + len(argument) + 5 <= columns  # the blank, two of indentation, and the backslash
        lines[-1:] = [f"{lines[-1]} {argument}"] if fits else [lines[-1], argument]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _mark_of(report: Mapping[str, Any], marks: Marks) -> Span:
    """Return the mark of the outcome and its style."""
    status = report["exit_status"]
    if status is None or report["finished_at"] is None:
        return marks.in_flight, "bold"
    if status == ExitStatus.OK:
        return marks.succeeded, "good"
    return (marks.failed, "bad") if status == ExitStatus.FAILED else (marks.warning, "bad")


def _money(report: Mapping[str, Any]) -> str:
    """Describe the cost and what it was for."""
    money, totals = report["money"], report["totals"]
    text = f"{dollars(money['spent'])} spent" if money["spent"] else "nothing spent"
    if money.get("budget_usd") is not None:
        text += f" of {dollars_of(money['budget_usd'])} ({money['budget_setting']})"
    if money["spent"] and report["earlier_jobs"]:
        text += " (earlier manifests included)"
    if totals["generations"]:
        text += f", {count_text(totals['generations'], 'generation')}, {size_text(totals['bytes'])}"
    notes = [text]
    if money["reserved"]:
        notes.append(f"{dollars(money['reserved'])} more at most, for submissions in flight, in doubt or released")
    if money.get("overrun_usd"):
        notes.append(f"the service charged {dollars_of(money['overrun_usd'])} more than was estimated")
    if money.get("settle_command"):
        charges = count_text(money["unsettled"], "charge")
        notes.append(f"{charges} not settled yet ({money['settle_command']} settles what the service lists)")
    if money["unpriced"]:
        notes.append(f"{count_text(money['unpriced'], 'generation')} of unknown price")
    if report["provider"] == "sandbox" and (money["spent"] or money["reserved"]):
        notes.append("sandbox money only: nothing is paid")
    return "; ".join(notes)


def dollars_of(amount: float) -> str:
    """Format an amount in US dollars."""
    return f"${amount:,.2f}"


def _cause(block: _Block, cause: Cause, stopped: str) -> None:
    """Add a cause: its first message, its first jobs, and the next step. stopped: why the run stopped, or ""."""
    other = len(cause.messages) - 1 + cause.more
    more = f" (and {count_text(other, 'other message')})" if other else ""
    message = cause.messages[0][0]
    if stopped and stopped in message:
        message = "because the run stopped"  # the reason is above
    mark = getattr(block.marks, cause.state)
    label = f"{mark} {cause.jobs:,} {STATE_TEXTS[cause.state]}"
    block.text(label, f"{printable(message, _MESSAGE_MOST)}{more}", _STYLES[cause.state])
    if cause.state in {"failed", "in_doubt"}:
        block.text("", _names(cause, block.marks, block.columns_of_text - 1), indented=True)
    if cause.state == "failed" and cause.hints:
        block.text("", f"-> {printable(cause.hints[0], _MESSAGE_MOST)}", indented=True)


def _names(cause: Cause, marks: Marks, most: int) -> str:
    """Name the first jobs of a cause. Long ids are shortened so that they differ from all others of the cause."""
    short = short_names(cause.ids, min(_ID_MOST, most), marks.cut)
    names = [printable(short.get(name, name), _NAME_MOST).replace(" ", _FIXED) for name in cause.ids[:_NAMES]]
    unnamed = f" and {cause.jobs - _NAMES:,} more" if cause.jobs > _NAMES else ""
    return ", ".join(names) + unnamed


def _bucket(block: _Block, report: Mapping[str, Any]) -> None:
    """Say where the clips are, if they are in a bucket."""
    settings = report["settings"]
    if settings.get("deliver"):
        also = " and in the run directory" if settings.get("keep_local", True) else ""
        clips = count_text(report["totals"]["succeeded"], "clip")
        block.text("bucket", f"{clips} in {printable(settings['deliver'], _NAME_MOST)}{also}")


def _clips(block: _Block, report: Mapping[str, Any]) -> int:
    """Add the number of clips that look wrong and are not decided, and of rejected clips. Return the former."""
    kinds, marked, rejected = Counter[str](), 0, 0
    for quality, verdict in _reviewed(report):
        found = [mark["kind"] for mark in quality.get("marks", ())] if verdict not in {"accept", "reject"} else []
        kinds.update(found)
        marked += bool(found)
        rejected += verdict == "reject"
    if marked:
        label = f"{block.marks.warning} {marked:,} {'looks' if marked == 1 else 'look'} wrong"
        listed = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in kinds.most_common())
        block.text(label, listed, "bad")
    if rejected:
        block.text(f"{block.marks.failed} {rejected:,} rejected", "by a review or a check; no clip is deleted", "bad")
    return marked


def _reviewed(report: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], str]]:
    """Yield the quality and the verdict of each clip. A verdict in review.jsonl replaces the one of the checks."""
    for row in report.get("clips", report["jobs"]):
        quality, verdict = _review_of(row)
        if quality or verdict:
            yield quality, verdict


def _review_of(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the quality and the verdict of a clip; empty if it has none."""
    quality, stored = row["quality"] or {}, row["verdict"]
    return quality, str(stored["verdict"] if stored else quality["verdict"]) if quality or stored else ""


def _step(block: _Block, step: NextStep) -> None:
    """Add a next step. Each command has lines of its own."""
    if step.command:
        block.command(step.label, step.command)
        block.text("", step.text, indented=True)
        return
    label, text = step.label, step.text
    for choice in step.choices:
        before, _, text = text.partition(choice)
        block.text(label, before.strip(), indented=not label)
        block.command("", choice, further=2)
        label, text = "", text.lstrip(". ")
    if text:
        block.text(label, text, indented=not label)
