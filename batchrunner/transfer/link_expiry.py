"""Download links as texts: when one stops working, and what it asks for, octet for octet. Pure.

A signature covers the link as the service wrote it, so nothing in it is spelled anew: no decoding, no other case, no
dots resolved. Only octets that cannot stand in a request line are percent-encoded.

Signed links carry their end in the query. Seen in the service's own transcripts (fact sheet, 1.8): OSS with Expires
(a moment), TOS with X-Tos-Date and X-Tos-Expires (a moment and seconds); Amazon's and Google's have the latter form.
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple

_BLANK = "".join(map(chr, range(0x21)))  # spaces and control characters, which may surround a link
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_AUTHORITY = re.compile(r"//([^/?]*)(.*)", re.DOTALL)
_CANNOT_STAND = re.compile(r"[^\x21-\x7e]+")
_TIMES = re.compile(r"(?:^|&)(expires|x-[a-z0-9-]*(?:expires|date))=([^&]+)", re.IGNORECASE)
_DATE = "%Y%m%dT%H%M%SZ"


def expires_at(url: str) -> float:
    """Return when `url` expires, in s since the epoch, or infinity if it does not say."""
    query = {name.lower(): value for name, value in _TIMES.findall(url.partition("#")[0].partition("?")[2])}
    for name, value in query.items():
        try:
            if name == "expires":
                return float(int(value))
            if name.startswith("x-") and name.endswith("-expires"):
                signed = datetime.strptime(query[name.removesuffix("expires") + "date"], _DATE).replace(tzinfo=UTC)
                return signed.timestamp() + int(value)
        except (ValueError, KeyError, OverflowError):
            continue
    return float("inf")


class Address(NamedTuple):
    """The parts of a link: scheme, authority (host, port, user), and the request target (path and query)."""

    scheme: str
    authority: str
    target: str


def address(link: str, base: Address | None = None) -> Address:
    """Return the parts of `link`, resolved against `base` if it is relative (RFC 3986, 5.2). A fragment is dropped.

    In `link`, an octet of a header that is no UTF-8 is a surrogate escape. Raises ValueError for other surrogates.
    """
    text = link.strip(_BLANK).partition("#")[0]
    scheme, authority = base[:2] if base else ("", "")
    absolute = _ABSOLUTE.fullmatch(text)
    if absolute is not None:
        scheme, authority, text = absolute[1].lower(), "", absolute[2]
    if found := _AUTHORITY.fullmatch(text):
        authority, text = found[1], found[2]
    elif base is not None and absolute is None:
        text = _from(base.target, text)
    target = _CANNOT_STAND.sub(_percent_encoded, text)
    return Address(scheme, authority, target if target.startswith("/") else f"/{target}")


def _percent_encoded(found: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in found[0].encode("utf-8", "surrogateescape"))


def _from(base: str, reference: str) -> str:
    """The target that a relative reference names, seen from the target `base`."""
    path = base.partition("?")[0]
    if not reference:
        return base
    if reference.startswith(("/", "?")):
        return reference if reference[0] == "/" else path + reference
    folder = path.rpartition("/")[0]
    while (step := re.match(r"(\.\.?)(?:/|(?=\?)|$)", reference)) is not None:  # dots after these are the link's own
        folder = folder.rpartition("/")[0] if step[1] == ".." else folder
        reference = reference[step.end() :]
    return f"{folder}/{reference}"
