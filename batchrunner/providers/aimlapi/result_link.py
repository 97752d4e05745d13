"""Find the link to the result in the reply for a completed generation. Pure.

The documented place is ``video.url``. Other places were seen, so every link in the reply is classified by its
value first: ``video_url`` may hold the result, or the clip that the job submitted. Not the result are the job's own
inputs, links for polling, status, cancelling and documentation, pictures, and files of other kinds.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

_MOST_TEXTS = 20_000  # of a reply
_DEEPEST = 12
_DOCUMENTED, _ANYWHERE = 0, 5  # ranks of places
_ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
# A link without a user, an address in brackets, blanks and characters outside ASCII: host, path, and query.
_COMMON = re.compile(r"https?://([a-z0-9.-]+)(?::[1-5]?\d{1,4})?(/[!-\"$->@-~]*)?(?:\?([!-\"$-~]*))?")
_RELATIVE = re.compile(r"(?![a-z][a-z0-9+.-]*:)[^\s\\]{1,2000}", re.IGNORECASE)
_SPACE = re.compile(r"\s")
_QUERY = re.compile(r"[?#]")
_KEY_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_EXTENSION = re.compile(r"\.([a-z0-9]{2,5})\Z", re.IGNORECASE)
_VIDEOS = {"mp4", "m4v", "mov", "webm", "mkv", "avi"}
_OTHER_FILES = {
    *("png", "jpg", "jpeg", "webp", "gif", "svg", "bmp", "avif", "heic", "ico", "tif", "tiff"),
    *("mp3", "wav", "m4a", "aac", "ogg", "flac", "json", "zip", "txt", "html", "htm", "srt", "vtt", "log", "pdf"),
}
_FILES = _VIDEOS | _OTHER_FILES
_CONTROL = {"status", "poll", "polling", "cancel", "webhook", "callback", "dashboard", "billing", "terms", "policy"}
_HELP = {"doc", "docs", "documentation", "help", "support", "faq"}
# Words in a path or a host that say that a link leads somewhere else, and those in a key.
_OTHER_PATHS = {*_CONTROL, *_HELP, "webhooks", "requests"}
_OTHER_KEYS = {
    *(*_CONTROL, *_HELP, "response", "self", "next", "logs", "log", "type", "schema", "instance", "get", "stream"),
    "delete",
}
_INPUT_KEYS = {"input", "inputs", "request", "params", "parameters", "arguments"}
_PICTURES = {"thumbnail", "thumb", "poster", "cover", "image", "images", "picture", "icon", "avatar", "frame", "frames"}
_PLACES = {
    *("video", "videos", "output", "outputs", "result", "results", "url", "urls", "file", "files", "clip", "clips"),
    *("download", "media", "uri", "href", "link", "asset", "assets", "artifact", "artifacts", "generation", "content"),
}
_NAMES = {"name", "title", "id", "key"}  # of a file: no link
_CONTENT_TYPE_KEYS = ("content_type", "contentType", "mime_type", "mimeType")
_VIDEO_KEYS = {"video", "videos", "clip", "clips"}


def result_link(
    reply: Mapping[str, Any], inputs: Collection[str], base_url: str, *, certain: bool = False
) -> str | None:
    """Return the link to the result, or None if there is none or several are possible.

    inputs: the URLs that the job submitted. base_url: what a relative link is joined to; "" where there is none.
    certain: take only a link that stands in a known place, or names a video.
    """
    own = {_plain(item) for item in inputs}
    if "video" in reply:  # the documented place first
        reply = {"video": reply["video"], **reply}
    found: dict[int, list[str]] = {}
    for path, text, kind in islice(_texts(reply), _MOST_TEXTS):
        url = _absolute(text, path, base_url)
        if url is None or _plain(url) in own or _leads_elsewhere(path, url, kind):
            continue
        rank = _rank(path, url, kind)
        if rank == _DOCUMENTED:
            return url
        if rank < _ANYWHERE or not certain:
            found.setdefault(rank, []).append(url)
    if not found:
        return None
    urls = list(dict.fromkeys(found[min(found)]))
    if len(urls) == 1:
        return urls[0]
    videos = [url for url in urls if _extension(url) in _VIDEOS]
    return videos[0] if len(videos) == 1 else None


def _texts(reply: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield every text in the reply with the keys above it and the content type of its object."""
    todo: list[tuple[tuple[str, ...], object, str]] = [((), reply, "")]
    while todo:
        path, value, kind = todo.pop()
        if isinstance(value, str):
            yield path, value, kind
        elif len(path) > _DEEPEST:
            continue
        elif isinstance(value, dict):
            kind = _content_type(value)
            todo += [((*path, key), item, kind) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            todo += [(path, item, kind) for item in reversed(value)]


def _content_type(item: Mapping[str, Any]) -> str:
    for key in _CONTENT_TYPE_KEYS:
        if key in item and isinstance(item[key], str):
            return str(item[key]).lower()
    return ""


def _absolute(text: str, path: tuple[str, ...], base_url: str) -> str | None:
    """Return the text as an absolute link, or None."""
    text = text.strip()
    if _ABSOLUTE.match(text):
        return text if _split(text).host and not _SPACE.search(text) else None
    key_words = _key_words(path[-1]) if path else frozenset()
    if not base_url or key_words & _NAMES or not key_words & _PLACES or not _RELATIVE.fullmatch(text):
        return None
    if not text.startswith("/") and _extension(text) not in _VIDEOS:
        return None
    try:
        url = urljoin(base_url.rstrip("/") + "/", text)
    except ValueError:
        return None
    return url if _split(url).host else None


def _leads_elsewhere(path: tuple[str, ...], url: str, kind: str) -> bool:
    above = {key_word for key in path[:-1] for key_word in _key_words(key)}
    leaf = _key_words(path[-1]) if path else frozenset()
    if above & _INPUT_KEYS or leaf & {"input", "source"}:
        return True
    extension = _extension(url)
    if extension in _VIDEOS:
        return False
    if extension in _OTHER_FILES or kind.partition("/")[0] in {"image", "audio", "text"}:
        return True
    if leaf & _OTHER_KEYS or above & (_OTHER_KEYS - {"response"}):
        return True
    if (leaf | above) & _PICTURES and not (leaf | above) & _VIDEO_KEYS:
        return True
    address = _split(url)
    asked = {name.lower() for name, _ in parse_qsl(address.query)} & {"generation_id", "request_id", "task_id"}
    segments = {*address.path.lower().split("/"), address.host.partition(".")[0]}
    return bool(asked or segments & _OTHER_PATHS)


def _rank(path: tuple[str, ...], url: str, kind: str) -> int:
    """Rank a link by its place: 0 for the documented place, more for less certain ones."""
    if path in (("video",), ("video", "url")):
        return _DOCUMENTED
    key_words = {key_word for key in path for key_word in _key_words(key)}
    if key_words & _VIDEO_KEYS or kind.startswith("video/"):
        return 1
    if key_words & _PLACES and not key_words & {"preview", *_PICTURES}:
        return 2 if path[-1] == "url" else 3
    return 4 if _extension(url) in _VIDEOS else _ANYWHERE


@lru_cache(1024)
def _key_words(key: str) -> frozenset[str]:
    """The words of a key: of ``video_url`` and of ``videoUrl`` they are ``video`` and ``url``."""
    return frozenset(key_word.lower() for key_word in _KEY_WORD.findall(key[:100]))


class _Address(NamedTuple):
    """The used components of a URL. host: in lower case; "" for a bad address."""

    host: str
    path: str
    query: str


@lru_cache(256)
def _split(url: str) -> _Address:
    if common := _COMMON.fullmatch(url):
        return _Address(*common.groups(""))
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port  # both raise for a bad address
    except ValueError:
        return _Address("", "", "")
    return _Address(host or "", address.path, address.query)


@lru_cache(256)
def _extension(url: str) -> str:
    found = _EXTENSION.search(_split(url).path)
    return found[1].lower() if found else ""


@lru_cache(256)
def _plain(url: str) -> str:
    """A link in a form in which two that mean the same are equal; of one that names a file, without its query."""
    url = url.strip()
    if _extension(url) in _FILES:
        url = _QUERY.split(url, maxsplit=1)[0]
    return (unquote(url) if "%" in url else url).rstrip("/")
