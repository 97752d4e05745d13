"""Settings: one table, four places, and no value that slips through unparsed."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.settings import SETTINGS, Setting, Settings, parse, parse_duration, resolve

BY_NAME = {setting.name: setting for setting in SETTINGS}
DEFAULTS: dict[str, Any] = {
    "output": None,
    "provider": "aimlapi",
    "concurrency": 4,
    "poll_interval_s": 15.0,
    "job_timeout_s": 3600.0,
    "in_doubt": "hold",
    "retry_failed": False,
    "quiet": False,
    "no_progress": False,
}


def test_defaults() -> None:
    assert resolve({}, {}, {}) == Settings(**DEFAULTS)


def test_the_fields_are_the_tables() -> None:
    named = [f"{setting.name}_s" if setting.kind == "duration" else setting.name for setting in SETTINGS]
    assert [field.name for field in fields(Settings)] == named


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_flags_before_environment_before_manifest_before_default(setting: Setting) -> None:
    written: dict[str, list[Any]] = {
        "text": ["a", "b", "c"],
        "choice": [*setting.choices, *setting.choices][:3],
        "count": [7, "8", 9],
        "duration": ["7s", "8s", "9s"],
        "switch": [True, "false", True],
    }
    values = written[setting.kind]
    flag, key = {setting.name: values[0]}, {setting.name: values[2]}
    variable = {f"BATCHRUNNER_{setting.name.upper()}": values[1]}
    field = f"{setting.name}_s" if setting.kind == "duration" else setting.name
    for given_places, winner in (
        ((flag, variable, key), values[0]),
        (({setting.name: None}, variable, key), values[1]),
        (({}, {}, key), values[2]),
    ):
        assert getattr(resolve(*given_places), field) == parse(setting, winner)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("poll_interval", "200ms", 0.2),
        ("poll_interval", "1h30m", 5400.0),
        ("poll_interval", " 1.5s ", 1.5),
        ("job_timeout", "2d", 172_800.0),
        ("concurrency", "12", 12),
        ("concurrency", 1, 1),
        ("retry_failed", "yes", True),
        ("retry_failed", "0", False),
        ("retry_failed", "", False),
        ("retry_failed", True, True),
        ("in_doubt", "resubmit", "resubmit"),
        ("output", "some where/out", "some where/out"),
    ],
)
def test_values_are_read(name: str, value: object, meant: object) -> None:
    assert parse(BY_NAME[name], value) == meant


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("poll_interval", "15"),
        ("poll_interval", 15),
        ("poll_interval", "0s"),
        ("poll_interval", "-5s"),
        ("poll_interval", "367d"),
        ("poll_interval", "9" * 400 + "s"),
        ("poll_interval", "five s"),
        ("poll_interval", ""),
        ("poll_interval", None),
        ("concurrency", 0),
        ("concurrency", "10001"),
        ("concurrency", 4.5),
        ("concurrency", True),
        ("concurrency", "9" * 5000),
        ("concurrency", []),
        ("provider", "AIMLAPI"),
        ("provider", ["aimlapi"]),
        ("retry_failed", "perhaps"),
        ("retry_failed", {}),
        ("output", ""),
        ("output", "  "),
        ("output", "a\0b"),
        ("output", 5),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse(BY_NAME[name], value, "--the-place")
    assert caught.value.message.startswith("--the-place: ")
    assert caught.value.hint
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (({"poll_interval": "x"}, {}, {}), "--poll-interval"),
        (({}, {"BATCHRUNNER_POLL_INTERVAL": "x"}, {}), "BATCHRUNNER_POLL_INTERVAL"),
        (({}, {}, {"poll_interval": "x"}), "manifest key 'poll_interval'"),
    ],
)
def test_the_place_is_named_as_the_user_knows_it(places: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(*places)


def test_a_key_is_no_setting() -> None:
    assert not [setting.name for setting in SETTINGS if "key" in setting.name or "token" in setting.name]


@hypothesis_settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789.smhd -"), max_size=12) | st.text(max_size=12))
def test_a_duration_is_seconds_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0
