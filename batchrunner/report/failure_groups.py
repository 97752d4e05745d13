"""The unsuccessful jobs grouped by cause, with the next step of each cause. Pure.

Rules: all data comes from the report's dict. A command can be pasted into a shell, in the directory in which the
batch was started. A cause has no command if none makes progress (`batchrunner.plan.endings`): then its note
says what a person does first. A command that pays again says so in its note.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batchrunner.account.base import HELD_BY_BATCH, HELD_IN_DOUBT
from batchrunner.formatting import shell_line, shell_path
from batchrunner.plan.endings import Ending, Next, Retry, ending_of, retry_of
from batchrunner.plan.resume import RECHECKED
from batchrunner.plan.selection import NOT_SELECTED
from batchrunner.report.rows import left_by_stop

_WORDINGS = 4  # different messages shown of one cause
_ORDER = ("failed", "in_doubt", "in_flight", "pending")
_FAULTS = {
    "job": "the job itself",
    "account": "the account",
    "service": "the service",
    "network": "the network",
    "local": "this machine",
}
_NOTES = {
    "failed": "Submits these jobs again, and pays for those that then succeed.",
    "in_doubt": (
        "Each run searches the service's log for the request. Search there yourself, too. If you find it: {}. "
        "If it was not accepted: {}. A wrong release pays twice."
    ),
    "in_flight": "Downloads the clips that are in flight, at no further charge.",
    "pending": "Submits the jobs that are left. Finished jobs are not repeated.",
    NOT_SELECTED: "Submits the jobs that --only left out, too.",
}
_HELD_NOTE = (
    "Wait until the batch that has these jobs has ended, then run this one again: it delivers their clips at no charge."
)
_RECHECK_NOTE = "Asks the service for these clips again, at no further charge."
_CHANGE_FIRST = "The same request would fail again. Change the job first."
_KEPT_FILE = re.compile(r"set_aside/[\w.-]+")


class Cause(NamedTuple):
    """Jobs in one state for one reason.

    title: the reason's slug as text. fault: where the cause lies, as text. messages: each message with the number of
    its jobs; messages that differ only in ids of the job count as one. more: the number of unlisted messages. ids: of
    the jobs. jobs: their number; it is greater if the report lists one job for many. command: the next command, or ""
    if no command makes progress. note: its effect, or what a person does first. choices: commands in the note, of which
    a person chooses one.
    """

    state: str
    kind: str
    title: str
    fault: str
    messages: tuple[tuple[str, int], ...]
    more: int
    hints: tuple[str, ...]
    ids: tuple[str, ...]
    jobs: int
    command: str
    note: str
    choices: tuple[str, ...] = ()


@dataclass(slots=True)
class _Group:
    """The jobs of a cause, counted while the rows are read. wordings: the first message of each wording, by its bare
    text.
    """

    fault: str
    jobs: int = 0
    ids: list[str] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)
    wordings: dict[str, str] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def take(self, job: Mapping[str, Any], error: Mapping[str, Any], number: int) -> None:
        self.jobs += number
        bare = _bare(job, error["message"])
        self.ids.append(job["id"])
        self.wordings.setdefault(bare, error["message"])
        self.counted[bare] += number
        if error["hint"]:
            self.hints.setdefault(_bare(job, error["hint"]), error["hint"])


class CauseGroups:
    """The causes in `report`, collected while its rows are read."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._report = report
        self._sources: list[dict[str, Any]] = report.get("sources") or [report]
        self._groups: dict[tuple[str, str, int], _Group] = {}
        self._sizes: Mapping[str, int] = report.get("group_sizes", {})

    def add(self, job: Mapping[str, Any]) -> None:
        """Add a row. A job without an error has no cause."""
        error = job["error"]
        if error is not None:
            source = job["source"] if "sources" in self._report else 0  # each run directory has commands of its own
            error = _error(self._sources[source], job["state"], error)
            group = self._groups.setdefault((job["state"], error["kind"], source), _Group(error["fault"]))
            group.take(job, error, self._sizes.get(job["id"], 1))

    def causes(self) -> list[Cause]:
        """Return the causes: failed jobs first, then by the number of jobs."""
        ranked = sorted(self._groups.items(), key=lambda group: (_ORDER.index(group[0][0]), -group[1].jobs))
        return [_cause(self._sources[source], state, kind, group) for (state, kind, source), group in ranked]


