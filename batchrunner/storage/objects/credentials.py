"""Find the credentials for S3: environment, profile, then the machine's role.

The values stay in memory. They never reach a file, a log, a message or a `repr`. A profile's static keys are read from
the ini files of the AWS command line; single sign-on and assumed roles need boto3.
"""

import configparser
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchrunner.errors import LocalFault

CREDENTIALS_HINT = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. With single sign-on, log in and install boto3."
)
_REGION = re.compile(r"[A-Za-z0-9-]{0,64}")
_UNFIT = ' "<>\\^`{|}#'
_BOTO_HINT = "Install boto3 (pip install boto3) and log in, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys for S3. expires_at: seconds since the epoch, or None if unknown or never."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: float | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that no text may contain."""
        return tuple(value for value in (self.key_id, self.secret, self.token) if value)


Source = Callable[[], Credentials]


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of S3 for one user. source: returns the current keys; None for the role of the machine."""

    source: Source | None = field(default=None, repr=False)
    region: str = ""
    endpoint: str = ""


def find(environment: Mapping[str, str], home: Path) -> Profile:
    """Return the user's settings of S3. Raises LocalFault for a value or a profile that cannot be used."""
    environment = {key: value.strip() for key, value in environment.items() if key.startswith("AWS_")}
    name = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    values = _profile(environment, home, name)
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or values.get("region", "")
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or values.get("endpoint_url", "")
    )
    if endpoint and not _is_endpoint(endpoint):
        message = "AWS_ENDPOINT_URL is not the address of a store"
        raise LocalFault("bucket_unreachable", message, "Write https://HOST or http://HOST:PORT, without a user.")
    if not _REGION.fullmatch(region):
        raise LocalFault("bucket_region", f"{region!a:.60} is not the name of a region", "Correct AWS_REGION.")
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:
        expires = _moment(environment.get("AWS_CREDENTIAL_EXPIRATION", ""))
        keys = _usable(Credentials(key_id, secret, environment.get("AWS_SESSION_TOKEN") or None, expires))
        return Profile(lambda: keys, region, endpoint)
    source = _of_profile(name, values, is_chosen=name != "default")
    if source is None and environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise LocalFault("bucket_credentials", "there are no credentials for buckets", CREDENTIALS_HINT)
    return Profile(source, region, endpoint)


def _of_profile(name: str, values: Mapping[str, str], *, is_chosen: bool) -> Source | None:
    key_id, secret = values.get("aws_access_key_id"), values.get("aws_secret_access_key")
    if key_id and secret:
        expires = _moment(values.get("aws_expiration") or values.get("x_security_token_expires") or "")
        keys = _usable(Credentials(key_id, secret, values.get("aws_session_token") or None, expires))
        return lambda: keys
    if values.keys() & {"sso_session", "sso_start_url", "role_arn", "credential_process", "login_session"}:
        return _boto_source(name)
    if is_chosen:
        raise LocalFault(
            "bucket_credentials", f"the profile {name!a} has no credentials", "Correct AWS_PROFILE, or set the keys."
        )
    return None


def _boto_source(name: str) -> Source:
    try:
        boto3 = importlib.import_module("boto3")
    except ImportError:
        message = f"the profile {name!a} needs boto3 for its login, and boto3 is not installed"
        raise LocalFault("bucket_credentials", message, _BOTO_HINT) from None
    found: Any = None

    def current() -> Credentials:
        nonlocal found
        try:
            found = found or boto3.Session(profile_name=name).get_credentials()
            keys = found.get_frozen_credentials()
        except _boto_errors():
            message = f"the login of the profile {name!a} cannot be used"
            raise LocalFault("bucket_credentials", message, f"Log in again: aws sso login --profile {name}") from None
        expires = getattr(found, "_expiry_time", None)  # botocore has no public name for it
        return Credentials(keys.access_key, keys.secret_key, keys.token, expires.timestamp() if expires else None)

    return current


def _boto_errors() -> tuple[type[Exception], ...]:
    errors = importlib.import_module("botocore.exceptions")
    return (errors.BotoCoreError, errors.ClientError, AttributeError, OSError, ValueError)  # None has no attributes


def _profile(environment: Mapping[str, str], home: Path, name: str) -> Mapping[str, str]:
    return _sections(environment, home).get(name, {})


def _sections(environment: Mapping[str, str], home: Path) -> dict[str, dict[str, str]]:
    """Return the profiles of the ini files. Keys of the credentials file take precedence."""
    found: dict[str, dict[str, str]] = {}
    for variable, file in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        chosen = environment.get(variable)
        path = Path(chosen).expanduser() if chosen else home / ".aws" / file
        parser = configparser.RawConfigParser(strict=False, default_section="\0")
        try:
            parser.read_string(path.read_text("utf-8", "replace"))
        except FileNotFoundError:
            continue
        except (OSError, configparser.Error):  # an error of the parser quotes the line, which may hold a key
            hint = "Correct the file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            raise LocalFault("bucket_credentials", f"{path} cannot be read", hint) from None
        for section in parser.sections():
            values = {key: value.strip() for key, value in parser.items(section)}
            found.setdefault(section.removeprefix("profile ").strip(), {}).update(values)
    return found


def _is_endpoint(text: str) -> bool:
    """Return whether `text` is the address of a store. The library ends with a panic for some that are not."""
    try:
        address = urlsplit(text)
        has_port = address.port is None or address.port > 0
    except ValueError:
        return False
    plain = (
        bool(address.hostname and has_port) and text.isascii() and text.isprintable() and not set(text) & set(_UNFIT)
    )
    return plain and address.scheme in {"http", "https"} and "@" not in address.netloc and not address.query


def _usable(keys: Credentials) -> Credentials:
    """Return keys that can be sent. Raises LocalFault for others."""
    if not all(value.isascii() and value.isprintable() and " " not in value for value in keys.secrets):
        message = "the credentials for buckets hold characters that no key has"
        raise LocalFault("bucket_credentials", message, "Copy AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY again.")
    return keys


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
