"""The installed command as a real process, against a real sandbox process, while both are killed and cut off.

Rule: what was paid for is asked of the service's ledger alone, never of the program under test. Everything is on
loopback, on ports that the system gives, and every process ends with the test that started it. Nothing sleeps for a
fixed time to let something happen: conditions are polled for, under a generous deadline.

    python -m tests.soak --kills 1000
"""
