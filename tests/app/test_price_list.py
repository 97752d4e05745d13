"""The price list and the balance before a plan or a run: asked for, kept, revalidated, and done without."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import price_list
from batchrunner.app.setup import Setup, load, plan_batch, run_of
from batchrunner.errors import ServiceFault
from batchrunner.plan import render
from batchrunner.plan.prices import LISTED, prices_from
from batchrunner.providers.base import Capabilities, PriceList, Rate
from tests.conftest import MEDIA, NOW

MODEL = "alibaba/wan2.2-14b-animate-replace"
KEY = "sk-recognisable-0123456789"
LIST = PriceList({MODEL: (Rate(100_000.0, {"resolution": "480p"}),)}, NOW, "example.com", 'W/"1"')
PAGE = {
    "object": "list",
    "data": [
        {
            "id": MODEL,
            "pricing": {
                "kind": "variants",
                "variants": [{"when": {"resolution": "480p"}, "price": 0.05, "unit": "second", "per": 1}],
            },
        }
    ],
}


class Peer(ThreadingHTTPServer):
    """A service with a price list and a balance; `pages` has status and body by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[int, Any]] = {
            "/v1/models": (200, PAGE),
            "/v2/billing": (200, {"current_balance": 0.2, "currency": "USD"}),
        }
        self.requests: list[tuple[str, str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        peer = self.server
        assert isinstance(peer, Peer)
        path = self.path.partition("?")[0]
        known = self.headers.get("If-None-Match", "")
        peer.requests.append((path, known, self.headers.get("Authorization", "")))
        status, body = peer.pages.get(path, (404, {}))
        if known == 'W/"v1"' and status == 200:
            status, body = 304, None
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("ETag", 'W/"v1"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving() -> Iterator[Peer]:
    with Peer() as peer:
        thread = threading.Thread(target=peer.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield peer
        finally:
            peer.shutdown()
            thread.join()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as peer:
        yield peer


def setup_for(tmp_path: Path, peer: Peer | None, **flags: object) -> tuple[Setup, dict[str, str]]:
    manifest = tmp_path / "two.yaml"
    jobs = [f"- {{video: {MEDIA}/bunny.mp4, image: {MEDIA}/{name}}}" for name in ("hopper.jpg", "hopper.jpg")]
    manifest.write_text(f"output: {tmp_path}/out\njobs:\n{jobs[0]}\n{jobs[1][:-1]}, shift: 4}}\n")
    environment = {"BATCHRUNNER_STATE": str(tmp_path / "state"), "AIMLAPI_KEY": KEY}
    if peer is not None:
        environment["AIMLAPI_BASE_URL"] = f"{peer.url}/v2"
    return load(manifest, flags, environment), environment


def plan_text(setup: Setup, account: render.AccountView) -> str:
    plan, projection, now = plan_batch(setup)
    return render.as_text(plan, projection, now, account=account)


def test_a_plan_shows_the_service_s_prices_and_what_the_balance_pays_for(tmp_path: Path, peer: Peer) -> None:
    setup, environment = setup_for(tmp_path, peer, max_cost="1USD")
    setup, account = price_list.view_account(setup, environment)
    text = plan_text(setup, account)
    assert "$0.19" in text
    assert "2 prices from the service's price list of" in text
    assert "Budget: $1.00 (max_cost), $1.00 left, enough for all 2 jobs." in text
    assert "Balance: $0.20, enough for 1 of 2 jobs." in text
    plan, projection, _ = plan_batch(setup)
    money = render.as_json(plan, projection, None, account)["money"]
    assert (money["balance_usd"], money["balance_jobs"]) == (0.2, 1)
    assert (money["budget_usd"], money["budget_setting"], money["budget_jobs"]) == (1.0, "max_cost", 2)
    assert {path: sent for path, _, sent in peer.requests} == {"/v1/models": "", "/v2/billing": f"Bearer {KEY}"}


def test_the_list_is_kept_with_its_date_and_asked_for_again_by_its_etag(tmp_path: Path, peer: Peer) -> None:
    setup, environment = setup_for(tmp_path, peer)
    first, _ = price_list.view_account(setup, environment)
    kept = json.loads((tmp_path / "state" / "prices.json").read_text())
    assert kept["services"][peer.url]["version"] == 'W/"v1"'
    assert KEY not in json.dumps(kept)
    setup, _ = setup_for(tmp_path, peer)
    assert setup.price_list == first.price_list
    again, _ = price_list.view_account(setup, environment)
    assert [known for path, known, _ in peer.requests if path == "/v1/models"] == ["", 'W/"v1"']
    assert again.price_list is not None
    assert first.price_list is not None
    assert again.price_list.rates == first.price_list.rates
    assert again.price_list.as_of >= first.price_list.as_of


def test_without_an_answer_the_kept_list_stands_and_the_plan_says_that_the_balance_is_unknown(
    tmp_path: Path, peer: Peer
) -> None:
    setup, environment = setup_for(tmp_path, peer)
    price_list.view_account(setup, environment)
    peer.pages = dict.fromkeys(peer.pages, (502, {}))
    setup, account = price_list.view_account(setup_for(tmp_path, peer)[0], environment)
    text = plan_text(setup, account)
    assert LISTED in text
    assert "Balance: unknown (the service answered 502" in text


def test_a_service_without_these_pages_is_no_error(tmp_path: Path, peer: Peer) -> None:
    peer.pages = {}
    setup, environment = setup_for(tmp_path, peer)
    setup, account = price_list.view_account(setup, environment)
    text = plan_text(setup, account)
    assert "prices inferred" in text
    assert "Balance: unknown (the service does not show it to this key)" in text


def test_without_a_key_nobody_is_asked(tmp_path: Path, peer: Peer) -> None:
    setup, environment = setup_for(tmp_path, peer)
    setup, account = price_list.view_account(setup, {**environment, "AIMLAPI_KEY": ""})
    assert peer.requests == []
    assert "AIMLAPI_KEY is not set" in plan_text(setup, account)


def test_the_sandbox_has_no_balance(tmp_path: Path) -> None:
    setup, environment = setup_for(tmp_path, None, provider="sandbox")
    assert price_list.view_account(setup, environment) == (setup, render.AccountView())
    assert setup.price_file is None


class Listed:
    """A provider with a price list only. known: the lists that it was called with."""

    capabilities = Capabilities(prices=True)

    def __init__(self, answer: PriceList | ServiceFault | None) -> None:
        self.answer, self.known = answer, list[PriceList | None]()

    async def prices(self, known: PriceList | None = None) -> PriceList | None:
        self.known.append(known)
        if isinstance(self.answer, ServiceFault):
            raise self.answer
        return self.answer


def refreshed(setup: Setup, provider: Any) -> Setup:
    return asyncio.run(price_list.refreshed(setup, provider, "https://example.com"))


def test_a_run_takes_the_current_list_and_stores_it_with_its_settings(tmp_path: Path) -> None:
    setup, _ = setup_for(tmp_path, None)
    setup = refreshed(setup, Listed(LIST))
    assert setup.price_list == LIST
    run = run_of(setup, "service", "r", NOW)
    stored = prices_from(json.loads(run.settings_json))
    assert stored.listed == LIST
    job = setup.batch.entries[0].job
    assert stored.estimate(job).basis.startswith(LISTED)


def test_a_run_goes_on_without_a_list(tmp_path: Path) -> None:
    setup = replace(setup_for(tmp_path, None)[0], price_list=LIST)
    assert refreshed(setup, Listed(ServiceFault("unavailable", "502"))) is setup
    assert refreshed(setup, Listed(None)).price_list is None
    silent = Listed(LIST)
    silent.capabilities = Capabilities()
    assert refreshed(setup, silent) is setup
    assert silent.known == []


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "nonsense", '{"version": 2, "services": {}}', '{"version": 1, "services": []}',
        '{"version": 1, "services": {"https://example.com": {"rates": 5}}}',
        '{"version": 1, "services": {"https://example.com": {"rates": {"m": [{"credits_per_s": -1, "when": {}}]}}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_the_same_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    assert price_list.load(path, "https://example.com") is None
    price_list.save(path, "https://example.com", LIST)
    assert price_list.load(path, "https://example.com") == LIST
    price_list.save(path, "https://example.com", None)
    assert price_list.load(path, "https://example.com") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    price_list.save(tmp_path / "file" / "prices.json", "https://example.com", LIST)
    assert price_list.load(tmp_path / "file" / "prices.json", "https://example.com") is None
