"""The settings of a run: one table, and four places to set each of them. Pure.

The setting ``poll_interval`` has the flag ``--poll-interval``, the environment variable ``BATCHRUNNER_POLL_INTERVAL``
and the manifest key ``poll_interval``. A flag takes precedence over the environment, the environment over the manifest,
and the manifest over the default. An empty variable counts as unset. Tests compare the command line, the manifest's
schema and docs/settings.md with SETTINGS. The manifest loader removes settings that a stranger's manifest must not set
(`by_user`). The API key is not a setting: it is read only from the environment.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from datetime import time as time_of_day
from difflib import get_close_matches
from math import ceil
from typing import Any, Literal, NamedTuple

from batchrunner.errors import UsageError
from batchrunner.formatting import parse_duration, parse_size
from batchrunner.moments import WINDOW, Moment
from batchrunner.quality import marks
from batchrunner.storage import paths
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.workers import spec as worker_specs

Kind = Literal[
    "path",
    "text",
    "choice",
    "count",
    "number",
    "share",
    "duration",
    "moment",
    "switch",
    "kinds",
    "secret",
    "money",
    "toggle",
    "marks",
    "size",
    "bucket",
    "workers",
]

PREFIX = "BATCHRUNNER_"
_FURTHER_VARIABLES = {f"{PREFIX}ENV", f"{PREFIX}STATE"}  # not settings of a run
_KIND = re.compile(r"[A-Za-z][\w.-]{0,59}")
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", ""}
_MOST_JOBS = 10**9
_LONGEST_S = 366 * 86_400
_MONEY = re.compile(r"(?P<sign>\$ ?)?(?P<amount>[0-9][0-9_]*(\.[0-9]+)?|\.[0-9]+)(?P<unit> ?USD)?", re.IGNORECASE)
_MOST_USD = 10**9
_FIRST_YEAR = 1971  # some systems cannot convert earlier dates


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `default` has the form that a user writes; None means that it is derived."""

    name: str
    kind: Kind
    default: str | int | bool | None
    help: str
    choices: tuple[str, ...] = ()
    low: int = 1
    high: int = 100_000
    longest_s: float = _LONGEST_S
    by_user: bool = False  # a manifest cannot set it


