"""Compare batchrunner's polling with fixed intervals and exponential backoff. See benchmarks/POLLING.md.

    python benchmarks/polling.py            # writes POLLING.md, polling.svg and its part of RESULTS.md; some minutes
    python benchmarks/polling.py --smoke    # a few jobs, writes nothing

The first part is a simulation with the real `batchrunner.engine.polling.poller.Poller` and short versions of the other
policies on the same durations. The second part runs the whole engine against the sandbox in virtual time. Everything is
seeded.
"""

import argparse
import heapq
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, Protocol
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from harness import floor, polling_page, results  # noqa: E402 (after the path)

from batchrunner.engine.polling import poller as poller_module  # noqa: E402
from batchrunner.engine.polling.poller import Poller  # noqa: E402
from batchrunner.job import Attempt, Job, Media, Record, State  # noqa: E402
from batchrunner.sandbox import world  # noqa: E402
from batchrunner.sandbox.faults import outages  # noqa: E402

AT_ONCE = 8
INPUTS = {"video": Media("video", "v"), "image": Media("image", "i")}
EARLIER = 200  # jobs of the history
SAMPLE = 20_000  # durations that represent a known distribution
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
    """A poll policy. `next_poll` returns the earliest poll and removes it."""

    def accepted(self, name: str, now: float) -> None: ...

    def unfinished(self, name: str, now: float, generating: bool) -> None: ...

    def complete(self, name: str, now: float) -> None: ...

    def next_poll(self) -> tuple[float, str] | None: ...


class Fixed:
    """Polls every `interval_s`, plus or minus a tenth."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        self.interval_s, self.rng = interval_s, rng
        self.due: list[tuple[float, str]] = []

    def accepted(self, name: str, now: float) -> None:
        self.poll(name, now, self.interval_s)

    def unfinished(self, name: str, now: float, generating: bool) -> None:
        self.poll(name, now, self.interval_s)

    def complete(self, name: str, now: float) -> None:
        pass

    def poll(self, name: str, now: float, wait_s: float) -> None:
        heapq.heappush(self.due, (now + wait_s * self.rng.uniform(0.9, 1.1), name))

    def next_poll(self) -> tuple[float, str] | None:
        return heapq.heappop(self.due) if self.due else None


class Exponential(Fixed):
    """Waits `interval_s` first. Each wait is 1.5 times the previous one, up to eight times the first."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        super().__init__(interval_s, rng)
        self.waits: dict[str, float] = {}

    def accepted(self, name: str, now: float) -> None:
        self.waits[name] = self.interval_s
        super().accepted(name, now)

    def unfinished(self, name: str, now: float, generating: bool) -> None:
        self.waits[name] = min(1.5 * self.waits[name], 8 * self.interval_s)
        self.poll(name, now, self.waits[name])


class Ours:
    """`batchrunner.engine.polling.poller`, called like the engine calls it."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        self.poller = Poller(interval_s, rng, {})
        self.records: dict[str, Record] = {}

    def accepted(self, name: str, now: float) -> None:
        job = Job(name, "model", INPUTS, {"resolution": "480p"})
        attempt = Attempt(1, name, now, accepted_at=now)
        self.records[name] = Record(job, State.IN_FLIGHT, (attempt,))
        self.poller.after_poll(self.records[name], now, first=True)

    def unfinished(self, name: str, now: float, generating: bool) -> None:
        if generating:
            self.records[name] = self.records[name].with_attempt(generating_at=now)
        self.poller.after_poll(self.records[name], now)

    def complete(self, name: str, now: float) -> None:
        self.poller.observe(self.records.pop(name).with_attempt(completed_at=now), now)

    def next_poll(self) -> tuple[float, str] | None:
        due = self.poller.next_due
        name = None if due is None else self.poller.pop(due)
        return None if due is None or name is None else (due, name)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a batch. poll_count: polls per job. unseen_s: average time until a complete clip is seen.

    unseen_95_s: the 95th percentile. later_s: unseen_s of the batch's second half.
    """

    poll_count: float
    unseen_s: float
    unseen_95_s: float
    later_s: float


