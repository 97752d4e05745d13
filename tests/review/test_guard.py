"""The guard lets the page's own requests pass and refuses those of other sites and other host names."""

import pytest

from batchrunner.review.guard import Guard, is_loopback

OWN = {"Host": "127.0.0.1:8766"}
POST = {**OWN, "Origin": "http://127.0.0.1:8766", "Content-Type": "application/json"}
LOCAL = Guard("token", "127.0.0.1", 8766)
OPEN = Guard("token", "0.0.0.0", 8766, frozenset({"studio"}))


def status(guard: Guard, headers: dict[str, str], path: str = "/token/", method: str = "GET") -> int:
    refusal = guard.refusal(method, path, headers)
    return refusal[0] if refusal else 200


@pytest.mark.parametrize(
    ("host", "local", "open_to_network"),
    [
        ("127.0.0.1:8766", 200, 200),
        ("localhost:8766", 200, 200),
        ("LOCALHOST:8766", 200, 200),
        ("[::1]:8766", 200, 200),
        ("192.168.1.5:8766", 403, 200),
        ("studio:8766", 403, 200),
        ("evil.example:8766", 403, 403),
        ("127.0.0.1.evil.example:8766", 403, 403),
        ("localhost.evil.example:8766", 403, 403),
        ("127.0.0.1:80", 403, 403),
        ("127.0.0.1", 403, 403),
        ("127.0.0.1:8766:8766", 403, 403),
        ("127.0.0.1:\u0668\u0667\u0666\u0666", 403, 403),
        ("", 403, 403),
        ("[::1", 403, 403),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, local: int, open_to_network: int) -> None:
    assert status(LOCAL, {"Host": host}) == local
    assert status(OPEN, {"Host": host}) == open_to_network


@pytest.mark.parametrize(
    "path", ["/", "", "/toke/", "/tokenx/", "//token/", "/Token/", "/t\u00f6ken/", "/token%2f/", "*"]
)
def test_without_the_token_nothing_is_answered(path: str) -> None:
    assert status(LOCAL, OWN, path) == 404
    assert status(LOCAL, POST, path, "POST") == 404


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://127.0.0.1:8766"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": None}, 415),
    ],
)
def test_only_the_page_itself_can_post(changes: dict[str, str | None], expected: int) -> None:
    headers = {name: value for name, value in {**POST, **changes}.items() if value is not None}
    assert status(LOCAL, headers, "/token/api/verdict", "POST") == expected


@pytest.mark.parametrize(
    ("fetch", "expected"),
    [
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "video"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_read(fetch: dict[str, str], expected: int) -> None:
    assert status(LOCAL, {**OWN, **fetch}) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("studio", False),
    ],
)
def test_loopback_is_recognised(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