SETTINGS: tuple[Setting, ...] = (
    Setting("output", "path", None, "Run directory. [default: output/<name>]"),
    Setting("provider", "choice", "aimlapi", "Service to use.", ("aimlapi", "sandbox")),
    Setting("concurrency", "count", 4, "Maximum number of generations in flight.", high=10_000),
    Setting(
        "order", "choice", "longest", "Submit the longest jobs first, or in manifest order.", ("longest", "manifest")
    ),
    Setting("poll_interval", "duration", "15s", "Average time between two polls of a generation."),
    Setting("job_timeout", "duration", "1h", "Maximum time in 'generating' before a job is left for the next run."),
    Setting(
        "requests_per_second", "number", None, "Maximum calls to the service per second, including polls.", high=10_000
    ),
    Setting(
        "link_lifetime",
        "duration",
        "24h",
        "How long the links to inputs in buckets are valid, at most 7d.",
        longest_s=7 * 86_400.0,  # the stores sign no longer link
    ),
    Setting("stage", "bucket", None, "Upload local inputs to this place in a bucket and submit links to them."),
    Setting("stage_above", "size", "8MB", "Stage inputs of at least this size; 0 for all of them."),
    Setting("deliver", "bucket", None, "Copy each clip and the reports to this place in a bucket."),
    Setting("keep_local", "toggle", "on", "With deliver: keep the clips in the run directory, too: on or off."),
    Setting("uploads", "count", 8, "Maximum number of concurrent submissions.", high=256),
    Setting("downloads", "count", 4, "Maximum number of concurrent downloads.", high=256),
    Setting("max_runtime", "duration", None, "Stop after this time; submit no job that would finish later."),
    Setting(
        "deadline",
        "moment",
        None,
        "Stop at this time (06:00), or work only in this window (22:00-06:00).",
    ),
    Setting("max_cost", "money", None, "Budget of the batch over all its runs, in US dollars."),
    Setting("max_credits", "number", None, "Budget of the batch over all its runs, in credits.", high=10**15),
    Setting("max_generations", "count", None, "Budget of the batch in generations, including failed ones.", high=10**9),
    Setting("assume_length", "duration", None, "Length to assume for clips of unknown length (URLs)."),
    Setting("account_wait", "duration", "30m", "Maximum wait while the account refuses calls (key, credits)."),
    Setting("outage_wait", "duration", "4h", "Maximum wait while the service is down or unreachable."),
    Setting(
        "stop_after_failures", "share", None, "Stop submitting after this many failed jobs: 20, or 10% of the batch."
    ),
    Setting(
        "generation_retries",
        "count",
        1,
        "Further generations for a job whose generation failed in the service.",
        low=0,
        high=10,
    ),
    Setting(
        "in_doubt",
        "choice",
        "hold",
        "What to do with submissions that may have been accepted.",
        ("hold", "evidence", "resubmit"),
    ),
    Setting("retry_failed", "kinds", False, "Submit failed jobs again, at their price: all, or only these kinds."),
    Setting(
        "account",
        "text",
        None,
        "Name of the account whose limits and paid work apply. [default: the service's address]",
    ),
    Setting("reuse", "toggle", "on", "Deliver what another batch of the account has paid for: on or off."),
    Setting("priority", "count", "0", "Batches of the account with a higher priority go first.", low=-100, high=100),
    Setting("quality", "marks", marks.WARN, "What to do with clips that look wrong, in total or by kind of mark."),
    Setting("junit", "path", None, "Write a JUnit XML file at the end, with a test case for each job."),
    Setting("metrics_file", "path", None, "Write a Prometheus text file at the end, for a textfile collector."),
    Setting(
        "notify",
        "secret",
        None,
        "Post the summary to this webhook at the end (https, or http on this machine).",
        by_user=True,
    ),
    Setting(
        "on_clip", "secret", None, "Run this command on each finished clip; exit status 10 rejects it.", by_user=True
    ),
    Setting("workers", "workers", worker_specs.DEFAULT, "Where the work on finished clips runs.", by_user=True),
    Setting("quiet", "switch", False, "Print only what requires action."),
    Setting("log_format", "choice", "text", "Lines of text, or one JSON object per event.", ("text", "json")),
    Setting("no_progress", "switch", False, "Plain lines instead of a live screen."),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings, with parsed values: durations in seconds, money in USD. Fields as in SETTINGS."""

    output: str | None
    provider: str
    concurrency: int
    order: str
    poll_interval_s: float
    job_timeout_s: float
    requests_per_second: float | None
    link_lifetime_s: float
    stage: str | None
    stage_above: int
    deliver: str | None
    keep_local: bool
    uploads: int
    downloads: int
    max_runtime_s: float | None
    deadline: Moment | None
    max_cost: float | None
    max_credits: float | None
    max_generations: int | None
    assume_length_s: float | None
    account_wait_s: float
    outage_wait_s: float
    stop_after_failures: "Share | None"
    generation_retries: int
    in_doubt: str
    retry_failed: bool | tuple[str, ...]  # or the kinds of failures
    account: str | None
    reuse: bool
    priority: int
    quality: Mapping[str, str]  # kind of mark to action
    junit: str | None
    metrics_file: str | None
    notify: str | None
    on_clip: str | None
    workers: str  # as `batchrunner.workers.spec.parse` reads it
    quiet: bool
    log_format: str
    no_progress: bool


class Share(NamedTuple):
    """A number of jobs, or a percentage of them."""

    number: float
    percent: bool

    def of(self, jobs: int) -> int:
        """Return the number of jobs for a batch of `jobs` jobs: at least one."""
        # Rounded: 64.4 % of 250 is 161, but 161.00000000000003 in binary floating point.
        return max(1, ceil(round(jobs * self.number / 100, 6))) if self.percent else int(self.number)


def resolve(flags: Mapping[str, object], environment: Mapping[str, str], manifest: Mapping[str, object]) -> Settings:
    """Return the effective settings.

    flags: by setting name, None if not set. environment: the process's. manifest: its top-level keys.
    Raises UsageError, which names the place of an invalid value.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        variable = PREFIX + setting.name.upper()
        flag = "--" + setting.name.replace("_", "-")
        for place, value in (
            (flag, flags.get(setting.name)),
            (variable, environment.get(variable, "").strip() or None),
            (f"manifest key '{setting.name}'", manifest.get(setting.name)),
            ("default", setting.default),
        ):
            if value is not None:
                values[_field(setting)] = parse(setting, value, place)
                break
        else:
            values[_field(setting)] = None
    return Settings(**values)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable with batchrunner's prefix that is not a setting."""
    known = {PREFIX + setting.name.upper() for setting in SETTINGS} | _FURTHER_VARIABLES
    warnings = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}VAR_") and name not in known:
            close = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"the environment variable {name} is unknown and is ignored{hint}")
    return warnings


