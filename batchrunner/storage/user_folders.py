"""Where the program keeps what all batches of a user share: the platform's state folder."""

from collections.abc import Mapping
from pathlib import Path

from batchrunner.storage.paths import expanded

STATE_VARIABLE = "BATCHRUNNER_STATE"
_APP = "batchrunner"


def state_folder(environment: Mapping[str, str]) -> Path | None:
    """Return the state folder, which may not exist; None if the environment gives no absolute path.

    ``BATCHRUNNER_STATE`` moves it. ``XDG_STATE_HOME`` works as on every Linux system; a relative one counts as unset.
    """
    moved = environment.get(STATE_VARIABLE, "").strip()
    if moved:
        return Path(expanded(moved)).absolute()
    base = Path(expanded(environment.get("XDG_STATE_HOME", "").strip()))
    if base.is_absolute():
        return base / _APP
    if not environment.get("HOME"):
        return None
    import platformdirs

    return Path(platformdirs.user_state_path(_APP))
