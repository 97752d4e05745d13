"""Cookies of one download are returned to the host that set them, and to no other."""

import pytest
from yarl import URL

from batchrunner.transfer.cookies import Cookies

HOST = URL("https://cdn.example.com/a")


def after(*headers: str) -> Cookies:
    cookies = Cookies()
    cookies.observe(HOST, headers)
    return cookies


def test_cookies_are_returned_unchanged() -> None:
    cookies = after("a=x%2Fy==; Path=/b; HttpOnly", "b=", 'c="q"', "a=2")
    assert cookies.headers(URL("https://cdn.example.com:8443/other")) == {"Cookie": 'a=2; b=; c="q"'}


@pytest.mark.parametrize(
    "other", ["https://example.com/", "https://www.cdn.example.com/", "http://cdn.example.com/", "https://evil.test/"]
)
def test_another_host_or_scheme_gets_no_cookie(other: str) -> None:
    assert after("a=1; Domain=.example.com").headers(URL(other)) == {}


@pytest.mark.parametrize("header", ["", "noname", "=x", "a b=1", "a=x y", "a=\x01", "a=\udce9"])
def test_a_cookie_that_no_header_can_carry_is_ignored(header: str) -> None:
    assert after(header).headers(HOST) == {}


def test_the_number_of_cookies_is_bounded() -> None:
    cookies = after(*(f"n{number}=1" for number in range(1000)))
    assert len(cookies.headers(HOST)["Cookie"]) < 1000