def run(draw: Draw, contender: Contender, seed: str, jobs: int, began: float = 0.0) -> tuple[Figures, float]:
    """Run a batch with AT_ONCE jobs in flight and durations from the seed. Return its figures and its end time."""
    poll_count, unseen, todo = 0, [0.0] * jobs, [*map(str, range(jobs))][::-1]
    ends: dict[str, tuple[float, float]] = {}  # of the queue, of the generation

    def submit(now: float) -> None:
        if todo:
            name = todo.pop()
            waits_s, takes_s = draw(Random(f"{seed} {name}"), int(name) / jobs)
            ends[name] = (now + waits_s, now + waits_s + takes_s)
            contender.accepted(name, now)

    for _ in range(AT_ONCE):
        submit(began)
    now = began
    while (poll := contender.next_poll()) is not None:
        now, name = poll
        poll_count += 1
        if ends[name][1] <= now:
            unseen[int(name)] = now - ends[name][1]
            contender.complete(name, now)
            submit(now)
        else:
            contender.unfinished(name, now, ends[name][0] <= now)
    return figures(poll_count, unseen), now


def figures(poll_count: int, unseen: Sequence[float]) -> Figures:
    """Return the figures of a batch. unseen: seconds by job, in order."""
    most_s = sorted(unseen)[math.ceil(0.95 * len(unseen)) - 1]
    return Figures(poll_count / len(unseen), mean(unseen), most_s, mean(unseen[len(unseen) // 2 :]))


def measure(case: str, kind: str, interval_s: float, jobs: int, seeds: int) -> Figures:
    """Return the mean over several batches. kind: of the policy."""
    outcomes = []
    for seed in range(seeds):
        contender = {"fixed": Fixed, "exponential": Exponential}.get(kind, Ours)(interval_s, Random(seed))
        ended = 0.0
        if kind == "history":  # of the same service, before it changed
            ended = run(lambda rng, _: CASES[case](rng, 0.0), contender, f"before {seed}", min(EARLIER, jobs))[1]
        outcomes.append(run(CASES[case], contender, f"{seed}", jobs, ended)[0])
    return Figures(*(sum(getattr(item, name) for item in outcomes) / seeds for name in Figures.__slots__))


def simulate(jobs: int, seeds: int, sweep_s: Sequence[float] = SWEEP_S) -> dict[str, dict[str, dict[float, Any]]]:
    """Return the figures by case, policy and interval, and the lower bound of a case by the cost of a poll."""
    wanted = [
        (case, kind, item) for case in CASES for kind in ("fixed", "exponential") for item in (*sweep_s, 10.0, 15.0)
    ]
    wanted += [(case, kind, item) for case in CASES for kind in ("cold", "history") for item in OURS_S]
    cases, kinds, intervals = zip(*wanted, strict=True)
    with ProcessPoolExecutor(2) as pool:
        count = len(wanted)
        measured = pool.map(measure, cases, kinds, intervals, [jobs] * count, [seeds] * count, chunksize=4)
        found: dict[str, dict[str, dict[float, Any]]] = {}
        for (case, kind, interval_s), item in zip(wanted, measured, strict=True):
            found.setdefault(case, {}).setdefault(kind, {})[interval_s] = item
    for case in CASES:
        if not any(argument in case for argument in ("queue", "doubles", "drops")):  # there is one distribution
            found[case]["floor"] = knowing(case, jobs, seeds)
    return found


def knowing(case: str, jobs: int, seeds: int) -> dict[float, Any]:
    """Return the figures of a schedule that knows the distribution, for the same batches, by the cost of a poll."""
    rng = Random(case)
    played = [CASES[case](Random(f"{seed} {job}"), 0.0)[1] for seed in range(seeds) for job in range(jobs)]
    return floor.curve([CASES[case](rng, 0.0)[1] for _ in range(SAMPLE)], played)


# The whole engine


SERVICES: dict[str, dict[str, Any]] = {
    "lognormal: 55 s, spread 0.25": {"duration_s": 55.0, "spread": 0.25},
    "lognormal: 55 s, spread 0.5": {"duration_s": 55.0, "spread": 0.5},
    "lognormal: 3 s, spread 0.25": {"duration_s": 3.0, "spread": 0.25},
    "bimodal: 30 or 120 s": {"duration_s": 30.0, "spread": 0.15},  # see _two_humps
    "queue 40 s, then 55 s": {"queue_wait_s": 40.0, "duration_s": 55.0, "spread": 0.5},
    "queue, since two of eight at a time; 55 s, spread 0.25": {"duration_s": 55.0, "spread": 0.25, "capacity": 2},
    "55 s doubles half way": {"duration_s": 55.0, "spread": 0.5},  # see CHANGES
}
CHANGES = {"55 s doubles half way": 110.0}  # the median after the change
POLICIES: dict[str, tuple[str, float]] = {
    "every 10 s": ("fixed", 10.0),
    "every 15 s": ("fixed", 15.0),
    "exponential from 10 s": ("exponential", 10.0),
    "batchrunner, 10 s": ("learned", 10.0),
    "batchrunner, 15 s": ("learned", 15.0),
}
Played = tuple[Figures, float]  # and how long the batch took, s


def engine(jobs: int, services: Sequence[str]) -> dict[tuple[str, str], Played]:
    """Return the figures by service and policy."""
    pairs = list(itertools.product(services, POLICIES))
    with ProcessPoolExecutor(2) as pool:
        played = pool.map(against_the_sandbox, *zip(*pairs, strict=True), itertools.repeat(jobs))
        return dict(zip(pairs, played, strict=True))


def against_the_sandbox(service: str, policy: str, jobs: int) -> Played:
    """Run one batch without known durations."""
    from tests.scenarios.test_stories import Simulation, entries, play

    outcome: list[Played] = []
    kind, interval_s = POLICIES[policy]

    async def story(sim: Simulation) -> None:
        names = entries(*map(str, range(jobs)))
        assert await sim.run(names, concurrency=AT_ONCE, poll_interval=f"{interval_s:g}s") == 0
        ledger = [event for event in sim.service.ledger() if event["event"] == "completed"]
        ended = {event["generation_id"]: event["at"] for event in ledger}
        attempts = [row["attempts"][-1] for row in sim.report["jobs"]]
        unseen = [polling_page.moment(item["completed_at"]) - ended[item["generation_id"]] for item in attempts]
        poll_count = sim.report["totals"]["polls"]
        outcome.append((figures(poll_count, unseen), sim.loop.time()))

    config = {"queue_limit": 64, "capacity": AT_ONCE, **SERVICES[service]}
    if service in CHANGES:
        half_way_s = jobs / 2 * (config["duration_s"] + 8) / AT_ONCE
        config["conditions"] = outages.Conditions(slow=(outages.Slow(half_way_s, duration_s=CHANGES[service]),))
    wait_s = {"fixed": _every, "exponential": _exponential()}.get(kind, poller_module.Poller._wait_s)  # noqa: SLF001 (as it is)
    draw = _two_humps if service.startswith("bimodal") else world.World._draw  # noqa: SLF001
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(poller_module.Poller, "_wait_s", wait_s),
        patch.object(
            poller_module.Poller, "observe", poller_module.Poller.observe if kind == "learned" else lambda *_: None
        ),
        patch.object(world.World, "_draw", draw),
    ):
        play(Path(folder), story, **config)
    return outcome[0]


def _every(self: Any, fingerprint: str, now: float) -> float:
    return float(self._interval_s * self._rng.uniform(0.9, 1.1))


def _exponential() -> Callable[[Any, str, float], float]:
    """Return the waits of `Exponential` for the engine."""
    waits: dict[str, float] = {}

    def wait_s(self: Any, fingerprint: str, now: float) -> float:
        longer = min(1.5 * waits.get(fingerprint, 0.0), 8 * self._interval_s)
        waits[fingerprint] = longer or self._interval_s
        return float(waits[fingerprint] * self._rng.uniform(0.9, 1.1))

    return wait_s


_DRAW = world.World._draw  # noqa: SLF001 (replaced in a test service)


def _two_humps(self: world.World, median_s: float, *key: object) -> float:
    """Draw a duration; four of ten generations take four times as long."""
    return _DRAW(self, median_s * (1 if world.uniform("hump", *key) < 0.6 else 4), *key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a few jobs, write nothing")
    chosen = parser.parse_args()
    jobs, seeds = (16, 1) if chosen.smoke else (chosen.jobs, chosen.seeds)
    simulated = simulate(jobs, seeds, SWEEP_S[::8] if chosen.smoke else SWEEP_S)
    played = engine(jobs, tuple(SERVICES)[3::3] if chosen.smoke else tuple(SERVICES))
    page, section = polling_page.page(simulated, played, jobs, seeds), polling_page.section(simulated, played, jobs)
    print(page, section, sep="\n")
    if not chosen.smoke:
        (HERE / "POLLING.md").write_text(page)
        (HERE / "polling.svg").write_text(polling_page.plot(simulated))
        results.put("polling", section, polling_page.bars(simulated, played))


if __name__ == "__main__":
    main()
