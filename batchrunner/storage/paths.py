"""Paths as a user writes them: ``~`` and ``~user`` at the beginning are home folders, in every place that takes a path.

A name that begins with ``~`` and names no user is left as it is, as a shell does; who would write there asks for
`written`, which refuses it. To name a folder that is called ``~``, write ``./~``.
"""

import os
from pathlib import Path

from batchrunner.errors import UsageError


def expanded(text: str) -> str:
    """The path with its home folder written out."""
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 (Path raises where there is none)


def written(text: str) -> str:
    """The same, for a path that is to be written. Raises ValueError where the home folder is not known."""
    path = expanded(text)
    if path.startswith("~"):
        raise ValueError(f"there is no home folder for {path.partition('/')[0]}; write ./~ for a folder of that name")
    return path


def require_not_kept_in_tilde(folder: Path, journal: Path) -> None:
    """Refuse a run directory whose batch lies in a folder that is called ``~``. Raises UsageError.

    Earlier versions took ``~`` for a name: with the home folder in its place, every job would be paid for again.
    journal: of the run directory.
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
