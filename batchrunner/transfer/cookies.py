"""Cookies of one download: a redirect may set one that the same host wants back. Pure.

Rule: a cookie goes back to the host that set it and nowhere else, whatever domain it names, and over https only if it
was set there. It lives as long as the download.
"""

import re
from collections.abc import Iterable

from yarl import URL

_MOST = 50
# Names and values that need no quoting in a header (RFC 6265, 4.1.1, and further characters that servers send).
_PAIR = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*([\x21-\x3a\x3c-\x7e]*)", re.ASCII)


class Cookies:
    """The cookies that replies have set so far."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str | None], dict[str, str]] = {}  # by scheme and host

    def observe(self, url: URL, headers: Iterable[str]) -> None:
        """Take in the Set-Cookie headers of the reply from `url`."""
        values = self._values.setdefault((url.scheme, url.host), {})
        for header in headers:
            pair = _PAIR.fullmatch(header.partition(";")[0].strip())
            if pair is not None and len(values) < _MOST:
                values[pair[1]] = pair[2]

    def headers(self, url: URL) -> dict[str, str]:
        """The Cookie header of a request to `url`, if there is anything to send."""
        values = self._values.get((url.scheme, url.host))
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in values.items())} if values else {}
