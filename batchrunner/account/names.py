"""The name of the account that a run uses. Pure.

All keys of a base URL are one account, because they share a balance. `account: NAME` says otherwise. The key itself is
never part of the name and is never stored. The embedded sandbox has no account: its work is neither recorded nor
reused.
"""

from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}


class Account(NamedTuple):
    """An account. address: the normalised base URL. name: from the setting `account`, or ""."""

    address: str
    name: str = ""

    @property
    def key(self) -> str:
        """The text that identifies the account in the index."""
        return f"{self.name}@{self.address}" if self.name else self.address

    @property
    def shown(self) -> str:
        """The text for people, and the first name by which config.yaml can list the account."""
        return self.name or urlsplit(self.address).netloc or self.address


def account_of(base_url: str, name: str | None = None) -> Account:
    """Return the account for a service's address (without the API's path). name: the setting `account`."""
    return Account(normalised(base_url), (name or "").strip())


def normalised(base_url: str) -> str:
    """Return the address in one form: lower case, without a default port and without a final slash."""
    try:
        url = urlsplit(base_url.strip())
        host, port = url.hostname or "", url.port
    except ValueError:
        return base_url.strip().rstrip("/").lower()
    host = f"[{host}]" if ":" in host else host
    scheme = url.scheme.lower()
    port_text = f":{port}" if port is not None and port != _PORTS.get(scheme) else ""
    return f"{scheme}://{host.rstrip('.')}{port_text}{url.path.rstrip('/')}"
