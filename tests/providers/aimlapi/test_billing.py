"""The account's pages: how replies are read, and the calls against the sandbox and against a bare peer."""

import asyncio
import json
from concurrent.futures import Executor
from typing import Any

import pytest

from batchrunner.clock import LoopClock
from batchrunner.errors import AccountFault, CallError, ServiceFault
from batchrunner.providers.aimlapi import billing
from batchrunner.providers.aimlapi.client import ApiClient
from batchrunner.providers.base import Balance, Charge, Charges, PriceList, Rate
from batchrunner.providers.endpoint import Endpoint
from batchrunner.sandbox import Fault, SandboxConfig, start
from batchrunner.sandbox.clips.placeholder import tiny
from tests.conftest import NOW, make_job
from tests.providers.aimlapi import test_client as over_tcp
from tests.providers.aimlapi.test_client import ID, SECRET, Peer, Talk, answer

talk = over_tcp.talk  # the fixture

MODEL = "alibaba/wan2.2-14b-animate-replace"
ROW = {
    "created_at": "2026-08-17T10:00:00.000Z",
    "direction": "CHARGE",
    "type": "MODEL_USAGE",
    "amount": {"usd": 1.56, "credits": 3_120_000},
    "model": MODEL,
    "reference_id": ID,
}
CHARGE = Charge(ID, 3_120_000, 1_786_960_800.0, MODEL)


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


# Balance


@pytest.mark.parametrize(
    ("body", "usd"),
    [
        ({"current_balance": 123.45, "currency": "USD"}, 123.45),
        ({"current_balance": 0}, 0.0),
        ({"current_balance": -0.5, "currency": "usd"}, -0.5),
        ({"current_balance": "12.5", "currency": "USD"}, 12.5),
    ],
)
def test_a_balance_is_an_amount_in_dollars(body: object, usd: float) -> None:
    found = billing.read_balance(200, {}, encoded(body), NOW)
    assert found == Balance(usd, NOW)
    assert found.credits == usd * 2_000_000


@pytest.mark.parametrize(
    "body",
    [
        {"current_balance": None}, {"current_balance": True}, {"current_balance": "much"}, {"current_balance": 1e99},
        {"current_balance": 5, "currency": "EUR"}, {"current_balance": 5, "currency": 7}, {}, [], b"<html>", b"",
        b'{"current_balance": NaN}', b'{"current_balance": Infinity}', {"current_balance": [5]},
    ],
)  # fmt: skip
def test_a_balance_that_cannot_be_read_is_a_bad_reply(body: object) -> None:
    with pytest.raises(ServiceFault) as caught:
        billing.read_balance(200, {}, encoded(body), NOW)
    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize("status", [403, 404, 405, 410, 501])
def test_a_page_that_is_not_offered_is_no_error(status: int) -> None:
    assert billing.read_balance(status, {}, b"no", NOW) is None
    assert billing.read_charges(status, {}, b"no", NOW) is None
    assert billing.read_prices(status, {}, b"no", NOW, "host") is None


@pytest.mark.parametrize(("status", "fault"), [(401, AccountFault), (429, ServiceFault), (502, ServiceFault)])
def test_any_other_status_is_the_same_error_as_elsewhere(status: int, fault: type[CallError]) -> None:
    with pytest.raises(fault) as caught:
        billing.read_balance(status, {"retry-after": "7"}, b"", NOW)
    assert caught.value.retry_after_s == 7
    assert not caught.value.in_doubt


# Charges


def test_a_charge_names_generation_amount_and_time() -> None:
    page = billing.read_charges(200, {}, encoded({"data": [ROW], "pagination": {"next_cursor": "c"}}), NOW)
    assert page == billing.ChargesPage([CHARGE], "c")
    assert CHARGE.usd == 1.56


