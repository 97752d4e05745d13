"""Expand ``~`` and ``~user`` at the beginning of paths, in every place that takes a path.

As in a shell, a name that begins with ``~`` and names no user is unchanged. `written` refuses it for paths that are
written. To name a folder that is called ``~``, write ``./~``.
"""

import os
from pathlib import Path

from batchrunner.errors import UsageError


def expanded(text: str) -> str:
    """Return the path with its home folder expanded."""
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 (Path raises where there is none)


def written(text: str) -> str:
    """Expand a path that will be written. Raises ValueError if the home folder is unknown."""
    path = expanded(text)
    if path.startswith("~"):
        raise ValueError(f"there is no home folder for {path.partition('/')[0]}; write ./~ for a folder of that name")
    return path


def require_not_kept_in_tilde(folder: Path, journal: Path) -> None:
    """Refuse a run directory if its batch is in a folder that is called ``~``. Raises UsageError.

    Earlier versions used ``~`` as a name. With the home folder instead, every job would be paid for again.
    journal: the run directory's journal.
    """
    home = Path(expanded("~"))
    if not folder.is_absolute() or not folder.is_relative_to(home) or journal.exists():
        return
    literal = Path("~", folder.relative_to(home))
    if (literal / journal.relative_to(folder)).exists():
        raise UsageError(
            f"{folder} holds no batch, but the folder ./{literal} does: an earlier version took '~' for a name",
            f"Move it, or every job is paid for again: mv './{literal}' '{folder}'. Nothing was submitted.",
        )
