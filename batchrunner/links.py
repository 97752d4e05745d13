"""When a download link stops working, as far as the link itself says. Pure.

Signed links carry their end in the query. Seen in the service's own transcripts (fact sheet, 1.8): OSS with Expires
(a moment), TOS with X-Tos-Date and X-Tos-Expires (a moment and seconds); Amazon's and Google's have the latter form.
"""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

_DATE = "%Y%m%dT%H%M%SZ"


def expires_at(url: str) -> float:
    """Seconds since the epoch when `url` ends to work, or infinity where it does not say so."""
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return float("inf")
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
