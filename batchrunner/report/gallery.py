"""The gallery: a card, filter values and provenance for each job. Pure.

A large batch has more jobs than a page can show; `places` selects the jobs with a card, and the takes of a job follow
each other. Rule: the template writes the visible data, which is small. The page's script shows the rest on request; its
texts are made printable here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchrunner.formatting import count_text, length_text, printable, size_text
from batchrunner.providers import registry
from batchrunner.providers.models import ModelInput
from batchrunner.quality.marks import suspicion
from batchrunner.report.labels import label, stem

Card = dict[str, Any]

MOST = 2000  # cards on a page: it opens in about a second
FIRST = 60  # cards that are visible before more are opened
_NEEDY = ("failed", "in_doubt")
_VERDICTS = {"accept": "accepted", "reject": "rejected"}


def places(states: Sequence[str]) -> list[int]:
    """Return the indexes in `states` of the jobs with a card: all of them, up to MOST.

    If there are more, the order is: failed jobs and jobs in doubt, each with up to half of the remaining space if other
    jobs need it; then succeeded jobs, jobs in flight and pending jobs. Within a state, the first jobs are chosen.
    """
    left = Counter(states)
    cards_left, chosen = MOST, Counter[str]()
    for state in (*_NEEDY, "succeeded", "in_flight", "pending"):
        count = left.pop(state, 0)
        others = left["in_doubt"] + left["succeeded"]
        chosen[state] = min(count, max(cards_left - others, cards_left // 2))
        cards_left -= chosen[state]
    found = []
    for place, state in enumerate(states):
        if chosen[state] > 0:
            chosen[state] -= 1
            found.append(place)
    return found


def left_out(totals: Mapping[str, int], shown: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return (state, cards, jobs) for each state if some jobs have no card, otherwise []. shown: cards by state."""
    if sum(shown.values()) == totals["jobs"]:
        return []
    states = ("succeeded", "failed", "in_doubt", "in_flight", "pending")
    return [(state, shown.get(state, 0), totals[state]) for state in states if totals[state]]


def cards(jobs: Sequence[dict[str, Any]]) -> list[Card]:
    """Return the visible data of the cards, with the takes of a job next to each other."""
    takes = Counter(job["job"] for job in jobs)
    firsts: dict[str, int] = {}
    for place, job in enumerate(jobs):
        firsts.setdefault(job["job"], place)
    return [_card(job, takes[job["job"]]) for job in sorted(jobs, key=lambda job: (firsts[job["job"]], job["take"]))]


def _card(job: dict[str, Any], takes: int) -> Card:
    """Return the visible data of a job's card. takes: the number of takes of the job on the page.

    facts: (name, text). suspicion: of the clip's marks. remarks: what looks wrong with the clip.
    """
    panes = _panes(job)
    title, subtitle = label(job, [pane.name for pane in panes])
    marks = job["quality"]["marks"] if job["quality"] else []
    rejected = {mark["message"] for mark in marks if mark["action"] == "reject"}
    remarks = dict.fromkeys((*job["warnings"], *(mark["message"] for mark in marks)))
    return {
        "job": job,
        "title": title,
        "subtitle": subtitle,
        "take": f"take {job['take']}" if takes > 1 or job["take"] > 1 else "",
        "resolution": str(job["request"].get("resolution", "")),
        "facts": _shown_values(job),
        "remarks": [f"{text} (reject)" if text in rejected else text for text in remarks],
        "verdict": _verdict(job),
        "suspicion": round(suspicion(job), 3),
        "clip": f"strip-{job['sha256']}" if job["file"] else "",
        "reference": next((pane.key for pane in panes if pane.kind == "video"), ""),
        "panes": panes,
    }


