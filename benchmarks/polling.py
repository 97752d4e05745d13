"""Looks and lateness: batchrunner's polling beside fixed intervals and exponential backoff. See benchmarks/POLLING.md.

    python benchmarks/polling.py            # writes POLLING.md and polling.svg; some minutes
    python benchmarks/polling.py --smoke    # a few jobs, writes nothing

First by simulation: the real `batchrunner.poller.Poller` and a few lines for each of the others, on the same durations.
Then the whole engine against the sandbox, in virtual time, with learning and without. Seeded throughout.
"""

import argparse
import heapq
import math
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from harness import polling_page  # noqa: E402 (after the path)

from batchrunner import poller as room  # noqa: E402
from batchrunner.job import Attempt, Job, Media, Record, State  # noqa: E402
from batchrunner.poller import Poller  # noqa: E402

AT_ONCE = 8
EARLIER = 200  # jobs of the history
SWEEP_S = tuple(1.25**power for power in range(25))  # 1 s to 212 s, for the curves of the others
OURS_S = (3.0, 6.0, 10.0, 15.0, 30.0, 60.0)

Draw = Callable[[Random, float], tuple[float, float]]  # of how far the batch is -> seconds in the queue, generating


def lognormal(median_s: float, spread: float) -> Draw:
    return lambda rng, _: (0.0, median_s * math.exp(rng.gauss(0, spread)))


def bimodal(rng: Random, _: float) -> tuple[float, float]:
    return 0.0, (30 if rng.random() < 0.6 else 120) * math.exp(rng.gauss(0, 0.15))


def queued(median_s: float, spread: float) -> Draw:
    return lambda rng, _: (median_s * math.exp(rng.gauss(0, spread)), 55 * math.exp(rng.gauss(0, 0.25)))


def drifting(factor: float) -> Draw:
    return lambda rng, done: (0.0, 55 * (factor if done >= 0.5 else 1.0) * math.exp(rng.gauss(0, 0.5)))


CASES: dict[str, Draw] = {
    **{f"{m} s, spread {s}": lognormal(m, s) for m in (3, 20, 55, 300) for s in (0.25, 0.5, 1.0)},
    "bimodal: 30 or 120 s": bimodal,
    "queue 40 s, then 55 s": queued(40, 1.0),
    "queue 300 s, then 55 s": queued(300, 0.7),
    "55 s doubles half way": drifting(2.0),
    "55 s drops to a third": drifting(1 / 3),
}


class Contender(Protocol):
    """Seconds to the next look."""

    def accepted(self, name: str, now: float) -> float: ...

    def unfinished(self, name: str, now: float, generating: bool) -> float: ...

    def complete(self, name: str, now: float) -> None: ...


class Fixed:
    """Every `interval_s`, give or take a tenth."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        self.interval_s, self.rng = interval_s, rng

    def accepted(self, name: str, now: float) -> float:
        return self.interval_s * self.rng.uniform(0.9, 1.1)

    def unfinished(self, name: str, now: float, generating: bool) -> float:
        return self.accepted(name, now)

    def complete(self, name: str, now: float) -> None:
        pass


class Exponential(Fixed):
    """The first wait is `interval_s`; each one is half as long again, up to eight times the first."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        super().__init__(interval_s, rng)
        self.waits: dict[str, float] = {}

    def accepted(self, name: str, now: float) -> float:
        self.waits[name] = self.interval_s
        return super().accepted(name, now)

    def unfinished(self, name: str, now: float, generating: bool) -> float:
        self.waits[name] = min(1.5 * self.waits[name], 8 * self.interval_s)
        return self.waits[name] * self.rng.uniform(0.9, 1.1)


class Ours:
    """`batchrunner.poller`, asked as the engine asks it."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        self.poller = Poller(interval_s, rng, {})
        self.records: dict[str, Record] = {}

    def accepted(self, name: str, now: float) -> float:
        job = Job(name, "model", Media("video", "v"), Media("image", "i"), {"resolution": "480p"})
        attempt = Attempt(1, name, now, accepted_at=now)
        self.records[name] = Record(job, State.IN_FLIGHT, (attempt,))
        return self._wait(name, now, first=True)

    def unfinished(self, name: str, now: float, generating: bool) -> float:
        if generating:
            self.records[name] = self.records[name].with_attempt(generating_at=now)
        return self._wait(name, now)

    def complete(self, name: str, now: float) -> None:
        self.poller.heed(self.records.pop(name).with_attempt(completed_at=now), now)

    def _wait(self, name: str, now: float, *, first: bool = False) -> float:
        self.poller.after_a_look(self.records[name], now, first=first)
        due = self.poller.next_due
        assert due is not None
        self.poller.pop(due)
        return due - now


@dataclass(frozen=True, slots=True)
class Figures:
    """looks: a job. unseen_s: how long a complete clip lay unseen, on average; unseen_95_s: of 95 % at most so long."""

    looks: float
    unseen_s: float
    unseen_95_s: float


def run(draw: Draw, contender: Contender, seed: str, jobs: int, began: float = 0.0) -> tuple[Figures, float]:
    """A batch, AT_ONCE at a time; its durations are the seed's. Returns what it came to, and when it ended."""
    looks, unseen, todo = 0, [], [*map(str, range(jobs))][::-1]
    ends: dict[str, tuple[float, float]] = {}  # of the queue, of the generation
    due: list[tuple[float, str]] = []

    def submit(now: float) -> None:
        if todo:
            name = todo.pop()
            waits_s, takes_s = draw(Random(f"{seed} {name}"), int(name) / jobs)
            ends[name] = (now + waits_s, now + waits_s + takes_s)
            heapq.heappush(due, (now + contender.accepted(name, now), name))

    for _ in range(AT_ONCE):
        submit(began)
    now = began
    while due:
        now, name = heapq.heappop(due)
        looks += 1
        if ends[name][1] <= now:
            unseen.append(now - ends[name][1])
            contender.complete(name, now)
            submit(now)
        else:
            heapq.heappush(due, (now + contender.unfinished(name, now, ends[name][0] <= now), name))
    unseen.sort()
    return Figures(looks / jobs, sum(unseen) / jobs, unseen[math.ceil(0.95 * jobs) - 1]), now


