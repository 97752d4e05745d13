"""The faults file: its sections, their effect, and docs/sandbox.md, which is generated from the same table.

``REWRITE_DOCS=1`` rewrites the page's tables.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.errors import UsageError
from batchrunner.sandbox import Fault, SandboxConfig, rehearsal
from batchrunner.sandbox.faults.file import SECTIONS, parse
from batchrunner.sandbox.faults.outages import ACCOUNT, CALLS, SHOWS, AccountFailure, Conditions, Outage, Slow, Throttle
from batchrunner.sandbox.faults.rules import KINDS
from batchrunner.sandbox.replies import Call, too_many
from batchrunner.sandbox.service import Allowance
from batchrunner.sandbox.world import Rules, TopUp
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "sandbox.md"
NEEDED = {"faults": "on: poll, kind: unavailable", "throttled": "concurrency: 2", "slow": "reply: 1s",
          "top_ups": "at: 3h, credits: 5"}  # fmt: skip


def read(text: str) -> dict[str, Any]:
    return parse(text, "f.yaml")


# The page


def sections_text() -> str:
    sections = []
    for name, section in SECTIONS.items():
        rows = "\n".join(
            f"| `{key.name}`{' (required)' if key.required else ''} | {key.meaning} | `{key.name}: {key.example}` |"
            for key in section.keys
        )
        sections.append(f"### `{name}`\n\n{section.meaning}\n\n| key | meaning | example |\n|---|---|---|\n{rows}\n")
    return "\n" + "\n".join(sections) + "\n"


def kinds_text() -> str:
    rows = "\n".join(f"| `{on}` | {', '.join(f'`{kind}`' for kind in kinds)} |" for on, kinds in KINDS.items())
    return f"\n| on | kinds |\n|---|---|\n{rows}\n\n"


@pytest.mark.parametrize(("mark", "text"), [("sections", sections_text()), ("kinds", kinds_text())])
def test_the_pages_tables_match_the_code(mark: str, text: str) -> None:
    pattern = re.compile(rf"(<!-- {mark} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    page = PAGE.read_text("utf-8")
    if os.environ.get("REWRITE_DOCS"):
        page = pattern.sub(lambda found: found[1] + text + found[3], page)
        PAGE.write_text(page, "utf-8")
    found = pattern.search(page)
    assert found
    assert found[2] == text


def documented(heading: str) -> list[str]:
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert table, heading
    return [line.split("|")[1].strip().strip("`") for line in table[1].splitlines()]


def test_the_page_explains_every_kind_and_every_outage() -> None:
    kinds = documented("kind")
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == {kind for kinds in KINDS.values() for kind in kinds}
    assert documented("`shows`") == list(SHOWS)


def test_the_pages_example_is_valid() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example
    found = read(example[1])
    assert found["queue_wait_s"] == 3600
    assert len(found["faults"]) == len(found["conditions"].outages) == 2


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name, section in SECTIONS.items() for key in section.keys],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_example_is_valid(name: str, key: Any) -> None:
    also = yaml.safe_load("{" + NEEDED.get(name, "") + "}") or {}
    also = {"on" if key is True else key: value for key, value in also.items()}
    if key.name == "delay":
        also["kind"] = "rate_limited_retry_after"
    content = {**also, **yaml.safe_load(f'{{"{key.name}": {key.example}}}')}
    found = read(yaml.safe_dump({name: content if name == "service" else [content]}))
    if name == "service":
        assert key.field in found
        SandboxConfig(**found)
    assert found["faults"] or found["conditions"] != Conditions() or name == "service"


# Meaning


def test_sections_become_a_configuration() -> None:
    found = read(
        """
        service: {balance: 5_000, prices: {480p: 7}, spread: 0, retry_after: date, concurrency: 2, quotes: false}
        outages: [{from: 1h, for: 20m, shows: html_502, calls: submit}, {shows: refused, for: 1s}]
        throttled: [{from: 1h30m, requests_per_second: 0.5}]
        slow: [{for: 1d, queue_wait: 2h}]
        out_of_credits: [{from: 2h}]
        revoked: [{from: 3h, for: 1m}]
        top_ups: [{at: 5h, credits: 2}, {at: 4h, credits: 1}]
        """
    )
    assert found.pop("conditions") == Conditions(
        outages=(Outage(3600, 1200, "html_502", "submit"), Outage(0, 1, "refused")),
        throttled=(Throttle(5400, requests_per_second=0.5),),
        slow=(Slow(0, 86400, queue_wait_s=7200),),
        account=(AccountFailure(7200), AccountFailure(10800, 60, "revoked")),
        top_ups=(TopUp(14400, 1), TopUp(18000, 2)),
    )
    assert found == {
        "balance_credits": 5000,
        "prices": {"480p": 7, "580p": 156_000, "720p": 208_000},
        "spread": 0.0,
        "retry_after": "date",
        "concurrency_limit": 2,
        "quotes": False,
        "faults": (),
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("outages: {}", "f.yaml: outages is a list", ""),
        ("outage: []", "f.yaml: key: 'outage' is not known", "Did you mean 'outages'?"),
        ("outages: [{form: 1h}]", "f.yaml: outages 1: key: 'form' is not known", "Did you mean 'for'?"),
        ("outages: [{}, {shows: html_503}]", "f.yaml: outages 2: shows: 'html_503' is not known", "'html_502'"),
        ("outages: [{calls: polls}]", "f.yaml: outages 1: calls: 'polls' is not known", "Did you mean 'poll'?"),
        ("outages: [{from: 60}]", "f.yaml: outages 1: from: 60 is not a duration", ""),
        ("outages: [{shows: refused, calls: poll}]", "refused connections befall all calls", "`reset`"),
        ("outages: [{shows: reset, retry_after: 5s}]", "reset says no Retry-After", "`unavailable`"),
        ("throttled: [{from: 1h}]", "throttled 1: it says nothing", ""),
        ("throttled: [{concurrency: 0}]", "concurrency: 0 is not a whole number from 1", ""),
        ("slow: [{}]", "slow 1: it says nothing", ""),
        ("slow: [3]", "slow 1: this is a mapping of from, for, queue_wait, duration, reply", ""),
        ("top_ups: [{at: 1h}]", "top_ups 1: credits is missing", "credits: 40_000_000"),
        ("service: {capacty: 3}", "service: key: 'capacty'", "Did you mean 'capacity'?"),
        ("service: {retry_after: 5s}", "service: retry_after: '5s'", "One of: none, seconds, date."),
        ("service: {prices: {480: 3}}", "service: prices: 480 is not known", "Did you mean '480p'?"),
        ("service: {prices: 3}", "service: prices: 3 is not a mapping", ""),
        ("service: {quotes: 1}", "service: quotes: 1 is not true or false", ""),
        ("faults: [{on: pol, kind: cut}]", "faults 1: on: 'pol'", "Did you mean 'poll'?"),
        ("faults: [{on: submit, kind: lost_replies}]", "kind: 'lost_replies'", "Did you mean 'lost_reply'?"),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_a_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("shows", [show for show in SHOWS if show != "refused"])
def test_an_outage_affects_all_calls_and_accepts_no_submission(shows: str) -> None:
    rules = list(Outage(60, 30, shows).rules())
    assert {rule.on for rule in rules} == set(CALLS)
    assert {rule.between_s for rule in rules} == {(60, 90)}
    (submit,) = [rule for rule in rules if rule.on == "submit"]
    assert submit.kind not in {"hang", "cut"}


def test_an_outage_asks_for_a_wait() -> None:
    (rule,) = Outage(calls="poll", retry_after_s=90).rules()
    assert rule == Fault("poll", "unavailable_retry_after", between_s=(0, float("inf")), delay_s=90)


def test_out_of_credits_ends_with_the_next_top_up() -> None:
    windows = (AccountFailure(100), AccountFailure(300, 50), AccountFailure(900))
    conditions = Conditions(account=windows, top_ups=(TopUp(100, 1), TopUp(250, 1), TopUp(600, 1)))
    assert [rule.between_s for rule in conditions.rules()] == [(100, 250), (300, 350), (900, float("inf"))]
    assert {rule.kind for rule in conditions.rules()} == {"out_of_credits"}
    assert set(ACCOUNT) == {"out_of_credits", "locked", "revoked"}


def test_the_tightest_current_limit_applies() -> None:
    conditions = Conditions(throttled=(Throttle(10, 10, concurrency=2), Throttle(15, 10, 9, 0.5)))
    seen = [conditions.limits(at, 5, None) for at in (9, 10, 15, 20, 25)]
    assert seen == [(5, None), (2, None), (2, 0.5), (5, 0.5), (5, None)]


def test_slowness_lasts_for_a_time() -> None:
    conditions = Conditions(slow=(Slow(10, 10, queue_wait_s=99), Slow(15, 10, duration_s=77, reply_s=3)))
    usual = Rules(queue_wait_s=1, duration_s=2)
    paces = [conditions.pace(at, usual) for at in (9, 15, 20)]
    assert [(pace.queue_wait_s, pace.duration_s) for pace in paces] == [(1, 2), (99, 77), (1, 77)]
    assert [conditions.reply_s(at) for at in (9, 15, 25)] == [0, 3, 0]


def test_an_allowance_is_a_number_of_calls_a_second() -> None:
    fast, slow = Allowance(), Allowance()
    assert [fast.take(at, 2) for at in (0, 0, 0, 0.5, 0.5, 9, 9, 9)] == [
        True, True, False, True, False, True, True, False,
    ]  # fmt: skip
    assert [slow.take(at, 0.1) for at in (0, 5, 10, 19, 20)] == [True, False, True, False, True]
    assert sum(fast.take(100 + tick / 10, 5) for tick in range(100)) == pytest.approx(50, abs=5)


def test_retry_after_has_three_forms() -> None:
    call = Call("/", "r", "2026-11-22T21:55:00.250Z")
    sent = [too_many(call, form, 30).headers.get("Retry-After") for form in ("none", "seconds", "date")]
    assert sent == [None, "30", "Sun, 22 Nov 2026 21:55:31 GMT"]


def test_fast_accelerates_a_rehearsal(tmp_path: Path) -> None:
    assert rehearsal(fast=False, faults=None) == SandboxConfig()
    faults = tmp_path / "night.yaml"
    faults.write_text("service: {duration: 9m}\noutages: [{from: 1h, for: 20m}]")
    fast = rehearsal(fast=True, faults=faults)
    assert (fast.speed, fast.duration_s, fast.render, fast.hang_s) == (60, 540, "stub", 300)
    assert fast.conditions.outages == (Outage(3600, 1200),)


@pytest.mark.parametrize(
    ("value", "render"),
    [
        ("composite", "composite"),
        ("transcode", "transcode"),
        ("stub", "stub"),
        ("scene", "composite"),
        ("tiny", "stub"),
    ],
)
def test_kinds_of_rendering_keep_their_earlier_names(value: str, render: str) -> None:
    assert parse(f"service: {{render: {value}}}", "night.yaml")["render"] == render


def test_an_unknown_kind_of_rendering_is_an_error() -> None:
    with pytest.raises(UsageError, match="transcode"):
        parse("service: {render: transcoded}", "night.yaml")
