"""The gallery: a card, filter values and provenance for each job. Pure.

A large batch has more jobs than a page can show; `places` selects the jobs with a card, and the takes of a job follow
each other. Rule: the template writes the visible data, which is small. The page's script shows the rest on request; its
texts are made printable here. A page has 2,000 cards with 40 texts each, so each text takes few calls.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from batchrunner.formatting import count_text, length_text, printable, size_text
from batchrunner.providers import registry
from batchrunner.quality.marks import suspicion
from batchrunner.report.labels import label, stem

Card = dict[str, Any]

MOST = 2000  # cards on a page: it opens in about a second
FIRST = 60  # cards that are visible before more are opened
_NEEDY = ("failed", "in_doubt")
_VERDICTS = {"accept": "accepted", "reject": "rejected"}
_is_plain_name = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch  # a link to it has no escapes
_TIMES = (
    ("queue_s", "queue"),
    ("generating_s", "generating"),
    ("download_s", "download"),
    ("total_s", "total"),
    ("expected_s", "usual for similar jobs"),
)


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


def in_order(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the jobs in the order of the page: that of the manifest, with the takes of a job next to each other."""
    firsts: dict[str, int] = {job["job"]: -place for place, job in enumerate(reversed(jobs))}
    return sorted(jobs, key=lambda job: (firsts[job["job"]], job["take"]))


def cards(jobs: Sequence[dict[str, Any]]) -> Iterator[Card]:
    """Yield the visible data of the cards. jobs: in the order of the page."""
    takes = Counter([job["job"] for job in jobs])
    for number, job in enumerate(jobs):
        yield _card(job, number, takes[job["job"]])


def _card(job: dict[str, Any], number: int, takes: int) -> Card:
    """Return the visible data of a job's card: texts, lists of texts, and flags. takes: the job's takes on the page.

    facts: (name, text). suspicion: of the clip's marks. remarks: what looks wrong with the clip. message: of the error,
    or None. is_away: whether a bucket has the clip.
    """
    panes = _panes(job)
    title, subtitle = label(job, [pane.name for pane in panes])
    kind, verdict = _verdict(job)
    return {
        "number": str(number),
        "is_hidden": number >= FIRST,
        "id": job["id"],
        "group": job["job"],
        "state": job["state"],
        "message": job["error"] and job["error"]["message"],
        "title": title,
        "subtitle": subtitle,
        "take": f"take {job['take']}" if takes > 1 or job["take"] > 1 else "",
        "resolution": _resolution(job),
        "facts": _shown_values(job),
        "tags": [f"{name}: {value}" for name, value in job["tags"].items()] if job["tags"] else [],
        "remarks": _remarks(job),
        "verdict": kind,
        "verdict_text": verdict,
        "suspicion": str(round(suspicion(job), 3)) if job["quality"] else "0.0",
        "slow": str(job["times"]["generation_s"] or 0),
        "clip": f"strip-{job['sha256']}" if job["file"] else "",
        "link": link(job["file"]) if job["file"] else "",
        "is_away": job["object"] is not None,
        "width": str(job["width_px"] or 1),
        "height": str(job["height_px"] or 1),
        "reference": _reference(panes),
        "panes": panes,
    }


def link(name: str) -> str:
    """Return the link target of a file next to the page."""
    return f"./{name if _is_plain_name(name) else quote(name, errors='replace')}"


def _resolution(job: dict[str, Any]) -> str:
    return str(job["request"].get("resolution", ""))


def _remarks(job: dict[str, Any]) -> list[str]:
    """Return the warnings and marks of a clip, each once."""
    marks = job["quality"]["marks"] if job["quality"] else []
    if not marks and not job["warnings"]:
        return []
    rejected = {mark["message"] for mark in marks if mark["action"] == "reject"}
    remarks = dict.fromkeys((*job["warnings"], *(mark["message"] for mark in marks)))
    return [f"{text} (reject)" if text in rejected else text for text in remarks]


