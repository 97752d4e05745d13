"""The faults file: its keys and its reader. Pure: text in, values out.

The file is a list of fault rules, or a mapping of the sections below. Every key is a row of one
table, with its reader, its meaning and an example. Errors and docs/sandbox.md come from the same rows. `rules`,
`outages` and `world` define what the values do.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchrunner.errors import UsageError
from batchrunner.formatting import parse_duration, parse_size
from batchrunner.sandbox.faults.outages import ACCOUNT, CALLS, SHOWS, AccountFailure, Conditions, Outage, Slow, Throttle
from batchrunner.sandbox.faults.rules import DELAYS_S, KINDS, Fault
from batchrunner.sandbox.models import RESOLUTIONS
from batchrunner.sandbox.world import CREDITS_PER_SECOND, TopUp

_EXAMPLE = "- {on: poll, kind: unavailable, rate: 0.05}"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. field: its name in the code. read: raises ValueError(message[, hint])."""

    name: str
    field: str
    read: Callable[[Any], Any]
    meaning: str
    example: str
    required: bool = False


def _bad(value: object, wanted: str) -> ValueError:
    return ValueError(f"{value!r} is not {wanted}")


def _number(low: float, high: float, wanted: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _bad(value, wanted)
        return float(value)

    return read


def _count(low: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10**15:
            raise _bad(value, f"a whole number from {low}")
        return value

    return read


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(value, "true or false")
    return value


def _seconds(value: object) -> float:
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except ValueError:
        raise _bad(value, "a duration such as 200ms, 15s, 1h30m or 7h") from None


def _bytes(value: object) -> int:
    try:
        return parse_size(value if isinstance(value, str) else "")
    except ValueError:
        raise _bad(value, "a size such as 500kB, 10MB or 1GB") from None


def _window(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a window is two durations, such as [60s, 300s]")
    window = (_seconds(value[0]), _seconds(value[1]))
    if window[0] >= window[1]:
        raise ValueError("a window ends after it begins")
    return window


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"One of: {', '.join(choices)}."
            raise ValueError(f"{value!r} is not known", hint)
        return value

    return read


def _prices(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _bad(value, "a mapping of resolutions to credits, such as {480p: 104000}")
    for resolution in value:
        _choice(*RESOLUTIONS)(resolution)
    return {**CREDITS_PER_SECOND, **{resolution: _count(0)(credits_) for resolution, credits_ in value.items()}}


def _render(value: object) -> str:
    earlier = {"scene": "composite", "tiny": "stub"}  # names of earlier versions
    return _choice("composite", "transcode", "stub")(earlier.get(value, value) if isinstance(value, str) else value)


_CHANCE = _number(0, 1, "a number from 0 to 1")
_FACTOR = _number(0, 1000, "a number from 0 to 1000")
_RATE = _number(0.001, 1e6, "a number of calls per second")
_FROM = Key("from", "from_s", _seconds, "when it begins, from the sandbox's start; default 0s", "2h")
_FOR = Key("for", "for_s", _seconds, "how long it lasts; default: to the end", "20m")

_SERVICE = (
    Key("seed", "seed", _count(0), "decides ids, durations and faults", "17"),
    Key("capacity", "capacity", _count(1), "generations worked on at once; the others stay `queued`", "4"),
    Key("queue_limit", "queue_limit", _count(0), "places in the queue; a submission beyond them gets 429", "10000"),
    Key("queue_wait", "queue_wait_s", _seconds, "median time in `queued`, whatever the capacity", "1h"),
    Key("duration", "duration_s", _seconds, "median time in `generating`", "5m"),
    Key("spread", "spread", _number(0, 3, "a number from 0 to 3"), "sigma of the logarithm of both; 0: constant", "0"),
    Key("concurrency", "concurrency_limit", _count(1), "unfinished generations of the account; more get 429", "8"),
    Key("requests_per_second", "requests_per_second", _RATE, "calls to the API; more get 429", "5"),
    Key("retry_after", "retry_after", _choice("none", "seconds", "date"), "what these 429s say in Retry-After", "date"),
    Key("retry_delay", "retry_delay_s", _seconds, "how long Retry-After asks to wait", "30s"),
    Key("balance", "balance_credits", _count(0), "credits in the account; 2,000,000 are 1 USD", "20_000_000"),
    Key("prices", "prices", _prices, "credits per second of video at 16 frames a second", "{480p: 104000}"),
    Key("listed_prices", "listed_prices", _prices, "what GET /v1/models says; default: `prices`", "{480p: 90000}"),
    Key("quotes", "quotes", _switch, "the reply to a submission names its price (`meta.usage`)", "false"),
    Key("overcharge", "overcharge", _FACTOR, "what `overcharged` generations pay, times their price", "1.09"),
    Key("billing", "billing", _switch, "offer GET /v2/billing and GET /v2/billing/transactions", "false"),
    Key("price_list", "price_list", _switch, "offer GET /v1/models", "false"),
    Key("settle_delay", "settle_delay_s", _seconds, "time from a completion until the transactions list it", "10m"),
    Key("logs", "logs", _switch, "offer GET /v2/logs", "false"),
    Key("log_delay", "log_delay_s", _seconds, "time until an accepted submission shows there", "2m"),
    Key("logs_in_flight", "logs_in_flight", _switch, "show unfinished generations there", "false"),
    Key("max_body", "body_limit_bytes", _bytes, "a larger request body gets 413; default 537MB", "10MB"),
    Key("fetch", "fetch", _choice("local", "all", "none"), "inputs by URL that are fetched; see below", "all"),
    Key("input_timeout", "input_timeout_s", _seconds, "time limit of each fetch; default 1m", "20s"),
    Key("render", "render", _render, "`composite`, `transcode` or `stub`; see below", "stub"),
)
_FAULTS = (
    Key("on", "on", _choice(*KINDS), "the call that goes wrong, or `generation`", "poll", required=True),
    Key("kind", "kind", str, "how; see below", "unavailable", required=True),
    Key("rate", "rate", _CHANCE, "chance of each call; default 1", "0.05"),
    Key("first", "first", _count(1), "at most so often, in order of arrival", "3"),
    Key(
        "each", "each_first", _count(1), "only the first so many calls of one generation, file, link or request id", "1"
    ),
    Key("match", "match", str, "only calls whose request id, generation id, file name or link holds this", "a1b2c3"),
    Key("between", "between_s", _window, "only between these two times from the start", "[60s, 1h30m]"),
    Key("delay", "delay_s", _seconds, "Retry-After, or how long a slow transfer takes", "12s"),
)
_OUTAGES = (
    _FROM, _FOR,
    Key("shows", "shows", _choice(*SHOWS), "what calls meet: " + ", ".join(f"`{show}`" for show in SHOWS), "html_502"),
    Key("calls", "calls", _choice(*CALLS, "all"), "which calls: " + ", ".join(f"`{c}`" for c in CALLS), "submit"),
    Key("retry_after", "retry_after_s", _seconds, "with `unavailable`: sent as Retry-After", "10m"),
)  # fmt: skip
_THROTTLED = (
    _FROM, _FOR,
    Key("concurrency", "concurrency", _count(1), "a lower limit of unfinished generations", "2"),
    Key("requests_per_second", "requests_per_second", _RATE, "a lower limit of calls", "0.5"),
)  # fmt: skip
_SLOW = (
    _FROM, _FOR,
    Key("queue_wait", "queue_wait_s", _seconds, "median time in `queued` of what is accepted now", "1h30m"),
    Key("duration", "duration_s", _seconds, "median time in `generating` of what is accepted now", "25m"),
    Key("reply", "reply_s", _seconds, "every reply of the API comes so late", "20s"),
)  # fmt: skip
_TOP_UPS = (
    Key("at", "at_s", _seconds, "when, from the sandbox's start", "3h", required=True),
    Key("credits", "credits", _count(1), "how much", "40_000_000", required=True),
)


@dataclass(frozen=True, slots=True)
class Section:
    """One top-level key. make: from fields to the value; raises ValueError if they do not fit together."""

    meaning: str
    keys: tuple[Key, ...]
    make: Callable[..., Any]


def _fault(on: str, kind: str, **more: Any) -> Fault:
    try:
        _choice(*KINDS[on])(kind)
    except ValueError as error:
        raise ValueError(f"kind: {error.args[0]}", error.args[1]) from None
    if "delay_s" in more and kind not in DELAYS_S:
        raise ValueError(f"{kind} takes no delay", f"Kinds that do: {', '.join(DELAYS_S)}.")
    return Fault(on, kind, **more)


def _outage(**fields: Any) -> Outage:
    outage = Outage(**fields)
    if outage.shows == "refused" and outage.calls != "all":
        raise ValueError("refused connections befall all calls", "Leave `calls` out, or show `reset`.")
    if outage.shows != "refused" and not list(outage.rules()):
        raise ValueError(f"{outage.calls} calls cannot show {outage.shows}")
    if outage.retry_after_s is not None and outage.shows != "unavailable":
        raise ValueError(f"{outage.shows} says no Retry-After", "`unavailable` does.")
    return outage


def _one_of(make: Callable[..., Any], *needed: str) -> Callable[..., Any]:
    def checked(**fields: Any) -> Any:
        if not {f"{name}_s" for name in needed} & set(fields) and not set(needed) & set(fields):
            raise ValueError(f"it says nothing: give {' or '.join(needed)}")
        return make(**fields)

    return checked


def _failure(shows: str) -> Callable[..., AccountFailure]:
    return lambda **fields: AccountFailure(**fields, shows=shows)


SECTIONS: Mapping[str, Section] = {
    "service": Section("The service's constants: a mapping.", _SERVICE, dict),
    "faults": Section("Calls that go wrong, by chance or count. The first rule that fits wins.", _FAULTS, _fault),
    "outages": Section("Times when every call goes wrong. They go before `faults`.", _OUTAGES, _outage),
    "throttled": Section(
        "Times of tighter limits.", _THROTTLED, _one_of(Throttle, "concurrency", "requests_per_second")
    ),
    "slow": Section("Times when all takes longer.", _SLOW, _one_of(Slow, "queue_wait", "duration", "reply")),
    "out_of_credits": Section(
        "Times when submissions get 403 `err_insufficent_credits`, whatever the balance; the next top-up ends one.",
        (_FROM, _FOR),
        _failure("out_of_credits"),
    ),
    "locked": Section("Times when submissions get another 403: a locked account.", (_FROM, _FOR), _failure("locked")),
    "revoked": Section("Times when every call to the API gets 401: a revoked key.", (_FROM, _FOR), _failure("revoked")),
    "top_ups": Section("Payments into the account.", _TOP_UPS, TopUp),
}


def parse(text: str, place: str) -> dict[str, Any]:
    """The fields of SandboxConfig that YAML `text` sets. Raises UsageError that names `place`, section and key."""
    data = _load(text, place)
    if data is None:
        return {}
    if isinstance(data, list):
        data = {"faults": data}
    if not isinstance(data, dict):
        raise UsageError(f"{place}: a faults file is a list of rules, or a mapping of sections", _EXAMPLE)
    found: dict[str, tuple[Any, ...]] = {}
    service: dict[str, Any] = {}
    for name, content in data.items():
        _read(_choice(*SECTIONS), name, f"{place}: key")
        if name == "service":
            service = _item(SECTIONS[name], content, f"{place}: service")
            continue
        if not isinstance(content, list):
            raise UsageError(f"{place}: {name} is a list", _EXAMPLE if name == "faults" else "")
        places = enumerate(content, 1)
        found[name] = tuple(_item(SECTIONS[name], item, f"{place}: {name} {number}") for number, item in places)
    return {**service, **_values(found)}


def _values(found: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    conditions = Conditions(
        outages=found.get("outages", ()),
        throttled=found.get("throttled", ()),
        slow=found.get("slow", ()),
        account=tuple(failure for name in ACCOUNT for failure in found.get(name, ())),
        top_ups=tuple(sorted(found.get("top_ups", ()), key=lambda one: one.at_s)),
    )
    return {"faults": found.get("faults", ()), "conditions": conditions}


def _load(text: str, place: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}:{mark.column + 1}" if mark else place
        raise UsageError(f"{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None


def _item(section: Section, item: object, place: str) -> Any:
    if not isinstance(item, dict):
        raise UsageError(f"{place}: this is a mapping of {', '.join(key.name for key in section.keys)}")
    # YAML 1.1 reads a bare `on` as true.
    item = {"on" if key is True else key: value for key, value in item.items()}
    keys = {key.name: key for key in section.keys}
    for name in item:
        _read(_choice(*keys), name, f"{place}: key")
    for name, key in keys.items():
        if key.required and name not in item:
            raise UsageError(f"{place}: {name} is missing", f"For example {name}: {key.example}")
    fields = {keys[name].field: _read(keys[name].read, value, f"{place}: {name}") for name, value in item.items()}
    return _read(lambda values: section.make(**values), fields, place)


def _read(reader: Callable[[Any], Any], value: object, place: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        message, hint = (*error.args, "")[:2]
        raise UsageError(f"{place}: {message}", hint) from None
