"""The gallery: a card, filter values and provenance for each job. Pure.

A large batch has more jobs than a page can show; `places` selects the jobs with a card. Rule: the template writes the
visible data, which is small. The page's script shows the rest on request; its texts are made printable here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchrunner.formatting import count_text, length_text, printable, size_text
from batchrunner.providers import registry
from batchrunner.providers.models import ModelInput

Card = dict[str, Any]

MOST = 2000  # cards on a page: it opens in about a second
_NEEDY = ("failed", "in_doubt")


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


def card(job: dict[str, Any]) -> Card:
    """Return the visible data of a job's card."""
    values = [str(job["request"].get("resolution", ""))]
    if job["width_px"] and job["height_px"]:
        values.append(f"{job['width_px']}\N{MULTIPLICATION SIGN}{job['height_px']}")
    if job["duration_s"]:
        values.append(length_text(job["duration_s"]))
    if job["bytes"] is not None:
        values.append(size_text(job["bytes"]))
    generated_s = job["times"]["generation_s"]
    if generated_s is not None:
        values.append(f"generated in {length_text(generated_s)}")
    panes = _panes(job)
    return {
        "job": job,
        "resolution": str(job["request"].get("resolution", "")),
        "facts": [value for value in values if value],
        "strip": f"strip-{job['sha256']}" if job["file"] else "",
        "reference": next((pane["key"] for pane in panes if pane["kind"] == "video"), ""),
        "panes": panes,
    }


def _panes(job: dict[str, Any]) -> list[dict[str, str]]:
    """Return the inputs of a job: kind, key of the poster ("" if there is none), label and caption."""
    shown = []
    for known in inputs_of(job):
        digest = job["inputs"][known.name]["sha256"]
        caption = known.label.partition(" ")[0].lower()
        key = f"{known.kind}-{digest}" if digest else ""
        shown.append({"kind": known.kind, "key": key, "label": known.label, "caption": caption})
    return shown


def inputs_of(job: dict[str, Any]) -> list[ModelInput]:
    """Return the inputs of a job as its model describes them; by name if the model is unknown."""
    spec = registry.models().get(job["request"]["model"]) or registry.default_model()
    known = {item.name: item for item in spec.inputs}
    unknown = (ModelInput(name, name, "image", True, name, {}) for name in job["inputs"] if name not in known)
    return [*(item for name, item in known.items() if name in job["inputs"]), *unknown]


def facets(jobs: Iterable[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Return the filter values with the number of jobs of each: states, resolutions, tags as ``key: value``."""
    states, resolutions, tags = Counter[str](), Counter[str](), Counter[str]()
    for job in jobs:
        states[job["state"]] += 1
        resolutions[str(job["request"].get("resolution", ""))] += 1
        tags.update(tag_texts(job))
    order = ("succeeded", "failed", "in_doubt", "in_flight", "pending")
    return {
        "state": [(state, states[state]) for state in order if states[state]],
        "resolution": sorted(resolutions.items()),
        "tag": sorted(tags.items())[:200],
    }


def tag_texts(job: dict[str, Any]) -> list[str]:
    """Return a job's tags as ``key: value``."""
    return [printable(f"{name}: {value}") for name, value in job["tags"].items()]


def details(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's data for the page's script. tags: filter values. rows: the provenance as (label, text)."""
    inputs = inputs_of(job)
    parameters = [item for item in job["request"].items() if item[0] not in {"model", *job["inputs"]}]
    rows = [
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
        rows.append(("File", f"{job['file']}, {job['bytes']:,} bytes"))
        rows.append(("SHA-256", job["sha256"]))
    return {"tags": tag_texts(job), "rows": [(label, printable(text)) for label, text in rows if text]}


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
