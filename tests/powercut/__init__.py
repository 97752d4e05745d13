"""Power cuts of a real run: what it did to its files is recorded, and a disk is made as a cut may have left it.

`batchrunner run` and the sandbox are real processes under the library of `tests.preload`, which records writes,
flushes and names in the order in which they happened. For a place in that record, `Disk` knows what is safe and what
is not; `Disk.left` makes the files that a power cut at this place may leave: everything, only what was flushed, or
some of the rest, torn and reordered. There a run continues, against a service that has accepted what it had accepted
at this place, and the judge of the soak looks at the outcome.

    python -m tests.powercut --help
"""
