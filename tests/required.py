"""Tests that need what some machines lack: skipped without it, unless an environment variable requires it."""

import os
from typing import NoReturn

import pytest


def not_tested(subject: str, variable: str, why: str) -> NoReturn:
    """Skip with a message, or fail if the environment variable is ``required``. subject: of the tests."""
    message = f"NOT TESTED, {subject}: {why}"
    if os.environ.get(variable) == "required":
        pytest.fail(message)
    pytest.skip(message)