def _error(report: Mapping[str, Any], state: str, error: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error of a job by which it is grouped.

    The job whose submission stopped the run has an error of its own. Its cause is that of the other jobs that are left.
    """
    stopped, message = report.get("stopped") or "", error["message"]
    is_cause = bool(message) and (stopped in message or message in stopped)
    if not stopped or not is_cause or state not in ("pending", "in_flight"):
        return error
    left = left_by_stop(state, stopped, report.get("stop_kind") or "")
    return {"kind": left.kind, "message": left.message, "hint": error["hint"], "fault": left.fault}


def causes(report: dict[str, Any]) -> list[Cause]:
    """Return the causes in `report`, in the order of `CauseGroups`.

    A report that is summed up (`batchrunner.report.closing`) has them.
    """
    if "causes" in report:
        known: list[Cause] = report["causes"]
        return known
    groups = CauseGroups(report)
    for job in report["jobs"]:
        groups.add(job)
    return groups.causes()


def command(report: dict[str, Any], *further: str, name: str = "run", job: str = "") -> str:
    """Return the command that continues this batch. name: of the command. further: more options. job: the id of a job.

    Neither a path nor an id can be read as an option, even if it begins with ``-``.
    """
    settings = report["settings"]
    arguments = ["batchrunner", name, shell_path(report["manifest"]["path"])]
    if settings.get("output"):
        arguments += ["--output", shell_path(settings["output"])]
    if report["provider"] != "aimlapi":
        arguments += ["--provider", report["provider"]]
    # Only runs compare the manifest with its lock file.
    arguments += [text for text in settings.get("options") or () if name == "run" or text != "--locked"]
    arguments += [*further, "--", job] if job.startswith("-") else [*([job] if job else []), *further]
    return shell_line(arguments)


def ending(report: Mapping[str, Any]) -> Ending | None:
    """Return the row of `ENDINGS` for what stopped the latest run; None if nothing did, or if it has not ended."""
    kind = report.get("stop_kind")  # runs of earlier versions have none
    return None if report["finished_at"] is None or not kind else ending_of(kind)


def _choices(report: dict[str, Any], state: str, kind: str, group: _Group) -> tuple[str, ...]:
    """Return the commands that settle the first job of a group in doubt; () for other groups."""
    if kind == HELD_BY_BATCH or not (state == "in_doubt" or kind == HELD_IN_DOUBT):
        return ()
    options = (("--adopt", "GENERATION_ID"), ("--release",))
    return tuple(command(report, *option, name="resolve", job=group.ids[0]) for option in options)


def _next_step(report: dict[str, Any], state: str, kind: str, group: _Group) -> tuple[str, str]:
    """Return the command for the jobs of a group, or "", and its note."""
    found = ending(report)
    advice = found.advice if found is not None else ""
    recheck = state == "failed" and kind in RECHECKED
    if kind == HELD_BY_BATCH:
        return "", _HELD_NOTE
    if choices := _choices(report, state, kind, group):
        return "", _NOTES["in_doubt"].format(*choices)
    if state == "in_flight" or recheck:
        stops = found is not None and found.next is Next.STOPS
        typed = "" if stops else command(report, *([] if recheck else _chosen(report, state)))
        return typed, advice if stops else _RECHECK_NOTE if recheck else _NOTES[state]
    if state == "failed" and retry_of(group.fault) is Retry.CHANGE_FIRST:
        return "", _CHANGE_FIRST
    if found is not None and found.next is not Next.CONTINUES:
        return "", advice
    typed = command(report) if kind == NOT_SELECTED else command(report, *_chosen(report, state))
    return typed, _NOTES.get(kind, _NOTES[state])


def _chosen(report: Mapping[str, Any], state: str) -> list[str]:
    """Return the options that choose the jobs of the next run: those that this run chose, or the failed ones."""
    if state == "failed":
        return ["--retry-failed"]
    return [text for pattern in report["settings"].get("only") or () for text in ("--only", pattern)]


def _cause(report: dict[str, Any], state: str, kind: str, group: _Group) -> Cause:
    listed = group.counted.most_common(_WORDINGS)
    typed, note = _next_step(report, state, kind, group)
    return Cause(
        state=state,
        kind=kind,
        title=kind.replace("_", " ").capitalize(),
        fault=_FAULTS.get(group.fault, "unknown"),
        messages=tuple((group.wordings[bare] if count == 1 else bare, count) for bare, count in listed),
        more=len(group.counted) - len(listed),
        hints=tuple(hint if group.jobs == 1 else bare for bare, hint in group.hints.items())[:_WORDINGS],
        ids=tuple(group.ids),
        jobs=group.jobs,
        command=typed,
        note=note,
        choices=_choices(report, state, kind, group),
    )


def _bare(job: Mapping[str, Any], message: str) -> str:
    """Return the message without the ids of this job."""
    for attempt in job["attempts"]:
        for name in (attempt["generation_id"], attempt["request_id"]):
            message = message.replace(name, "…") if name else message
    return _KEPT_FILE.sub("set_aside/…", message)
