"""URLs from which the service can hardly fetch a file: web pages of known hosts, and private addresses. Pure.

A page that shows a video is not a video, and a private address names a different machine for each client. Nothing is
fetched to check this, so each case is only a warning.
"""

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

# Hosts (and their subdomains), the paths that are pages and not files, and what to use instead.
_DIRECT = "use the address of the file itself, which ends in .mp4, .jpg or similar"
_LINK = "use a local file, or a link to the file itself"
_PAGES: tuple[tuple[str, str, str], ...] = (
    ("youtube.com youtu.be", "", "download the clip and name the local file"),
    ("vimeo.com", r"/(?!.*\.mp4$)", "download the clip and name the local file"),
    ("tiktok.com instagram.com facebook.com fb.watch", "", "download it and name the local file"),
    ("twitter.com x.com reddit.com linkedin.com bilibili.com", "", "download it and name the local file"),
    ("drive.google.com docs.google.com photos.google.com", r"/(?!uc\b)", _LINK),
    ("photos.app.goo.gl", "", _LINK),
    ("dropbox.com", r"(?!.*[?&](dl|raw)=1)", "add ?raw=1 to the link, or use a local file"),
    ("onedrive.live.com 1drv.ms icloud.com wetransfer.com we.tl", "", _LINK),
    ("github.com gitlab.com", r"/.+/blob/", "use the raw address: /raw/ instead of /blob/"),
    ("huggingface.co", r"/.+/blob/", "use the file's address: /resolve/ instead of /blob/"),
    ("imgur.com giphy.com tenor.com flickr.com", r"(?!.*\.(png|jpe?g|webp|mp4|webm)$)", _DIRECT),
    ("pexels.com pixabay.com unsplash.com", r"(?!.*\.(png|jpe?g|webp|mp4|webm)$)", _DIRECT),
)
_FILE_HOSTS = re.compile(r"^(i|media\d*|images|videos|player|cdn|dl|live|raw)\.")  # these subdomains serve files
_PRIVATE_NAMES = (".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".home.arpa")


def is_ordinary(host: str) -> bool:
    """Return whether there is no warning for any https URL of this host. host: in lower case, as in the URL."""
    return _host(host.rstrip(".")) == _NOTHING_KNOWN


def warning_for(url: str) -> tuple[str, str]:
    """Return why the service may not get a file from `url` and what to do instead; two empty texts if unknown."""
    try:
        address = urlsplit(url)
    except ValueError:
        return "", ""
    host = (address.hostname or "").rstrip(".").lower()
    known = _host(host)
    if address.scheme == "https" and known.is_private:
        return f"{host} is a private address, which the service cannot reach", "use a local file, or a public https URL"
    path = f"{address.path}?{address.query}" if address.query else address.path
    page = next((hint for pattern, hint in known.pages if re.match(pattern, path)), "")
    return (f"this looks like a web page of {host}, not a file", page) if page else ("", "")


class _Host(NamedTuple):
    """The known web pages of a host. pages: patterns of paths that are web pages, and their hints."""

    is_private: bool = False
    pages: tuple[tuple[str, str], ...] = ()


_NOTHING_KNOWN = _Host()


@lru_cache(maxsize=4096)  # the URLs of a large batch name few hosts
def _host(host: str) -> _Host:
    pages = () if _FILE_HOSTS.match(host) else tuple(rule[1:] for rule in _PAGES if _is_of(host, rule[0].split()))
    return _Host(_is_private(host), pages)


def _is_of(host: str, names: list[str]) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in names)


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)