def as_facts(settings: Settings) -> dict[str, Any]:
    """Return the effective settings for storage and display, JSON-ready. An address or a command may hold a secret."""
    shown: dict[str, Any] = {}
    for setting in SETTINGS:
        value = getattr(settings, _field(setting))
        if isinstance(value, Share):
            value = f"{value.number:.12g}{'%' if value.percent else ''}"
        shown[_field(setting)] = value.text if isinstance(value, Moment) else value
    return shown | {name: "set" if shown[name] else None for name in ("notify", "on_clip")}


def _field(setting: Setting) -> str:
    return f"{setting.name}_s" if setting.kind == "duration" else setting.name


def parse(setting: Setting, value: object, place: str = "value") -> object:
    """Parse `value` (text or a YAML value) to the setting's type. Raises UsageError, which names `place`."""
    try:
        if setting.kind == "money" and place.startswith(("--", PREFIX)) and "$" in str(value):
            raise ValueError(f"{value!r} begins with a sign that a shell expands; write 4USD for $4")  # noqa: TRY301 (one exception type for every bad value)
        return _PARSERS[setting.kind](setting, value)
    except ValueError as error:
        raise UsageError(f"{place}: {error}", f"{setting.help.rstrip('.')}: {_expected(setting)}") from None


def _expected(setting: Setting) -> str:
    return {
        "choice": "one of " + ", ".join(setting.choices),
        "count": f"a whole number from {setting.low} to {setting.high}",
        "number": f"a number above 0, at most {setting.high}",
        "share": "a number of jobs such as 20, or a percentage such as 10%",
        "duration": "a duration such as 200ms, 15s, 30m or 7h",
        "moment": "a window such as 22:00-06:00, a time such as 06:00, or a date and time such as 2027-01-31T06:00",
        "switch": "true or false",
        "toggle": "on or off",
        "kinds": "true, false, or kinds of failures such as generation_failed,timed_out",
        "marks": "off, warn or reject for all marks, or by kind, such as frozen=reject,echo=off",
        "size": "a size such as 500kB, 8MB or 1GB",
        "bucket": "a place in a bucket, such as s3://bucket/prefix/",
        "path": "a path",
        "workers": worker_specs.FORMS,
        "text": "text",
        "secret": "text that is not shown here",
        "money": "an amount with its currency, such as 4USD (or $4 in a manifest); max_credits is a budget in credits",
    }[setting.kind]


