"""The report as one page: report.html.j2 and report.css filled with the report's dict. Reads nothing but those two.

Rules: the page works from disk and loads nothing but itself: its content security policy allows the style in it, by
hash, and clips beside it, and no script. Every value is escaped, and made printable first, so that names and messages
from outside cannot act.
"""

import base64
import hashlib
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchrunner.report.text import headline
from batchrunner.text import length_text, printable, size_text

if TYPE_CHECKING:
    from jinja2 import Template

_WORDS = {"succeeded": "succeeded", "failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight"}


def render(report: dict[str, Any]) -> str:
    """The page on `report` (as `batchrunner.report.build` gives it)."""
    template, style = _template()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.render(report=report, headline=headline(report), style=style, style_hash=f"sha256-{digest}")


@cache
def _template() -> "tuple[Template, str]":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "size": size_text,
        "lasting": length_text,
        "figure": "{:,}".format,
        "link": _link,
        "word": _word,
        "when": _when,
    }
    room = files("batchrunner.report")
    style = room.joinpath("report.css").read_text("utf-8")
    return environment.from_string(room.joinpath("report.html.j2").read_text("utf-8")), style


def _finalize(value: object) -> object:
    """Every value on its way to the page. Text that is safe already (the style) is a subclass, and left alone."""
    return printable(value) if type(value) is str else value


def _link(name: str) -> str:
    """A file beside the page, as the target of a link."""
    return f"./{quote(name, safe='', errors='replace')}"


def _word(state: str) -> str:
    return _WORDS.get(state, "not submitted")


def _when(time: str) -> str:
    """An RFC 3339 time in UTC for reading: ``2026-11-22 21:55:00 UTC``."""
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S} UTC"
