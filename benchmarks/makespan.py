"""Measure how long a batch takes, by the order of submissions and the poll policy. See benchmarks/MAKESPAN.md.

    python benchmarks/makespan.py            # writes MAKESPAN.md and its part of RESULTS.md; some ten minutes
    python benchmarks/makespan.py --smoke    # a few jobs, writes nothing

A simulation with the real `batchrunner.engine.polling.poller.Poller` and the real order of submissions
(`batchrunner.plan.submission_order`). Everything is seeded: the figures do not depend on the machine.
"""

import argparse
import heapq
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Protocol

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from harness import makespan_page, results  # noqa: E402 (after the path)
from polling import CASES, INPUTS, Fixed, Ours  # noqa: E402 (after the path)

from batchrunner.engine.polling.duration_model import expected_in  # noqa: E402
from batchrunner.job import Attempt, Job, Media, Record, State  # noqa: E402
from batchrunner.plan.submission_order import LongestFirst, ManifestOrder  # noqa: E402

INTERVAL_S = 15.0
CAPS = (4, 8, 16, 32, 64)
FACTORS = {"480p": 1.0, "580p": 1.5, "720p": 2.25}
EARLIER = 200  # jobs of the history


@dataclass(frozen=True, slots=True)
class Item:
    """A job of a workload. expected_s: without chance. queued_s: in the service's queue; took_s: generating."""

    job: Job
    expected_s: float
    queued_s: float
    took_s: float

    @property
    def whole_s(self) -> float:
        """Return how long it holds its slot if its end is seen at once."""
        return self.queued_s + self.took_s


def mixed(rng: Random, jobs: int, *, start_s: float, second_s: float, spread: float) -> list[Item]:
    """Return jobs of 3 to 10 s at three resolutions. A generation takes start_s, and second_s per second at 480p."""
    items = []
    for number in range(jobs):
        clip_s, resolution = rng.uniform(3, 10), rng.choice(list(FACTORS))
        inputs = {**INPUTS, "video": Media("video", "v", duration_s=clip_s)}
        factor = FACTORS[resolution] if second_s else 1.0
        expected_s = (start_s + second_s * clip_s) * factor
        job = Job(str(number), "model", inputs, {"resolution": resolution})
        items.append(Item(job, expected_s, 0.0, expected_s * math.exp(rng.gauss(0, spread))))
    return items


def equal(case: str, rng: Random, jobs: int) -> list[Item]:
    """Return jobs that do not differ, with the durations of a case of polling.py."""
    drawn = [CASES[case](Random(f"{rng.random()}"), number / jobs) for number in range(jobs)]
    return [
        Item(Job(str(number), "model", INPUTS, {"resolution": "480p"}), 0.0, *waits_and_takes)
        for number, waits_and_takes in enumerate(drawn)
    ]


Workload = Callable[[Random, int], list[Item]]
WORKLOADS: dict[str, Workload] = {
    "mixed": lambda rng, jobs: mixed(rng, jobs, start_s=0.0, second_s=6.5, spread=0.2),
    "mixed, 20 s of start": lambda rng, jobs: mixed(rng, jobs, start_s=20.0, second_s=4.0, spread=0.2),
    "mixed, times do not depend on the job": lambda rng, jobs: mixed(rng, jobs, start_s=55.0, second_s=0.0, spread=0.5),
}


def known(name: str) -> Workload:
    """Return a workload, or a case of polling.py."""
    return WORKLOADS.get(name) or (lambda rng, jobs: equal(name, rng, jobs))


class Policy(Protocol):
    """Order and polls. `next_poll` returns the earliest poll and removes it."""

    def next_job(self) -> Item | None: ...

    def accepted(self, item: Item, now: float) -> None: ...

    def unfinished(self, name: str, now: float, generating: bool) -> None: ...

    def complete(self, name: str, now: float) -> None: ...

    def next_poll(self) -> tuple[float, str] | None: ...


class InOrder:
    """A poll policy of polling.py with the order of the manifest."""

    def __init__(self, polls: Fixed, items: Sequence[Item]) -> None:
        self.polls = polls
        self.waiting = list(items)[::-1]
        self.unfinished, self.complete, self.next_poll = polls.unfinished, polls.complete, polls.next_poll

    def next_job(self) -> Item | None:
        return self.waiting.pop() if self.waiting else None

    def accepted(self, item: Item, now: float) -> None:
        self.polls.accepted(item.job.fingerprint, now)


