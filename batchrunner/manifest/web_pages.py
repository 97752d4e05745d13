"""URLs that the service can hardly fetch a file from: web pages of known hosts, and private addresses. Pure.

A page that shows a video is not a video, and a private address means another machine to each reader. Nothing is
fetched to find out. So each case is a warning.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

# Hosts (and their subdomains) with the paths that are pages and not files, and what to use instead.
_DIRECT = "name the address of the file itself, which ends in .mp4, .jpg or the like"
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
_FILE_HOSTS = re.compile(r"^(i|media\d*|images|videos|player|cdn|dl|live|raw)\.")  # these serve files
_PRIVATE_NAMES = (".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".home.arpa")


def doubt(url: str) -> tuple[str, str]:
    """Why the service may not get a file from `url`, and what to do instead; two empty texts where nothing is known."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme == "https" and _is_private(host):
        return f"{host} is a private address, which the service cannot reach", "use a local file, or a public https URL"
    page = next((hint for names, path, hint in _PAGES if _is_page(parts, host, names.split(), path)), "")
    return (f"this looks like a web page of {host}, not like a file", page) if page else ("", "")


def _is_page(parts: SplitResult, host: str, names: list[str], path: str) -> bool:
    if _FILE_HOSTS.match(host) or not any(host == name or host.endswith(f".{name}") for name in names):
        return False
    return re.match(path, f"{parts.path}?{parts.query}" if parts.query else parts.path) is not None


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)
