"""Why jobs did not succeed, grouped by cause, and what to type next. Pure.

Rule: everything is read off the report's dict. A command is one that can be pasted into a shell as it stands, from the
directory in which the batch was started; what pays again says so beside it.
"""

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from batchrunner.text import printable

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
    "failed": "Submits every failed job again, and pays for what then succeeds.",
    "in_doubt": "Submits again what may have been accepted: that may pay twice.",
    "in_flight": "Looks them up and fetches them; nothing is paid for again.",
    "pending": "Submits what is left; nothing that is done is done again.",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """Jobs in one state for one reason.

    title: the reason's slug in words. fault: whose it is, in words. messages: the service's words, or ours, each with
    how many jobs got it; what differs only in a job's own ids counts as one. more: further wordings not listed.
    ids: of the jobs. command: what to type next, and note: what that does.
    """

    state: str
    kind: str
    title: str
    fault: str
    messages: tuple[tuple[str, int], ...]
    more: int
    hints: tuple[str, ...]
    ids: tuple[str, ...]
    command: str
    note: str


def causes(report: dict[str, Any]) -> list[Cause]:
    """The causes in `report`: failed jobs first, and what befell most jobs first among those."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job in report["jobs"]:
        if job["error"] is not None:
            groups.setdefault((job["state"], job["error"]["kind"]), []).append(job)
    ranked = sorted(groups.items(), key=lambda group: (_ORDER.index(group[0][0]), -len(group[1])))
    return [_cause(report, state, kind, jobs) for (state, kind), jobs in ranked]


def command(report: dict[str, Any], state: str) -> str:
    """The command that goes on with this batch, for jobs in `state`."""
    settings = report["settings"]
    words = ["batchrunner", "run", report["manifest"]["path"]]
    if settings.get("output"):
        words += ["--output", settings["output"]]
    if report["provider"] != "aimlapi":
        words += ["--provider", report["provider"]]
    words += settings.get("options", [])
    words += {"failed": ["--retry-failed"], "in_doubt": ["--in-doubt", "resubmit"]}.get(state, [])
    return printable(shlex.join(words))


def _cause(report: dict[str, Any], state: str, kind: str, jobs: list[dict[str, Any]]) -> Cause:
    wordings: dict[str, str] = {}
    counted = Counter[str]()
    for job in jobs:
        bare = _bare(job)
        wordings.setdefault(bare, job["error"]["message"])
        counted[bare] += 1
    listed = counted.most_common(_WORDINGS)
    return Cause(
        state=state,
        kind=kind,
        title=kind.replace("_", " ").capitalize(),
        fault=_FAULTS.get(jobs[0]["error"]["fault"], "not known"),
        messages=tuple((wordings[bare] if count == 1 else bare, count) for bare, count in listed),
        more=len(counted) - len(listed),
        hints=tuple(dict.fromkeys(job["error"]["hint"] for job in jobs if job["error"]["hint"]))[:_WORDINGS],
        ids=tuple(job["id"] for job in jobs),
        command=command(report, state),
        note=_NOTES[state],
    )


def _bare(job: dict[str, Any]) -> str:
    """The message without the names of this one job."""
    message: str = job["error"]["message"]
    for attempt in job["attempts"]:
        for name in (attempt["generation_id"], attempt["request_id"]):
            message = message.replace(name, "…") if name else message
    return message
