"""The entry point of `batchrunner` and of `python -m batchrunner`.

Nothing is imported before Ctrl-C is silent. While the command is being loaded, Ctrl-C ends the process as it ends any
other program; after that the command reports what was interrupted. Once it has ended, Ctrl-C ends the process at once,
with the command's status. File names are UTF-8 in every locale.
"""

import atexit
import os
import signal
import sys


def main() -> None:
    """Run the `batchrunner` command."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        # Manifests and file names are UTF-8. Only a new interpreter can switch to UTF-8.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 (restarts this program)
    speaks = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # false if SIGINT is ignored
    if speaks:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from batchrunner.app.process import ProcessEnd
    from batchrunner.cli import main as command

    end = ProcessEnd()
    atexit.register(end.at_exit)
    if speaks:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except SystemExit as error:
        end.status = error.code
        if speaks:
            signal.signal(signal.SIGINT, end.at_once)
        raise


if __name__ == "__main__":
    main()
