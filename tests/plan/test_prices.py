"""Prices: the table is dated and complete, and 16 frames are billed as a second, as by the upstream."""

import re
from dataclasses import replace

import pytest

from batchrunner.job import Attempt, Job, Media, Record, State
from batchrunner.manifest.schema import schema
from batchrunner.plan.prices import (
    AS_OF,
    LISTED,
    YOURS,
    Estimate,
    Prices,
    billed_seconds,
    dollars,
    overrun,
    usd,
)
from batchrunner.providers import registry
from batchrunner.providers.base import CREDITS_PER_USD, PriceList, Rate
from tests.conftest import NOW, make_job, remote

SPEC = registry.default_model()
assert SPEC.price is not None
TABLE, INFERRED = SPEC.price.credits, SPEC.price.source


def clip(duration_s: float | None, frames: int | None = None, resolution: str = "480p") -> Job:
    video = Media("video", "walk.mp4", sha256="00", duration_s=duration_s, frames=frames)
    return make_job(video=video, resolution=resolution)


@pytest.mark.parametrize(
    ("duration_s", "frames", "seconds"),
    [
        (2.0, 32, 2.0),
        (2.0, 60, 3.75),  # 30 frames a second
        (2.0, 20, 1.25),  # 10 frames a second
        (2.0, None, 2.0),
        (10.0, 161, 10.0625),
        (None, None, None),
        (None, 60, 3.75),
    ],
)
def test_seconds_are_billed_as_documented(duration_s: float | None, frames: int | None, seconds: float | None) -> None:
    assert billed_seconds(clip(duration_s, frames)) == seconds


@pytest.mark.parametrize(
    ("resolution", "frames", "credits_"),
    [("480p", 32, 208_000), ("480p", 60, 390_000), ("580p", 60, 585_000), ("720p", 60, 780_000), ("720p", 33, 429_000)],
)
def test_the_price_is_the_rate_times_the_seconds(resolution: str, frames: int, credits_: float) -> None:
    estimate = Prices({}).estimate(clip(2.0, frames, resolution))
    assert estimate == Estimate(credits_, INFERRED, frames / 16)


def test_the_table_is_the_upstreams_list_price_with_the_mark_up() -> None:
    listed = {"480p": 0.04, "580p": 0.06, "720p": 0.08}
    assert {key: pytest.approx(price * 1.3 * CREDITS_PER_USD) for key, price in listed.items()} == TABLE
    assert usd(TABLE["480p"]) == pytest.approx(0.052)
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", AS_OF)


def test_every_resolution_of_the_manifest_has_a_price() -> None:
    assert set(schema()["$defs"]["resolution"]["enum"]) == set(TABLE)


def test_explicit_prices_override_the_table() -> None:
    prices = Prices({"720p": 1000.0})
    assert prices.estimate(clip(2.0, None, "720p")) == Estimate(2000.0, YOURS, 2.0)
    assert prices.estimate(clip(2.0, None, "480p")).basis == INFERRED


def test_a_clip_of_unknown_length_has_no_price_without_assume_length() -> None:
    estimate = Prices({}).estimate(make_job(video=remote()))
    assert (estimate.credits, estimate.seconds) == (None, None)
    assert "length" in estimate.basis
    estimate = Prices({}, 5.0).estimate(make_job(video=remote()))
    assert (estimate.credits, estimate.seconds) == (520_000.0, 5.0)
    assert "assumed" in estimate.basis
    assert Prices({}, 5.0).estimate(clip(2.0)).seconds == 2.0, "a probed length is not assumed"


@pytest.mark.parametrize("job", [clip(2.0, None, "1080p"), replace(clip(2.0), model="other/model")])
def test_a_price_that_is_not_in_the_table_is_not_guessed(job: Job) -> None:
    estimate = Prices({}, 5.0).estimate(job)
    assert estimate.credits is None
    assert estimate.basis.startswith(f"no price is known for {job.model}")


def test_without_a_resolution_there_is_no_price() -> None:
    assert Prices({}).estimate(make_job(shift=5)).basis.endswith("at no resolution")


