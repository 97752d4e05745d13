import pytest

from batchrunner.transfer.link_expiry import Address, address, expires_at


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("https://oss.example.com/v.mp4?Expires=1754465857&OSSAccessKeyId=x&Signature=y", 1754465857.0),
        ("https://tos.example.com/v.mp4?X-Tos-Date=20250805T073737Z&X-Tos-Expires=86400", 1754465857.0),
        ("https://s3.example.com/v.mp4?X-Amz-Expires=3600&X-Amz-Date=20250805T073737Z", 1754383057.0),
        ("https://cdn.example.com/generations/v.mp4", float("inf")),
        ("https://cdn.example.com/v.mp4?Expires=soon", float("inf")),
        ("https://cdn.example.com/v.mp4?X-Amz-Expires=3600", float("inf")),
        ("https://cdn.example.com/v.mp4?X-Amz-Expires=3600&X-Amz-Date=today", float("inf")),
        ("https://cdn.example.com/v.mp4&Expires=5?Other-Expires=6&X-Expires=7#?Expires=8", float("inf")),
        ("https://cdn.example.com/v.mp4?a=1&EXPIRES=5&Expires=", 5.0),
        ("https://cdn.example.com/v.mp4?a=?&expires=5", 5.0),
        ("https://[broken", float("inf")),
        ("", float("inf")),
    ],
)
def test_the_expiry_of_a_link_is_read(url: str, at: float) -> None:
    assert expires_at(url) == at


BASE = Address("https", "cdn.example.com:8443", "/a/b%2Fc/d.mp4?x=%2f")


@pytest.mark.parametrize(
    ("link", "components"),
    [
        ("https://h/a%2Fb/../c%2f;+|[x]?q=%7e+&", ("https", "h", "/a%2Fb/../c%2f;+|[x]?q=%7e+&")),
        ("HTTPS://user:p%40w@H:1/a", ("https", "user:p%40w@H:1", "/a")),
        ("https://h", ("https", "h", "/")),
        ("https://h?x=1", ("https", "h", "/?x=1")),
        ("https://h/a?", ("https", "h", "/a?")),
        (" https://h/a b\tc\u00e9#there \n", ("https", "h", "/a%20b%09c%C3%A9")),
        ("https://h/\udce9", ("https", "h", "/%E9")),
        ("https:/no/host", ("https", "", "/no/host")),
        ("no/scheme", ("", "", "/no/scheme")),
    ],
)
def test_the_parts_of_a_link_are_unchanged_bytes(link: str, components: tuple[str, str, str]) -> None:
    assert address(link) == components


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("/x/../y%2f", "/x/../y%2f"),
        ("?z=%2F", "/a/b%2Fc/d.mp4?z=%2F"),
        ("", "/a/b%2Fc/d.mp4?x=%2f"),
        ("#there", "/a/b%2Fc/d.mp4?x=%2f"),
        ("e.mp4?s=a/b", "/a/b%2Fc/e.mp4?s=a/b"),
        ("./e/../f", "/a/b%2Fc/e/../f"),
        ("../e", "/a/e"),
        ("../../../e", "/e"),
        ("..", "/a/"),
        (".hidden", "/a/b%2Fc/.hidden"),
        ("..?x", "/a/?x"),
    ],
)
def test_a_relative_link_is_joined_to_its_base(link: str, target: str) -> None:
    assert address(link, BASE) == ("https", "cdn.example.com:8443", target)


def test_a_relative_link_can_name_another_host() -> None:
    assert address("//other/e?x", BASE) == ("https", "other", "/e?x")


def test_a_lone_surrogate_is_no_link() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        address("https://h/\ud800")
