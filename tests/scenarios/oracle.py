"""Checks a scenario against the six promises. It reads only the sandbox's own ledger and the run directory."""

import hashlib
import json
from collections import Counter, defaultdict
from typing import Any

from batchrunner.engine.policy import Policy
from batchrunner.journal import journal
from batchrunner.media.decoder import inspect
from batchrunner.report.writer import build, to_json
from batchrunner.review.verdicts import VerdictLines
from batchrunner.sandbox.clips import marks
from tests.orders import order_of
from tests.scenarios.scenario import Story

_POLICY = Policy(concurrency=1, poll_interval_s=1.0)
DOUBT_S, NOT_FOUND_GRACE_S = _POLICY.doubt_s, _POLICY.not_found_grace_s
_TOLERANCE = 0.8
NO_ANSWER = {"cut", "timed_out", "no_id", "unavailable", "server_error"}  # reasons for which a submission is in doubt


class Broken(AssertionError):
    """A promise was broken."""


def check_story(story: Story) -> None:
    """Raise Broken, naming the promise, if the scenario's result breaks one."""
    accepted = [event for event in story.ledger if event["event"] == "accepted"]
    rows = {row["id"]: row for row in story.report["jobs"]}
    _never_pays_twice(story, accepted)
    _never_loses(story, accepted)
    _never_shows_a_bad_file(story, rows)
    _never_shows_another_jobs(story, rows)
    if not story.recovered:  # lost records occupy no slot
        _bounded(story)
    _report_is_true(story, accepted, rows)
    if not story.recovered:
        _takes_are_complete(story)
    _expect(not [event for event in story.ledger if event["event"] == "leak"], "the key was sent to the file host")


def _expect(truth: object, message: str) -> None:
    if not truth:
        raise Broken(message)


def _never_pays_twice(story: Story, accepted: list[dict[str, Any]]) -> None:
    """One generation a take, except for those that the service reported as failed: they cost nothing.

    The takes of a job have the same content. The request id names the take (``<run>.<job key>.<attempt>``).
    """
    failed = {event["generation_id"] for event in story.ledger if event["event"] == "failed"}
    counts = Counter(
        (event["fingerprint"], event["client_request_id"].split(".")[1])
        for event in accepted
        if event["generation_id"] not in failed
    )
    twice = {content: count for content, count in counts.items() if count > 1}
    _expect(not twice, f"promise 1: paid more than once for {twice}")


def _takes_are_complete(story: Story) -> None:
    """Each job has the takes that the manifest and the rejections ask for, and no others."""
    firsts = {row["id"]: row["fingerprint"] for row in story.report["jobs"] if row["take"] == 1}
    found: dict[str, set[int]] = defaultdict(set)
    for row in story.report["jobs"]:
        found[firsts[row["job"]]].add(row["take"])
    wanted = {name: set(range(1, story.takes[name] + 1)) for name in found}
    _expect(found == wanted, f"promise 1: the takes are {dict(found)}, wanted are {wanted}")
    generations = [row["generation_id"] for row in story.report["jobs"] if row["generation_id"]]
    shared = len({row["fingerprint"] for row in story.report["jobs"] if row["generation_id"]})
    _expect(len(set(generations)) == shared, "promise 3: two takes have the same generation")


def _never_loses(story: Story, accepted: list[dict[str, Any]]) -> None:
    """Each accepted generation is known by its id and over, or its job is in doubt.

    After a damaged journal was recovered, an unknown generation is not lost if its job is in doubt or the service
    failed it. No more jobs are in doubt than there were active submissions when a process died, and outcomes that
    damage removed and no witness counted (`Scenario._count_cut_outcomes`).
    """
    known: dict[str, dict[str, Any]] = {}
    in_doubt: dict[str, str] = {}
    for row in _all_rows(story):
        for attempt in row["attempts"]:
            known.setdefault(attempt["generation_id"] or attempt["request_id"], row)
        if row["state"] == "in_doubt":
            in_doubt[row["fingerprint"]] = row["error"]["kind"]
    failed = {event["generation_id"] for event in story.ledger if event["event"] == "failed"}
    states = {row["id"]: row["state"] for row in story.report["jobs"]}
    kept_in_doubt = {order_of(entry.job) for entry in story.entries if states[entry.id] == "in_doubt"}
    for event in accepted:
        found = known.get(event["generation_id"]) or known.get(event["client_request_id"])
        if found is None and story.recovered and event["generation_id"] in failed:
            continue
        if found is None and story.recovered and event["fingerprint"] in kept_in_doubt:
            continue
        if found is None:
            raise Broken(f"promise 2: generation {event['generation_id']} is unknown to the report")
        row = found
        fine = row["state"] in {"succeeded", "in_doubt"} or (row["error"] and row["error"]["message"])
        _expect(fine, f"promise 2: {row['id']} is {row['state']} without a reason")
        _expect(row["state"] != "pending", f"promise 2: {row['id']} was accepted and is pending")
    if story.recovered:
        return
    for kind in in_doubt.values():
        _expect(kind in {*NO_ANSWER, "process_died"}, f"promise 1: in doubt because of {kind}")
    died = sum(kind == "process_died" for kind in in_doubt.values())
    limit = story.active_at_deaths
    _expect(died <= limit, f"promise 1: {died} jobs in doubt after deaths with {limit} active submissions")


