"""The report as one page: the templates, style and script of this room filled with the report's dict.

Rules: the page works from disk and loads nothing but itself and clips beside it: its content security policy allows the
one style and the one script in it, by hash. Every value is escaped, and made printable first, so that names and
messages from outside cannot act; the script only ever sets text, never markup. What is heavy (posters, provenance) lies
in the page as data, and is put on show when somebody looks there. A page of any batch opens at once: of a large one
not every job has a card, which the page then says.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchrunner.formatting import length_text, printable, rfc3339, size_text
from batchrunner.media.posters import Pictures
from batchrunner.plan.prices import dollars
from batchrunner.report import gallery
from batchrunner.report.charts import AttemptTable, cost, generation_times, polls
from batchrunner.report.failure_groups import causes, command
from batchrunner.report.text import headline
from batchrunner.report.timeline import CALL_STATUSES, PHASES, run_spans, timeline

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_EARLIER = 500
_STATE_TEXTS = {"succeeded": "succeeded", "failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight"}


def render(report: dict[str, Any], pictures: Pictures | None = None) -> str:
    """The page on `report` (as `batchrunner.report.build` gives it). pictures: posters to show, none by default."""
    shown = pictures or Pictures()
    environment = _environment()
    style, script = _asset("report.css"), _asset("report.js")
    done, earlier = AttemptTable(report["jobs"]), AttemptTable(report["earlier_jobs"])
    spans = run_spans(report, chain(done, earlier))
    jobs = [dict(report["jobs"][place]) for place in gallery.places([job["state"] for job in report["jobs"]])]
    facets = gallery.facets(jobs)
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=headline(report),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        causes=causes(report),
        earlier_jobs=[dict(job) for job in islice(report["earlier_jobs"], _MOST_EARLIER)],
        go_on=command(report, "pending"),
        cards=[gallery.card(job) for job in jobs],
        facets=facets,
        left_out=gallery.left_out(report["totals"], dict(facets["state"])),
        data=_data([gallery.details(job) for job in jobs]),
        posters=_data(dict(shown.posters)),
        clips=_data(dict(shown.clips)),
        has_posters=bool(shown.posters),
        timeline=timeline(report, done, spans),
        charts=[
            (
                "How long generations took",
                "Generations by how long they took",
                generation_times(done),
            ),
            (
                "What it cost, by when",
                "Cost of completed generations over time",
                cost(report["money"]["budget_credits"], chain(done, earlier), spans),
            ),
            ("Polls", "Generations by how often they were looked at", polls(done)),
        ],
        phases=PHASES,
        call_statuses=CALL_STATUSES,
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(_asset),
    )
    filters: dict[str, Callable[..., object]] = {
        "size": size_text,
        "lasting": length_text,
        "figure": "{:,}".format,
        "dollars": dollars,
        "px": lambda number: f"{number:.1f}".removesuffix(".0"),
        "iso": rfc3339,
        "clock": lambda moment: f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}",
        "link": _link,
        "state_text": _state_text,
        "when": _when,
    }
    environment.filters |= filters
    return environment


def _finalize(value: object) -> object:
    """Every value on its way to the page. Text that is safe already (the style) is a subclass, and left alone."""
    return printable(value) if type(value) is str else value


def _data(value: object) -> str:
    """`value` as JSON that may stand in a script element: nothing in it can end the element or start a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _link(name: str) -> str:
    """A file beside the page, as the target of a link."""
    return f"./{quote(name, safe='', errors='replace')}"


def _state_text(state: str) -> str:
    return _STATE_TEXTS.get(state, "not submitted")


def _when(time: str) -> str:
    """An RFC 3339 time in UTC for reading: ``2026-11-22 21:55:00 UTC``."""
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S} UTC"
