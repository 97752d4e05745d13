"""batchrunner's package at another commit, as a contender beside the one in the working tree."""

import compileall
import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def unpacked(commit: str, folder: Path) -> Path:
    """Unpack the files of a commit into `folder`, compile its package, and return the folder, for PYTHONPATH."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    compileall.compile_dir(folder / "batchrunner", quiet=1)  # as an installed package is
    return folder


def environment(package: Path | None) -> dict[str, str]:
    """Return the variables that make Python import batchrunner from `package`; none for the working tree."""
    return {} if package is None else {"PYTHONPATH": str(package)}
