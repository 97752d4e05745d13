"""The endpoint: the key is sent only encrypted or to this machine, and refused values are not quoted."""

import pytest

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.providers.endpoint import DEFAULT_BASE_URL, Endpoint, read_endpoint, service_name
from batchrunner.settings import Settings, resolve

KEY = "0123456789abcdef"


def provider(name: str = "aimlapi") -> Settings:
    return resolve({"provider": name}, {}, {})


def read(**environment: str) -> Endpoint | None:
    return read_endpoint(provider(), environment)


def test_the_sandbox_needs_no_key_and_no_address() -> None:
    assert read_endpoint(provider("sandbox"), {}) is None
    assert read_endpoint(provider("sandbox"), {"AIMLAPI_BASE_URL": "nonsense", "AIMLAPI_KEY": "k"}) is None


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"AIMLAPI_KEY": KEY}, KEY),
        ({"AIML_API_KEY": KEY}, KEY),
        ({"AIMLAPI_KEY": KEY, "AIML_API_KEY": "other"}, KEY),
        ({"AIMLAPI_KEY": "  ", "AIML_API_KEY": KEY}, KEY),
        ({"AIMLAPI_KEY": f" {KEY}\n"}, KEY),
    ],
)
def test_the_key_is_read_from_its_variables(environment: dict[str, str], key: str) -> None:
    assert read(**environment) == Endpoint(DEFAULT_BASE_URL, key)


@pytest.mark.parametrize("environment", [{}, {"AIMLAPI_KEY": ""}, {"AIMLAPI_KEY": " \n"}, {"BATCHRUNNER_KEY": KEY}])
def test_a_missing_key_is_reported_with_a_hint(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="AIMLAPI_KEY is not set") as caught:
        read(**environment)
    assert "--provider sandbox" in caught.value.hint
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize("key", ["ключ-ключ", "one\ntwo", "a\x1bb", "a\0b", "“quoted”"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(AIMLAPI_KEY=key)
    assert key not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://api.example.com:8443/base",
        "HTTPS://API.example.com",
        "http://127.0.0.1:8765",
        "http://localhost",
        "http://[::1]:80",
    ],
)
def test_the_key_may_be_sent_to_these_addresses(url: str) -> None:
    assert read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=url) == Endpoint(url, KEY)


@pytest.mark.parametrize("host", ["https://api.example.com", "https://gw.example.com:8443/aiml", "http://127.0.0.1:1"])
@pytest.mark.parametrize(
    "path", ["/", "//", "/v2", "/v2/", "/v1", "/v2/video", "/v2/video/generations", "/v2/video/generations/"]
)
def test_the_usual_api_path_is_not_part_of_the_address(host: str, path: str) -> None:
    assert read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=host + path) == Endpoint(host, KEY)
    assert service_name(provider(), host + path) == service_name(provider(), host)


@pytest.mark.parametrize(
    "url", ["https://v2", "https://v2.example.com", "https://h/av2", "https://h/v2/other", "https://h/v3"]
)
def test_another_path_or_name_is_part_of_the_address(url: str) -> None:
    assert read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=url) == Endpoint(url, KEY)


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "\t{}\r\n"])
def test_white_space_around_the_address_is_removed(around: str) -> None:
    found = read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=around.format("https://api.example.com"))
    assert found == Endpoint("https://api.example.com", KEY)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_address_is_the_default(empty: str) -> None:
    assert read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=empty) == Endpoint(DEFAULT_BASE_URL, KEY)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost@example.com",
        "https://user:hunter2@api.example.com",
        "https://api.example.com?key=hunter2",
        "https://api.example.com#hunter2",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "https://",
        "https://:443",
        "https://[::1",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "api.example.com",
        "//api.example.com",
        "javascript:hunter2",
    ],
)
def test_the_key_may_not_be_sent_to_these_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="AIMLAPI_BASE_URL") as caught:
        read(AIMLAPI_KEY=KEY, AIMLAPI_BASE_URL=url)
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert KEY not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("name", "url", "expected"),
    [
        ("sandbox", "http://127.0.0.1:4711", "the embedded sandbox"),
        ("aimlapi", DEFAULT_BASE_URL, "api.aimlapi.com"),
        ("aimlapi", "https://API.Example.com:8443/v1", "api.example.com"),
        ("aimlapi", "http://127.0.0.1:1", "this machine"),
        ("aimlapi", "http://localhost:2", "this machine"),
        ("aimlapi", "http://[::1]:3", "this machine"),
    ],
)
def test_a_service_is_named_by_its_host(name: str, url: str, expected: str) -> None:
    assert service_name(provider(name), url) == expected
