"""The inputs of a manifest: distinguish local paths, URLs, objects and data URIs, and check each input once.

No URL is fetched. Checks that need no network are made here; `Objects` reads the objects in buckets. `Media.source`
never contains the secret parts of a URL.
`batchrunner.media` checks local files.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from batchrunner.formatting import is_utf8, shell_quoted
from batchrunner.job import Media
from batchrunner.manifest import web_pages
from batchrunner.manifest.trace import Content
from batchrunner.media.probe import Kind, MediaProblem, inline, probe
from batchrunner.providers.models import ModelSpec
from batchrunner.storage.objects.address import is_address
from batchrunner.storage.paths import expanded

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_WEB = re.compile(r"https?://", re.IGNORECASE)
_DATA = re.compile(r"data:", re.IGNORECASE)
_UNFIT = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates: file names that are not UTF-8
# A common URL: it needs no further checks, and the part before its query can be shown.
_PLAIN_URL = re.compile(
    r"(https://([a-z0-9][a-z0-9.-]*)/[\w!$%&'()*+,./:;=@~-]*)(\?[\w!$%&'()*+,./:;=?@~-]+)?", re.ASCII
)
# The characters that YAML's double quotes make of \\a, \\b, \\t, \\n, \\v, \\f, \\r, \\e, \\0 and \\N.
_YAML_ESCAPES = re.compile(r"[\x00\x07-\x0d\x1b\x85]")
_ESCAPED = r"in double quotes YAML reads a backslash as an escape: \n is a line end. Use single quotes, or / in paths"
_MAX_PATH = 4096
_WILDCARDS = re.compile(r"[*?\[]")


def is_remote(text: str) -> bool:
    """Return True for URLs of any scheme and for data URIs."""
    return bool(_SCHEME.match(text) or _DATA.match(text))


def is_pattern(text: str) -> bool:
    """Return True for a local path or the address of an object with wildcards."""
    named = is_address(text) or not is_remote(text)
    return bool(_WILDCARDS.search(text)) and named and not _CONTROL.search(text)


class Objects(Protocol):
    """The objects in buckets (`batchrunner.storage.objects.inputs`)."""

    def get(self, kind: Kind, text: str) -> Media:
        """Return the input at an address. Raises MediaProblem."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Return the addresses that match a pattern. Raises MediaProblem."""
        ...