def test_a_price_of_zero_is_a_price() -> None:
    assert Prices({"480p": 0.0}).estimate(clip(2.0)).credits == 0.0


# The service's own list, and charges above the estimate


def listed(*rates: Rate, model: str = SPEC.name) -> PriceList:
    return PriceList({model: rates}, NOW, "example.com")


def test_the_service_s_list_goes_before_the_table_and_the_manifest_before_both() -> None:
    prices = Prices(
        {"580p": 1000.0}, listed=listed(Rate(50_000, {"resolution": "480P"}), Rate(9, {"resolution": "580p"}))
    )
    assert prices.estimate(clip(2.0, 32)) == Estimate(100_000, f"{LISTED} of 2027-01-15", 2.0)
    assert prices.estimate(clip(2.0, 32, "580p")) == Estimate(2000, YOURS, 2.0)
    assert prices.estimate(clip(2.0, 32, "720p")) == Estimate(416_000, INFERRED, 2.0)
    assert Prices({}, listed=listed(Rate(1), model="other")).estimate(clip(2.0, 32)).basis == INFERRED


def test_of_several_rates_that_apply_the_highest_counts() -> None:
    prices = Prices({}, listed=listed(Rate(50_000), Rate(70_000, {"resolution": "480p"}), Rate(9e9, {"shift": "7"})))
    assert prices.estimate(clip(2.0, 32)).credits == 140_000


def charged(name: str, credits_: float | None, estimate: float | None, resolution: str = "480p") -> Record:
    job = make_job(name, video=clip(2.0, 32).inputs["video"], resolution=resolution)
    return Record(job, State.IN_FLIGHT, (Attempt(1, name, NOW, "g", credits=credits_, estimate=estimate),))


@pytest.mark.parametrize(
    ("credits_", "estimate", "over"),
    [
        (208_000, 208_000, 0), (208_001, 208_000, 0), (208_150, 208_000, 0), (218_000, 208_000, 10_000),
        (1, 0, 0), (5, 0, 5), (100_000, 208_000, 0), (None, 208_000, 0), (218_000, None, 0),
    ],
)  # fmt: skip
def test_an_overrun_is_more_than_rounding(credits_: float | None, estimate: float | None, over: float) -> None:
    assert overrun(charged("a", credits_, estimate).last) == over


def test_a_charge_above_its_estimate_raises_the_price_of_similar_jobs() -> None:
    prices = Prices({}).raised_by([charged("a", 312_000, 208_000), charged("b", 260_000, 208_000)])
    assert prices.estimate(clip(4.0, 64)).credits == 624_000
    assert "raised" in prices.estimate(clip(4.0, 64)).basis
    assert prices.estimate(clip(2.0, 32, "720p")) == Prices({}).estimate(clip(2.0, 32, "720p"))
    assert prices.raised_by([charged("c", 250_000, 208_000)]) is prices
    assert prices.raised_by([charged("d", 416_000, 312_000)]).estimate(clip(2.0, 32)).credits == 416_000


def test_a_price_list_that_has_caught_up_is_not_raised_again() -> None:
    prices = Prices({}, listed=listed(Rate(156_000)))
    assert prices.raised_by([charged("a", 312_000, 208_000)]) is prices


def test_a_charge_under_an_assumed_length_says_nothing_about_known_lengths() -> None:
    guess = Record(make_job("a"), State.IN_FLIGHT, (Attempt(1, "a", NOW, "g", credits=9e6, estimate=1e6),))
    prices = Prices({}, assume_length_s=10.0).raised_by([guess])
    assert prices.estimate(make_job("b")).credits == 9e6
    assert prices.estimate(clip(2.0, 32)).credits == 208_000


@pytest.mark.parametrize(
    ("credits_", "text"),
    [(0, "$0.00"), (2_500_000, "$1.25"), (20_000, "$0.0100"), (1, "under $0.0001"), (-2_500_000, "-$1.25"),
     (2e12, "$1,000,000.00")],
)  # fmt: skip
def test_money_is_shown_in_dollars(credits_: float, text: str) -> None:
    assert dollars(credits_) == text
