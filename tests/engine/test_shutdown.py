"""A run stops once, closes for a limited time, and is aborted by the second signal."""

from batchrunner.engine.shutdown import Shutdown
from batchrunner.plan.endings import StopReason


def test_the_first_reason_stays() -> None:
    shutdown = Shutdown()
    full, interrupted = StopReason("disk_full", "the disk is full"), StopReason("interrupted", "SIGINT received")
    assert [shutdown.stop(full), shutdown.stop(interrupted)] == [True, False]
    assert shutdown.reason is full
    assert not shutdown.closing


def test_a_reason_that_needs_a_person_replaces_a_planned_one() -> None:
    shutdown = Shutdown()
    shutdown.stop(StopReason("deadline", "the deadline is reached"))
    assert shutdown.stop(StopReason("unauthorized", "the key is refused"))
    assert (str(shutdown.reason), shutdown.reason.kind) == ("the key is refused", "unauthorized")


def test_the_first_grace_stays() -> None:
    shutdown = Shutdown()
    shutdown.close(30.0)
    shutdown.close(99.0)
    assert shutdown.closing
    assert shutdown.closing_until == 30.0


def test_the_second_signal_aborts() -> None:
    shutdown = Shutdown()
    shutdown.signal()
    assert not shutdown.aborted
    shutdown.signal()
    assert shutdown.aborted