class Inputs:
    """The inputs of one manifest. Each is checked once, for all rows that name it.

    base: the manifest's directory, for relative paths. objects: reads buckets; None to refuse addresses. warnings: a
    message and a hint by input as written; the caller that shows a warning removes it. contents: read no local files
    and no buckets; take the contents of these inputs (by name as written) from here. An input that is missing here has
    no digest, and is identified by its name. None: read the inputs. forgets_urls: check a URL again each time it is
    named, instead of keeping it.
    """

    def __init__(
        self, base: Path, objects: Objects | None = None, contents: Mapping[str, Content] | None = None
    ) -> None:
        self.warnings: dict[str, tuple[str, str]] = {}
        self.forgets_urls = False
        self._base = base
        self._objects = objects
        self._contents = contents
        self._known: dict[Kind, dict[str, Media | MediaProblem]] = {"video": {}, "image": {}}
        self._files: dict[tuple[Kind, str], Media] = {}

    def all(self, fields: Mapping[str, Any], spec: ModelSpec) -> dict[str, Media]:
        """The inputs of a job by name. Raises KeyError if a required one is missing, and MediaProblem."""
        inputs = {}
        for name, kind in spec.kinds:
            text = fields.get(name)
            if text is not None:
                known = self._known[kind].get(text)
                inputs[name] = known if type(known) is Media else self.get(kind, text)
            elif name in spec.required:
                raise KeyError(name)
        return inputs

    def get(self, kind: Kind, text: str) -> Media:
        """Return the input that `text` in the manifest names. Raises MediaProblem, the same one each time."""
        known = self._known[kind].get(text)
        if known is None:
            try:
                known = self._resolve(kind, text)
            except MediaProblem as problem:
                known = problem
            if not (self.forgets_urls and self._is_plain_url(known, text)):
                self._known[kind][text] = known
        if isinstance(known, MediaProblem):
            raise known
        return known

    def _is_plain_url(self, known: Media | MediaProblem, text: str) -> bool:
        """Return whether an input is quickly checked again, with the same result."""
        if isinstance(known, MediaProblem) or text in self.warnings:
            return False
        return known.path is None and known.sha256 is None and known.etag is None

    def _resolve(self, kind: Kind, text: str) -> Media:
        plain = _PLAIN_URL.fullmatch(text)
        if not (plain and web_pages.is_ordinary(plain[2])) and _WEB.match(text):
            warning = web_pages.warning_for(text)
            if warning[0]:
                self.warnings[text] = warning
        if plain:
            return Media(kind, f"{plain[1]}?…" if plain[3] else text, None, text)
        if _DATA.match(text):
            return inline(text, kind)
        if self._objects is not None and is_address(text):
            return self._objects.get(kind, text) if self._contents is None else self._unread(text, kind, None)
        if _SCHEME.match(text):
            return remote(text, kind)
        return self._local(text, kind)

    def _local(self, text: str, kind: Kind) -> Media:
        if not is_utf8(text):
            raise MediaProblem(f"the path {shell_quoted(text)} is not valid UTF-8", "rename the file")
        if _CONTROL.search(text):
            hint = _ESCAPED if _YAML_ESCAPES.search(text) else "rename the file"
            raise MediaProblem(f"the path {text!a} contains control characters", hint)
        if len(text) > _MAX_PATH:
            raise MediaProblem(f"the path has {len(text):,} characters, more than any system allows")
        path = self._base / expanded(text)
        if self._contents is not None:
            return self._unread(text, kind, path)
        real = os.path.realpath(path)  # a file with several paths is probed once
        if (kind, real) not in self._files:
            try:
                self._files[kind, real] = probe(path, kind, text)
            except MediaProblem as problem:
                raise MediaProblem(problem.message, _local_hint(text) or problem.hint) from None
        return self._files[kind, real]._replace(source=text, path=path)

    def _unread(self, text: str, kind: Kind, path: Path | None) -> Media:
        """Return a local file or an object without reading it."""
        known = self._contents.get(text) if self._contents else None
        if known is None:
            return Media(kind, text, path, text)
        uri = text if path is None else None
        etag = known.etag or None
        return Media(kind, text, path, uri, known.sha256 or None, known.size_bytes, etag=etag)


def _local_hint(text: str) -> str:
    if text.startswith("~"):
        return "" if expanded(text) != text else f"there is no user {text[1:].partition('/')[0]}"
    if "\\" in text:
        return "write paths with '/' here, also for files that come from Windows"
    if _WILDCARDS.search(text):
        return "patterns are expanded in 'matrix' rows only"
    return ""


def remote(url: str, kind: Kind) -> Media:
    """Return the input for an https URL, or for an http URL of this machine. Raises MediaProblem."""
    if _UNFIT.search(url) or not url.isprintable():
        raise MediaProblem(
            "the URL contains a character that is not allowed in a URL", "percent-encode it: a space is %20"
        )
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        raise MediaProblem(f"not a usable URL: {error}") from None
    scheme = address.scheme.lower()
    if scheme == "file":
        raise MediaProblem("file URLs are not supported", "write the path, relative to the manifest")
    if scheme not in ("http", "https"):
        raise MediaProblem(f"the service cannot fetch {scheme} URLs", "use an https URL or a local file")
    if not host:
        raise MediaProblem("the URL has no host")
    if "@" in address.netloc:
        hint = "the service and the report would store them: use a signed link or a local file"
        raise MediaProblem("the URL contains a user name or a password", hint)
    if scheme == "http" and not _is_loopback(host):
        raise MediaProblem("the service supports only https URLs", "use https, or a local file")
    shown = _shown(address)
    return Media(kind=kind, source=url if shown == url else shown, uri=url)  # equal texts share one object


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(address: SplitResult) -> str:
    """Return the URL without its query and fragment, which may contain a signature."""
    return f"{address.scheme}://{address.netloc}{address.path}" + ("?…" if address.query else "")
