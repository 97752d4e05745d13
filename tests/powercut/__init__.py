"""Power cuts of a real run: its file operations are recorded, and a disk is built as a cut may have left it.

`batchrunner run` and the sandbox are real processes under the library of `tests.preload`, which records writes,
flushes and names in order. For each point in that record, `Disk` knows what is durable. `Disk.left` builds the files
that a power cut at this point may leave: everything, only what was flushed, or some of the other writes, torn and
reordered. A run then continues there, against a service that has accepted the same submissions, and the checks of the
soak examine the outcome.

python -m tests.powercut --help
"""
