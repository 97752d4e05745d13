"""The folders for what batches share: state (the index) and configuration (config.yaml), as the platform has them.

``BATCHRUNNER_STATE`` moves the state folder. ``XDG_STATE_HOME`` and ``XDG_CONFIG_HOME`` work as on every Linux system.
"""

from collections.abc import Mapping
from pathlib import Path

import platformdirs

from batchrunner.storage.paths import expanded

STATE_VARIABLE = "BATCHRUNNER_STATE"
_APP = "batchrunner"


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the index."""
    moved = environment.get(STATE_VARIABLE, "").strip()
    if moved:
        return Path(expanded(moved)).absolute()
    return _below(environment, "XDG_STATE_HOME") or Path(platformdirs.user_state_path(_APP))


def config_file(environment: Mapping[str, str]) -> Path:
    """Return the path of config.yaml; the file may be missing."""
    folder = _below(environment, "XDG_CONFIG_HOME") or Path(platformdirs.user_config_path(_APP))
    return folder / "config.yaml"


def _below(environment: Mapping[str, str], variable: str) -> Path | None:
    """Return the program's folder below the one that `variable` names. A relative one counts as unset, as XDG says."""
    folder = Path(expanded(environment.get(variable, "").strip()))
    return folder / _APP if folder.is_absolute() else None
