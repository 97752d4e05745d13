"""Turn the failures of object storage into this program's errors, each with the next step.

A server's message is never passed on: it can quote the request's signature. Only its error code is read.
"""

import re
from dataclasses import dataclass

from batchrunner.errors import CallError, LocalFault, NetworkFault
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.credentials import CREDENTIALS_HINT

_CODE = re.compile(r"<Code>\s*([A-Za-z]{1,60})\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_MOST_CHARS = 1 << 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusal means. kind: the stable slug. text: after "the bucket ...". hint: the next step."""

    kind: str
    text: str
    hint: str


_MISSING = Refusal(
    "bucket_missing", "does not exist", "Correct its name, or set AWS_ENDPOINT_URL to the store that has it."
)
_FORBIDDEN = Refusal(
    "bucket_refused",
    "refuses this access (403)",
    "Allow these credentials to get and list objects there (s3:GetObject, s3:ListBucket; to write, s3:PutObject).",
)
_KEY_REFUSED = Refusal(
    "bucket_credentials", "does not know these credentials", "Correct AWS_ACCESS_KEY_ID, or choose another AWS_PROFILE."
)
_SECRET_REFUSED = Refusal(
    "bucket_credentials",
    "refuses the signature",
    "Correct AWS_SECRET_ACCESS_KEY; it belongs to another key, or was copied incompletely.",
)
_EXPIRED = Refusal(
    "bucket_credentials",
    "refuses the credentials, which have expired",
    "Log in again, then run the same command again.",
)
_REGION = Refusal("bucket_region", "is in another region", "Set AWS_REGION to the bucket's region.")
_CLOCK = Refusal(
    "bucket_clock",
    "refuses this machine's clock",
    "Set the clock: it differs from the store's by more than 15 minutes.",
)
_BUSY = Refusal("bucket_unreachable", "is busy", "Try again later.")
_BY_CODE = {
    "NoSuchBucket": _MISSING,
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "InvalidAccessKeyId": _KEY_REFUSED,
    "InvalidToken": _KEY_REFUSED,
    "SignatureDoesNotMatch": _SECRET_REFUSED,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
}
_BY_STATUS = {"301": _REGION, "307": _REGION, "401": _FORBIDDEN, "403": _FORBIDDEN}
_HINTS = {
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.",
}
_METADATA = ("//169.254.", "//metadata.google", "//[fd00:ec2::254]", "//oauth2.googleapis")  # hosts of roles
_UNREACHABLE_HINT = "Check the network and AWS_ENDPOINT_URL, then run the same command again. Nothing was paid for."


def code_of(error: BaseException) -> str:
    """Return the error code in the server's answer, or "": the answer to a HEAD has none."""
    found = _CODE.search(str(error)[:_MOST_CHARS])
    return found[1] if found else ""


def fault_of(error: BaseException, address: ObjectAddress) -> CallError:
    """Return the error for a failed call about `address`."""
    text = str(error)[:_MOST_CHARS]
    status = found[1] if (found := _STATUS.search(text)) else ""
    refusal = _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status)
    if refusal is None and "redirect without LOCATION" in text:
        refusal = _REGION
    if any(place in text for place in _METADATA) or (refusal is None and "credential" in text.lower()):
        return no_credentials(address)
    if refusal is not None:
        maker = NetworkFault if refusal is _BUSY else LocalFault
        hint = _HINTS.get(address.scheme, refusal.hint) if "AWS_" in refusal.hint else refusal.hint
        return maker(refusal.kind, f"the bucket {address.place} {refusal.text} ({address.key or 'list'})", hint)
    if isinstance(error, FileNotFoundError):
        return LocalFault("object_missing", f"there is no object {address}", "Correct the key, or upload the object.")
    if status.startswith("5") or status == "429":
        return NetworkFault(_BUSY.kind, f"the bucket {address.place} {_BUSY.text} (HTTP {status})", _BUSY.hint)
    if status:
        message = f"the bucket {address.place} refuses the request (HTTP {status}, {code_of(error) or 'no code'})"
        return LocalFault("bucket_refused", message, "Check that the store supports the S3 protocol, and the bucket.")
    return NetworkFault("bucket_unreachable", f"the store of {address.place} cannot be reached", _UNREACHABLE_HINT)


def no_credentials(address: ObjectAddress) -> LocalFault:
    """Return the error for a bucket that cannot be opened with what the user has set."""
    hint = _HINTS.get(address.scheme, CREDENTIALS_HINT)
    return LocalFault("bucket_credentials", f"no credentials for the bucket {address.place}", hint)
