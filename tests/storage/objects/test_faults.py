import pytest

from batchrunner.errors import LocalFault, NetworkFault
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.faults import fault_of

ADDRESS = ObjectAddress("s3", "clips", "a.mp4")
SERVER = "Error performing GET http://127.0.0.1/clips/a.mp4 in 1ms - Server returned non-2xx status code: "
SECRET = "6fb2ce474b2b2b5d8112bba2101cae0dd5b026a060afe610329f15f910ad349b"


def answer(status: int, code: str) -> OSError:
    return OSError(f"{SERVER}{status} No: <Error><Code>{code}</Code><SignatureProvided>{SECRET}</SignatureProvided>")


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (answer(404, "NoSuchBucket"), "bucket_missing", "name"),
        (answer(403, "AccessDenied"), "bucket_refused", "s3:GetObject"),
        (answer(403, "InvalidAccessKeyId"), "bucket_credentials", "AWS_ACCESS_KEY_ID"),
        (answer(403, "SignatureDoesNotMatch"), "bucket_credentials", "AWS_SECRET_ACCESS_KEY"),
        (answer(400, "ExpiredToken"), "bucket_credentials", "Log in"),
        (answer(403, "RequestTimeTooSkewed"), "bucket_clock", "clock"),
        (answer(301, "PermanentRedirect"), "bucket_region", "AWS_REGION"),
        (answer(400, "AuthorizationHeaderMalformed"), "bucket_region", "AWS_REGION"),
        (OSError("Received redirect without LOCATION, this normally indicates"), "bucket_region", "AWS_REGION"),
        (answer(503, "SlowDown"), "bucket_unreachable", "later"),
        (answer(502, "Whatever"), "bucket_unreachable", "later"),
        (OSError("HTTP error: error sending request"), "bucket_unreachable", "AWS_ENDPOINT_URL"),
        (OSError("http://169.254.169.254/latest/api/token: timed out"), "bucket_credentials", "AWS_PROFILE"),
        (FileNotFoundError(f"{SERVER}404 Not Found: "), "object_missing", "key"),
        (answer(418, "Teapot"), "bucket_refused", "S3"),
        (OSError(f"{SERVER}403 Forbidden: "), "bucket_refused", "s3:GetObject"),
    ],
)
def test_a_failure_has_a_kind_and_a_next_step_and_no_text_of_the_server(error: OSError, kind: str, named: str) -> None:
    fault = fault_of(error, ADDRESS)
    assert (fault.kind, fault.in_doubt) == (kind, False)
    assert named in fault.hint
    assert "clips" in fault.message
    assert "\n" not in fault.message
    assert SECRET not in f"{fault.message} {fault.hint}"
    assert isinstance(fault, NetworkFault if kind == "bucket_unreachable" else LocalFault)


@pytest.mark.parametrize(("scheme", "variable"), [("gs", "GOOGLE_APPLICATION_CREDENTIALS"), ("az", "AZURE_STORAGE")])
def test_the_next_step_fits_the_store(scheme: str, variable: str) -> None:
    address = ObjectAddress(scheme, "clips", "a.mp4")
    fault = fault_of(OSError("http://metadata.google.internal: timed out"), address)
    assert variable in fault.hint
    assert "AWS" not in fault.hint
