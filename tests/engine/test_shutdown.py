"""A run stops once, closes for a limited time, and is aborted by the second signal."""

from batchrunner.engine.shutdown import Shutdown


def test_the_first_reason_stays() -> None:
    shutdown = Shutdown()
    assert [shutdown.stop("the disk is full"), shutdown.stop("SIGINT received")] == [True, False]
    assert shutdown.reason == "the disk is full"
    assert not shutdown.closing


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
