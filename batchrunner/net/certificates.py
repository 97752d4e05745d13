"""Certificates of servers: the user's own authorities, and the fault of an untrusted one.

OpenSSL reads SSL_CERT_FILE and ignores a file that it cannot read. Then nothing is trusted and no error says why. The
file is checked before a run. An untrusted certificate is a matter of settings: waiting does not help, and verification
is never switched off.
"""

from collections.abc import Mapping

from batchrunner.errors import NetworkFault, UsageError

VARIABLE = "SSL_CERT_FILE"
_NAME_IT = f"name the file with the certificates of a private authority, or of an inspecting proxy, in {VARIABLE}"
_CLOCK = ("expired", "not yet valid")


def check(environment: Mapping[str, str]) -> None:
    """Check SSL_CERT_FILE. Raises UsageError if it names a file without certificates."""
    path = environment.get(VARIABLE, "")
    if not path:
        return
    import ssl  # here, as it takes time to load

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # SSLError is one
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"{VARIABLE} cannot be used: {path}: {why}", "Name a PEM file, or unset it. Nothing was submitted."
        ) from None


def not_trusted(error: Exception, host: str, kind: str) -> NetworkFault:
    """The fault of a call whose server's certificate could not be verified. error: of the TLS or HTTP library."""
    cause = getattr(error, "certificate_error", error)
    why = str(getattr(cause, "verify_message", "") or cause)[:200].rstrip(".")
    hint = f"If you trust this network, {_NAME_IT}, and run the same command again."
    if any(phrase in why for phrase in _CLOCK):
        hint = f"Check the clock of this machine. {hint}"
    elif "ostname" in why or "IP address" in why:
        hint = f"Check the address: another server may answer there. {hint}"
    return NetworkFault(kind, f"the certificate of {host} is not trusted: {why} ({_NAME_IT})", hint)
