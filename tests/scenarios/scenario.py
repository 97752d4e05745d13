"""One scenario: a seed decides the jobs, the service's faults, the deaths of the process and the user's actions.

`Scenario(seed).simulate(story)` runs it to its end and records the events for the oracle. The same seed gives the same
scenario, in every process.
"""

import asyncio
import errno
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from batchrunner import sandbox
from batchrunner.app import takes
from batchrunner.app.environment import Environment
from batchrunner.app.runner import drive
from batchrunner.app.setup import Setup
from batchrunner.app.verify import verify
from batchrunner.clock import LoopClock
from batchrunner.engine.loop import Engine
from batchrunner.errors import BatchrunnerError
from batchrunner.events import CallFailed, Event, JobMoved
from batchrunner.job import Entry, Job, Media, Record, State, count_states
from batchrunner.journal import journal
from batchrunner.manifest import Batch, fingerprint
from batchrunner.manifest.takes import with_retakes, with_takes
from batchrunner.media.decoder_pool import Here
from batchrunner.plan.endings import StopReason
from batchrunner.providers import registry
from batchrunner.providers.endpoint import Endpoint
from batchrunner.review.verdicts import Verdict, VerdictLog
from batchrunner.sandbox import Fault, SandboxConfig
from batchrunner.sandbox.clips.render import RenderRequest
from batchrunner.sandbox.faults.outages import ACCOUNT, SHOWS, AccountFailure, Conditions, Outage
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.downloader import Checks
from batchrunner.workers.engines import Workers
from tests.scenarios.damage import AtRest, DiskFailure, JournalFiles, flip_a_clip
from tests.scenarios.world import (
    EPOCH,
    Died,
    JournalExecutor,
    Loop,
    Mortal,
    MortalExecutor,
    SimDisk,
    in_virtual_time,
    strict_bus,
)

MODEL = "alibaba/wan2.2-14b-animate-replace"
MAX_RUNS = 40
DAMAGES = (0, 0, 0, 1)
MAX_VIRTUAL_S = 60 * 86_400.0

# The failures of the fact sheet's section 4 that a service can show.
FAULTS: dict[str, tuple[str, ...]] = {
    "submit": (
        "rate_limited", "rate_limited_retry_after", "unavailable", "server_error", "edge_502_html", "edge_524_html",
        "edge_502_html_accepted", "edge_524_html_accepted", "lost_reply", "cut_before", "hang", "hang_before", "no_id",
        "empty_200", "id_as_generation_id", "created_201", "out_of_credits", "unauthorized", "legacy_error",
    ),
    "poll": (
        "rate_limited", "rate_limited_retry_after", "unavailable", "server_error", "edge_524_html", "edge_502_html",
        "html_200", "not_found", "hang", "cut", "unknown_status", "waiting", "active", "succeeded", "no_url",
        "video_string_list", "video_object_list",
    ),
    "download": (
        "truncated", "short", "zeros", "no_range", "changed_etag", "html_200", "not_found", "gone_410", "forbidden",
        "unavailable", "hang", "cut",
    ),
    "generation": ("face_detection", "content_policy", "file_download", "error_object", "odd_length"),
    "logs": ("unavailable", "not_found", "hang", "cut", "html_200", "empty"),
}  # fmt: skip

# A service that gives wrong answers, and how often at most for one generation where the client would finally believe
# more: three polls in a row without an id, and two that say failed. Both kinds of false failures count towards these
# two, so a scenario has at most one of them (`ONE_OF`). One lie is omitted: a reply to a submission with another
# generation's id, against which no client has a defence.
LIES: dict[str, dict[str, int | None]] = {
    "submit": dict.fromkeys(
        ("server_error_accepted", "unavailable_accepted", "timeout_408_accepted", "early_425_accepted")
    ),
    "poll": {
        "no_id": None,
        "other_id": None,
        "other_without_id": 2,
        "failed_early": 1,
        "failed_late": 1,
        "pending_again": 9,
    },
    "logs": {"unfiltered": None},
}
ONE_OF = ({"failed_early", "failed_late"},)


