"""The loaders of other projects, offline.

Without a package its tests are skipped with a message; with ``BATCHRUNNER_LOADERS=required`` (CI) they fail.
"""

import importlib
import os
from typing import Any

import pytest


def require(package: str) -> Any:
    """Return the package; without it, skip with a message, or fail if the loaders are required."""
    try:
        return importlib.import_module(package)
    except ImportError:
        message = f"NOT TESTED, data sets in {package}: it is not installed (pip install -e '.[loaders]')"
        if os.environ.get("BATCHRUNNER_LOADERS") == "required":
            pytest.fail(message)
        pytest.skip(message)
