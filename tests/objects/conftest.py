"""The S3 server of these tests.

Without the packages of the extra ``objects`` these tests are skipped; with ``BATCHRUNNER_OBJECTS=required`` (CI) they
fail.
"""

from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.objects.s3_server import Server, ServerMissing, program, serving
from tests.required import not_tested


def absent(why: str) -> NoReturn:
    """Skip with a message, or fail if object storage is required."""
    not_tested("object storage", "BATCHRUNNER_OBJECTS", why)


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Skip the tests, or fail, if a package is missing."""
    try:
        program()
    except ServerMissing as error:
        absent(str(error))


@pytest.fixture(scope="session")
def server(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with serving(tmp_path_factory.mktemp("objects")) as found:
            yield found
    except ServerMissing as error:
        absent(str(error))
