"""Measure the cost of the live screen: a synthetic run with 1,000 jobs in flight on a pseudo-terminal of 120 by 40.

    python benchmarks/live_screen.py

Ten minutes of a run are simulated by events only: five to six generations start and end each second, with four frames
per second. The result is the CPU time of processing and drawing the events, as a fraction of ten minutes.
"""

import fcntl
import os
import struct
import termios
import threading
import time
from contextlib import suppress
from typing import Any

from batchrunner.events import Alive, Fetching, JobMoved, JobSeen, RunStarted
from batchrunner.job import Job, Media, Move, Record, advance, count_states
from batchrunner.plan.prices import INFERRED
from batchrunner.progress.progress import make_progress

JOBS, IN_FLIGHT, SECONDS, TICKS = 10_000, 1_000, 600, 4
NOW, CREDITS = 1_795_384_500.0, 500_000.0


class SimulatedRun:
    def __init__(self, show: Any) -> None:
        self.show, self.at = show, NOW
        inputs = {"video": Media("video", "a.mp4", duration_s=5.0), "image": Media("image", "a.png")}
        sizes = ("480p", "580p", "720p")
        jobs = [Job(f"sha256:{n:064x}", "wan", inputs, {"resolution": sizes[n % 3]}) for n in range(JOBS)]
        self.records = [Record(job) for job in jobs]
        by_job = {record.job.fingerprint: record for record in self.records}
        ids = {name: (f"job-{n}",) for n, name in enumerate(by_job)}
        prices = dict.fromkeys(by_job, CREDITS)
        states = count_states(self.records)
        show(RunStarted(NOW, "night", "aimlapi", "output", IN_FLIGHT, states, by_job, prices, (INFERRED,), ids))

    def move(self, number: int, move: Move, **attempt: Any) -> None:
        self.records[number] = advance(self.records[number], move, **attempt)
        self.show(JobMoved(self.at, (f"job-{number}",), move, self.records[number]))

    def submit(self, number: int) -> None:
        self.move(number, Move.BEGIN_SUBMIT, request_id="r", submitted_at=self.at, estimate=CREDITS)
        self.move(number, Move.ACCEPT, generation_id="g", accepted_at=self.at)

    def finish(self, number: int) -> None:
        name = (f"job-{number}",)
        self.records[number] = self.records[number].with_attempt(generating_at=self.at - 100)
        self.show(JobSeen(self.at, name, self.records[number]))
        self.records[number] = self.records[number].with_attempt(completed_at=self.at)
        self.show(Fetching(self.at, name, self.records[number].job.fingerprint, 1000, 5000))
        self.move(number, Move.DELIVER, ended_at=self.at)

    def live(self) -> int:
        """Simulate ten minutes and return the number of finished jobs."""
        for number in range(IN_FLIGHT):
            self.submit(number)
        done = 0
        for tick in range(SECONDS * TICKS):
            self.at += 1 / TICKS
            for _ in range(1 if tick % 3 else 2):
                self.finish(done)
                self.submit(IN_FLIGHT + done)
                done += 1
            self.show(Alive(self.at))
        return done


def main() -> None:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.environ |= {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    drawn = [0]

    def read() -> None:
        with suppress(OSError):  # the terminal's other end is closed
            while True:
                drawn[0] += len(os.read(master, 65536))

    threading.Thread(target=read, daemon=True).start()
    with make_progress(stream=os.fdopen(slave, "w"), quiet=False, plain=False) as show:
        before_s = time.process_time()
        done = SimulatedRun(show).live()
        spent_s = time.process_time() - before_s
    print(
        f"{SECONDS} s of a run, {done:,} of {JOBS:,} jobs finished, {IN_FLIGHT:,} in flight, {TICKS} frames a second:"
    )
    print(f"{spent_s:.1f} s of processor time, {100 * spent_s / SECONDS:.1f} % of a core")
    print(f"{drawn[0] / SECONDS / 1000:.0f} kB/s drawn")


if __name__ == "__main__":
    main()
