"""The limits of an account: config.yaml, and what a budget allows."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchrunner.account.config import buckets, load, on_clip
from batchrunner.account.limits import Limits, day_of, limits_for, month_of, next_day_at, over_budget
from batchrunner.account.names import account_of
from batchrunner.errors import ManifestError, UsageError

USD = 2_000_000


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_a_missing_or_empty_file_has_no_limits(tmp_path: Path) -> None:
    assert load(tmp_path / "config.yaml") == {}
    assert load(written(tmp_path, "\n")) == {}


def test_every_limit_is_read(tmp_path: Path) -> None:
    text = """
accounts:
  default: {concurrency: 8, requests_per_second: 5, max_cost_per_day: $20, max_cost_per_month: $300}
  studio: {max_cost_per_day: 2.50 USD}
"""
    found = load(written(tmp_path, text))
    assert found["default"] == Limits(8, 5.0, 20 * USD, 300 * USD)
    assert found["studio"] == Limits(credits_per_day=2.5 * USD)


def test_the_user_s_hook_is_read(tmp_path: Path) -> None:
    assert on_clip(tmp_path / "config.yaml") is None
    path = written(tmp_path, "on_clip: check.py --least 0.8\naccounts: {default: {concurrency: 8}}")
    assert on_clip(path) == "check.py --least 0.8"
    assert load(path)["default"] == Limits(8)


@pytest.mark.parametrize("hook", ["[check.py]", "3", "off", "''", '"a\\0b"'])
def test_a_hook_that_is_no_command_is_an_error(tmp_path: Path, hook: str) -> None:
    with pytest.raises(ManifestError) as caught:
        on_clip(written(tmp_path, f"on_clip: {hook}"))
    assert caught.value.diagnostics


def test_the_buckets_of_the_user_are_read(tmp_path: Path) -> None:
    assert buckets(tmp_path / "config.yaml") == ()
    assert buckets(written(tmp_path, "buckets: [clips, gs://other]")) == ("clips", "gs://other")


@pytest.mark.parametrize("named", ["clips", "[s3://clips/prefix]", "['a b']", "{clips: yes}", "[3]"])
def test_buckets_that_are_none_are_an_error(tmp_path: Path, named: str) -> None:
    with pytest.raises(ManifestError) as caught:
        buckets(written(tmp_path, f"buckets: {named}"))
    assert caught.value.diagnostics


def test_the_default_is_for_accounts_that_are_not_listed(tmp_path: Path) -> None:
    text = "accounts: {default: {concurrency: 8}, api.example.com: {concurrency: 2}, studio: {concurrency: 3}}"
    found = load(written(tmp_path, text))
    assert limits_for(found, account_of("https://api.example.com")).concurrency == 2
    assert limits_for(found, account_of("https://api.example.com", "studio")).concurrency == 3
    assert limits_for(found, account_of("https://other.example.com")).concurrency == 8
    assert limits_for({}, account_of("https://other.example.com")) == Limits()


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("acounts: {}", "1:1", "did you mean 'accounts'?"),
        ("accounts:\n  default: {concurency: 8}", "2:13", "did you mean 'concurrency'?"),
        ("accounts:\n  default: {concurrency: 0}", "2:26", "not a whole number"),
        ("accounts:\n  default: {concurrency: true}", "2:26", "not a whole number"),
        ("accounts:\n  default: {max_cost_per_day: 20}", "2:31", "such as $20 or 20USD"),
        ("accounts:\n  default: {max_cost_per_day: $0}", "2:31", "such as $20 or 20USD"),
        ("accounts:\n  default: {max_cost_per_day: }", "2:31", "such as $20 or 20USD"),
        ("accounts:\n  default: {requests_per_second: -1}", "2:34", "not a number above 0"),
        ("accounts: [1]", "1:11", "must be a mapping"),
        ("accounts: {default: 8}", "1:21", "must be a mapping"),
        ("[1, 2]", "1:1", "must be a mapping"),
        ("accounts: {default: {concurrency: 8}", "1:1", ""),
    ],
)
def test_a_problem_has_its_place_and_a_hint(tmp_path: Path, text: str, place: str, message: str) -> None:
    with pytest.raises(ManifestError) as raised:
        load(written(tmp_path, text))
    [found] = raised.value.diagnostics
    assert message in f"{found.message} {found.hint}"
    if message:
        assert f"{found.line}:{found.column}" == place


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "config.yaml")


def test_days_and_months_are_utc() -> None:
    late = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert day_of(late) + 1 == day_of(late + 1)
    first, last = month_of(late)
    assert (last - first, last) == (30, day_of(late))
    assert month_of(late + 1)[0] == last + 1
    assert next_day_at(late) == late + 1
    february = datetime(2028, 2, 10, tzinfo=UTC).timestamp()
    first, last = month_of(february)
    assert last - first == 28


def test_a_budget_is_used_to_its_end_and_not_further() -> None:
    limits = Limits(credits_per_day=10.0, credits_per_month=15.0)
    assert over_budget(limits, 4.0, 9.0, 6.0) == ("", "")
    assert over_budget(limits, 4.1, 4.1, 6.0)[0] == "max_cost_per_day"
    assert over_budget(limits, 0.0, 9.1, 6.0)[0] == "max_cost_per_month"


def test_an_unknown_price_does_not_fit_into_a_budget() -> None:
    assert over_budget(Limits(credits_per_day=10.0), 0.0, 0.0, None)[0] == "price_unknown"
    assert over_budget(Limits(concurrency=1), 0.0, 0.0, None) == ("", "")


def test_a_budget_that_charges_have_passed_is_called_exceeded() -> None:
    kind, why = over_budget(Limits(credits_per_day=6e6), 6.4e6, 6.4e6, 1e5)
    assert kind == "max_cost_per_day"
    assert "exceeded: $3.20 is spent or reserved, of max_cost_per_day ($3.00)" in why
