"""What the benchmarks share: jobs, the sandbox as a process, contenders, kills, the judge, the written page.

Rule: contenders are judged by the sandbox's ledger and by the files they leave, never by what they print. Nothing here
imports batchrunner: it is one contender among others, started by its installed command.
"""