def _shown_values(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a job that cards and table show, by name."""
    generated_s = job["times"]["generation_s"]
    width_px, height_px = job["width_px"], job["height_px"]
    known = (
        ("dimensions", f"{width_px}\N{MULTIPLICATION SIGN}{height_px}" if width_px and height_px else ""),
        ("resolution", _resolution(job)),
        ("length", length_text(job["duration_s"]) if job["duration_s"] else ""),
        ("size", size_text(job["bytes"]) if job["bytes"] is not None else ""),
        ("generated", f"made in {length_text(generated_s)}" if generated_s is not None else ""),
    )
    return [fact for fact in known if fact[1]]


def _verdict(job: dict[str, Any]) -> tuple[str, str]:
    """Return kind and text of the verdict on a clip; both are "" if there is none."""
    found = job.get("verdict")
    if found is None or found["verdict"] not in _VERDICTS:
        return "", ""
    text = _VERDICTS[found["verdict"]]
    return found["verdict"], ": ".join(filter(None, (text, ", ".join(found["reasons"]))))


class ShownInput(NamedTuple):
    """An input of a model as the page names it. caption: its short name."""

    name: str
    kind: str
    label: str
    caption: str


class Pane(NamedTuple):
    """An input of a job. key: of the poster, or ""."""

    kind: str
    key: str
    label: str
    caption: str
    name: str


def _panes(job: dict[str, Any]) -> list[Pane]:
    """Return the inputs of a job."""
    inputs = job["inputs"]
    return [
        Pane(kind, _key(kind, inputs[name]["sha256"]), label, caption, stem(inputs[name]["source"]))
        for name, kind, label, caption in inputs_of(job)
    ]


def _key(kind: str, sha256: str | None) -> str:
    return f"{kind}-{sha256}" if sha256 else ""


def _reference(panes: list[Pane]) -> str:
    """Return the key of the first video, or ""."""
    videos = [pane.key for pane in panes if pane.kind == "video"]
    return videos[0] if videos else ""


def inputs_of(job: dict[str, Any]) -> Sequence[ShownInput]:
    """Return the inputs of a job as its model describes them; by name if the model is unknown."""
    return _inputs_of(job["request"]["model"], tuple(job["inputs"]))


@registry.cached
def _inputs_of(model: str, names: tuple[str, ...]) -> Sequence[ShownInput]:
    spec = registry.models().get(model) or registry.default_model()
    known = {item.name: (item.name, item.kind, item.label) for item in spec.inputs}
    unknown = [(name, "image", name) for name in names if name not in known]
    found = (*(item for name, item in known.items() if name in names), *unknown)
    return [ShownInput(name, kind, label, label.partition(" ")[0].lower()) for name, kind, label in found]


def facets(jobs: Sequence[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Return the filter values with the number of jobs of each.

    States, resolutions, verdicts, marks (``marked``), and tags as ``key: value``.
    """
    states, resolutions = Counter([job["state"] for job in jobs]), Counter([_resolution(job) for job in jobs])
    verdicts = Counter([_verdict(job)[0] for job in jobs if job.get("verdict")])
    marked = sum([bool(job["warnings"] or (job["quality"] and job["quality"]["marks"])) for job in jobs])
    tags = Counter([text for job in jobs if job["tags"] for text in tag_texts(job)])
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
    inputs, request, estimate = job["inputs"], job["request"], job["estimate"]
    parameters = [f"{name} {request[name]}" for name in request if name != "model" and name not in inputs]
    rows = [
        ("Id", job["id"]),
        ("Fingerprint", job["fingerprint"]),
        ("Model", request["model"]),
        ("Parameters", ", ".join(parameters)),
        *[(known.label, _input(inputs[known.name])) for known in inputs_of(job)],
        ("Priority", str(job["priority"] or "")),
        ("Estimate", "" if estimate["credits"] is None else f"{estimate['credits']:,} credits, {estimate['basis']}"),
        *[(f"Attempt {item['number']}", _attempt(item)) for item in job["attempts"]],
        ("Times", _times(job["times"])),
        *(_file(job) if job["file"] else ()),
    ]
    if verdict := job.get("verdict"):
        rating = f"rating {verdict['rating']}" if verdict["rating"] is not None else ""
        by = f"by {verdict['by']}" if verdict["by"] else ""
        rows.append(("Verdict", "; ".join(filter(None, (_verdict(job)[1], rating, verdict["note"], by)))))
    return {
        "id": printable(job["id"]),
        "tags": tag_texts(job) if job["tags"] else [],
        "rows": _printable_rows([row for row in rows if row[1]]),
    }


def _printable_rows(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Make the texts printable. `repr` writes other characters with a ``\``, so one look at all texts is enough."""
    return [(label, printable(text)) for label, text in rows] if "\\" in repr(rows) else rows


def _file(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the details about the clip."""
    size = f"{job['bytes']:,} bytes, {job['width_px']}\N{MULTIPLICATION SIGN}{job['height_px']}"
    rows = [("File", f"{job['file']}, {size}"), ("SHA-256", job["sha256"])]
    if job["object"] is not None:
        rows.append(("In the bucket", f"{job['object']['address']}, ETag {job['object']['etag']}"))
    if job["synthetic_marks"] is not None:
        rows.append(("Synthetic marks", ", ".join(job["synthetic_marks"]) or "none"))
    return rows


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
    if attempt["settled"] is not None:
        cost = f"; {attempt['settled']:,} credits, settled"
    elif attempt["credits"] is not None:
        cost = f"; {attempt['credits']:,} credits"
    else:
        cost = f"; about {attempt['estimate']:,} credits" if attempt["estimate"] is not None else ""
    generation = f"; generation {attempt['generation_id']}" if attempt["generation_id"] else ""
    ended = f"; ended {attempt['ended_at']}" if attempt["ended_at"] else ""
    error = f"; {attempt['error']['kind']}: {attempt['error']['message']}" if attempt["error"] else ""
    return (
        f"{attempt['outcome'] or 'open'}; submitted {attempt['submitted_at']}{generation}; "
        f"request {attempt['request_id']}{ended}; {count_text(attempt['polls'], 'poll')}{cost}{error}"
    )


def _times(times: dict[str, Any]) -> str:
    return ", ".join([f"{name} {length_text(times[key])}" for key, name in _TIMES if times[key] is not None])
