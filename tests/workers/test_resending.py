"""An executor over a cluster that loses tasks, workers and its scheduler. The cluster is a fake one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from batchrunner.workers.resending import Patience, Resending

SOON = 20.0  # a bound for events that come at once
QUICK = Patience(0.01, 2)


class FakeCluster:
    """A cluster whose outcomes a test decides."""

    name = "the cluster"

    def __init__(self, answer: Callable[["Future[Any]", Callable[..., Any], tuple[Any, ...]], None]) -> None:
        self.epoch = 1
        self.answer = answer
        self.state = ""
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self.is_closed = False

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        self.sent.append((key, arguments))
        future: Future[Any] = Future()
        self.answer(future, function, arguments)
        return future

    def problem(self) -> str:
        return self.state

    def close(self) -> None:
        self.is_closed = True


def double(number: int) -> int:
    return 2 * number


def works(future: "Future[Any]", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    future.set_result(function(*arguments))


def loses(future: "Future[Any]", *_: Any) -> None:
    future.set_exception(KeyError("KilledWorker"))


def cancels(future: "Future[Any]", *_: Any) -> None:
    future.cancel()


def never(*_: Any) -> None:
    """The cluster gives no answer."""


@contextmanager
def over(cluster: FakeCluster, notices: list[str], patience: Patience = QUICK) -> Iterator[Resending]:
    with ThreadPoolExecutor(max_workers=1) as here:
        executor = Resending(cluster, here, notices.append, patience)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


def test_a_task_goes_to_the_cluster_once() -> None:
    notices: list[str] = []
    cluster = FakeCluster(works)
    with over(cluster, notices) as executor:
        assert executor.submit(double, 4).result(SOON) == 8
    assert len(cluster.sent) == 1
    assert notices == []
    assert cluster.is_closed


def test_equal_work_has_an_equal_key_and_each_sending_its_own() -> None:
    cluster = FakeCluster(works)
    with over(cluster, []) as executor:
        for number in (4, 4, 5):
            executor.submit(double, number).result(SOON)
    first, second, other = (key for key, _ in cluster.sent)
    assert first == second != other


@pytest.mark.parametrize("loss", [loses, cancels])
def test_a_lost_task_is_sent_again_with_another_key(loss: Callable[..., None]) -> None:
    notices: list[str] = []
    cluster = FakeCluster(loss)

    def once(future: "Future[Any]", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        cluster.answer = works
        loss(future, function, arguments)

    cluster.answer = once
    with over(cluster, notices) as executor:
        assert executor.submit(double, 4).result(SOON) == 8
    assert len({key for key, _ in cluster.sent}) == 2
    assert len(notices) == 1
    assert "sent again" in notices[0]


def test_a_task_that_is_always_lost_runs_here() -> None:
    notices: list[str] = []
    cluster = FakeCluster(loses)
    with over(cluster, notices) as executor:
        assert [executor.submit(double, number).result(SOON) for number in (1, 2)] == [2, 4]
    assert len(cluster.sent) == 6
    assert len(notices) == 1, "one notice, not one a task"


def test_a_cluster_that_refuses_tasks_is_replaced_by_this_machine() -> None:
    def refuses(*_: Any) -> None:
        raise RuntimeError("client is closed")

    with over(FakeCluster(refuses), []) as executor:
        assert executor.submit(double, 4).result(SOON) == 8


@pytest.mark.parametrize("state", ["does not answer", "has no workers"])
def test_a_silent_cluster_is_noticed_and_everything_open_runs_here(state: str) -> None:
    notices: list[str] = []
    cluster = FakeCluster(never)
    cluster.state = state
    with over(cluster, notices) as executor:
        assert [item.result(SOON) for item in [executor.submit(double, number) for number in (1, 2, 3)]] == [2, 4, 6]
        assert executor.submit(double, 9).result(SOON) == 18
    assert len(cluster.sent) == 3, "nothing is sent to a cluster that is away"
    assert len(notices) == 1
    assert f"the cluster {state}" in notices[0]
    assert "nothing is paid again" in notices[0]


def test_work_goes_to_the_cluster_again_when_it_is_back() -> None:
    is_back = threading.Event()
    notices: list[str] = []

    def note(message: str) -> None:
        notices.append(message)
        if "is back:" in message:
            is_back.set()

    cluster = FakeCluster(never)
    cluster.state = "does not answer"
    with ThreadPoolExecutor(max_workers=1) as here:
        executor = Resending(cluster, here, note, QUICK)
        assert executor.submit(double, 4).result(SOON) == 8
        cluster.state, cluster.answer = "", works
        assert is_back.wait(SOON)
        assert executor.submit(double, 5).result(SOON) == 10
        executor.shutdown(wait=False)
    assert [arguments for _, arguments in cluster.sent] == [(4,), (5,)]


def test_tasks_of_an_earlier_connection_are_sent_over_the_new_one() -> None:
    cluster = FakeCluster(never)
    with over(cluster, []) as executor:
        task = executor.submit(double, 4)
        cluster.answer = works
        cluster.epoch = 2
        assert task.result(SOON) == 8
    assert len(cluster.sent) == 2


def test_a_second_result_is_compared_with_the_first() -> None:
    """The first worker was slow, not dead: its late result differs from that of the second one."""
    notices: list[str] = []
    slow: list[Future[Any]] = []
    cluster = FakeCluster(lambda future, *_: slow.append(future))
    with over(cluster, notices) as executor:
        task = executor.submit(double, 4)
        cluster.answer = works
        cluster.epoch = 2
        assert task.result(SOON) == 8
        slow[0].set_result(9)
        assert task.result(SOON) == 8, "the first counts"
    assert len(notices) == 1
    assert "a second result of one task differs from the first" in notices[0]


def test_equal_second_results_are_not_worth_a_notice() -> None:
    notices: list[str] = []
    with over(FakeCluster(works), notices) as executor:
        assert {executor.submit(double, 4).result(SOON) for _ in range(3)} == {8}
    assert notices == []


def test_other_results_of_equal_content_are_reported() -> None:
    notices: list[str] = []
    values = iter([8, 9])
    with over(FakeCluster(lambda future, *_: future.set_result(next(values))), notices) as executor:
        assert [executor.submit(double, 4).result(SOON) for _ in range(2)] == [8, 9]
    assert "the result of equal content differs" in notices[0]


def test_the_end_leaves_no_task_waiting() -> None:
    cluster = FakeCluster(never)
    with over(cluster, [], Patience(60.0, 2)) as executor:
        task = executor.submit(double, 4)
    with pytest.raises(RuntimeError, match="ended before"):
        task.result(SOON)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 4)
