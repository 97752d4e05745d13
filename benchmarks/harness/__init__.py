"""The shared code of the benchmarks: jobs, the sandbox as a process, contenders, kills, checks, the written page.

Rule: contenders are judged by the sandbox's ledger and by the files that they leave, never by their output. Nothing
here imports batchrunner: it is one of the contenders and is started by its installed command.
"""
