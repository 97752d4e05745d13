"""The report in words: one sentence, and the lines the ``status`` command prints. Pure.

Rule: everything is read off the report's dict, so that the sentence on the terminal, in the log and on the page agree.
Names and messages from outside are made printable here.
"""

from datetime import datetime
from typing import Any

from batchrunner.text import count_text, length_text, printable, size_text

_LISTED = 20
_MESSAGE_MOST = 300
_NAME_MOST = 100
_WORDS = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}


def headline(report: dict[str, Any]) -> str:
    """One sentence: ``5 of 8 jobs succeeded in 12 s, 1 failed, 2 in doubt; 1.2 MB, 6 generations.``

    A batch that was continued did not take the time of its last run: that is told apart.
    """
    totals = report["totals"]
    rest = [f", {totals[state]:,} {word}" for state, word in _WORDS.items() if totals[state]]
    took = continued = ""
    if report["finished_at"] is None:
        took = " so far"
    else:
        seconds = datetime.fromisoformat(report["finished_at"]) - datetime.fromisoformat(report["started_at"])
        length = length_text(seconds.total_seconds())
        if any(item["submitted_at"] < report["started_at"] for job in report["jobs"] for item in job["attempts"]):
            continued = f"; this run took {length}"
        else:
            took = f" in {length}"
    paid = f"{size_text(totals['bytes'])}, {count_text(totals['generations'], 'generation')}"
    if totals["credits"]:
        paid += f", {totals['credits']:,} credits"
    counts = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} succeeded{took}"
    return f"{counts}{''.join(rest)}; {paid}{continued}."


def status_text(report: dict[str, Any]) -> str:
    """Where the batch stands, in lines: the headline, then the first jobs that did not succeed, each with its reason.

    Equal hints that follow each other are given once.
    """
    lines = [f"{printable(report['name'])} ({report['provider']}): {headline(report)}"]
    if report["stopped"]:
        lines.append(f"Stopped: {printable(report['stopped'], _MESSAGE_MOST)}")
    open_jobs = [job for job in report["jobs"] if job["state"] != "succeeded"]
    open_jobs.sort(key=lambda job: list(_WORDS).index(job["state"]))
    names = [printable(job["id"], _NAME_MOST) for job in open_jobs[:_LISTED]]
    width = max(map(len, names), default=0)
    hint = ""
    for name, job in zip(names, open_jobs, strict=False):
        error = job["error"]
        word = _WORDS[job["state"]]
        lines.append(f"  {name:<{width}}  {word:<13}  {printable(error['message'], _MESSAGE_MOST)}")
        if error["hint"] and error["hint"] != hint:
            hint = error["hint"]
            lines.append(f"  {'':<{width}}  {'':<13}  -> {printable(hint, _MESSAGE_MOST)}")
    if len(open_jobs) > _LISTED:
        lines.append(f"  and {len(open_jobs) - _LISTED:,} more, all of them in report.html")
    if report["earlier_jobs"]:
        number = len(report["earlier_jobs"])
        lines.append(f"  Generations for jobs that the manifest no longer names: {number:,}; report.json, earlier_jobs")
    return "\n".join(lines)
