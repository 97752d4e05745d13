"""The section of RESULTS.md that scale.py writes, its bars, and its plot. Text only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import lines
from harness.measured import Cost
from harness.results import Bar, setting

_STEP_NAMES = {"posters": "posters", "decode": "decode checks"}  # steps of contenders/without.py as text
_MOST = 100_000  # the number of jobs that the bars are about
_FILES = ("journal, MB", "report.html, MB", "report.json, MB", "results.csv, MB")
_MOST_BYTES = {"validate": 500, "plan": 1_500}  # of memory a row
_MEMORY = ("command", "table", "rows", "peak MiB", "rows", "peak MiB", "bytes per row", "CPU us per row")
_SCREEN = ("jobs", "first screen: CPU, s", "`validate`: CPU, s", "difference")
_RUN = ("jobs", "jobs/s", "CPU, s", "CPU ms per job", "peak MiB", *_FILES)
_AFTERWARDS = (
    "jobs", "nothing to do: CPU, s", "wall, s", "peak MiB", "`status`: CPU, s", "wall, s", "peak MiB",
    "`report`: CPU, s", "wall, s", "peak MiB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """The cost of each command of a batch. again: a run without work. sizes: bytes by file."""

    jobs: int
    run: Cost
    again: Cost
    status: Cost
    report: Cost
    sizes: Mapping[str, int]

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.run.wall_s

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.run.cpu_s / self.jobs


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The longest callback of the event loop by phase: CPU time and wall time, ms."""

    jobs: int
    longest: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class RowMemory:
    """The peak memory of a command for few and for many rows. cpu_s: with many."""

    command: str
    form: str
    few: int
    many: int
    few_mib: float
    many_mib: float
    cpu_s: float

    @property
    def bytes_per_row(self) -> float:
        return (self.many_mib - self.few_mib) * (1 << 20) / (self.many - self.few)


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """The CPU time of a run until its first screen is drawn, s, and that of `validate` for the same manifest."""

    jobs: int
    cpu_s: float
    validation_s: float

    @property
    def after_validation_s(self) -> float:
        return self.cpu_s - self.validation_s


@dataclass(frozen=True, slots=True)
class Beyond:
    """What is measured apart from the batches."""

    screen: FirstScreen
    callbacks: Callbacks
    memory: Sequence[RowMemory]


@dataclass(frozen=True, slots=True)
class Results:
    """rows: one per size. before, further_before: the largest batch and the rest at an earlier commit, if measured."""

    rows: Sequence[Row]
    before: Row | None
    further: Beyond
    further_before: Beyond | None

    def named_rows(self) -> list[tuple[str, Row]]:
        earlier = [(f"{self.before.jobs:,}, before", self.before)] if self.before else []
        return [*((f"{row.jobs:,}", row) for row in self.rows), *earlier]

    def named_further(self) -> list[tuple[str, Beyond]]:
        return [("", self.further), *([(", before", self.further_before)] if self.further_before else [])]


def tables(results: Results) -> str:
    """Return all tables."""
    return f"{_batches(results)}\n{_further(results)}"


def _batches(results: Results) -> str:
    """Return one row per batch: the run and its files, then the other commands."""
    run = [
        (name, f"{row.jobs_per_s:.0f}", f"{row.run.cpu_s:.1f}", f"{row.cpu_ms:.2f}",
         f"{row.run.peak_mib:.0f}", *(f"{size / 1e6:.1f}" for size in row.sizes.values()))
        for name, row in results.named_rows()
    ]  # fmt: skip
    afterwards = [
        (name, *(cell for cost in (row.again, row.status, row.report) for cell in _costs(cost)))
        for name, row in results.named_rows()
    ]
    return f"{_table(_RUN, run)}\n{_table(_AFTERWARDS, afterwards)}"


def _further(results: Results) -> str:
    """Return the first screen, the longest callbacks by phase, and the memory per row of what reads a manifest."""
    named = results.named_further()
    screens = [
        (f"{item.screen.jobs:,}{name}", f"{item.screen.cpu_s:.2f}", f"{item.screen.validation_s:.2f}",
         f"{item.screen.after_validation_s:.2f}")
        for name, item in named
    ]  # fmt: skip
    longest = [
        (f"{phase}{name}", f"{cpu_ms:.0f}", f"{wall_ms:.0f}")
        for name, further in named
        for phase, (cpu_ms, wall_ms) in further.callbacks.longest.items()
    ]
    costs = [
        (f"`{item.command}`{name}", item.form, f"{item.few:,}", f"{item.few_mib:.0f}", f"{item.many:,}",
         f"{item.many_mib:.0f}", f"{item.bytes_per_row:.0f}", f"{1e6 * item.cpu_s / item.many:.0f}")
        for name, further in named
        for item in further.memory
    ]  # fmt: skip
    heads = (f"longest callback, {results.further.callbacks.jobs:,} jobs", "CPU, ms", "wall, ms")
    return f"{_table(_SCREEN, screens)}\n{_table(heads, longest)}\n{_table(_MEMORY, costs)}"