def _never_shows_a_bad_file(story: Story, rows: dict[str, Any]) -> None:
    served = {event["sha256"] for event in story.ledger if event["event"] == "completed"}
    for path in story.rundir.path.glob("*.mp4"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        _expect(digest in served, f"promise 3: {path.name} is not what the service made")
        inspect(path, path.stat().st_size)
    for row in rows.values():
        if row["state"] == "succeeded":
            path = story.rundir.path / row["file"]
            _expect(path.exists(), f"promise 3: {row['file']} is not there")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            _expect(digest == row["sha256"], f"promise 3: {row['file']} does not match its checksum")
            completed = {
                event["generation_id"]: event["sha256"] for event in story.ledger if event["event"] == "completed"
            }
            _expect(completed.get(row["generation_id"]) == digest, f"promise 3: {row['file']} is another generation's")


def _never_shows_another_jobs(story: Story, rows: dict[str, Any]) -> None:
    """Each delivered clip has the mark of a generation with its job's inputs."""
    for entry in story.entries:
        row = rows[entry.id]
        if row["state"] != "succeeded":
            continue
        mark = marks.read((story.rundir.path / row["file"]).read_bytes())
        _expect(mark, f"promise 3: {row['file']} bears no mark")
        assert mark is not None
        _expect(mark["fingerprint"] == order_of(entry.job), f"promise 3: {row['file']} is another job's clip")
        _expect(mark["generation_id"] == row["generation_id"], f"promise 3: {row['file']} is another generation's")


def _bounded(story: Story) -> None:
    """The service's own count of generations in flight never exceeds the cap.

    A generation whose acceptance was not reported, or only later, occupies its slot for as long as generations take, as
    far as known then. After that, the client cannot know of it. Nor can it know of one that the service denied for so
    long that the client had to believe it.
    """
    began = {event["generation_id"]: event["at"] for event in story.ledger if event["event"] == "accepted"}
    reported = {
        attempt["generation_id"]
        for row in _all_rows(story)
        for attempt in row["attempts"]
        if attempt["generation_id"]
        and story.known_at.get(attempt["generation_id"], 0.0) - began[attempt["generation_id"]] < DOUBT_S
    }
    changes = []
    took = [
        (event["at"], event["at"] - began[event["generation_id"]])
        for event in story.ledger
        if event["event"] == "completed" and event["generation_id"] in reported
    ]
    ends = {event["generation_id"]: event["at"] for event in story.ledger if event["event"] in {"completed", "failed"}}
    for event in story.ledger:
        if event["event"] == "accepted":
            end = min(ends.get(event["generation_id"], float("inf")), _denied_at(story, event["generation_id"]))
            free_at = _slot_ends(event["at"], took)
            is_known = event["generation_id"] in reported and story.known_at.get(event["generation_id"], 0.0) <= free_at
            end = end if is_known else min(end, free_at)
            changes += [(event["at"], 1), (end, -1)]
    running = highest = 0
    for _, change in sorted(changes):
        running += change
        highest = max(highest, running)
    _expect(highest <= max(story.caps), f"promise 4: {highest} generations in flight, cap {max(story.caps)}")


def _denied_at(story: Story, generation_id: str) -> float:
    """Return when the client believed that a generation does not exist: only after many denials, over a long time."""
    denials = [
        event["at"]
        for event in story.ledger
        if event["event"] == "refused"
        and (event["call"], event["status"], event.get("generation_id")) == ("poll", 404, generation_id)
    ]
    believed_at = story.denied_at.get(generation_id, float("inf"))
    is_allowed = len(denials) > 1 and believed_at - denials[0] > NOT_FOUND_GRACE_S
    return believed_at if is_allowed else float("inf")


def _slot_ends(at: float, took: list[tuple[float, float]]) -> float:
    """Return when the slot of a submission in doubt may become free. took: when generations ended, and their durations.

    As docs/money.md says: ten times the longest while fewer than ten are known, otherwise the 95th percentile, and half
    an hour at most. The client's measurement may be a little shorter than the service's, hence the tolerance.
    """
    free_at = at + DOUBT_S
    for count, (ended_at, _) in enumerate(took, 1):
        known = sorted(duration for _, duration in took[:count])
        longest = 10 * known[-1] if count < 10 else known[-(-95 * count // 100) - 1]
        free_at = min(free_at, max(ended_at, at + _TOLERANCE * longest))
    return free_at


def _report_is_true(story: Story, accepted: list[dict[str, Any]], rows: dict[str, Any]) -> None:
    snapshot = journal.read(story.rundir.journal)
    assert snapshot is not None
    lines = VerdictLines(story.rundir.path)
    lines.refresh()
    again = json.loads(to_json(build(snapshot, story.report["batchrunner_version"], lines.by_clip)))
    _expect(again == story.report, "promise 5: report.json is not what the journal says")
    totals = story.report["totals"]
    by_state = Counter(row["state"] for row in rows.values())
    for state in ("succeeded", "failed", "in_doubt", "in_flight", "pending"):
        _expect(
            totals[state] == by_state[state], f"promise 5: totals say {totals[state]} {state}, rows {by_state[state]}"
        )
    ids = {attempt["generation_id"] for row in _all_rows(story) for attempt in row["attempts"]} - {None}
    paid = {event["generation_id"] for event in accepted}
    _expect(ids <= paid, f"promise 5: the report names generations that the service never accepted: {ids - paid}")
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows.values():
        if row["state"] != "succeeded":
            problem = row["error"] or {}
            _expect(
                problem.get("message") and problem.get("hint"), f"promise 5: {row['id']} does not say why or what now"
            )
            reasons[row["state"]].append(row["id"])


def _all_rows(story: Story) -> list[dict[str, Any]]:
    return [*story.report["jobs"], *story.report.get("earlier_jobs", [])]
