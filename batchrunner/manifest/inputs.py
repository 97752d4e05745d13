"""The inputs of a manifest: local paths, URLs and data URIs, told apart and looked at once each.

Rule: nothing is fetched. What can be known here is checked here; `Media.source` never holds what is secret in a URL.
Local files are left to `batchrunner.media`.
"""

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from batchrunner.job import Media
from batchrunner.manifest import web_pages
from batchrunner.media.probe import Kind, MediaProblem, inline, probe
from batchrunner.storage.paths import expanded

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_WEB = re.compile(r"https?://", re.IGNORECASE)
_DATA = re.compile(r"data:", re.IGNORECASE)
_UNFIT = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates: file names that are not UTF-8
# A URL as most are: nothing in it needs a closer look, and what stands before its query can be shown.
_PLAIN_URL = re.compile(r"(https://[a-z0-9][a-z0-9.-]*/[\w!$%&'()*+,./:;=@~-]*)(\?[\w!$%&'()*+,./:;=?@~-]+)?", re.ASCII)
# What double quotes in YAML make of a backslash and a letter: \\a, \\b, \\t, \\n, \\v, \\f, \\r, \\e, \\0 and \\N.
_YAML_ESCAPES = re.compile(r"[\x00\x07-\x0d\x1b\x85]")
_ESCAPED = r"in double quotes YAML reads a backslash as an escape: \n is a line end. Use single quotes, or / in paths"
_MAX_PATH = 4096
_WILDCARDS = re.compile(r"[*?\[]")


def is_remote(text: str) -> bool:
    """True for URLs of any scheme and for data URIs: what is not a local path."""
    return bool(_SCHEME.match(text) or _DATA.match(text))


def is_pattern(text: str) -> bool:
    """True for a local path that holds wildcards."""
    return bool(_WILDCARDS.search(text)) and not is_remote(text) and not _CONTROL.search(text)


class Inputs:
    """The inputs of one manifest, each looked at once however many rows name it.

    base: the manifest's directory, which relative paths start from. warnings: by input as it was written, a message
    and a hint; whoever shows one takes it out.
    """

    def __init__(self, base: Path) -> None:
        self.warnings: dict[str, tuple[str, str]] = {}
        self._base = base
        self._known: dict[Kind, dict[str, Media | MediaProblem]] = {"video": {}, "image": {}}
        self._files: dict[tuple[Kind, str], Media] = {}

    def get(self, kind: Kind, text: str) -> Media:
        """What `text`, as written in the manifest, stands for. Raises MediaProblem, the same each time."""
        known = self._known[kind].get(text)
        if known is None:
            try:
                known = self._look(kind, text)
            except MediaProblem as problem:
                known = problem
            self._known[kind][text] = known
        if isinstance(known, MediaProblem):
            raise known
        return known

    def _look(self, kind: Kind, text: str) -> Media:
        if _WEB.match(text) and (warning := web_pages.warning_for(text))[0]:
            self.warnings[text] = warning
        if plain := _PLAIN_URL.fullmatch(text):
            return Media(kind, f"{plain[1]}?…" if plain[2] else text, None, text)
        if _DATA.match(text):
            return inline(text, kind)
        if _SCHEME.match(text):
            return remote(text, kind)
        return self._local(text, kind)

    def _local(self, text: str, kind: Kind) -> Media:
        if _CONTROL.search(text):
            hint = _ESCAPED if _YAML_ESCAPES.search(text) else "rename the file"
            raise MediaProblem(f"the path {text!a} holds characters that are not text", hint)
        if len(text) > _MAX_PATH:
            raise MediaProblem(f"the path has {len(text):,} characters, more than any system takes")
        path = self._base / expanded(text)
        real = os.path.realpath(path)  # one file by several ways is looked at once
        if (kind, real) not in self._files:
            try:
                self._files[kind, real] = probe(path, kind, text)
            except MediaProblem as problem:
                raise MediaProblem(problem.message, _local_hint(text) or problem.hint) from None
        return self._files[kind, real]._replace(source=text, path=path)


def _local_hint(text: str) -> str:
    if text.startswith("~"):
        return "" if expanded(text) != text else f"there is no user {text[1:].partition('/')[0]}"
    if "\\" in text:
        return "write paths with '/' here, also for files that come from Windows"
    if _WILDCARDS.search(text):
        return "patterns are expanded in 'matrix' rows only"
    return ""


def remote(url: str, kind: Kind) -> Media:
    """The input behind an https URL; http only where it does not leave this machine. Raises MediaProblem."""
    if _UNFIT.search(url) or not url.isprintable():
        raise MediaProblem("the URL holds a character that cannot stand in one", "percent-encode it: a space is %20")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise MediaProblem(f"not a usable URL: {error}") from None
    scheme = parts.scheme.lower()
    if scheme == "file":
        raise MediaProblem("file URLs are not used here", "write the path, relative to the manifest")
    if scheme not in ("http", "https"):
        raise MediaProblem(f"the service cannot fetch {scheme} URLs", "use an https URL or a local file")
    if not host:
        raise MediaProblem("the URL names no host")
    if "@" in parts.netloc:
        hint = "they would be stored by the service and in the report: use a signed link or a local file"
        raise MediaProblem("the URL holds a user name or a password", hint)
    if scheme == "http" and not _is_loopback(host):
        raise MediaProblem("the service documents https URLs only", "use https, or a local file")
    shown = _shown(parts)
    return Media(kind=kind, source=url if shown == url else shown, uri=url)  # equal texts are kept once


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(parts: SplitResult) -> str:
    """The URL without its query and fragment, which may hold a signature."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?…" if parts.query else "")
