"""Clips wait for their copy in the order of their moments, each once."""

from batchrunner.engine.delivery_queue import DeliveryQueue


def test_clips_leave_in_the_order_of_their_moments() -> None:
    queue = DeliveryQueue()
    queue.add("b", 5.0)
    queue.add("a", 3.0)
    queue.add("a", 1.0)
    assert (len(queue), queue.next_due, "a" in queue) == (2, 3.0, True)
    assert queue.pop(2.9) is None
    assert queue.pop(3.0) == "a"
    assert "a" not in queue
    assert sorted(queue.clear()) == ["b"]
    assert (len(queue), queue.next_due, queue.pop(9.0)) == (0, None, None)
