"""The installed command as a real process against a real sandbox process, while both are killed and disconnected.

Only the service's ledger says what was paid for, never the program under test. Everything is on loopback, on ports
assigned by the system, and every process ends with the test that started it. No test sleeps for a fixed time: it polls
a condition with a generous deadline.

python -m tests.soak --kills 1000
"""
