"""Proxies from the environment: each variable has the meaning that other clients give it."""

import pytest

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.net.proxies import Proxies, read_proxies

PROXY = "http://proxy.test:3128"


def way(url: str, **environment: str) -> str | None:
    proxy = read_proxies(environment).for_url(url)
    return proxy.url if proxy else None


@pytest.mark.parametrize(
    ("environment", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": PROXY}, PROXY, None),
        ({"https_proxy": PROXY}, PROXY, None),
        ({"HTTP_PROXY": PROXY}, None, PROXY),
        ({"http_proxy": PROXY}, None, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY, PROXY),
        ({"all_proxy": PROXY, "https_proxy": "http://other.test"}, "http://other.test", PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other.test"}, PROXY, None),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, PROXY, None),
        ({"HTTPS_PROXY": " "}, None, None),
        ({"HTTPS_PROXY": "proxy.test:3128"}, PROXY, None),
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, None, PROXY),
        ({"ALL_PROXY": "socks5://s", "HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, PROXY, PROXY),
    ],
)
def test_the_right_variable_is_used(environment: dict[str, str], https: str | None, http: str | None) -> None:
    assert way("https://api.example.com/v2", **environment) == https
    assert way("http://cdn.example.com/a", **environment) == http


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", "https://api.example.com", True),
        ("example.com", "https://example.com", True),
        ("example.com", "https://api.example.com", True),
        (".example.com", "https://api.example.com", True),
        ("*.example.com", "https://api.example.com", True),
        ("EXAMPLE.com.", "https://API.example.com.", True),
        ("example.com", "https://badexample.com", False),
        ("example.com", "https://example.com.evil.test", False),
        ("other.test, example.com", "https://api.example.com", True),
        ("other.test example.com", "https://api.example.com", True),
        ("example.com:8443", "https://api.example.com:8443", True),
        ("example.com:8443", "https://api.example.com", False),
        ("example.com:443", "https://api.example.com", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3", "https://110.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]:80", True),
        ("[fd00::1]", "https://[fd00::1]", True),
        ("[fd00::1]:443", "https://[fd00:0::1]", True),
        ("fd00::1", "https://[fd00::1]", True),
        (",, ", "https://api.example.com", False),
        (".", "https://api.example.com", False),
        ("not/a/network", "https://10.1.2.3", False),
    ],
)
def test_no_proxy_lists_hosts_without_a_proxy(no_proxy: str, url: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (way(url, ALL_PROXY=PROXY, **{name: no_proxy}) is None) == direct


@pytest.mark.parametrize("url", ["http://127.0.0.1:8765", "https://localhost", "http://[::1]:1", "http://a.localhost"])
def test_this_machine_is_never_reached_through_a_proxy(url: str) -> None:
    """The key may be sent to it unencrypted."""
    assert way(url, ALL_PROXY=PROXY) is None


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h", "SOCKS5"])
@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy", "HTTP_PROXY"])
def test_socks_is_refused_with_a_reason(name: str, scheme: str) -> None:
    with pytest.raises(UsageError, match=f"{name} names a SOCKS proxy") as caught:
        read_proxies({name: f"{scheme}://user:hunter2@proxy.test:1080"})
    assert caught.value.exit_status is ExitStatus.USAGE
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "url", ["ftp://proxy.test", "http://", "http://:hunter2@:1", "http://[::1", "http://h:port", "http://u:%ff@h"]
)
def test_an_invalid_address_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY cannot be used") as caught:
        read_proxies({"HTTPS_PROXY": url})
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_user_and_password_are_not_shown() -> None:
    proxy = read_proxies({"HTTPS_PROXY": "http://user:hunter2@proxy.test:3128/"}).for_url("https://api.example.com")
    assert proxy is not None
    assert proxy.url == "http://user:hunter2@proxy.test:3128"
    assert proxy.shown == "proxy.test:3128"
    assert "hunter2" not in repr(proxy)


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    proxy = read_proxies({"HTTPS_PROXY": "http://[fd00::1]:3128"}).for_url("https://api.example.com")
    assert proxy is not None
    assert proxy.shown == "[fd00::1]:3128"


def test_without_variables_there_is_no_proxy() -> None:
    assert Proxies().for_url("https://api.example.com") is None
