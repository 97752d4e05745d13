"""The account's pages: balance, transactions and price list, pure and over HTTP in virtual time."""

import asyncio
from typing import Any

import pytest

from batchrunner.sandbox import Fault, SandboxConfig, billing
from batchrunner.sandbox.world import Movement
from tests.sandbox import test_http as http
from tests.sandbox.test_http import Client

virtual = http.virtual  # the fixture

MODEL = "alibaba/wan2.2-14b-animate-replace"
TRANSACTIONS = "/v2/billing/transactions"
MODELS = "/v1/models"


def movements(number: int) -> list[Movement]:
    """Make a number of movements, one every ten seconds: charges, and a payment after every third."""
    payment = Movement(0, "TOPUP", "PAYMENT", 9)
    return [
        Movement(10.0 * n, payment.direction, payment.type, n + 1)
        if n % 4 == 3
        else Movement(10.0 * n, "CHARGE", "MODEL_USAGE", n + 1, MODEL, f"g{n}")
        for n in range(number)
    ]


def listed(query: dict[str, str], *, now: float = 1e6, delay_s: float = 0.0) -> list[int]:
    return [row["amount"]["credits"] for row in page(query, now=now, delay_s=delay_s)["data"]]


def page(query: dict[str, str], *, now: float = 1e6, delay_s: float = 0.0) -> Any:
    return billing.transactions(movements(8), query, now, delay_s).body


# Transactions


def test_a_row_has_the_documented_columns() -> None:
    (row,) = page({"limit": "1", "type": "MODEL_USAGE"})["data"]
    assert row == {
        "created_at": "1970-01-01T00:01:00.000Z",
        "direction": "CHARGE",
        "type": "MODEL_USAGE",
        "amount": {"usd": 7 / 2_000_000, "credits": 7},
        "model": MODEL,
        "reference_id": "g6",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [8, 7, 6, 5, 4, 3, 2, 1]),
        ({"direction": "TOPUP"}, [8, 4]),
        ({"type": "MODEL_USAGE"}, [7, 6, 5, 3, 2, 1]),
        ({"type": "REFUND"}, []),
        ({"from": "1970-01-01T00:00:50Z"}, [8, 7, 6]),
        ({"to": "1970-01-01T00:00:20+00:00"}, [2, 1]),
        ({"from": "1970-01-01T01:00:10+01:00", "to": "1970-01-01T00:00:30Z"}, [3, 2]),
    ],
)
def test_the_parameters_select_rows(query: dict[str, str], expected: list[int]) -> None:
    assert listed(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"direction": "OUT"}, {"type": "usage"},
        {"from": "yesterday"}, {"from": "1970-01-01T00:00:50"}, {"to": "1970-01-01T00:00:50"}, {"cursor": "x"},
        {"cursor": ""}, {"cursor": "eyJ2IjoxLCJuIjogM30"},
    ],
)  # fmt: skip
def test_an_unusable_parameter_is_named(query: dict[str, str]) -> None:
    with pytest.raises(billing.BadQuery, match=next(iter(query))):
        page(query)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(billing.BadQuery, match="to"):
        page({"from": "1970-01-01T00:00:50Z", "to": "1970-01-01T00:00:50Z"})


def test_pages_follow_the_cursor_and_new_rows_do_not_shift_them() -> None:
    seen: list[int] = []
    query = {"limit": "3"}
    for number in range(8, 99):
        body = billing.transactions(movements(number), query, 1e6, 0).body
        seen += [row["amount"]["credits"] for row in body["data"]]
        assert body["pagination"]["has_more"] == (body["pagination"]["next_cursor"] is not None)
        if not body["pagination"]["has_more"]:
            break
        query["cursor"] = body["pagination"]["next_cursor"]
    assert seen == [8, 7, 6, 5, 4, 3, 2, 1]


def test_a_late_charge_is_listed_when_it_is_recorded() -> None:
    assert listed({}, now=65, delay_s=30) == [4, 3, 2, 1]
    assert page({"type": "MODEL_USAGE"}, now=90, delay_s=30)["data"][0]["created_at"] == "1970-01-01T00:01:30.000Z"
    assert listed({"from": "1970-01-01T00:01:30Z"}, now=90, delay_s=30) == [7]