def section(results: Results, service: str, cap: int, without: str) -> str:
    """Return the section."""
    left_out = (
        "nothing"
        if without == "-"
        else f"{' and '.join(_STEP_NAMES.get(step, step) for step in without.split(','))}, which are stated apart above"
    )
    return f"""\
## Many jobs

A batch of each size through the instant service ({service}), {cap} in flight, a clip of 4 KiB per job. Then the same
command again, which finds nothing to do; `status`; `report`. Each is a process of its own, from start to end. Left out
of what batchrunner does: {left_out}.
`status` is the median of several; the smallest batch is the middle one of three, which ran before, between and after
the others. Rows with "before" are batchrunner at an earlier commit, in the same run of the benchmark.

{setting()}
{_batches(results)}
![CPU and memory against jobs](scale.svg)

Both axes are logarithmic. Dashed: what would grow just as the number of jobs does.

{_further(results)}
The first screen: the process until it is drawn, and `validate` of the same manifest, start of the process included.
The callback with the most CPU time of each phase, with its wall time: signals and polls wait for it. The memory per row
is the difference of the peaks over the difference of the rows.
"""


def bars(results: Results) -> list[Bar]:
    """Return the targets and results; none if the largest batch is smaller than that of the targets."""
    small, large = results.rows[0], results.rows[-1]
    if large.jobs != _MOST:
        return []
    speed, cpu = large.jobs_per_s / small.jobs_per_s, large.cpu_ms / small.cpu_ms
    text = f"{large.jobs_per_s:.0f} against {small.jobs_per_s:.0f} jobs/s: {speed:.2f}; CPU per job {cpu:.2f}"
    html, as_json = large.sizes["report.html"] / 1e6, large.sizes["report.json"] / 1e6
    earlier = results.before
    judged = (
        (f"throughput within 20 % of that at {small.jobs:,}", text, speed >= 0.8),
        ("peak memory of the run under 400 MiB",
         _beside(f"{large.run.peak_mib:.0f} MiB", earlier and f"{earlier.run.peak_mib:.0f} MiB"),
         large.run.peak_mib < 400),
        ("`report` keeps to that, too",
         _beside(f"{large.report.peak_mib:.0f} MiB for {html:.0f} MB of HTML and {as_json:.0f} MB of JSON",
                 earlier and f"{earlier.report.peak_mib:.0f} MiB"),
         large.report.peak_mib < 400),
        ("nothing to do is decided in under 3 s of CPU",
         _beside(f"{large.again.cpu_s:.2f} s", earlier and f"{earlier.again.cpu_s:.2f} s"), large.again.cpu_s < 3),
        ("`status` answers in under 0.5 s",
         _beside(f"{large.status.wall_s:.2f} s", earlier and f"{earlier.status.wall_s:.2f} s"),
         large.status.wall_s < 0.5),
    )  # fmt: skip
    return [Bar(f"{_MOST:,} jobs: {asked}", measured, met) for asked, measured, met in judged] + _further_bars(results)


def _further_bars(results: Results) -> list[Bar]:
    """Return the targets and results of the first screen, the event loop and the memory per row."""
    now, before = results.further, results.further_before
    screen_s, longest = now.screen.after_validation_s, _longest(now.callbacks)
    texts = _beside(f"{screen_s:.2f} s", before and f"{before.screen.after_validation_s:.2f} s")
    found = [Bar(f"{now.screen.jobs:,} jobs: first screen in under 4 s of CPU after validation", texts, screen_s < 4)]
    texts = _beside(f"{longest:.0f} ms", before and f"{_longest(before.callbacks):.0f} ms")
    asked = f"{now.callbacks.jobs:,} jobs: no callback of the event loop takes 50 ms of CPU"
    found.append(Bar(asked, texts, longest < 50))
    for at, item in enumerate(now.memory):
        most = _MOST_BYTES[item.command.split()[0]]
        asked = f"`{item.command}` ({item.form}) needs at most {most:,} bytes of memory a row"
        texts = _beside(f"{item.bytes_per_row:.0f} bytes", before and f"{before.memory[at].bytes_per_row:.0f} bytes")
        found.append(Bar(asked, texts, item.bytes_per_row <= most))
    return found


def _longest(callbacks: Callbacks) -> float:
    return max(cpu_ms for cpu_ms, _ in callbacks.longest.values())


def _beside(now: str, before: str | None) -> str:
    return f"{now}; before {before}" if before else now


def plot(rows: Sequence[Row]) -> str:
    """Plot CPU seconds and peak memory against the number of jobs."""
    commands = {
        "run": lambda row: row.run,
        "nothing to do": lambda row: row.again,
        "report": lambda row: row.report,
        "status": lambda row: row.status,
    }
    cpu = {name: [(row.jobs, of(row).cpu_s) for row in rows] for name, of in commands.items()}
    peak = {name: [(row.jobs, of(row).peak_mib) for row in rows] for name, of in commands.items()}
    panels = (lines.Panel("CPU of each command, s", cpu, straight=True), lines.Panel("Peak memory, MiB", peak))
    return lines.plot(panels, "jobs")


def _costs(cost: Cost) -> tuple[str, ...]:
    return f"{cost.cpu_s:.2f}", f"{cost.wall_s:.2f}", f"{cost.peak_mib:.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *rows))
