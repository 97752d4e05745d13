"""The clip whose link expires first is downloaded first."""

from batchrunner.engine.download_queue import DownloadQueue

SOONER = "https://files.example.com/b.mp4?Expires=1800000100"
LATER = "https://files.example.com/a.mp4?Expires=1800009999"
NEVER = "https://files.example.com/c.mp4"


def filled() -> DownloadQueue:
    queue = DownloadQueue()
    for fingerprint, url in (("c", NEVER), ("a", LATER), ("b", SOONER)):
        queue.add(fingerprint, url)
    return queue


def test_the_link_that_expires_first_is_fetched_first() -> None:
    queue = filled()
    assert [queue.pop() for _ in range(3)] == [("b", SOONER), ("a", LATER), ("c", NEVER)]
    assert len(queue) == 0


def test_clearing_names_the_jobs_that_waited() -> None:
    queue = filled()
    assert sorted(queue.clear()) == ["a", "b", "c"]
    assert len(queue) == 0