def _shown_values(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a job that cards and table show, by name."""
    generated_s = job["times"]["generation_s"]
    width_px, height_px = job["width_px"], job["height_px"]
    known = (
        ("dimensions", f"{width_px}\N{MULTIPLICATION SIGN}{height_px}" if width_px and height_px else ""),
        ("resolution", str(job["request"].get("resolution", ""))),
        ("length", length_text(job["duration_s"]) if job["duration_s"] else ""),
        ("size", size_text(job["bytes"]) if job["bytes"] is not None else ""),
        ("generated", f"made in {length_text(generated_s)}" if generated_s is not None else ""),
    )
    return [(name, text) for name, text in known if text]


def _verdict(job: dict[str, Any]) -> dict[str, str]:
    """Return the verdict on a clip: kind and text; both are "" if there is none."""
    found = job.get("verdict") or {"verdict": "none"}
    if found["verdict"] not in _VERDICTS:
        return {"kind": "", "text": ""}
    text = _VERDICTS[found["verdict"]]
    return {"kind": found["verdict"], "text": ": ".join(filter(None, (text, ", ".join(found["reasons"]))))}


class Pane(NamedTuple):
    """An input of a job. key: of the poster, or ""."""

    kind: str
    key: str
    label: str
    caption: str
    name: str


def _panes(job: dict[str, Any]) -> list[Pane]:
    """Return the inputs of a job."""
    shown = []
    for known in inputs_of(job):
        item = job["inputs"][known.name]
        key = f"{known.kind}-{item['sha256']}" if item["sha256"] else ""
        caption = known.label.partition(" ")[0].lower()
        shown.append(Pane(known.kind, key, known.label, caption, stem(item["source"])))
    return shown


def inputs_of(job: dict[str, Any]) -> Sequence[ModelInput]:
    """Return the inputs of a job as its model describes them; by name if the model is unknown."""
    return _inputs_of(job["request"]["model"], tuple(job["inputs"]))


@registry.cached
def _inputs_of(model: str, names: tuple[str, ...]) -> Sequence[ModelInput]:
    spec = registry.models().get(model) or registry.default_model()
    known = {item.name: item for item in spec.inputs}
    unknown = (ModelInput(name, name, "image", True, name, {}) for name in names if name not in known)
    return (*(item for name, item in known.items() if name in names), *unknown)


def facets(jobs: Iterable[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Return the filter values with the number of jobs of each.

    States, resolutions, verdicts, marks (``marked``), and tags as ``key: value``.
    """
    states, resolutions, tags = Counter[str](), Counter[str](), Counter[str]()
    verdicts, marked = Counter[str](), 0
    for job in jobs:
        verdicts[_verdict(job)["kind"]] += 1
        marked += bool(job["warnings"] or (job["quality"] and job["quality"]["marks"]))
        states[job["state"]] += 1
        resolutions[str(job["request"].get("resolution", ""))] += 1
        tags.update(tag_texts(job))
    order = ("succeeded", "failed", "in_doubt", "in_flight", "pending")
    return {
        "state": [(state, states[state]) for state in order if states[state]],
        "resolution": sorted(resolutions.items()),
        "verdict": [(kind, verdicts[kind]) for kind in _VERDICTS if verdicts[kind]],
        "marked": [("yes", marked)] if marked else [],
        "tag": sorted(tags.items())[:200],
    }


def tag_texts(job: dict[str, Any]) -> list[str]:
    """Return a job's tags as ``key: value``."""
    return [printable(f"{name}: {value}") for name, value in job["tags"].items()]


def details(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's data for the page's script. id. tags: filter values. rows: the provenance as (label, text)."""
    inputs = inputs_of(job)
    parameters = [item for item in job["request"].items() if item[0] not in {"model", *job["inputs"]}]
    rows = [
        ("Id", job["id"]),
        ("Fingerprint", job["fingerprint"]),
        ("Model", job["request"]["model"]),
        ("Parameters", ", ".join(f"{name} {value}" for name, value in parameters)),
        *((known.label, _input(job["inputs"][known.name])) for known in inputs),
    ]
    if job["priority"]:
        rows.append(("Priority", str(job["priority"])))
    if job["estimate"]["credits"] is not None:
        rows.append(("Estimate", f"{job['estimate']['credits']:,} credits, {job['estimate']['basis']}"))
    rows += [(f"Attempt {item['number']}", _attempt(item)) for item in job["attempts"]]
    times = _times(job["times"])
    if times:
        rows.append(("Times", times))
    if job["file"]:
        rows.append(
            (
                "File",
                f"{job['file']}, {job['bytes']:,} bytes, {job['width_px']}\N{MULTIPLICATION SIGN}{job['height_px']}",
            )
        )
        rows.append(("SHA-256", job["sha256"]))
        if job["object"] is not None:
            rows.append(("In the bucket", f"{job['object']['address']}, ETag {job['object']['etag']}"))
        if job["synthetic_marks"] is not None:
            rows.append(("Synthetic marks", ", ".join(job["synthetic_marks"]) or "none"))
    if verdict := job.get("verdict"):
        rating = f"rating {verdict['rating']}" if verdict["rating"] is not None else ""
        by = f"by {verdict['by']}" if verdict["by"] else ""
        rows.append(("Verdict", "; ".join(filter(None, (_verdict(job)["text"], rating, verdict["note"], by)))))
    return {
        "id": printable(job["id"]),
        "tags": tag_texts(job),
        "rows": [(label, printable(text)) for label, text in rows if text],
    }


def _input(item: dict[str, Any]) -> str:
    values = [item["source"]]
    if item["mime"]:
        values.append(item["mime"])
    if item["width_px"]:
        values.append(f"{item['width_px']}\N{MULTIPLICATION SIGN}{item['height_px']}")
    if item["duration_s"]:
        values.append(length_text(item["duration_s"]))
    if item["bytes"] is not None:
        values.append(size_text(item["bytes"]))
    return ", ".join(values) + (f"; sha256 {item['sha256']}" if item["sha256"] else "")


def _attempt(attempt: dict[str, Any]) -> str:
    values = [attempt["outcome"] or "open", f"submitted {attempt['submitted_at']}"]
    if attempt["generation_id"]:
        values.append(f"generation {attempt['generation_id']}")
    values.append(f"request {attempt['request_id']}")
    if attempt["ended_at"]:
        values.append(f"ended {attempt['ended_at']}")
    values.append(count_text(attempt["polls"], "poll"))
    if attempt["settled"] is not None:
        values.append(f"{attempt['settled']:,} credits, settled")
    elif attempt["credits"] is not None:
        values.append(f"{attempt['credits']:,} credits")
    elif attempt["estimate"] is not None:
        values.append(f"about {attempt['estimate']:,} credits")
    if attempt["error"]:
        values.append(f"{attempt['error']['kind']}: {attempt['error']['message']}")
    return "; ".join(values)


def _times(times: dict[str, Any]) -> str:
    names = {
        "queue_s": "queue",
        "generating_s": "generating",
        "download_s": "download",
        "total_s": "total",
        "expected_s": "usual for similar jobs",
    }
    return ", ".join(f"{name} {length_text(times[key])}" for key, name in names.items() if times[key] is not None)
