"""Settings: one table, four places to set each, and the parsing of all values."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.formatting import parse_duration
from batchrunner.moments import Moment
from batchrunner.quality import marks
from batchrunner.settings import (
    SETTINGS,
    Setting,
    Settings,
    Share,
    as_facts,
    parse,
    resolve,
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
DEFAULTS: dict[str, Any] = {
    "output": None,
    "provider": "aimlapi",
    "concurrency": 4,
    "order": "longest",
    "poll_interval_s": 15.0,
    "job_timeout_s": 3600.0,
    "requests_per_second": None,
    "link_lifetime_s": 86_400.0,
    "stage": None,
    "stage_above": 8_000_000,
    "deliver": None,
    "keep_local": True,
    "uploads": 8,
    "downloads": 4,
    "max_runtime_s": None,
    "deadline": None,
    "max_cost": None,
    "max_credits": None,
    "max_generations": None,
    "assume_length_s": None,
    "account_wait_s": 1800.0,
    "outage_wait_s": 14_400.0,
    "stop_after_failures": None,
    "generation_retries": 1,
    "in_doubt": "hold",
    "retry_failed": False,
    "account": None,
    "reuse": True,
    "priority": 0,
    "quality": dict.fromkeys(marks.KINDS, "warn"),
    "notify": None,
    "on_clip": None,
    "workers": "processes",
    "junit": None,
    "metrics_file": None,
    "quiet": False,
    "log_format": "text",
    "no_progress": False,
}


def test_defaults_apply_where_nothing_is_set() -> None:
    assert resolve({}, {}, {}) == Settings(**DEFAULTS)


def test_the_fields_match_the_table() -> None:
    named = [f"{setting.name}_s" if setting.kind == "duration" else setting.name for setting in SETTINGS]
    assert [field.name for field in fields(Settings)] == named


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_precedence_is_flag_environment_manifest_default(setting: Setting) -> None:
    written: dict[str, list[Any]] = {
        "path": ["a", "b", "c"],
        "text": ["a", "b", "c"],
        "secret": ["a", "b", "c"],
        "choice": [*setting.choices, *setting.choices][:3],
        "count": [7, "8", 9],
        "number": [7.5, "8", 9],
        "share": [7, "8%", "9"],
        "money": ["7USD", "8 usd", "9USD"],
        "moment": ["07:00", "2027-01-31T08:00", "09:00"],
        "duration": ["7s", "8s", "9s"],
        "switch": [True, "false", True],
        "toggle": [False, "on", False],
        "kinds": [True, "timed_out", ["no_link"]],
        "marks": ["reject", "frozen=reject", {"echo": False}],
        "size": ["7kB", "8MB", 0],
        "bucket": ["s3://first/a/", "gs://second/", "s3://third/b"],
        "workers": ["threads:2", "dask://10.0.0.5:8786", "slurm"],
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
        ("quality", "off", dict.fromkeys(marks.KINDS, "off")),
        ("quality", False, dict.fromkeys(marks.KINDS, "off")),
        ("quality", "frozen=reject, echo=off", {**marks.DEFAULT, "frozen": "reject", "echo": "off"}),
        ("quality", {"black": "reject", "echo": False}, {**marks.DEFAULT, "black": "reject", "echo": "off"}),
        ("retry_failed", "yes", True),
        ("retry_failed", "0", False),
        ("retry_failed", "", False),
        ("retry_failed", True, True),
        ("retry_failed", "generation_failed, timed_out", ("generation_failed", "timed_out")),
        ("retry_failed", ["no_link"], ("no_link",)),
        ("in_doubt", "resubmit", "resubmit"),
        ("output", "some where/out", "some where/out"),
        ("requests_per_second", "0.5", 0.5),
        ("requests_per_second", 2, 2.0),
        ("max_cost", "4USD", 4.0),
        ("max_cost", " 4.50 usd ", 4.5),
        ("max_cost", "$4", 4.0),
        ("max_cost", "$ 1_000.5 USD", 1000.5),
        ("max_cost", ".5USD", 0.5),
        ("max_credits", "2_000_000", 2_000_000.0),
        ("max_credits", "1e6", 1_000_000.0),
        ("generation_retries", 0, 0),
        ("stop_after_failures", 20, Share(20.0, percent=False)),
        ("stop_after_failures", "20", Share(20.0, percent=False)),
        ("stop_after_failures", " 2.5 %", Share(2.5, percent=True)),
        ("stop_after_failures", "100%", Share(100.0, percent=True)),
        ("deadline", "06:00", Moment("06:00")),
        ("deadline", " 06:00:30 ", Moment("06:00:30")),
        ("deadline", "06:00+02:00", Moment("06:00+02:00")),
        ("deadline", "06:00-0200", Moment("06:00-0200")),
        ("deadline", "22:00-06:00", Moment("22:00-06:00")),
        ("deadline", "2027-01-31 06:00", Moment("2027-01-31 06:00")),
        ("deadline", "2027-01-31T06:00:00Z", Moment("2027-01-31T06:00:00Z")),
        ("deadline", datetime(2027, 1, 31, 6, 0), Moment("2027-01-31T06:00:00")),  # noqa: DTZ001 (YAML gives such)
    ],
)
def test_values_are_parsed(name: str, value: object, meant: object) -> None:
    assert parse(BY_NAME[name], value) == meant


BAD: dict[str, list[Any]] = {
    "requests_per_second": [0, "-1", "nan", "inf", "10001", True, [], "fast", None],
    "max_cost": [
        4,
        4.5,
        "4",
        "4.5",
        "",
        "  ",
        None,
        True,
        [],
        "0USD",
        "$0",
        "-1USD",
        "4EUR",
        "€4",
        "4,50USD",
        "USD",
        "$",
        "1e3USD",
        "4 dollars",
        "9999999999USD",
        "nanUSD",
        "4USD4",
        "٤USD",
    ],
    "max_credits": [0, "0", "1e16", "a lot"],
    "generation_retries": [-1, "11"],
    "stop_after_failures": [
        0,
        "0%",
        "-1",
        "101%",
        "nan%",
        "inf%",
        "1e400%",
        "%",
        "",
        True,
        2.5,
        "2.5",
        "nan",
        [],
        "9" * 400,
        "9" * 5000,
    ],
    "deadline": [
        "6",
        "06",
        "0600",
        1320,
        "6:00",
        "25:00",
        "tonight",
        "2027-01-31",
        "",
        None,
        [],
        "2027-02-30T06:00",
        "0001-01-01T00:00",
        "1970-01-01T00:00",
        "22:00-25:00",
        "06:00-06:00",
        "22:00--06:00",
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage", "s3://a"),
        ("stage", "https://example.com/a/"),
        ("stage", "s3://user:password@bucket/a/"),
        ("stage", ""),
        ("stage_above", "8"),
        ("stage_above", 8),
        ("stage_above", -1),
        ("stage_above", True),
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
        ("retry_failed", "per haps"),
        ("retry_failed", {}),
        ("quality", "loud"),
        ("quality", {"frozzen": "warn"}),
        ("quality", "frozen=delete"),
        ("quality", {"frozen": None}),
        ("output", ""),
        ("output", "  "),
        ("output", "a\0b"),
        ("output", 5),
        *((name, value) for name, values in BAD.items() for value in values),
    ],
)
def test_invalid_values_are_refused_with_their_place(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse(BY_NAME[name], value, "--the-place")
    assert caught.value.message.startswith("--the-place: ")
    assert caught.value.hint
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("places", "pattern"),
    [
        (({"poll_interval": "x"}, {}, {}), "--poll-interval"),
        (({}, {"BATCHRUNNER_POLL_INTERVAL": "x"}, {}), "BATCHRUNNER_POLL_INTERVAL"),
        (({}, {}, {"poll_interval": "x"}), "manifest key 'poll_interval'"),
    ],
)
def test_errors_name_the_flag_variable_or_key(places: Any, pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern):
        resolve(*places)


def test_the_api_key_is_not_a_setting() -> None:
    assert not [setting.name for setting in SETTINGS if "key" in setting.name or "token" in setting.name]


@hypothesis_settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789.smhd -"), max_size=12) | st.text(max_size=12))
def test_a_duration_gives_seconds_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0


# A share of the batch


@pytest.mark.parametrize(
    ("text", "jobs", "number"),
    [
        ("20", 500, 20),
        ("20", 5, 20),
        ("10%", 500, 50),
        ("10%", 1, 1),
        ("10%", 0, 1),
        ("10%", 11, 2),
        ("0.1%", 500, 1),
        ("100%", 7, 7),
        ("64.4%", 250, 161),  # slightly more than 161 in binary floating point
    ],
)
def test_a_share_gives_a_number_of_jobs(text: str, jobs: int, number: int) -> None:
    share = parse(BY_NAME["stop_after_failures"], text)
    assert isinstance(share, Share)
    assert share.of(jobs) == number


@hypothesis_settings(derandomize=True, max_examples=500, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 1000))
def test_a_percentage_is_rounded_up_in_decimal(jobs: int, tenths: int) -> None:
    assert Share(tenths / 10, percent=True).of(jobs) == max(1, ceil(Decimal(tenths) * jobs / 1000))


# Points in time


class Berlin(tzinfo):
    """Central European time of 2027, so that no time zone table is needed: clocks change at 01:00 UTC."""

    SPRING, AUTUMN = datetime(2027, 3, 28, 1), datetime(2027, 10, 31, 1)  # noqa: DTZ001 (UTC, compared as such)

    def utcoffset(self, moment: datetime | None) -> timedelta:
        assert moment is not None
        bare = moment.replace(tzinfo=None, fold=0)
        starts, ends = self.SPRING + timedelta(hours=1), self.AUTUMN + timedelta(hours=2)
        if starts <= bare < starts + timedelta(hours=1):  # skipped: the offset before the change, or after it
            return timedelta(hours=1 + moment.fold)
        if ends <= bare < ends + timedelta(hours=1):  # doubled
            return timedelta(hours=2 - moment.fold)
        return timedelta(hours=2 if starts <= bare < ends else 1)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "CEST" if self.dst(moment) else "CET"

    def fromutc(self, moment: datetime) -> datetime:
        bare = moment.replace(tzinfo=None)
        summer = self.SPRING <= bare < self.AUTUMN
        again = self.AUTUMN <= bare < self.AUTUMN + timedelta(hours=1)
        return (moment + timedelta(hours=1 + summer)).replace(fold=int(again))


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "now", "at"),
    [
        ("06:00", "2027-01-31T21:00", "2027-02-01T05:00"),  # 22:00 in winter
        ("06:00", "2027-07-01T20:00", "2027-07-02T04:00"),
        ("06:00", "2027-02-01T04:59:59", "2027-02-01T05:00"),
        ("06:00", "2027-02-01T05:00", "2027-02-01T05:00"),  # exactly now
        ("06:00", "2027-02-01T08:00", "2027-02-01T05:00"),  # the missed window is over
        ("06:00", "2027-02-01T12:59", "2027-02-01T05:00"),
        ("06:00", "2027-02-01T13:01", "2027-02-02T05:00"),
        ("23:30", "2027-01-31T22:00", "2027-01-31T22:30"),
        ("00:00", "2027-01-31T22:59", "2027-01-31T23:00"),
        ("00:00", "2027-12-31T22:00", "2027-12-31T23:00"),
        ("06:00", "2027-03-27T21:00", "2027-03-28T04:00"),  # the window of 23 hours
        ("06:00", "2027-10-30T20:00", "2027-10-31T05:00"),  # the window of 25 hours
        ("02:30", "2027-03-27T21:00", "2027-03-28T01:30"),  # skipped: the clock shows 03:30
        ("02:00", "2027-03-27T21:00", "2027-03-28T01:00"),
        ("03:00", "2027-03-27T21:00", "2027-03-28T01:00"),
        ("02:30", "2027-03-28T09:31", "2027-03-29T00:30"),
        ("02:30", "2027-10-30T20:00", "2027-10-31T00:30"),  # occurs twice: the first
        ("02:30", "2027-10-31T00:40", "2027-10-31T00:30"),  # between the two: still the first
        ("02:30", "2027-10-31T08:31", "2027-11-01T01:30"),
        ("02:59", "2027-10-31T00:58", "2027-10-31T00:59"),
        ("06:00Z", "2027-07-01T20:00", "2027-07-02T06:00"),  # its own offset takes precedence
        ("06:00+09:00", "2027-07-01T20:00", "2027-07-01T21:00"),
        ("2027-03-28T02:30", "2020-01-01T00:00", "2027-03-28T01:30"),
        ("2027-10-31T02:30", "2020-01-01T00:00", "2027-10-31T00:30"),
        ("2027-10-31T02:30+01:00", "2020-01-01T00:00", "2027-10-31T01:30"),
        ("2027-01-31T06:00", "2027-06-01T00:00", "2027-01-31T05:00"),  # a past date stays in the past
        ("06:00-0500", "2027-07-01T20:00", "2027-07-02T11:00"),
        ("22:00-06:00", "2027-01-31T21:00", "2027-02-01T05:00"),  # it opens
        ("22:00-06:00", "2027-01-31T20:59", "2027-01-31T05:00"),  # not yet open: the previous window is over
        ("22:00-06:00", "2027-02-01T04:59", "2027-02-01T05:00"),
        ("22:00-06:00", "2027-02-01T05:00", "2027-02-01T05:00"),
        ("22:00-06:00", "2027-02-01T08:00", "2027-02-01T05:00"),
        ("22:00 \u2013 06:00", "2027-02-01T16:00", "2027-02-01T05:00"),
        ("09:00-17:30:30", "2027-02-01T08:00", "2027-02-01T16:30:30"),
        ("09:00-17:30", "2027-02-01T07:59", "2027-01-31T16:30"),
        ("22:00-06:00", "2027-03-27T22:00", "2027-03-28T04:00"),  # the window of 23 hours
        ("22:00-06:00", "2027-10-30T23:00", "2027-10-31T05:00"),  # the window of 25 hours
        ("22:00-02:30", "2027-03-28T01:15", "2027-03-28T01:30"),  # its end is skipped: the clock shows 03:30
        ("22:00-02:30", "2027-10-31T00:40", "2027-10-31T00:30"),  # its end occurs twice: the first
    ],
)
def test_points_in_time_are_converted(text: str, now: str, at: str) -> None:
    found = Moment(text).after(utc(now), Berlin())
    assert datetime.fromtimestamp(found, UTC) == datetime.fromtimestamp(utc(at), UTC)


def test_the_default_time_zone_is_this_machines() -> None:
    now = utc("2027-05-05T12:00")
    found = datetime.fromtimestamp(Moment("06:00").after(now)).astimezone()
    assert (found.hour, found.minute) == (6, 0)
    assert now - 8 * 3600 <= found.timestamp() <= now + 90_000


@hypothesis_settings(derandomize=True, max_examples=500, deadline=None)
@given(st.integers(0, 525_599), st.times(), st.sampled_from([Berlin(), UTC, timezone(timedelta(hours=-11))]))
def test_a_time_of_day_is_its_next_occurrence_or_a_recent_one(minute: int, clock_time: Any, zone: tzinfo) -> None:
    now = utc("2027-01-01T00:00") + 60 * minute
    text = clock_time.isoformat()
    at = Moment(text).after(now, zone)
    assert now - 8 * 3600 < at <= now + 41 * 3600
    assert Moment(text).is_over(now, zone) == (at <= now)
    assert now < Moment(text, rehearsed=True).after(now, zone) <= now + 49 * 3600
    shown = datetime.fromtimestamp(at, zone)
    left_out = isinstance(zone, Berlin) and shown.date() == Berlin.SPRING.date() and shown.hour == 3
    assert shown.time() == clock_time or (left_out and clock_time.hour == 2)


@hypothesis_settings(derandomize=True, max_examples=500, deadline=None)
@given(
    st.integers(0, 525_599),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from([Berlin(), UTC, timezone(timedelta(hours=-11))]),
)
def test_a_window_is_open_until_its_end_and_over_until_it_opens(
    minute: int, opens: int, lasts: int, zone: tzinfo
) -> None:
    now = utc("2027-01-01T00:00") + 60 * minute
    closes = (opens + lasts) % 1440
    window = Moment(f"{opens // 60:02}:{opens % 60:02}-{closes // 60:02}:{closes % 60:02}")
    at = window.after(now, zone)
    assert window.is_window
    assert now - 50 * 3600 <= at <= now + lasts * 60 + 3600
    shown = datetime.fromtimestamp(now, zone)
    changes = isinstance(zone, Berlin) and any(
        abs(shown.replace(tzinfo=None) - day) < timedelta(days=2) for day in (Berlin.SPRING, Berlin.AUTUMN)
    )
    is_open = (shown.hour * 60 + shown.minute - opens) % 1440 < lasts
    assert changes or window.is_over(now, zone) != is_open
    assert changes or replace(window, rehearsed=True).after(now, zone) == (at if is_open else now + lasts * 60)


# Storage and display


def test_settings_are_stored_as_written() -> None:
    shown = as_facts(
        resolve({"deadline": "06:00", "stop_after_failures": "2.5%", "poll_interval": "1m", "max_credits": 5}, {}, {})
    )
    assert (shown["deadline"], shown["stop_after_failures"]) == ("06:00", "2.5%")
    assert (shown["poll_interval_s"], shown["max_credits"], shown["notify"]) == (60.0, 5.0, None)
    assert set(shown) == {field.name for field in fields(Settings)}
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_a_count_is_shown_in_full() -> None:
    settings = replace(resolve({}, {}, {}), stop_after_failures=Share(1_234_567.0, percent=False))
    assert as_facts(settings)["stop_after_failures"] == "1234567"


def test_a_webhooks_address_is_not_shown() -> None:
    shown = as_facts(resolve({"notify": "https://hooks.example.com/T0/SECRET"}, {}, {}))
    assert shown["notify"] == "set"
    assert "SECRET" not in json.dumps(shown)


def test_a_hook_is_not_shown() -> None:
    shown = as_facts(resolve({}, {"BATCHRUNNER_ON_CLIP": "check --token SECRET"}, {}))
    assert shown["on_clip"] == "set"
    assert "SECRET" not in json.dumps(shown)


def test_an_invalid_webhook_is_not_shown_either() -> None:
    with pytest.raises(UsageError) as raised:
        resolve({"notify": "https://hooks.example.com/T0/secret\0"}, {}, {})
    assert "secret" not in raised.value.message.replace("is not shown", "")


def test_a_dollar_sign_is_for_manifests() -> None:
    assert resolve({}, {}, {"max_cost": "$4"}).max_cost == 4
    assert resolve({"max_cost": "5USD"}, {"BATCHRUNNER_MAX_COST": "6USD"}, {"max_cost": "$4"}).max_cost == 5
    assert resolve({}, {"BATCHRUNNER_MAX_COST": ""}, {}).max_cost is None
    for flags, environment in (({"max_cost": "$4"}, {}), ({}, {"BATCHRUNNER_MAX_COST": "$4"})):
        with pytest.raises(UsageError, match="a shell expands") as caught:
            resolve(flags, environment, {})
        assert "4USD" in caught.value.hint


def test_an_amount_without_a_currency_is_explained() -> None:
    for value, message in (("4", "'4' has no currency"), ("", "the amount is empty"), ("4EUR", "US dollars")):
        with pytest.raises(UsageError, match=message) as caught:
            resolve({"max_cost": value}, {}, {})
        assert "4USD" in caught.value.hint
        assert "max_credits" in caught.value.hint


def test_a_link_lives_a_week_at_most() -> None:
    assert resolve({"link_lifetime": "7d"}, {}, {}).link_lifetime_s == 7 * 86_400
    for value in ("8d", "604801s"):
        with pytest.raises(UsageError, match="--link-lifetime") as caught:
            resolve({"link_lifetime": value}, {}, {})
        assert "at most 7d" in caught.value.hint
