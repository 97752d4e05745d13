"""`python -m batchrunner`: the command, where its script is not on the path."""

from batchrunner.cli import main

if __name__ == "__main__":
    main()