def test_charges_are_listed_by_generation_and_only_after_the_delay(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        (_, good, _), (_, bad, _) = await client.submit(), await client.submit(shift=6)
        await asyncio.sleep(20)
        assert len(client.events("completed")) == len(client.events("failed")) == 1
        status, body, _ = await client.call("GET", TRANSACTIONS)
        assert (status, body) == (200, {"data": [], "pagination": {"next_cursor": None, "has_more": False}})
        await asyncio.sleep(600)
        _, body, _ = await client.call("GET", TRANSACTIONS)
        (row,) = body["data"]
        assert row["reference_id"] in {good["id"], bad["id"]}
        assert row["amount"]["credits"] == client.events("completed")[0]["charged"]
        assert row["model"] == MODEL

    virtual(scenario, Fault("generation", "error_object", first=1), settle_delay_s=600.0)


def test_an_overcharged_generation_is_charged_above_its_quote(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        quoted = body["meta"]["usage"]["credits_used"]
        await asyncio.sleep(20)
        _, body, _ = await client.call("GET", TRANSACTIONS, params={"direction": "CHARGE"})
        assert [row["amount"]["credits"] for row in body["data"]] == [round(quoted * 1.09)]
        _, account, _ = await client.call("GET", "/v2/billing")
        assert account["current_balance"] == pytest.approx((10**8 - round(quoted * 1.09)) / 2_000_000)
        _, log, _ = await client.call("GET", "/v2/logs")
        assert log["data"][0]["cost"]["credits"] == round(quoted * 1.09)

    virtual(scenario, Fault("generation", "overcharged"), overcharge=1.09, balance_credits=10**8)


def test_the_transactions_survive_a_restart(virtual: Any, tmp_path: Any) -> None:
    pages: list[Any] = []

    async def scenario(client: Client) -> None:
        if not pages:
            await client.submit()
        await asyncio.sleep(30)
        pages.append((await client.call("GET", TRANSACTIONS))[1])

    for _ in range(2):
        virtual(scenario, Fault("generation", "overcharged"), state_dir=tmp_path)
    assert pages[0] == pages[1]
    assert len(pages[0]["data"]) == 1


def test_the_transactions_need_a_key_and_a_usable_query(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        status, body, _ = await client.call("GET", TRANSACTIONS, params={"limit": "0"})
        assert (status, body["error"]["data"][0]["path"]) == (400, ["limit"])
        client.key = {}
        assert (await client.call("GET", TRANSACTIONS))[0] == 401

    virtual(scenario)


# The price list


def test_the_price_list_needs_no_key_and_is_revalidated(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        client.key = {}
        status, body, headers = await client.call("GET", MODELS, params={"id": MODEL, "include": "pricing"})
        assert status == 200
        (model,) = body["data"]
        assert (model["id"], model["aliases"]) == (MODEL, ["wan/v2.2-14b/animate/replace"])
        assert model["pricing"]["dimensions"] == ["resolution"]
        assert {"when": {"resolution": "480p"}, "price": 0.045, "unit": "second", "per": 1} in model["pricing"][
            "variants"
        ]
        again = {"If-None-Match": headers["ETag"]}
        status, body, headers = await client.call("GET", f"{MODELS}?id={MODEL}&include=pricing", again)
        assert (status, body, headers["ETag"]) == (304, b"", again["If-None-Match"])
        assert (await client.call("GET", MODELS, again))[0] == 200, "another page"

    virtual(scenario, listed_prices={"480p": 90_000, "580p": 1, "720p": 2})


def test_sections_are_opt_in_and_models_are_found_by_their_aliases() -> None:
    config = SandboxConfig()
    plain = billing.models({}, config, "").body["data"]
    assert len(plain) == 2
    assert all("pricing" not in model for model in plain)
    for query in ({"include": "pricing,typo"}, {"include": "ALL"}, {"details": "true"}):
        assert all(model["pricing"]["kind"] == "variants" for model in billing.models(query, config, "").body["data"])
    (found,) = billing.models({"id": "WAN/v2.2-14b/animate/move"}, config, "").body["data"]
    assert found["id"].endswith("move")
    assert billing.models({"id": "none"}, config, "").body["data"] == []


def test_the_pages_can_be_missing(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        for path in ("/v2/billing", TRANSACTIONS, MODELS):
            status, body, _ = await client.call("GET", path)
            assert (status, body["error"]["name"]) == (404, "NotFoundException")

    virtual(scenario, billing=False, price_list=False)


# One account


def test_the_concurrency_limit_and_the_balance_belong_to_the_account(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        statuses = []
        for number in range(4):
            client.key = {"Authorization": f"Bearer key-{number}"}
            statuses.append((await client.submit(shift=number + 1))[0])
        assert statuses == [200, 200, 429, 429]
        balances = set()
        for number in range(3):
            client.key = {"Authorization": f"Bearer key-{number}"}
            balances.add((await client.call("GET", "/v2/billing"))[1]["current_balance"])
        assert len(balances) == 1

    virtual(scenario, concurrency_limit=2)