class Batchrunner(Ours):
    """batchrunner's polls and its order. longest_first: False for the order of the manifest. by_work: whether the age
    of a generation counts in the work of its job.
    """

    def __init__(self, rng: Random, interval_s: float, *, longest_first: bool = True, by_work: bool = True) -> None:
        super().__init__(interval_s, rng)
        self.longest_first, self.by_work = longest_first, by_work

    def begin(self, items: Sequence[Item]) -> "Batchrunner":
        self.items = {item.job.fingerprint: item for item in items}
        expected = expected_in(self.poller._durations)  # noqa: SLF001 (the run passes the same mapping)
        longest = LongestFirst(lambda name: self.items[name].job, {}, expected)
        self.waiting = longest if self.longest_first else ManifestOrder()
        self.waiting.extend(enumerate(self.items))
        return self

    def next_job(self) -> Item | None:
        return self.items[self.waiting.pop()] if self.waiting else None

    def accepted(self, item: Item, now: float) -> None:  # type: ignore[override] # of a job, not of a name
        job = item.job if self.by_work else Job(item.job.fingerprint, item.job.model, INPUTS, item.job.params)
        self.records[job.fingerprint] = Record(
            job, State.IN_FLIGHT, (Attempt(1, job.fingerprint, now, accepted_at=now),)
        )
        self.poller.after_poll(self.records[job.fingerprint], now, first=True)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one batch. ratio: its time to max(sum / cap, longest). poll_count: polls per job."""

    ratio: float
    poll_count: float


def run(items: Sequence[Item], cap: int, policy: Policy, began: float = 0.0) -> tuple[Figures, float]:
    """Run a batch. Return its figures and the time of its end."""
    ends: dict[str, tuple[float, float]] = {}  # of the queue, of the generation
    polls = 0

    def submit(now: float) -> None:
        if (item := policy.next_job()) is not None:
            ends[item.job.fingerprint] = now + item.queued_s, now + item.whole_s
            policy.accepted(item, now)

    for _ in range(cap):
        submit(began)
    now = began
    while (poll := policy.next_poll()) is not None:
        now, name = poll
        polls += 1
        if ends[name][1] <= now:
            policy.complete(name, now)
            submit(now)
        else:
            policy.unfinished(name, now, ends[name][0] <= now)
    return Figures((now - began) / least_s(items, cap), polls / len(items)), now


def least_s(items: Sequence[Item], cap: int) -> float:
    """Return the time that no batch can beat."""
    times_s = [item.whole_s for item in items]
    return max(sum(times_s) / cap, *times_s)


def without_lag(items: Sequence[Item], cap: int) -> Figures:
    """Run a batch whose clips are seen at once, in the order of their true expected times."""
    slots = [0.0] * cap
    for item in sorted(items, key=lambda item: -item.expected_s):
        heapq.heappush(slots, heapq.heappop(slots) + item.whole_s)
    return Figures(max(slots) / least_s(items, cap), 0.0)


def measure(workload: str, policy: str, cap: int, jobs: int, seed: int) -> Figures:
    """Return the figures of one batch."""
    draw, rng = known(workload), Random(seed)
    items = draw(Random(f"{workload} {seed}"), jobs)
    if policy == makespan_page.NO_LAG:
        return without_lag(items, cap)
    if policy in makespan_page.FIXED:
        return run(items, cap, InOrder(Fixed(makespan_page.FIXED[policy], rng), items))[0]
    interval_s = makespan_page.LESS_S if policy == makespan_page.LESS else INTERVAL_S
    ours = Batchrunner(
        rng, interval_s, longest_first=policy in makespan_page.LONGEST, by_work=policy != makespan_page.BEFORE
    )
    ended = 0.0
    if policy == makespan_page.HISTORY:
        earlier = draw(Random(f"before {workload} {seed}"), EARLIER)
        ended = run(earlier, cap, ours.begin(earlier))[1]
    return run(items, cap, ours.begin(items), ended)[0]


def simulate(jobs: int, seeds: int, caps: Sequence[int], cases: Sequence[str]) -> makespan_page.Found:
    """Return the figures of all seeds by workload, policy and cap."""
    wanted = [(load, policy, cap) for load in WORKLOADS for policy in makespan_page.POLICIES for cap in caps]
    both = (makespan_page.BEFORE, makespan_page.COLD)
    wanted += [(case, policy, cap) for case in cases for policy in both for cap in caps if cap in (8, 32)]
    counts = [seeds if one[0] in WORKLOADS else min(seeds, 2) for one in wanted]
    played = [(*one, seed) for one, count in zip(wanted, counts, strict=True) for seed in range(count)]
    loads, policies, played_caps, numbers = zip(*played, strict=True)
    found: makespan_page.Found = {}
    with ProcessPoolExecutor(2) as pool:
        measured = pool.map(measure, loads, policies, played_caps, repeat(jobs), numbers, chunksize=8)
        for (load, policy, cap, _), figures in zip(played, measured, strict=True):
            found.setdefault((load, policy, cap), []).append(figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="a few jobs, write nothing")
    chosen = parser.parse_args()
    jobs, seeds, caps = (24, 1, (8,)) if chosen.smoke else (chosen.jobs, chosen.seeds, CAPS)
    found = simulate(jobs, seeds, caps, tuple(CASES)[:2] if chosen.smoke else tuple(CASES))
    page, section = makespan_page.page(found, jobs, seeds, caps), makespan_page.section(found, jobs, seeds, caps)
    print(page, section, sep="\n")
    if not chosen.smoke:
        (HERE / "MAKESPAN.md").write_text(page)
        results.put("makespan", section, makespan_page.bars(found))


if __name__ == "__main__":
    main()