@dataclass
class Story:
    """The events of a scenario, for the oracle and for a person who reads a failure."""

    seed: int
    folder: Path
    config: SandboxConfig
    notes: list[tuple[float, object]] = field(default_factory=list)  # a time, and what is printed of a failure
    ledger: list[dict[str, Any]] = field(default_factory=list)
    entries: Sequence[Entry] = ()  # of the last run, with all takes
    takes: dict[str, int] = field(default_factory=dict)  # asked for, by first take's fingerprint; 1 if missing
    report: dict[str, Any] = field(default_factory=dict)
    deaths: int = 0
    damage: str = ""  # the damage between runs
    recovered: bool = False  # a run was refused because of it, and one with --recover continued
    active_at_deaths: int = 0
    active_at_last: int | None = None  # the same of the last run; None if it ended in order
    caps: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    known_at: dict[str, float] = field(default_factory=dict)  # by generation id: when the journal had it, true time
    denied_at: dict[str, float] = field(default_factory=dict)  # the same: when it failed because the service denied it

    @property
    def rundir(self) -> RunDir:
        return RunDir(self.folder / "run")

    @property
    def lines(self) -> list[str]:
        """Return the notes as text."""
        return [f"{at:12.3f}  {str(content)[:300]}" for at, content in self.notes]

    def note(self, at: float, content: object) -> None:
        self.notes.append((at, content))

    def take_in(self, record: Record, at: float) -> None:
        """Record what the journal knows now. The times in a journal are those of a clock that may be set."""
        for attempt in record.attempts:
            if attempt.generation_id:
                self.known_at.setdefault(attempt.generation_id, EPOCH + at)
        if record.generation_id and record.error is not None and record.error.kind == "unknown_generation":
            self.denied_at.setdefault(record.generation_id, EPOCH + at)


