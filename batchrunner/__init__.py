"""batchrunner runs batches of hosted video generations.

The package has one front door for people, the ``batchrunner`` command (`batchrunner.cli`), and one for programs,
`batchrunner.app.runner`. Nothing inside imports this file.
"""

__version__ = "0.1.0"