@pytest.mark.parametrize(
    ("changes", "credits_"),
    [
        ({"amount": {"usd": 1.0}}, 2_000_000),
        ({"amount": {"credits": "5", "usd": None}}, 5),
        ({"type": "REFUND", "direction": "TOPUP"}, -3_120_000),
        ({"model": None}, 3_120_000),
        ({"type": "PAYMENT", "direction": "TOPUP"}, None),
        ({"direction": "TOPUP"}, None),
        ({"type": "CREDITS_EXPIRED"}, None),
        ({"reference_id": None}, None),
        ({"reference_id": 5}, None),
        ({"amount": {}}, None),
        ({"amount": 5}, None),
        ({"amount": {"credits": True}}, None),
        ({"created_at": "yesterday"}, None),
        ({"created_at": "2026-08-17T10:00:00"}, None),
    ],
)
def test_rows_that_are_not_charges_of_a_generation_are_ignored(
    changes: dict[str, object], credits_: float | None
) -> None:
    page = billing.read_charges(200, {}, encoded({"data": [ROW | changes, "x", None, ROW]}), NOW)
    assert page is not None
    assert page.charges[-1] == CHARGE
    assert [charge.credits for charge in page.charges[:-1]] == ([] if credits_ is None else [credits_])


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {}}, [], b"<html>"])
def test_a_list_without_rows_is_a_bad_reply(body: object) -> None:
    for read in (lambda: billing.read_charges(200, {}, encoded(body), NOW),
                 lambda: billing.read_prices(200, {}, encoded(body), NOW, "host")):  # fmt: skip
        with pytest.raises(ServiceFault):
            read()


# Prices


def priced(pricing: object, **model: object) -> tuple[Rate, ...]:
    body = {"object": "list", "data": [{"id": MODEL, "pricing": pricing} | model]}
    found = billing.read_prices(200, {"etag": 'W/"1"'}, encoded(body), NOW, "host")
    assert found is not None
    assert (found.as_of, found.source, found.version) == (NOW, "host", 'W/"1"')
    return found.rates.get(MODEL, ())


def variant(price: object = 0.39, unit: object = "second", per: object = 1, **when: object) -> dict[str, object]:
    return {"when": when, "price": price, "unit": unit, "per": per}


@pytest.mark.parametrize(
    ("pricing", "rates"),
    [
        (
            {"kind": "variants", "dimensions": ["resolution"],
             "variants": [variant(resolution="720p"), variant(0.65, resolution="1080p")]},
            (Rate(780_000, {"resolution": "720p"}), Rate(1_300_000, {"resolution": "1080p"})),
        ),
        ({"kind": "fixed", "units": [{"price": 3, "unit": "second", "per": 60}]}, (Rate(100_000),)),
        ({"kind": "fixed", "units": [{"price": 3, "unit": "minute", "per": 1}]}, (Rate(100_000),)),
        ({"kind": "fixed", "units": [{"price": 3, "unit": "generation", "per": 1}]}, ()),
        ({"kind": "variable"}, ()),
        ({"kind": "variants", "variants": [variant(0)]}, (Rate(0),)),
        ({"kind": "variants", "variants": [variant(-1), variant("x"), variant(per=0), variant(per=None), None]}, ()),
        ({"kind": "variants", "variants": None}, ()),
        ({"kind": "variants", "variants": [{"price": 1, "unit": "second", "when": []}]}, ()),
        (None, ()),
        ([], ()),
    ],
)  # fmt: skip
def test_rates_are_per_second_of_video(pricing: object, rates: tuple[Rate, ...]) -> None:
    assert priced(pricing) == rates


def test_a_model_is_found_by_its_aliases() -> None:
    fixed = {"kind": "fixed", "units": [{"price": 1, "unit": "second", "per": 1}]}
    assert priced(fixed, id="canonical", aliases=["a", MODEL, None]) == (Rate(2_000_000),)
    assert priced(fixed, aliases="none") == (Rate(2_000_000),)


def test_a_rate_applies_to_the_parameters_that_it_names() -> None:
    rate = Rate(1, {"resolution": "720p", "steps": "20"})
    assert rate.applies({"resolution": "720p", "steps": 20, "shift": 5})
    assert not rate.applies({"resolution": "720p"})
    assert not rate.applies({"resolution": "480p", "steps": 20})
    assert Rate(1).applies({})


# Calls


