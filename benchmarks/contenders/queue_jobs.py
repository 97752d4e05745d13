"""The documentation's sample as tasks of huey, its queue in SQLite: queue_jobs.py BODIES CLIPS AT_ONCE"""

import sys
from pathlib import Path

from documented import generate
from huey import SqliteHuey

huey = SqliteHuey(filename="queue.db")


@huey.task()
def job(body: str, clip: str) -> bool:
    generate(Path(body), Path(clip))
    return True


if __name__ == "__main__":
    bodies, clips, at_once = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    asked = [job(str(body), str(clips / f"{body.stem}.mp4")) for body in sorted(bodies.glob("*.json"))]
    consumer = huey.create_consumer(workers=at_once, worker_type="thread", initial_delay=0.01, max_delay=0.1)
    consumer.start()
    for item in asked:
        item.get(blocking=True, timeout=600, backoff=1.0, max_delay=0.05)
    consumer.stop(graceful=True)
