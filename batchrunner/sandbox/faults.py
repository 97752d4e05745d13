"""Seeded misbehaviour: which call goes wrong, and how. Pure: time and identity of a call are arguments.

Rule: a draw depends on seed, rule, the call's own identity and how often that identity has called, never on the order
in which concurrent calls arrive, so that a simulation replays. (`first` alone counts calls in order of arrival.)
What a kind does to a reply belongs to `replies` and `server`.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrunner.errors import UsageError

_REFUSED = """
    rate_limited rate_limited_retry_after unavailable server_error edge_502_html edge_524_html out_of_credits
    unauthorized legacy_error cut_before hang_before
"""
# Accepted, and the client learns no id: the ledger says ``"replied": false``.
_UNREPLIED = """
    edge_502_html_accepted edge_524_html_accepted server_error_accepted lost_reply hang no_id empty_200
"""
_CALL = "rate_limited unavailable server_error edge_524_html html_200 not_found hang cut"
# Kinds by the call they befall. Those of polls by the state a generation must be in for them to make sense.
_KINDS = {
    ("submit", "any"): _REFUSED + _UNREPLIED + "id_as_generation_id created_201",
    ("poll", "any"): _CALL + " rate_limited_retry_after edge_502_html unauthorized",
    ("poll", "pending"): "unknown_status waiting active",
    ("poll", "completed"): "succeeded no_url video_string_list video_object_list",
    ("logs", "any"): _CALL + " empty",
    ("download", "any"): """
        truncated short zeros slow no_range changed_etag html_200 not_found gone_410 forbidden unavailable hang cut
    """,
    ("generation", "any"): "face_detection content_policy file_download error_object stuck odd_length",
}
KINDS: Mapping[str, Mapping[str, str]] = {
    call: {kind: state for (on, state), kinds in _KINDS.items() if on == call for kind in kinds.split()}
    for call, _ in _KINDS
}
UNREPLIED = frozenset(_UNREPLIED.split())
# The kinds of a submission that prevent its acceptance; every other kind follows it.
REFUSED = frozenset(_REFUSED.split())
# What `delay` means, and its default in seconds: Retry-After, or the length of a slow transfer.
DELAYS_S = {"rate_limited_retry_after": 7.0, "slow": 30.0}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. A call is befallen if every condition given holds.

    on: submit, poll, download, logs or generation. kind: one of KINDS[on].
    rate: chance of each call, 0 to 1. first: at most this often, in order of arrival.
    each: only the first so many calls of one identity (a generation's polls, a file's downloads, a request id).
    between_s: seconds since the sandbox started, from (inclusive) and to (exclusive).
    delay_s: see DELAYS_S.
    """

    on: str
    kind: str
    rate: float = 1.0
    first: int | None = None
    each: int | None = None
    between_s: tuple[float, float] | None = None
    delay_s: float | None = None

    @property
    def seconds(self) -> float:
        """`delay_s`, or the kind's default."""
        return self.delay_s if self.delay_s is not None else DELAYS_S.get(self.kind, 0.0)


@dataclass(slots=True)
class Faults:
    """The rules in force, with what they have counted so far. A restart counts anew."""

    rules: Sequence[Fault]
    seed: int = 0
    _calls: Counter[tuple[int, str]] = field(default_factory=Counter)
    _fired: Counter[int] = field(default_factory=Counter)

    def decide(self, on: str, identity: str, elapsed_s: float, state: str = "any") -> Fault | None:
        """The fault that befalls this call, or None. Counts the call.

        identity: of the caller's thing (request id, generation id, file name). elapsed_s: since the start.
        state: ``pending`` or ``completed`` for polls: a kind that needs another state passes the call by.
        """
        for index, rule in enumerate(self.rules):
            if rule.on == on and KINDS[on][rule.kind] in {"any", state} and self._fires(index, identity, elapsed_s):
                return rule
        return None

    def _fires(self, index: int, identity: str, elapsed_s: float) -> bool:
        rule = self.rules[index]
        if rule.between_s and not rule.between_s[0] <= elapsed_s < rule.between_s[1]:
            return False
        self._calls[index, identity] += 1
        nth = self._calls[index, identity]
        if rule.each is not None and nth > rule.each:
            return False
        if rule.first is not None and self._fired[index] >= rule.first:
            return False
        if uniform(self.seed, "fault", index, rule.kind, identity, nth) >= rule.rate:
            return False
        self._fired[index] += 1
        return True


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def parse_faults(text: str, place: str) -> tuple[Fault, ...]:
    """The rules in YAML `text`, a list of mappings. Raises UsageError that names `place` and the rule."""
    import yaml

    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}:{mark.column + 1}" if mark else place
        raise UsageError(f"{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None
    if data is None:
        return ()
    if not isinstance(data, list):
        raise UsageError(f"{place}: a faults file is a list of rules", "- {on: poll, kind: unavailable, rate: 0.05}")
    return tuple(_rule(item, f"{place}: rule {number}") for number, item in enumerate(data, 1))


def _rule(item: object, place: str) -> Fault:
    if not isinstance(item, dict):
        raise UsageError(f"{place}: a rule is a mapping", "- {on: poll, kind: unavailable, rate: 0.05}")
    # YAML 1.1 reads a bare `on` as true.
    item = {"on" if key is True else key: value for key, value in item.items()}
    for key in item:
        _among(key, (*_READERS, "on", "kind"), f"{place}: key")
    on = _among(item.get("on"), tuple(KINDS), f"{place}: on")
    kind = _among(item.get("kind"), tuple(KINDS[on]), f"{place}: kind")
    if "delay" in item and kind not in DELAYS_S:
        raise UsageError(f"{place}: {kind} takes no delay", f"Kinds that do: {', '.join(DELAYS_S)}.")
    values = {}
    for key, (name, reader) in _READERS.items():
        if key in item:
            try:
                values[name] = reader(item[key])
            except ValueError as error:
                raise UsageError(f"{place}: {key}: {error}") from None
    return Fault(on, kind, **values)


def _among(value: object, words: Sequence[str], place: str) -> str:
    if isinstance(value, str) and value in words:
        return value
    near = difflib.get_close_matches(str(value), words, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"One of: {', '.join(words)}."
    raise UsageError(f"{place}: {value!r} is not known", hint)


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a whole number from 1")
    return value


def _seconds(value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration such as 200ms, 15s, 30m or 7h")
    return float(match[1]) * _UNITS_S[match[2]]


def _window(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a window is two durations, such as [60s, 300s]")
    window = (_seconds(value[0]), _seconds(value[1]))
    if window[0] >= window[1]:
        raise ValueError("a window ends after it begins")
    return window


_READERS: Mapping[str, tuple[str, Any]] = {
    "rate": ("rate", _rate),
    "first": ("first", _count),
    "each": ("each", _count),
    "between": ("between_s", _window),
    "delay": ("delay_s", _seconds),
}
