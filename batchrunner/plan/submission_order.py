"""The order of submissions: the longest expected jobs first, or the order of the manifest. Pure.

Longest first ends a batch sooner: the last jobs to run are short ones, so the slots become idle at nearly the same
time. It applies among jobs of equal priority. It is the wrong order where not all jobs will be submitted, because it
finishes the fewest clips for the money or time there is. Then the manifest's order applies
(`batchrunner.engine.order_switch`).

What is known of durations changes during a run. Within one kind, longer work is expected to take longer, so each kind
has one heap that never changes, and only the first jobs of the heaps are compared at each step.
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from batchrunner.job import Job
from batchrunner.plan.admission import TimeLeft
from batchrunner.plan.duration_estimate import Kind, kind_of
from batchrunner.plan.duration_trend import work_of
from batchrunner.plan.ledger import Ledger

LONGEST, MANIFEST = "longest", "manifest"
LONGEST_FIRST = "the longest jobs are submitted first ('order: manifest' keeps the order of the manifest)"
NOT_ALL = "jobs are submitted in the order of the manifest, because not all of them fit into {}"
UNTIL_KNOWN = (
    "jobs are submitted in the order of the manifest until it is known whether all of them finish in time; "
    "then the longest go first"
)
_Group = tuple[Kind, bool]  # and whether the work is known
_Key = TypeVar("_Key", bound=Hashable)

# Returns how long a generation of a kind and work is expected to take, s; None if nothing is known of the kind.
Expected = Callable[[Kind, float | None], float | None]


class ManifestOrder:
    """Ready jobs in their order in the manifest (by priority, then by place)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._heap)

    def add(self, order: int, fingerprint: str) -> None:
        """Add a job. order: its place among all jobs."""
        heapq.heappush(self._heap, (order, fingerprint))

    def extend(self, jobs: Iterable[tuple[int, str]]) -> None:
        """Add many jobs."""
        for job in jobs:
            heapq.heappush(self._heap, job)

    def first(self) -> str:
        """Return the next job, which stays. IndexError if there is none."""
        return self._heap[0][1]

    def pop(self) -> str:
        """Remove the next job and return it. IndexError if there is none."""
        return heapq.heappop(self._heap)[1]


class LongestFirst:
    """Ready jobs, the longest expected first within equal priority, then in their order in the manifest.

    job_of: by fingerprint. priorities: of those jobs whose priority is not 0.
    """

    def __init__(self, job_of: Callable[[str], Job], priorities: Mapping[str, int], expected: Expected) -> None:
        self._job_of = job_of
        self._priorities = priorities
        self._ranking = Ranking(expected)
        self._levels: dict[int, dict[_Group, list[tuple[float, int, str]]]] = {}
        self._ranks: list[int] = []  # heap of the negative priorities with jobs
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for groups in self._levels.values():
            for heap in groups.values():
                yield from ((order, fingerprint) for _, order, fingerprint in heap)

    def add(self, order: int, fingerprint: str) -> None:
        """Add a job. order: its place among all jobs."""
        heap, item = self._place(order, fingerprint)
        heapq.heappush(heap, item)

    def extend(self, jobs: Iterable[tuple[int, str]]) -> None:
        """Add many jobs."""
        for order, fingerprint in jobs:
            self.add(order, fingerprint)

    def first(self) -> str:
        """Return the next job, which stays. IndexError if there is none."""
        return self._next()[0][2]

    def pop(self) -> str:
        """Remove the next job and return it. IndexError if there is none."""
        _, group, level = self._next()
        groups = self._levels[level]
        fingerprint = heapq.heappop(groups[group])[2]
        self._count -= 1
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._levels[level]
            heapq.heappop(self._ranks)
        return fingerprint

    def _next(self) -> tuple[tuple[float, int, str], _Group, int]:
        """Return the next job with its group and its priority."""
        level = -self._ranks[0]
        groups = self._levels[level]
        if len(groups) == 1:
            [(group, heap)] = groups.items()
            return heap[0], group, level
        works = {group: -heap[0][0] if group[1] else None for group, heap in groups.items()}
        times = self._ranking.times(works)
        group = min(groups, key=lambda group: (-times[group], groups[group][0][1]))
        return groups[group][0], group, level

    def _place(self, order: int, fingerprint: str) -> tuple[list[tuple[float, int, str]], tuple[float, int, str]]:
        job, level = self._job_of(fingerprint), self._priorities.get(fingerprint, 0)
        work = work_of(job)
        self._ranking.add(work)
        self._count += 1
        if level not in self._levels:
            heapq.heappush(self._ranks, -level)
        heap = self._levels.setdefault(level, {}).setdefault((kind_of(job), work is not None), [])
        return heap, (-(work or 0.0), order, fingerprint)


