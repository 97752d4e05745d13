"""From the measures of a clip to marks: what looks wrong in it, and what the user wants done about it. Pure.

A mark is a suspicion, not damage: a clip that does not decode never comes here. `THRESHOLDS` has every limit.
`batchrunner.quality.measures` computes the measures. The default of each kind is to warn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

OFF, WARN, REJECT = ACTIONS = ("off", "warn", "reject")

Numbers = Mapping[str, Any]  # `measures.numbers_of`: flat, JSON-ready


@dataclass(frozen=True, slots=True)
class Mark:
    """One suspicion. kind: a key of KINDS. action: ``warn`` or ``reject``. message: for people."""

    kind: str
    action: str
    message: str


class Thresholds(NamedTuple):
    """The limits that the marks use. Frames are counted after those of the reference are subtracted."""

    black_frames: int = 3
    frozen_frames: int = 12
    low_motion_share: float = 0.5  # of the frames
    flat_frames: int = 12
    flicker_frames: int = 4
    jumps: int = 1
    echo_distance: float = 12.0  # grey levels of 255
    lowest_ratio: float = 0.8  # of a length or a frame rate to that of the reference
    highest_ratio: float = 1.25
    silent_peak: float = 0.003  # of full scale: -50 dB


THRESHOLDS = Thresholds()


def _black(numbers: Numbers, limits: Thresholds) -> str:
    count = _count(numbers, "black_frames")
    return f"{count} black frames{_since(numbers, 'black_at_s')}" if count >= limits.black_frames else ""


def _frozen(numbers: Numbers, limits: Thresholds) -> str:
    count = _count(numbers, "frozen_frames")
    if count < limits.frozen_frames:
        return ""
    return f"{count} frames repeat the frame before them{_since(numbers, 'frozen_at_s')}"


def _low_motion(numbers: Numbers, limits: Thresholds) -> str:
    still, frames = _count(numbers, "still_frames"), _count(numbers, "measured_frames")
    if _frozen(numbers, limits) or still < limits.frozen_frames or still < limits.low_motion_share * frames:
        return ""
    return f"low motion: {still} of {frames} frames hardly differ from the frame before them"


def _flat(numbers: Numbers, limits: Thresholds) -> str:
    count = _count(numbers, "flat_frames")
    return f"{count} frames show one plain surface" if count >= limits.flat_frames else ""


def _flicker(numbers: Numbers, limits: Thresholds) -> str:
    count = _count(numbers, "flicker_frames")
    return f"flicker: the brightness of {count} frames jumps up and down" if count >= limits.flicker_frames else ""


def _jump(numbers: Numbers, limits: Thresholds) -> str:
    count = _count(numbers, "jumps")
    if count < limits.jumps:
        return ""
    at = _since(numbers, "jump_at_s")
    return (
        f"the picture jumps{at} where the reference does not" if count == 1 else f"the picture jumps {count} times{at}"
    )


def _echo(numbers: Numbers, limits: Thresholds) -> str:
    distance = numbers.get("echo_distance")
    return "it shows the reference unchanged" if distance is not None and distance <= limits.echo_distance else ""


def _length(numbers: Numbers, limits: Thresholds) -> str:
    own, reference = numbers.get("duration_s"), numbers.get("reference_duration_s")
    return f"lasts {own:.2f} s, the reference clip {reference:.2f} s" if _differ(own, reference, limits) else ""


def _frame_rate(numbers: Numbers, limits: Thresholds) -> str:
    own, reference = numbers.get("fps"), numbers.get("reference_fps")
    return f"{own:g} frames a second, the reference has {reference:g}" if _differ(own, reference, limits) else ""


def _audio(numbers: Numbers, limits: Thresholds) -> str:
    own, reference = numbers.get("audio_peak"), numbers.get("reference_audio_peak")
    if reference is None or reference <= limits.silent_peak:
        return ""
    if own is None:
        return "it has no sound, the reference has"
    return "its sound is silent, that of the reference is not" if own <= limits.silent_peak else ""


# In the order of the report: the most suspicious first. A duplicate is found by `marks_of`, which knows other clips.
_FINDERS: Mapping[str, Callable[[Numbers, Thresholds], str]] = {
    "black": _black,
    "frozen": _frozen,
    "echo": _echo,
    "flat": _flat,
    "low_motion": _low_motion,
    "jump": _jump,
    "flicker": _flicker,
    "length": _length,
    "frame_rate": _frame_rate,
    "audio": _audio,
}
KINDS = (*_FINDERS, "duplicate")
DEFAULT: Mapping[str, str] = dict.fromkeys(KINDS, WARN)


def marks_of(
    numbers: Numbers, actions: Mapping[str, str], duplicate_of: str = "", limits: Thresholds = THRESHOLDS
) -> tuple[Mark, ...]:
    """Return the marks of a clip, in the order of KINDS.

    numbers: the clip's measures; unknown ones are missing or None. actions: by kind; a missing kind warns.
    duplicate_of: the id of another job that has the same clip, or "".
    """
    found = {kind: finder(numbers, limits) for kind, finder in _FINDERS.items()}
    found["duplicate"] = f"the same clip as that of {duplicate_of}" if duplicate_of else ""
    wanted = {kind: actions.get(kind, WARN) for kind in KINDS}
    return tuple(Mark(kind, wanted[kind], found[kind]) for kind in KINDS if found[kind] and wanted[kind] != OFF)


def verdict_of(marks: tuple[Mark, ...]) -> str | None:
    """Return ``reject`` if a mark asks for it, else None."""
    return REJECT if any(mark.action == REJECT for mark in marks) else None


# By kind of mark: how likely a clip with it is useless. A clip that asks for a rejection comes before all others.
_WEIGHTS: Mapping[str, float] = {
    "echo": 10.0, "black": 9.0, "frozen": 8.0, "flat": 7.0, "duplicate": 6.0, "jump": 5.0,
    "low_motion": 4.0, "flicker": 3.0, "audio": 2.0, "length": 2.0, "frame_rate": 1.0,
}  # fmt: skip
_REJECT_WEIGHT = 100.0
_COUNTS = {"black": "black_frames", "frozen": "frozen_frames", "flat": "flat_frames", "low_motion": "still_frames"}


def suspicion(row: Mapping[str, Any]) -> float:
    """Return how suspicious the clip of a row of the report is: 0 without marks, a larger number looks worse.

    row: of report.json, with the key ``quality``. The report and the review page sort by it. Of two clips with the same
    marks, the one with the larger share of affected frames is more suspicious.
    """
    quality = row.get("quality")
    if not quality:
        return 0.0
    measures = quality["measures"]
    frames = max(1, _count(measures, "measured_frames"))
    total = 0.0
    for mark in quality["marks"]:
        share = min(1.0, _count(measures, _COUNTS.get(mark["kind"], "")) / frames)
        total += _WEIGHTS.get(mark["kind"], 1.0) * (1.0 + share)
        total += _REJECT_WEIGHT * (mark["action"] == REJECT)
    return total


def is_on(actions: Mapping[str, str]) -> bool:
    """Return whether any kind of mark is wanted. Otherwise nothing has to be measured."""
    return any(actions.get(kind, WARN) != OFF for kind in KINDS)


def _count(numbers: Numbers, name: str) -> int:
    return int(numbers.get(name) or 0)


def _since(numbers: Numbers, name: str) -> str:
    at_s = numbers.get(name)
    return "" if at_s is None else f" from {at_s:.2f} s"


def _differ(own: float | None, reference: float | None, limits: Thresholds) -> bool:
    return bool(own and reference) and not limits.lowest_ratio <= own / reference <= limits.highest_ratio  # type: ignore[operator]  # bool() shows that both are numbers
