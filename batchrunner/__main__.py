"""The way in: `batchrunner`, and `python -m batchrunner` where its script is not on the path.

Rule: nothing is imported before Ctrl-C is quiet. While the command is loaded it ends the process as it ends any other
program; from then on the command says what was interrupted. File names are UTF-8, whatever the locale is.
"""

import os
import signal
import sys


def main() -> None:
    """The `batchrunner` command."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        # Manifests are UTF-8, and so are the names on disks. Only a new interpreter can be told so.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 (this program again)
    speaks = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else somebody has it ignored
    if speaks:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from batchrunner.cli import main as command

    if speaks:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