class Scenario:
    """Everything that a seed decides. A test may change the attributes before the simulation."""

    def __init__(self, seed: int, *, rate: float | None = None) -> None:
        self.seed = seed
        rng = Random(seed)
        self.rng = rng
        self.concurrency = rng.choice([1, 2, 3, 4, 8])
        self.jobs = rng.randint(2, 9)
        self.deaths = rng.choice([0, 1, 1, 2, 3, 5])
        self.edits = rng.random() < 0.4
        self.rate = rate if rate is not None else rng.choice([0.0, 0.05, 0.05, 0.1, 0.3])
        self.interrupts = rng.random() < 0.15
        self.clock_jumps = rng.random() < 0.15
        self.fault_rng = Random(f"{seed} disk")  # separate, so that disk faults do not change the seed's other draws
        self.disk_failures = self.fault_rng.choice([0, 0, 0, 1, 3])  # runs in which the disk fails for a while
        self.damages = self.fault_rng.choice(DAMAGES)  # between runs
        self.flips = self.fault_rng.choice([0, 0, 1])  # of clips
        self.in_doubt = self.fault_rng.choice(["hold", "hold", "evidence"])
        self.take_rng = Random(f"{seed} takes")  # separate, as `fault_rng`
        self.several_takes = self.take_rng.random() < 0.25
        self.rejections = self.take_rng.choice([0, 0, 0, 1, 2])  # rounds of verdicts after the batch is complete
        self.retake: tuple[str, ...] = ()  # the option of the next runs
        self.manifest_takes: dict[str, int] = {}  # by fingerprint
        self.recovers = False  # whether the next run recovers a damaged journal
        # Separate, as `fault_rng`. At the default of 15 s, most calls would be polls of generations that take long.
        self.poll_interval = Random(f"{seed} polls").choice(["15s", "60s", "60s", "60s"])
        self.config = SandboxConfig(
            seed=seed,
            capacity=rng.choice([1, 2, 4, 8]),
            queue_limit=rng.choice([0, 2, 64]),
            queue_wait_s=rng.choice([0.0, 5.0, 600.0]),
            duration_s=rng.choice([3.0, 55.0, 300.0]),
            spread=rng.choice([0.0, 0.5, 1.0]),
            logs=rng.random() < 0.7,
            log_delay_s=rng.choice([0.0, 0.0, 60.0, 7200.0]),
            logs_in_flight=rng.random() < 0.7,
            faults=(*self._faults(), *self._lies()),
        )
        self._draw_conditions()

    def _draw_conditions(self) -> None:
        """Draw outages, account failures and limits. They are drawn last, so that a seed's faults do not change."""
        rng = self.rng
        outages = tuple(
            Outage(
                from_s=rng.uniform(0, 4000), for_s=rng.choice([60.0, 1800.0, 30_000.0]), shows=rng.choice(list(SHOWS))
            )
            for _ in range(rng.choice([0, 0, 0, 1, 2]))
        )
        account = tuple(
            AccountFailure(
                from_s=rng.uniform(0, 2000), for_s=rng.choice([100.0, 5000.0]), shows=rng.choice(list(ACCOUNT))
            )
            for _ in range(rng.choice([0, 0, 0, 1]))
        )
        self.config = replace(
            self.config,
            conditions=Conditions(outages=outages, account=account),
            concurrency_limit=rng.choice([None, None, 1, 3]),
            quotes=rng.random() < 0.5,
        )
        self.limits: dict[str, Any] = {}  # the user's settings in the first runs, removed later
        if rng.random() < 0.15:
            self.limits["max_generations"] = rng.randint(1, 6)
        if rng.random() < 0.15:
            self.limits |= {"max_credits": 1_040_000 * rng.randint(1, 6), "assume_length": "10s"}
        if rng.random() < 0.15:
            self.limits["max_runtime"] = rng.choice(["2m", "1h"])
        if rng.random() < 0.15:
            self.limits["stop_after_failures"] = rng.choice(["1", "50%"])
        if rng.random() < 0.15:
            self.limits["requests_per_second"] = rng.choice([0.1, 1.0])

    def _faults(self) -> Iterator[Fault]:
        for call, kinds in FAULTS.items():
            for kind in kinds:
                if self.rate and self.rng.random() < 0.5:
                    yield Fault(on=call, kind=kind, rate=self.rate)

    def _lies(self) -> Iterator[Fault]:
        rng = Random(f"{self.seed} lies")  # separate, as `fault_rng`
        rate = rng.choice([0.0, 0.1, 0.3]) if self.rate else 0.0
        drawn: set[str] = set()
        for call, kinds in LIES.items():
            for kind, most in kinds.items():
                excluded = any(kind in group and drawn & group for group in ONE_OF)
                if rate and rng.random() < 0.5 and not excluded:
                    drawn.add(kind)
                    yield Fault(on=call, kind=kind, rate=rate, each_first=most)
        if rate and Random(f"{self.seed} early").random() < 0.5:  # drawn separately for the same reason
            yield Fault(on="poll", kind="completed_early", rate=rate, each_first=1)

    def entries(self) -> Sequence[Entry]:
        """Return the manifest's entries: URLs (the sandbox replaces the files), and some equal jobs with two ids."""
        # At least as long as the sandbox bills. Every third seed has clips of unknown length.
        lengths_s = [10.0 + number * 7 % 11 if self.seed % 3 else None for number in range(self.jobs)]
        urls = [f"https://example.com/{self.seed}/{number}.mp4" for number in range(self.jobs)]
        jobs = [_job(url, length_s) for url, length_s in zip(urls, lengths_s, strict=True)]
        if self.rng.random() < 0.3:
            jobs.append(self.rng.choice(jobs))
        return tuple(Entry(place, f"job-{place}", job) for place, job in enumerate(jobs))

    def with_all_takes(self, entries: Sequence[Entry], story: Story) -> Sequence[Entry]:
        """Return the entries with the takes that the manifest asks for. A new job draws their number."""
        wanted = {}
        for entry in entries:
            name = entry.job.fingerprint
            if self.several_takes and name not in self.manifest_takes:
                self.manifest_takes[name] = self.take_rng.choice([1, 1, 2, 3])
            wanted[entry.position] = self.manifest_takes.get(name, 1)
            story.takes.setdefault(name, wanted[entry.position])
        return with_takes(entries, wanted)

    def reject(self, loop: Loop, story: Story) -> bool:
        """Reject some of the latest takes, so that the next runs add takes. Return whether there are any."""
        if not self.rejections:
            return False
        self.rejections -= 1
        report = json.loads((story.rundir.path / "report.json").read_bytes())
        latest = {row["job"]: row for row in report["jobs"]}
        firsts = {row["id"]: row["fingerprint"] for row in report["jobs"] if row["take"] == 1}
        clips = {firsts[name]: row for name, row in latest.items() if row["state"] == "succeeded"}
        chosen = [name for name in clips if self.take_rng.random() < 0.5]
        with VerdictLog(story.rundir.path) as log:
            for name in chosen:
                row = clips[name]
                log.append(Verdict(row["id"], row["take"], row["fingerprint"], row["sha256"], "reject"))
                story.takes[name] += 1
        story.note(loop.time(), f"rejected: {[clips[name]['id'] for name in chosen]}")
        self.retake, self.deaths = ("rejected",), self.take_rng.choice([0, 1, 3])
        return bool(chosen)

    def edited(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Edit a manifest between two runs: reorder it, rename an id, add a job."""
        listed = list(entries)
        self.rng.shuffle(listed)
        if self.rng.random() < 0.5:
            place = self.rng.randrange(len(listed))
            listed[place] = replace(listed[place], id=f"renamed-{place}-{self.rng.randrange(1000)}")
        if self.rng.random() < 0.5:
            url = f"https://example.com/{self.seed}/new-{self.rng.randrange(1000)}.mp4"
            listed.insert(0, Entry(0, f"added-{len(listed)}-{self.rng.randrange(1000)}", _job(url)))
        return tuple(replace(entry, position=place) for place, entry in enumerate(listed))

    def simulate(self, story: Story) -> None:
        """Simulate the scenario to its end, and record it."""
        collecting = gc.isenabled()
        gc.disable()  # its timing must not decide when things end
        try:
            in_virtual_time(lambda loop: self._simulate(loop, story))
        finally:
            if collecting:
                gc.enable()

    async def _simulate(self, loop: Loop, story: Story) -> None:
        service = await sandbox.start(story.config, clock=LoopClock(EPOCH), render=_render)
        entries = self.entries()
        at_rest = AtRest(story.rundir, self.fault_rng)
        try:
            for number in range(MAX_RUNS):
                dying = self.deaths > 0
                self.deaths -= 1
                status = await self._run(loop, story, entries, service.url, dying=dying)
                is_over = status in {0, 1}
                if is_over:
                    self.retake = ()
                if not self._between_runs(loop, story, at_rest) and is_over and not self.reject(loop, story):
                    break
                self._within_budget(service.ledger())
                if number == 5:
                    self.limits = {}
                if self.edits and self.rng.random() < 0.3 and not self.retake:  # a verdict belongs to an id
                    entries = self.edited(entries)
                    story.note(loop.time(), f"manifest edited: {[entry.id for entry in entries]}")
                assert number < MAX_RUNS - 1, "the batch does not end"
                await asyncio.sleep(self.rng.choice([1.0, 60.0, 3600.0]))
                assert loop.time() < MAX_VIRTUAL_S, "the batch does not end"
        finally:
            await service.close()
        story.entries = self.complete_entries(entries, story)
        story.ledger = service.ledger()
        story.report = json.loads((story.rundir.path / "report.json").read_bytes())

    def complete_entries(self, entries: Sequence[Entry], story: Story) -> Sequence[Entry]:
        """Return the entries of the last run, with those takes that runs added."""
        snapshot = journal.read(story.rundir.journal)
        assert snapshot is not None
        return with_retakes(self.with_all_takes(entries, story), snapshot.retakes)

    def _between_runs(self, loop: Loop, story: Story, at_rest: AtRest) -> bool:
        """Damage files between two runs. Return whether another run is needed to repair them."""
        at_rest.keep()
        if self.damages and self.fault_rng.random() < (0.7 if at_rest.has_log else 0.2):
            self.damages -= 1
            story.damage = at_rest.damage()
            story.note(loop.time(), f"at rest: {story.damage or 'nothing'}")
            self._count_cut_outcomes(loop, story)
            return bool(story.damage)
        snapshot = journal.read(story.rundir.journal) if self.flips and not story.damage else None
        delivered = (
            [item.name for item in verify(story.rundir, snapshot, Workers(Here())) if not item.kind] if snapshot else []
        )
        if snapshot is None or not delivered:
            return False
        self.flips -= 1
        flipped = flip_a_clip(story.rundir, self.fault_rng, sorted(delivered))
        bad = {item.name for item in verify(story.rundir, snapshot, Workers(Here())) if item.kind}
        story.note(loop.time(), f"a bit flips in {flipped}; verify finds {sorted(bad)}")
        for name in bad:
            (story.rundir.path / name).unlink(missing_ok=True)
        return True

    def _within_budget(self, ledger: list[dict[str, Any]]) -> None:
        """Check promise 4 while a budget is set, with the service's own account."""
        accepted = sum(event["event"] == "accepted" for event in ledger)
        charged = sum(event.get("charged", 0) for event in ledger)
        assert accepted <= self.limits.get("max_generations", accepted), (
            f"promise 4: {accepted} generations, {self.limits}"
        )
        assert charged <= self.limits.get("max_credits", charged), f"promise 4: {charged} credits, {self.limits}"

    async def _run(self, loop: Loop, story: Story, entries: Sequence[Entry], url: str, *, dying: bool) -> int | None:
        """Simulate one process. Return its exit status, or None if it died or was refused."""
        mortal, disk_failure = self._draw_fate(dying=dying)
        files = JournalFiles(story.rundir, self.fault_rng)
        disk = SimDisk(mortal, self.rng, disk_failure)
        clock = JumpyClock(self.rng) if self.clock_jumps else LoopClock(EPOCH)
        executor = MortalExecutor(mortal, self.rng)
        checks, commits = Checks(Here(), executor), JournalExecutor(mortal, self.rng, files, disk_failure)
        outside = Environment(clock, executor, commits, disk, self.rng, checks)
        caught: list[int] = []
        setup = self._setup(story, self.with_all_takes(entries, story))
        setup.rundir.make()
        story.caps.append(setup.settings.concurrency)

        def listen(engine: Engine) -> None:
            if self.interrupts and not dying:
                self.interrupts = False

                def interrupt() -> None:
                    caught.append(130)
                    engine.close(StopReason("interrupted", "SIGINT received"))

                loop.call_later(self.rng.uniform(0.0, 200.0), interrupt)

        bus = strict_bus(_listener(story, loop))

        async def live() -> int:
            return await drive(takes.settled(setup), Endpoint(url, "k"), bus, outside, (listen, lambda: _first(caught)))

        process = asyncio.ensure_future(live())
        mortal.at_death, mortal.on_death = files.freeze, process.cancel
        loop.mortal = mortal
        status, refused = await _ended(process)
        loop.mortal = None
        if mortal.dead:
            await _cancel_dead_tasks()
            files.thaw()
            disk.cut_power()
            story.deaths += 1
        elif refused:
            assert disk_failure.occurred or not setup.recover, f"a run is refused even with --recover: {refused}"
            self._refused(loop, story, refused, expected=disk_failure.occurred)
        story.active_at_last = None
        if mortal.dead or disk_failure.occurred:
            story.active_at_last = active = self._active_submissions(story, loop.time())
            story.active_at_deaths += active
            text = "died" if mortal.dead else "ended on a disk that failed"
            story.note(loop.time(), f"{text}, with {active} active submissions")
        if status is not None:
            story.statuses.append(status)
            story.note(loop.time(), f"exit {status}")
        return status

    def _draw_fate(self, *, dying: bool) -> tuple[Mortal, DiskFailure]:
        """Draw when the process dies, and when its disk fails."""
        mortal = Mortal()
        if dying and self.rng.random() < 0.5:
            mortal.die_at = int(self.rng.expovariate(1 / 60)) + 1
        elif dying:
            mortal.die_at_turn = int(self.rng.expovariate(1 / 600)) + 1
        if not self.disk_failures:
            return mortal, DiskFailure()
        self.disk_failures -= 1
        first, count = int(self.fault_rng.expovariate(1 / 60)) + 1, self.fault_rng.choice([1, 3, 10, 40])
        return mortal, DiskFailure(first, count, self.fault_rng.choice([errno.EIO, errno.ENOSPC]))

    def _refused(self, loop: Loop, story: Story, text: str, *, expected: bool) -> None:
        """Record a run that does not start: only a failing disk and damage between runs are valid reasons."""
        story.note(loop.time(), f"refused: {text}")
        assert expected or story.damage, f"a run is refused: {text}"
        self.recovers = bool(story.damage) and not expected

    def _active_submissions(self, story: Story, at: float) -> int:
        """Return the number of submissions whose outcome the journal does not have after the process ended."""
        snapshot = None
        with suppress(BatchrunnerError) if story.damage else nullcontext():
            snapshot = journal.read(story.rundir.journal)
        for record in snapshot.records.values() if snapshot else ():
            story.take_in(record, at)
        active = count_states(snapshot.records.values())[State.SUBMITTING] if snapshot else 0
        assert active <= self.concurrency, "more active submissions than slots"
        return active

    def _count_cut_outcomes(self, loop: Loop, story: Story) -> None:
        """Count submissions whose stored outcome was lost by damage, if no witness counted that outcome.

        A process that dies between a commit and the write of its witness, or whose disk refuses the witness, leaves
        commits that no witness counts. A log that lacks them looks like that of a process that died before them, so
        these submissions are in doubt. After a run that ended in order the witness counts every commit: then a
        submission in doubt is an error.
        """
        if story.active_at_last is None:
            return
        cut = self._active_submissions(story, loop.time()) - story.active_at_last
        if cut > 0:
            story.active_at_deaths += cut
            story.note(loop.time(), f"the outcomes of {cut} submissions are lost, and no witness counts them")

    def _setup(self, story: Story, entries: Sequence[Entry]) -> Setup:
        flags: dict[str, Any] = {"concurrency": self.concurrency, "output": str(story.rundir.path)}
        flags |= {"in_doubt": self.in_doubt, "poll_interval": self.poll_interval, **self.limits}
        recovers, self.recovers = self.recovers, False
        story.recovered |= recovers
        batch = Batch("batch", story.folder / "batch.yaml", "0" * 64, {}, entries, ())
        retake = () if recovers else self.retake
        return Setup(batch, resolve(flags, {}, {}), story.rundir, recover=recovers, retake=retake)


class JumpyClock(LoopClock):
    """A wall clock that is set now and then, by up to two days in either direction."""

    def __init__(self, rng: Random) -> None:
        super().__init__(EPOCH)
        self._rng = rng
        self._off_s = 0.0

    def now(self) -> float:
        if self._rng.random() < 0.02:
            self._off_s = self._rng.uniform(-172_800.0, 172_800.0)
        return super().now() + self._off_s


async def _ended(process: "asyncio.Future[int]") -> tuple[int | None, str]:
    """Return a process's exit status, or None with the message of its refusal ("" if it died)."""
    try:
        return await process, ""
    except (Died, asyncio.CancelledError):
        return None, ""
    except BatchrunnerError as error:
        return None, error.message
    except Exception as error:
        raise AssertionError(f"a run ends with a traceback: {error!r}") from error


def _first(caught: list[int]) -> Any:
    return caught[0] if caught else None


async def _cancel_dead_tasks() -> None:
    """Cancel the tasks that the dead process left in the loop."""
    left = [task for task in asyncio.all_tasks() if "Engine." in getattr(task.get_coro(), "__qualname__", "")]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _listener(story: Story, loop: Loop) -> Callable[[Event], None]:
    def note(event: Event) -> None:
        if isinstance(event, JobMoved):
            record = event.record
            story.take_in(record, loop.time())
            who = ", ".join(event.ids) or record.job.key
            why = f": {record.error.kind}: {record.error.message}" if record.error else ""
            story.note(loop.time(), f"{who} {event.move} -> {record.state}{why}"[:200])
        elif isinstance(event, CallFailed):
            who = ", ".join(event.ids)
            story.note(
                loop.time(), f"{who} {event.call} failed, again in {event.retry_in_s:.1f} s: {event.problem.kind}"
            )
        else:
            story.note(loop.time(), event)

    return note


def _job(url: str, length_s: float | None = None) -> Job:
    video = Media("video", url, uri=url, duration_s=length_s)
    image_url = "https://example.com/hero.png"
    image = Media("image", image_url, uri=image_url)
    params, inputs = registry.default_model().complete({}), {"video": video, "image": image}
    return Job(fingerprint.fingerprint(MODEL, inputs, params), MODEL, inputs, params)


@cache
def _clip() -> bytes:
    """Return a small valid clip: 32x32, three frames."""
    import io

    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(3):
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane in frame.planes:  # a new frame holds whatever was in memory
                plane.update(bytes((number * 20 + at) % 256 for at in range(plane.buffer_size)))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return memory.getvalue()


async def _render(request: RenderRequest) -> bytes:
    """Return a small clip with the request's mark, whatever was requested."""
    return _clip() + request.mark