class Ranking:
    """Compares kinds by what is known of them.

    A kind without durations is expected to take as long as the longest known one, so that it becomes known early. While
    nothing is known, the works are compared, and a job of unknown work is taken for one of the average work.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._works, self._sum = 0, 0.0

    def add(self, work: float | None) -> None:
        """Count a work for the average."""
        if work is not None:
            self._works, self._sum = self._works + 1, self._sum + work

    def times(self, works: Mapping[tuple[Kind, _Key], float | None]) -> dict[tuple[Kind, _Key], float]:
        """Return what to compare, by key: seconds, or works while nothing is known. works: by kind and anything."""
        known = {group: self._expected(group[0], work) for group, work in works.items()}
        if all(time_s is None for time_s in known.values()):
            average = self._sum / self._works if self._works else 0.0
            return {group: average if work is None else work for group, work in works.items()}
        kinds = {group[0] for group, time_s in known.items() if time_s is not None}
        return {
            group: max(self._expected(kind, works[group]) or 0.0 for kind in kinds) if time_s is None else time_s
            for group, time_s in known.items()
        }


@dataclass(slots=True)
class _Total:
    """The jobs of a group that wait. longest: the greatest work of all jobs so far."""

    jobs: int = 0
    work: float = 0.0
    longest: float = 0.0


class Backlog:
    """How long the jobs that wait will take together."""

    def __init__(self) -> None:
        self._totals: dict[_Group, _Total] = {}
        self._kinds: set[tuple[Kind, float | None]] = set()

    @property
    def is_uniform(self) -> bool:
        """Whether all jobs so far are of one kind and work: then their order is the manifest's."""
        return len(self._kinds) < 2

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(total.jobs for total in self._totals.values())

    def add(self, job: Job) -> None:
        """Add a job that waits."""
        kind, work = kind_of(job), work_of(job)
        if self.is_uniform:
            self._kinds.add((kind, work))
        total = self._totals.setdefault((kind, work is not None), _Total())
        total.jobs += 1
        total.work += work or 0.0
        total.longest = max(total.longest, work or 0.0)

    def remove(self, job: Job) -> None:
        """Remove a job that waits no longer."""
        work = work_of(job)
        total = self._totals[kind_of(job), work is not None]
        total.jobs -= 1
        total.work -= work or 0.0

    def time_s(self, expected: Expected, slots: int) -> float | None:
        """Return how long the jobs take in so many slots at most; None if nothing is known.

        The power by which the time grows with the work is hardly above 1, so the average work stands for all works.
        """
        totals = {group: total for group, total in self._totals.items() if total.jobs}
        ranking = Ranking(expected)
        average = {group: total.work / total.jobs if group[1] else None for group, total in totals.items()}
        if not any(expected(kind, work) for (kind, _), work in average.items()):
            return None if totals else 0.0
        longest = {group: total.longest if group[1] else None for group, total in totals.items()}
        whole_s = sum(totals[group].jobs * time_s for group, time_s in ranking.times(average).items())
        return whole_s / slots + max(ranking.times(longest).values())


def money_shortage(ledger: Ledger, needed: float, jobs: int) -> str:
    """Return the setting of the budget into which so many more jobs do not fit; "" if they do.

    needed: their expected cost, in credits, without those of unknown price.
    """
    budget = ledger.budget
    if budget.generations is not None and ledger.total.generations + jobs > budget.generations:
        return "max_generations"
    if budget.limit is not None and round(ledger.total.worst + needed - budget.limit, 2) > 0:
        return budget.setting
    return ""


def time_shortage(backlog: Backlog, expected: Expected, slots: int, left: TimeLeft | None) -> str | None:
    """Return the setting into whose time the jobs do not fit, "" if they do, None if that is not known yet."""
    if left is None:
        return ""
    needed_s = backlog.time_s(expected, slots)
    if needed_s is None:
        return None
    return left.kind if needed_s > left.seconds else ""


def planned_order(
    pending: Mapping[str, Job],
    priorities: Mapping[str, int],
    expected: Expected,
    slots: int,
    shortage: Callable[[Backlog], str | None],
) -> tuple[list[str], str]:
    """Return the order in which a run submits pending jobs, as far as is known now, and a note for the user.

    pending: by fingerprint, by priority and then as in the manifest. priorities: those that are not 0.
    shortage: returns the setting into which not all jobs fit, "" if they do, None if that is not known yet.
    """
    backlog = Backlog()
    for job in pending.values():
        backlog.add(job)
    if backlog.jobs <= slots or backlog.is_uniform:
        return list(pending), ""
    limit = shortage(backlog)
    if limit is None:
        return list(pending), UNTIL_KNOWN
    if limit:
        return list(pending), NOT_ALL.format(limit)
    ranking = Ranking(expected)
    kinds: dict[int, tuple[Kind, float | None]] = {}  # by the job's identity
    for job in pending.values():
        if id(job) not in kinds:
            kinds[id(job)] = kind_of(job), work_of(job)
        ranking.add(kinds[id(job)][1])
    times = ranking.times({key: key[1] for key in kinds.values()})

    def rank(name: str) -> tuple[int, float]:
        return -priorities.get(name, 0), -times[kinds[id(pending[name])]]

    return sorted(pending, key=rank), LONGEST_FIRST  # stable