def test_the_requests_are_exact(talk: Talk) -> None:
    page = {"data": [ROW], "pagination": {"next_cursor": "c/1", "has_more": True}}
    last = {"data": [ROW | {"reference_id": "other"}], "pagination": {"next_cursor": None, "has_more": False}}
    peer = Peer(
        [
            answer(200, {"current_balance": 5}),
            answer(200, page),
            answer(200, last),
            answer(200, {"data": []}, ETag='W/"a"'),
            answer(304),
        ]
    )

    async def scenario(client: ApiClient, _: Peer) -> list[Any]:
        balance, charges, prices = await client.balance(), await client.charges(NOW), await client.prices()
        return [balance, charges, prices, await client.prices(prices)]

    balance, charges, prices, again = talk(peer, scenario)
    assert balance == Balance(5, NOW)
    assert charges == Charges((CHARGE, Charge("other", CHARGE.credits, CHARGE.recorded_at, MODEL)))
    assert prices == again == PriceList({}, NOW, "127.0.0.1", 'W/"a"')
    lines = [request.line.split(" ")[1] for request in peer.requests]
    assert lines[0] == "/v2/billing"
    assert lines[1] == "/v2/billing/transactions?from=2027-01-15T08%3A00%3A00Z&limit=100"
    assert lines[2] == f"{lines[1]}&cursor=c%2F1"
    assert lines[3] == lines[4]
    assert MODEL in peer.requests[3].query["id"][0].split(",")
    assert peer.requests[3].query["include"] == ["pricing"]
    assert peer.requests[3].all("if-none-match") == []
    assert peer.requests[4].all("if-none-match") == ['W/"a"']
    for request in peer.requests:
        is_public = request.line.split(" ")[1].startswith("/v1/models?")
        assert request.all("authorization") == ([] if is_public else [f"Bearer {SECRET}"])
        assert SECRET not in request.line


def test_a_redirect_does_not_receive_the_key(talk: Talk) -> None:
    peer = Peer([answer(302, Location="http://127.0.0.1:9/v2/billing")])

    async def scenario(client: ApiClient, _: Peer) -> None:
        for call in (client.balance(), client.charges(NOW), client.prices()):
            with pytest.raises(AccountFault):
                await call

    talk(peer, scenario)
    assert len(peer.requests) == 3


def test_a_repeated_cursor_ends_the_list_as_incomplete(talk: Talk) -> None:
    page = {"data": [ROW], "pagination": {"next_cursor": "same", "has_more": True}}
    peer = Peer([answer(200, page)])

    async def scenario(client: ApiClient, _: Peer) -> Charges | None:
        return await client.charges(NOW)

    assert talk(peer, scenario) == Charges((CHARGE, CHARGE), complete=False)
    assert len(peer.requests) == 2


def with_sandbox(executor: Executor, scenario: Any, *faults: Fault, **config: Any) -> Any:
    """Run a scenario with a client of a sandbox on loopback whose generations end at once."""
    quick: dict[str, Any] = {"queue_wait_s": 0.0, "duration_s": 0.0, "spread": 0.0}

    async def main() -> Any:
        sandbox = await start(SandboxConfig(faults=faults, **(quick | config)), render=tiny)
        try:
            async with ApiClient(Endpoint(sandbox.url, SECRET), LoopClock(), executor) as client:
                return await scenario(client, sandbox)
        finally:
            await sandbox.close()

    return asyncio.run(main())


def test_the_sandboxs_pages_are_read(executor: Executor) -> None:
    async def scenario(client: ApiClient, sandbox: Any) -> None:
        accepted = await client.submit(make_job(resolution="480p"), "r.k.1")
        assert accepted.credits
        prices = await client.prices()
        assert prices is not None
        (rate,) = [rate for rate in prices.rates[MODEL] if rate.applies({"resolution": "480p"})]
        assert rate.credits_per_s == pytest.approx(104_000)
        again = await client.prices(prices)
        assert again is not None
        assert again.rates is prices.rates
        while not any(event["event"] == "completed" for event in sandbox.ledger()):
            await client.status(accepted.generation_id)
        charges = await client.charges(0)
        assert charges is not None
        (charge,) = charges.charges
        assert (charge.generation_id, charge.credits) == (accepted.generation_id, round(accepted.credits * 1.5))
        balance = await client.balance()
        assert balance is not None
        assert balance.credits == pytest.approx(10**9 - charge.credits)

    with_sandbox(executor, scenario, Fault("generation", "overcharged"), balance_credits=10**9)


def test_a_service_without_these_pages_gives_no_amounts(executor: Executor) -> None:
    async def scenario(client: ApiClient, _: Any) -> list[object]:
        return [await client.balance(), await client.charges(0), await client.prices()]

    assert with_sandbox(executor, scenario, billing=False, price_list=False) == [None, None, None]
