"""The way in: `batchrunner`, and `python -m batchrunner` where its script is not on the path.

Rule: nothing is imported before Ctrl-C is quiet. While the command is loaded it ends the process as it ends any other
program; from then on the command says what was interrupted.
"""

import signal


def main() -> None:
    """The `batchrunner` command."""
    speaks = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else somebody has it ignored
    if speaks:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from batchrunner.cli import main as command

    if speaks:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
