"""Read config.yaml: limits of accounts, the user's hook, allowed buckets, with a diagnostic for every problem."""

from collections.abc import Mapping
from pathlib import Path

from batchrunner.account.limits import NO_LIMITS, Limits, read_limits
from batchrunner.errors import ManifestError, UsageError
from batchrunner.manifest.diagnostics.diagnostic import Findings, count
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping
from batchrunner.storage.objects.address import allowed_place

_MOST_BYTES = 1 << 20


def load(path: Path) -> Mapping[str, Limits]:
    """Return the limits by account; a missing file has none.

    Raises ManifestError with all problems, UsageError if the file cannot be read.
    """
    return _parsed(path)[0]


def on_clip(path: Path) -> str | None:
    """Return the user's hook for finished clips, or None. Raises as `load`."""
    return _parsed(path)[1]


def buckets(path: Path) -> tuple[str, ...]:
    """Return the buckets that the user allows, as written. Raises as `load`."""
    return _parsed(path)[2]


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            "It holds the limits of your account. Make it readable, or remove it. Nothing was submitted.",
        ) from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", "Nothing was submitted.")
    return data


def _parsed(path: Path) -> tuple[Mapping[str, Limits], str | None, tuple[str, ...]]:
    data = _content(path)
    if not data.strip():
        return NO_LIMITS, None, ()
    findings = Findings(str(path), data)
    from batchrunner.manifest.yaml_source import parser  # here, as most users have no config.yaml

    root = parser.parse(data, findings)
    found = read_limits(root, findings) if root is not None else NO_LIMITS
    hook = root.get("on_clip") if isinstance(root, YamlMapping) else None
    if hook is not None and not (isinstance(hook, str) and hook.strip() and "\0" not in hook):
        findings.error("wrong-type", root.value_marks["on_clip"], "'on_clip' must be a command", "write it as text")
    named = root.get("buckets") if isinstance(root, YamlMapping) else None
    for name in named if isinstance(named, YamlList) else ():
        try:
            allowed_place(str(name))
        except UsageError as error:
            findings.error("not-allowed", root.value_marks["buckets"], error.message, error.hint)
    if named is not None and not isinstance(named, YamlList):
        findings.error("wrong-type", root.value_marks["buckets"], "'buckets' must be a list", "[s3://bucket]")
    if findings.errors:
        raise ManifestError(f"{path}: {count(len(findings.errors), 'error')}", findings.all)
    return found, hook, tuple(map(str, named or ()))