def measure(case: str, kind: str, interval_s: float, jobs: int, seeds: int) -> Figures:
    """The mean over some batches. kind: a contender's."""
    made = []
    for seed in range(seeds):
        contender = {"fixed": Fixed, "exponential": Exponential}.get(kind, Ours)(interval_s, Random(seed))
        ended = 0.0
        if kind == "history":  # of the same service, before it changed
            ended = run(lambda rng, _: CASES[case](rng, 0.0), contender, f"before {seed}", min(EARLIER, jobs))[1]
        made.append(run(CASES[case], contender, f"{seed}", jobs, ended)[0])
    means = [sum(getattr(each, name) for each in made) / seeds for name in ("looks", "unseen_s", "unseen_95_s")]
    return Figures(*means)


def simulate(jobs: int, seeds: int) -> dict[str, dict[str, dict[float, Figures]]]:
    """By case, contender and interval."""
    wanted = [
        (case, kind, each) for case in CASES for kind in ("fixed", "exponential") for each in (*SWEEP_S, 10.0, 15.0)
    ]
    wanted += [(case, kind, each) for case in CASES for kind in ("cold", "history") for each in OURS_S]
    cases, kinds, intervals = zip(*wanted, strict=True)
    with ProcessPoolExecutor(2) as pool:
        count = len(wanted)
        figures = pool.map(measure, cases, kinds, intervals, [jobs] * count, [seeds] * count, chunksize=4)
        found: dict[str, dict[str, dict[float, Figures]]] = {}
        for (case, kind, interval_s), each in zip(wanted, figures, strict=True):
            found.setdefault(case, {}).setdefault(kind, {})[interval_s] = each
    return found


# The whole engine


SERVICES = {
    "55 s, spread 0.25": {"duration_s": 55.0, "spread": 0.25, "capacity": AT_ONCE},
    "55 s, spread 0.5": {"duration_s": 55.0, "spread": 0.5, "capacity": AT_ONCE},
    "3 s, spread 0.25": {"duration_s": 3.0, "spread": 0.25, "capacity": AT_ONCE},
    "two of eight at a time, 55 s, spread 0.25": {"duration_s": 55.0, "spread": 0.25, "capacity": 2},
}


def against_the_sandbox(service: str, learning: bool, jobs: int) -> tuple[Figures, float]:
    """One batch at the default interval. Returns what it came to, and how long it took."""
    from tests.scenarios.test_stories import Stage, entries, play

    outcome: list[tuple[Figures, float]] = []

    async def story(stage: Stage) -> None:
        ended: dict[str, float] = {}
        assert await stage.run(entries(*map(str, range(jobs))), concurrency=AT_ONCE) == 0
        took_s = stage.loop.time()
        for event in stage.service.ledger():
            if event["event"] == "completed":
                ended[event["generation_id"]] = event["at"]
        attempts = [row["attempts"][-1] for row in stage.report["jobs"]]
        unseen = sorted(polling_page.moment(each["completed_at"]) - ended[each["generation_id"]] for each in attempts)
        looks = stage.report["totals"]["polls"] / jobs
        figures = Figures(looks, sum(unseen) / jobs, unseen[math.ceil(0.95 * jobs) - 1])
        outcome.append((figures, took_s))

    enough = room.ENOUGH if learning else jobs + 1
    with tempfile.TemporaryDirectory() as folder, patch.object(room, "ENOUGH", enough):
        play(Path(folder), story, **{"queue_limit": 64, **SERVICES[service]})
    return outcome[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a few jobs, write nothing")
    chosen = parser.parse_args()
    jobs, seeds = (16, 1) if chosen.smoke else (chosen.jobs, chosen.seeds)
    simulated = simulate(jobs, seeds)
    engine = {
        (service, learning): against_the_sandbox(service, learning, jobs)
        for service in SERVICES
        for learning in (False, True)
    }
    text = polling_page.page(simulated, engine, jobs, seeds)
    print(text)
    if not chosen.smoke:
        (HERE / "POLLING.md").write_text(text)
        (HERE / "polling.svg").write_text(polling_page.plot(simulated))


if __name__ == "__main__":
    main()
