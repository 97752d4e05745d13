"""From measures to marks."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from batchrunner.quality.marks import DEFAULT, KINDS, REJECT, THRESHOLDS, is_on, marks_of, suspicion, verdict_of

BLACK_AND_FROZEN = {"measured_frames": 150, "black_frames": 20, "black_at_s": 1.6, "frozen_frames": 89}


def test_marks_have_the_order_of_suspicion_and_say_what_is_wrong() -> None:
    found = marks_of(BLACK_AND_FROZEN, DEFAULT, "other")
    assert [mark.kind for mark in found] == ["black", "frozen", "duplicate"]
    assert [mark.message for mark in found] == [
        "20 black frames from 1.60 s",
        "89 frames repeat the frame before them",
        "the same clip as that of other",
    ]
    assert {mark.action for mark in found} == {"warn"}


def test_unknown_measures_give_no_mark() -> None:
    assert marks_of({}, {}) == ()
    assert marks_of(dict.fromkeys(("echo_distance", "fps", "duration_s", "audio_peak", "black_frames")), {}) == ()


def test_a_kind_that_is_off_is_not_shown() -> None:
    assert [mark.kind for mark in marks_of(BLACK_AND_FROZEN, {"black": "off"})] == ["frozen"]


def test_only_a_kind_that_rejects_sets_the_verdict() -> None:
    assert verdict_of(marks_of(BLACK_AND_FROZEN, {"frozen": "reject"})) == "reject"
    assert verdict_of(marks_of(BLACK_AND_FROZEN, {"echo": "reject"})) is None


@pytest.mark.parametrize(
    ("name", "at", "kind"),
    [
        ("black_frames", THRESHOLDS.black_frames, "black"),
        ("frozen_frames", THRESHOLDS.frozen_frames, "frozen"),
        ("flat_frames", THRESHOLDS.flat_frames, "flat"),
        ("flicker_frames", THRESHOLDS.flicker_frames, "flicker"),
        ("jumps", THRESHOLDS.jumps, "jump"),
    ],
)
def test_a_mark_starts_at_its_threshold(name: str, at: int, kind: str) -> None:
    assert [mark.kind for mark in marks_of({name: at}, {})] == [kind]
    assert marks_of({name: at - 1}, {}) == ()


def test_nothing_is_measured_if_every_kind_is_off() -> None:
    assert not is_on(dict.fromkeys(KINDS, "off"))
    assert is_on({**dict.fromkeys(KINDS, "off"), "echo": "warn"})
    assert is_on({})


def row_of(actions: Mapping[str, str] | None = None, **numbers: Any) -> dict[str, Any]:
    measured: dict[str, Any] = {"measured_frames": 150, **numbers}
    found = marks_of(measured, actions or {})
    return {"quality": {"measures": measured, "marks": [asdict(mark) for mark in found]}}


def test_suspicion_orders_clips_from_the_worst_to_the_clean_ones() -> None:
    rejected = row_of({"audio": REJECT}, audio_peak=0.0, reference_audio_peak=0.5)
    expected = [
        rejected,
        row_of(echo_distance=3.0, black_frames=5),
        row_of(black_frames=140),
        row_of(frozen_frames=89),
        row_of(black_frames=20),
        row_of(frozen_frames=12),
        row_of(fps=12.0, reference_fps=25.0),
        row_of(),
    ]
    scores = [suspicion(row) for row in expected]
    assert scores == sorted(set(scores), reverse=True)
    assert suspicion(row_of()) == suspicion({"quality": None}) == suspicion({}) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mark_has_a_suspicion(kind: str) -> None:
    row = {"quality": {"measures": {}, "marks": [{"kind": kind, "action": "warn", "message": ""}]}}
    assert suspicion(row) > 0
    assert suspicion({"quality": {"measures": {}, "marks": [{"kind": kind, "action": REJECT}]}}) > 100