def _text(_: Setting, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{value!r} is not usable text")
    return value


def _size(_: Setting, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int) or (isinstance(value, int) and value):
        raise ValueError(f"{value!r} has no unit")
    return parse_size(str(value))


def _bucket(setting: Setting, value: object) -> str:
    try:
        return str(ObjectAddress.parse(_text(setting, value)))
    except UsageError as error:
        raise ValueError(error.message) from None


def _path(setting: Setting, value: object) -> str:
    return paths.written(_text(setting, value))


def _workers(_: Setting, value: object) -> str:
    text = str(value).strip()
    worker_specs.parse(text)
    return text


def _secret(setting: Setting, value: object) -> str:
    try:
        return _text(setting, value)
    except ValueError:
        raise ValueError("its value is not usable text") from None


def _choice(setting: Setting, value: object) -> str:
    if value not in setting.choices:
        raise ValueError(f"{value!r} is not one of {', '.join(setting.choices)}")
    return str(value)


def _count(setting: Setting, value: object) -> int:
    try:
        number = int(str(value)) if not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not setting.low <= number <= setting.high:
        raise ValueError(f"{value!r} is not a whole number from {setting.low} to {setting.high}")
    return number


def _number(setting: Setting, value: object) -> float:
    try:
        number = float(str(value)) if not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not 0 < number <= setting.high:
        raise ValueError(f"{value!r} is not a number above 0, at most {setting.high}")
    return number


def _money(_: Setting, value: object) -> float:
    """An amount in US dollars. A number alone could be meant in credits, so it is refused."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not an amount of money")  # noqa: TRY004 (one exception type for every bad value)
    text = str(value).strip()
    found = _MONEY.fullmatch(text)
    if not text or not found:
        raise ValueError(f"{value!r} is not an amount in US dollars" if text else "the amount is empty")
    if not found["sign"] and not found["unit"]:
        raise ValueError(f"{value!r} has no currency")
    amount = float(found["amount"])
    if not 0 < amount <= _MOST_USD:
        raise ValueError(f"{value!r} is not above 0USD and at most {_MOST_USD:,}USD")
    return amount


def _share(_: Setting, value: object) -> Share:
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) if percent else float(int(text))
    except (ValueError, OverflowError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number <= (100 if percent else _MOST_JOBS):
        raise ValueError(f"{value!r} is neither a number of jobs nor a percentage")
    return Share(number, percent)


def _moment(_: Setting, value: object) -> Moment:
    text = value.isoformat() if isinstance(value, datetime) else str(value).strip()
    if window := WINDOW.fullmatch(text):
        opens, closes = map(time_of_day.fromisoformat, window.groups())  # raises ValueError for 25:00
        if opens == closes:
            raise ValueError(f"{value!r} is a window without a length")
        return Moment(text)
    for reads in (time_of_day.fromisoformat, datetime.fromisoformat):
        try:
            moment = reads(text)
        except ValueError:
            continue
        if ":" in text and (isinstance(moment, time_of_day) or moment.year >= _FIRST_YEAR):
            return Moment(text)
    raise ValueError(f"{value!r} is not a time")


def _duration(setting: Setting, value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit")  # noqa: TRY004 (one exception type for every bad value)
    seconds = parse_duration(value)
    if not 0 < seconds <= setting.longest_s:
        raise ValueError(f"{value!r} is out of range")
    return seconds


def _switch(_: Setting, value: object) -> bool:
    text = str(value).strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _kinds(setting: Setting, value: object) -> bool | tuple[str, ...]:
    with suppress(ValueError):
        return _switch(setting, value)
    names = value if isinstance(value, list | tuple) else str(value).split(",")
    kinds = tuple(dict.fromkeys(str(name).strip() for name in names))
    if not kinds or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise ValueError(f"{value!r} is no list of kinds of failures")
    return kinds


def _marks(_: Setting, value: object) -> Mapping[str, str]:
    """Read an action for all kinds (``warn``), or actions by kind: a mapping, or text such as ``frozen=reject``."""
    if isinstance(value, Mapping):
        named = {str(kind): action for kind, action in value.items()}
    elif "=" in str(value):
        named = dict(_split_mark(item) for item in str(value).split(","))
    else:
        named = dict.fromkeys(marks.KINDS, value)
    for kind in named:
        if kind not in marks.KINDS:
            close = get_close_matches(kind, marks.KINDS, n=1)
            raise ValueError(
                f"{kind!r} is not a kind of mark; {f'did you mean {close[0]}?' if close else _mark_kinds()}"
            )
    return {**marks.DEFAULT, **{kind: _action(action) for kind, action in named.items()}}


def _split_mark(text: str) -> tuple[str, str]:
    kind, _, action = text.partition("=")
    return kind.strip(), action.strip()


def _mark_kinds() -> str:
    return f"the kinds are {', '.join(marks.KINDS)}"


def _action(value: object) -> str:
    """Return an action. YAML reads ``off`` and ``on`` as booleans."""
    text = {False: marks.OFF, True: marks.WARN}[value] if isinstance(value, bool) else str(value).strip().lower()
    text = {"false": marks.OFF, "on": marks.WARN, "true": marks.WARN}.get(text, text)
    if text not in marks.ACTIONS:
        raise ValueError(f"{value!r} is not one of {', '.join(marks.ACTIONS)}")
    return text


_PARSERS = {
    "path": _path,
    "workers": _workers,
    "size": _size,
    "bucket": _bucket,
    "text": _text,
    "secret": _secret,
    "choice": _choice,
    "count": _count,
    "number": _number,
    "share": _share,
    "duration": _duration,
    "moment": _moment,
    "money": _money,
    "switch": _switch,
    "toggle": _switch,
    "kinds": _kinds,
    "marks": _marks,
}
