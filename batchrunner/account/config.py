"""Read config.yaml: the limits of accounts, with a diagnostic for every problem."""

from collections.abc import Mapping
from pathlib import Path

from batchrunner.account.limits import NO_LIMITS, Limits, read_limits
from batchrunner.errors import ManifestError, UsageError
from batchrunner.manifest.diagnostics.diagnostic import Findings, count
from batchrunner.manifest.yaml_source import parser

_MOST_BYTES = 1 << 20


def load(path: Path) -> Mapping[str, Limits]:
    """Return the limits by account; a missing file has none.

    Raises ManifestError with all problems, UsageError if the file cannot be read.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            "It holds the limits of your account. Make it readable, or remove it. Nothing was submitted.",
        ) from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", "Nothing was submitted.")
    if not data.strip():
        return NO_LIMITS
    findings = Findings(str(path), data)
    root = parser.parse(data, findings)
    found = read_limits(root, findings) if root is not None else NO_LIMITS
    if findings.errors:
        raise ManifestError(f"{path}: {count(len(findings.errors), 'error')}", findings.all)
    return found
