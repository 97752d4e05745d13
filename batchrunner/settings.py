"""Settings of a run: one table, four places to set each. Pure.

A setting called ``poll_interval`` has the flag ``--poll-interval``, the environment variable
``BATCHRUNNER_POLL_INTERVAL`` and the manifest key ``poll_interval``. Flags win over the environment, the environment
over the manifest, the manifest over the default. The command line, the manifest's schema and the README are kept in
step with SETTINGS by tests. The API key is not a setting: it comes from the environment alone (`batchrunner.runner`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchrunner.errors import UsageError

Kind = Literal["text", "choice", "count", "duration", "switch"]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `default` is written as a user would write it; None means that it is derived."""

    name: str
    kind: Kind
    default: str | int | bool | None
    help: str
    choices: tuple[str, ...] = ()
    low: int = 1
    high: int = 100_000


SETTINGS: tuple[Setting, ...] = (
    Setting("output", "text", None, "Run directory. [default: output/<name>]"),
    Setting("provider", "choice", "aimlapi", "Service to drive.", ("aimlapi", "sandbox")),
    Setting("concurrency", "count", 4, "Most generations in flight at once.", high=10_000),
    Setting("poll_interval", "duration", "15s", "Wait between two looks at a generation."),
    Setting("job_timeout", "duration", "1h", "Longest time in 'generating' before a job is left for the next run."),
    Setting("in_doubt", "choice", "hold", "Submissions that may have been accepted.", ("hold", "resubmit")),
    Setting("retry_failed", "switch", False, "Pay for failed jobs again."),
    Setting("quiet", "switch", False, "Print only what needs a person."),
    Setting("no_progress", "switch", False, "Plain lines instead of a progress bar."),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force, values parsed: durations in seconds. Fields as in SETTINGS."""

    output: str | None
    provider: str
    concurrency: int
    poll_interval_s: float
    job_timeout_s: float
    in_doubt: str
    retry_failed: bool
    quiet: bool
    no_progress: bool


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``200ms``, ``15s``, ``30m``, ``7h`` or ``1h30m``. Raises ValueError."""
    compact = text.strip()
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"{text!r} is not a duration")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(compact))


def resolve(flags: Mapping[str, object], environment: Mapping[str, str], manifest: Mapping[str, object]) -> Settings:
    """The settings in force.

    flags: by setting name, None where not given. environment: the process's. manifest: its top-level keys.
    Raises UsageError that names the place of a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        variable = "BATCHRUNNER_" + setting.name.upper()
        flag = "--" + setting.name.replace("_", "-")
        for place, value in (
            (flag, flags.get(setting.name)),
            (variable, environment.get(variable)),
            (f"manifest key '{setting.name}'", manifest.get(setting.name)),
            ("default", setting.default),
        ):
            if value is not None:
                name = f"{setting.name}_s" if setting.kind == "duration" else setting.name
                values[name] = parse(setting, value, place)
                break
        else:
            values[setting.name] = None
    return Settings(**values)


def parse(setting: Setting, value: object, place: str = "value") -> object:
    """`value` (text, or as YAML gave it) as the setting's own type. Raises UsageError naming `place`."""
    try:
        return _PARSERS[setting.kind](setting, value)
    except ValueError as error:
        raise UsageError(f"{place}: {error}", f"{setting.help.rstrip('.')}: {_expected(setting)}") from None


def _expected(setting: Setting) -> str:
    return {
        "choice": "one of " + ", ".join(setting.choices),
        "count": f"a whole number from {setting.low} to {setting.high}",
        "duration": "a duration such as 200ms, 15s, 30m or 7h",
        "switch": "true or false",
        "text": "text",
    }[setting.kind]


def _text(_: Setting, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{value!r} is not usable text")
    return value


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


def _duration(_: Setting, value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit")  # noqa: TRY004 (one kind of refusal for every bad value)
    seconds = parse_duration(value)
    if not 0 < seconds <= 366 * _UNITS_S["d"]:
        raise ValueError(f"{value!r} is out of range")
    return seconds


def _switch(_: Setting, value: object) -> bool:
    word = str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


_PARSERS = {"text": _text, "choice": _choice, "count": _count, "duration": _duration, "switch": _switch}
