"""report.html: the templates, style and script of this package, filled with the report's dict.

Rules: the page works from disk and loads only itself and the clips next to it. Its content security policy allows its
one style and one script by hash. Each value is made printable and escaped, so text from outside cannot inject markup;
the script sets only text. The page embeds posters and provenance as data and shows them on request. In a large batch
not every job has a card, and the page says so.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.formatting import length_text, printable, rfc3339, size_text
from batchrunner.media.posters import Pictures
from batchrunner.plan.prices import dollars
from batchrunner.report import gallery, overview
from batchrunner.report.charts import AttemptTable, cost, generation_times, polls
from batchrunner.report.closing import summed_up_clip
from batchrunner.report.failure_groups import Cause, CauseGroups, command
from batchrunner.report.rows import complete
from batchrunner.report.text import headline
from batchrunner.report.timeline import CALL_STATUSES, PHASES, run_spans, timeline

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_EARLIER = 500
_AT_ONCE = 64  # cards, or values for the script, in a piece of the page
_MOST_ACTIONS = 5  # visible before more are opened
_STATE_TEXTS = {"succeeded": "succeeded", "failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight"}


class PageRows:
    """What the page needs of the rows of a report, collected while these are read, because they are not kept.

    chosen: the indexes of the jobs with a card. cards: their complete rows. attempts: those of all rows. clips: what
    the closing block shows of the clips (`batchrunner.report.closing.summed_up`).
    """

    def __init__(self, report: dict[str, Any], chosen: Collection[int]) -> None:
        self.cards: list[dict[str, Any]] = []
        self.attempts = AttemptTable()
        self.clips: list[dict[str, Any]] = []
        self._chosen = frozenset(chosen)
        self._groups = CauseGroups(report)

    def add(self, first: int, rows: Sequence[dict[str, Any]]) -> None:
        """Add complete rows that follow each other. first: the index of the first one."""
        self.cards += [row for number, row in enumerate(rows, first) if number in self._chosen]
        for row in rows:
            self.attempts.add(row["attempts"])
            if row["error"] is not None:
                self._groups.add(row)
            if (row["quality"] or row["verdict"]) and (clip := summed_up_clip(row)) is not None:
                self.clips.append(clip)

    def causes(self) -> list[Cause]:
        """Return the causes of all rows."""
        return self._groups.causes()


def render(report: dict[str, Any], pictures: Pictures | None = None, found: PageRows | None = None) -> Iterator[str]:
    """Yield the page for a `report` of `batchrunner.report.build` in pieces, because a page has many megabytes.

    pictures: posters to show, none by default. found: what the page needs of the rows, if the caller has read them.
    """
    from batchrunner.report.page_environment import page_texts  # here, because Jinja is large

    shown, collected = pictures or Pictures(), found or _read(report)
    environment = _environment()
    style, script = _asset("report.css"), _asset("report.js")
    done, earlier = collected.attempts, AttemptTable(report["earlier_jobs"])
    spans = run_spans(report, chain(done, earlier))
    jobs, facets = gallery.in_order(collected.cards), gallery.facets(collected.cards)
    return environment.get_template("report.html.j2").generate(
        report=report,
        **_first_screen(report, collected.causes()),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        earlier_jobs=[complete(job) for job in islice(report["earlier_jobs"], _MOST_EARLIER)],
        cards=_in_groups(map(page_texts, gallery.cards(jobs))),
        card_count=len(jobs),
        first=gallery.FIRST,
        facets=facets,
        bucket=_bucket(report),
        left_out=gallery.left_out(report["totals"], dict(facets["state"])),
        data=_data(list, map(gallery.details, jobs)),
        posters=_data(dict, shown.posters.items()),
        clips=_data(dict, shown.clips.items()),
        timeline=timeline(report, done, spans),
        charts=_charts(report, done, earlier, spans),
        phases=PHASES,
        call_statuses=CALL_STATUSES,
    )


def _charts(
    report: dict[str, Any], done: AttemptTable, earlier: AttemptTable, spans: Sequence[tuple[float, float]]
) -> list[tuple[str, str, Any]]:
    """Return the charts with their titles and descriptions."""
    money = cost(report["money"]["budget_credits"], chain(done.payments, earlier.payments), spans)
    return [
        ("Generation times", "Number of generations by generation time", generation_times(done.durations_s)),
        ("Cost over time", "Cumulated cost of completed generations over time", money),
        ("Polls", "Number of generations by number of polls", polls(done.poll_counts)),
    ]


def _bucket(report: dict[str, Any]) -> dict[str, str]:
    """Return where the clips are that only a bucket has, and the command that shows them; {} if the run keeps them.

    A merged report has several places and no such command.
    """
    settings = report["settings"]
    if settings.get("keep_local", True) or not report["totals"]["succeeded"]:
        return {}
    place = settings.get("deliver") or ""
    return {"place": printable(place), "command": command(report, name="review") if place else ""}


def _read(report: dict[str, Any]) -> PageRows:
    found = PageRows(report, gallery.places([job["state"] for job in report["jobs"]]))
    for number, job in enumerate(report["jobs"]):
        found.add(number, [complete(job)])
    return found


def _first_screen(report: dict[str, Any], found: list[Cause]) -> dict[str, Any]:
    """Return the template's values for the top of the page and the list of actions."""
    return {
        "headline": overview.headline(report),
        "summary": headline(report),
        "tiles": overview.tiles(report),
        "bars": overview.bars(report),
        "money_notes": overview.money_notes(report),
        "advice": overview.advice(report),
        "actions": overview.actions(found),
        "most_actions": _MOST_ACTIONS,
    }


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


@cache
def _environment() -> "Environment":
    from batchrunner.report.page_environment import page_environment

    filters: dict[str, Callable[..., object]] = {
        "size": size_text,
        "lasting": length_text,
        "figure": "{:,}".format,
        "dollars": dollars,
        "px": lambda number: f"{number:.1f}".removesuffix(".0"),
        "iso": rfc3339,
        "clock": lambda moment: f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}",
        "link": gallery.link,
        "state_text": _state_text,
        "when": _when,
    }
    return page_environment(_asset, filters, Path(__file__).read_bytes())


def _data(kind: type[list[Any]] | type[dict[str, Any]], items: Iterable[Any]) -> Iterator[str]:
    """Yield many values, or keys and values, as one JSON array or object in pieces, for a script element."""
    brackets = _json(kind())
    yield brackets[0]
    for number, some in enumerate(_in_groups(items)):
        yield f"{',' if number else ''}{_json(kind(some))[1:-1]}"
    yield brackets[1]


def _in_groups(items: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _json(value: object) -> str:
    """Return `value` as JSON that cannot end a script element or start a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _state_text(state: str) -> str:
    return _STATE_TEXTS.get(state, "not submitted")


def _when(time: str) -> str:
    """Return an RFC 3339 time as text: ``2026-11-22 21:55:00 UTC``."""
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S} UTC"
