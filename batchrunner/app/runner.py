"""The composition root: builds the parts of a run, runs it, and closes in order.

`run` is `batchrunner.app.start`'s way in, where a batch has something to do. `drive` is the same below signals and
threads, with the outside world as an argument.
Rule: parts are closed in the reverse order of their making, whatever ends the run.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NoReturn

import batchrunner
from batchrunner.app import recovery, rehearsal, webhook
from batchrunner.app.run_started import opened
from batchrunner.app.setup import Setup, admission_of, ids_of, order_of, policy_of, run_of
from batchrunner.clock import Clock, LoopClock
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.job_queue import Scheduler
from batchrunner.engine.loop import Engine
from batchrunner.engine.polling import duration_cache as history
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.engine.ports import Dependencies
from batchrunner.engine.steps import Steps
from batchrunner.errors import ExitStatus, LocalFault, UsageError
from batchrunner.events import Alive, Listener, Noticed, RunFinished
from batchrunner.job import Record, Run, Snapshot, State, count_states
from batchrunner.journal.journal import Journal
from batchrunner.media import decoder_pool
from batchrunner.media.posters import Posters
from batchrunner.net.proxies import Proxies, Proxy, read_proxies
from batchrunner.plan.admission import Admission
from batchrunner.plan.prices import Prices
from batchrunner.plan.resume import held_before_retry, held_in_doubt, take_up
from batchrunner.providers import registry
from batchrunner.providers.base import Provider
from batchrunner.providers.endpoint import Endpoint, on_this_machine, service_name
from batchrunner.providers.generation_owners import GenerationOwners
from batchrunner.providers.registry import Connect
from batchrunner.report import writer
from batchrunner.storage.disk_space import DiskSpaceGuard
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import Anchor, RunDir
from batchrunner.transfer.delivery import Store
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.url_guard import Guard

# A closed terminal (SIGHUP) ends a run as a service manager does, unless nohup shields it.
_SIGNALS = {
    signal.SIGINT: ExitStatus.SIGINT,
    signal.SIGTERM: ExitStatus.SIGTERM,
    signal.SIGHUP: ExitStatus.SIGTERM,
}

_TIME_EVERY_S = 0.25
# More than there are processors do not decode faster, and get into each other's way with small files.
_FILE_THREADS = max(2, min(4, os.cpu_count() or 1))


Control = tuple[Callable[[Engine], None], Callable[[], ExitStatus | None]]


@dataclass(frozen=True, slots=True)
class Environment:
    """What a run takes from outside: time, chance, threads, files. A simulation gives its own.

    executor: for files. checks: where clips are decoded. journal_executor: one thread, so that commits keep their
    order. posters: made where somebody will look at them. history: the file of durations, None to keep none
    (`batchrunner.engine.polling.duration_cache`). proxies: the ways to other hosts. connect: makes the provider for the
    endpoint.
    """

    clock: Clock
    executor: Executor
    journal_executor: Executor
    files: Disk
    rng: Random
    checks: Checks
    posters: Posters | None = None
    history: Path | None = None
    proxies: Proxies = field(default_factory=Proxies)
    connect: Connect = registry.connect


def run(
    setup: Setup,
    endpoint: Endpoint | None,
    environment: Mapping[str, str],
    listener: Listener,
    early: Sequence[signal.Signals] = (),
    leave: Callable[[], None] = lambda: None,
) -> int:
    """Run a batch in its locked run directory, to the written report. Returns the exit status of the contract.

    endpoint: None for a sandbox of its own. environment: the process's. early: signals that came already; more may be
    added until the loop hears them itself. leave: gives the terminal back, before a second signal ends the process.
    """
    clock = rehearsal.clock(setup.sandbox, setup.rundir, recover=setup.recover)
    with _heard_to_the_end(), _threads(clock) as outside, Posters(setup.rundir, decoder_pool.pool()) as posters:
        beside = posters.beside(listener, setup.batch.entries[: writer.MOST_CARDS])
        remote = endpoint is not None and not on_this_machine(endpoint.base_url)
        proxies = read_proxies(environment) if endpoint or setup.settings.notify else Proxies()
        past = history.place(environment) if remote else None
        whole = replace(outside, posters=posters, history=past, proxies=proxies)
        return asyncio.run(_run_under_signals(setup, endpoint, beside, whole, (early, leave)))


async def _run_under_signals(
    setup: Setup,
    endpoint: Endpoint | None,
    listener: Listener,
    outside: Environment,
    shell: tuple[Sequence[signal.Signals], Callable[[], None]],
) -> int:
    """The first signal asks for a clean stop. They are heard before there is an engine."""
    early, leave = shell
    caught: list[signal.Signals] = []
    engines: list[Engine] = []

    def interrupted(number: signal.Signals) -> None:
        caught.append(number)
        if len(caught) > 1:
            _end_at_once(_SIGNALS[caught[0]], leave)
        _end_at_the_next(_SIGNALS[number], leave)
        for engine in engines:
            engine.close(f"{number.name} received")
        _hurry(outside)
        message = "Finishing active requests. Press Ctrl-C again to quit now."
        listener(Noticed(outside.clock.now(), (), message, routine=True))

    def listen(engine: Engine) -> None:
        engines.append(engine)
        for number in caught:
            engine.close(f"{number.name} received")

    def ending() -> ExitStatus | None:
        return _SIGNALS[caught[0]] if caught else None

    for number in _heeded():
        asyncio.get_running_loop().add_signal_handler(number, interrupted, number)
    for number in early:
        interrupted(number)
    local = rehearsal.service(setup.sandbox, setup.rundir, outside.clock)
    ticking = asyncio.get_running_loop().create_task(_announce_time(outside.clock, listener))
    try:
        async with nullcontext(endpoint) if endpoint else local as found:
            return await drive(setup, found, listener, outside, (listen, ending))
    finally:
        ticking.cancel()


def _heeded() -> list[signal.Signals]:
    """The signals that end a run, but for those that whoever started this process wants ignored."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _end_at_the_next(status: ExitStatus, leave: Callable[[], None]) -> None:
    """Let the next signal end the process at once, whatever the loop and its threads are doing, also at their end."""
    for number in _heeded():
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, lambda *_: _end_at_once(status, leave))


def _end_at_once(status: ExitStatus, leave: Callable[[], None]) -> NoReturn:
    """End the process as a kill does, which loses nothing; but give the terminal back."""
    for number in _heeded():
        signal.signal(number, signal.SIG_DFL)  # where the terminal takes nothing, one more ends it
    leave()
    os._exit(status)


@contextmanager
def _heard_to_the_end() -> Iterator[None]:
    """Restore the handlers of signals when all is over."""
    before = {number: signal.getsignal(number) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hurry(outside: Environment) -> None:
    if outside.posters is not None:
        outside.posters.hurry()


async def _announce_time(clock: Clock, listener: Listener) -> None:
    """Say that time passes, in steps of the real time, whatever the run's clock does."""
    while True:
        await LoopClock().sleep(_TIME_EVERY_S)
        listener(Alive(clock.now()))


async def drive(setup: Setup, endpoint: Endpoint, listener: Listener, outside: Environment, control: Control) -> int:
    """One run in a locked run directory, against a service that is up, to the written report. Returns the exit status.

    control: told the engine before it starts; asked at the end for an exit status that goes before the batch's own.
    """
    listen, ending = control
    checks, decoder = outside.checks, _load(outside.checks)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(closing(_open(setup, outside, endpoint.base_url, listener)))
        anchor = stack.enter_context(Anchor(setup.rundir))
        run, records, recovers = await _begin(setup, journal, outside, endpoint.base_url)
        store = Store(setup.rundir, journal, outside.executor, outside.files, checks.decoders)
        client, clips = _calls(setup, endpoint, outside)
        ids = ids_of(setup.batch.entries)
        admission = admission_of(setup, records, story := journal.story())
        room = DiskSpaceGuard(setup.rundir.path, outside.clock, records.values())
        parts = Dependencies(
            provider=GenerationOwners(await stack.enter_async_context(client), records.values()),
            journal=journal,
            clips=await stack.enter_async_context(clips),
            store=store,
            clock=outside.clock,
            rng=outside.rng,
            announce=room.beside(listener),
            ids=lambda fingerprint: ids.get(fingerprint, ()),
            durations=_remembered(setup, run, admission, outside, stack),
            lacks_space=room.lacks,
            lost=anchor.lost,
            timeline=story.timeline_events,
        )
        order = order_of(setup.batch.entries)
        policy = policy_of(setup.settings, len(order), outside.clock.now(), recovers=recovers)
        health = CallHealth(parts, scheduler := Scheduler(policy.concurrency))
        steps = Steps(parts, policy, run.run_id, records, health, admission)
        _announce_start(setup, run, ids, steps, listener, outside.proxies.for_url(endpoint.base_url))
        await steps.settle(await store.settle(setup.batch.entries, records))
        await decoder  # before money is spent on clips that could not be checked
        engine = Engine(parts, policy, steps, scheduler, health)
        listen(engine)
        _begin_with_room(engine, room, steps.records)
        await engine.run(order)
        own = await _status(anchor, engine, store, steps, order)
        status = ending() or own
        ended = replace(run, finished_at=outside.clock.now(), exit_status=int(status), stopped=engine.stopped)
        return await _finish(_moved(setup, anchor), journal, steps, ended, outside, listener)


def _load(checks: Checks) -> "asyncio.Future[None]":
    """Have a decoder loaded meanwhile. Raises NoDecoder when it is awaited."""
    return asyncio.get_running_loop().run_in_executor(checks.executor, checks.decoders.ready)


async def _status(anchor: Anchor, engine: Engine, store: Store, steps: Steps, order: Sequence[str]) -> ExitStatus:
    """The batch's own exit status, after a last look at what was delivered."""
    if anchor.lost():
        return ExitStatus.STOPPED
    await _look_again(engine, store, steps)
    return exit_status([steps.records[item] for item in order])


async def _look_again(engine: Engine, store: Store, steps: Steps) -> None:
    """Before the report: fetch again what was delivered and is not there any more, where time is left."""
    for is_last in (False, True):
        try:
            lost = await store.look_again(steps.records)
            await steps.settle(lost)
        except LocalFault as fault:
            engine.stop(f"the delivered clips could not be looked at: {fault.message}")
            return
        if lost and not is_last:
            await engine.follow_again(lost)
        for fingerprint in lost:
            fetched = steps.records[fingerprint].state is State.SUCCEEDED
            following = "it was fetched again" if fetched else "run again to fetch it, at no charge"
            steps.notice(fingerprint, f"its clip was removed or changed during the run: {following}")


def _calls(
    setup: Setup, endpoint: Endpoint, outside: Environment
) -> tuple[AbstractAsyncContextManager[Provider], Downloader]:
    """What calls the service and file hosts, not opened yet."""
    client = outside.connect(endpoint, outside.clock, outside.executor, proxies=outside.proxies)
    guard = Guard(endpoint.base_url, proxies=outside.proxies)
    return client, Downloader(
        setup.rundir.partial_dir, outside.executor, outside.files, guard, outside.checks, endpoint.redactor
    )


def _begin_with_room(engine: Engine, room: DiskSpaceGuard, records: Mapping[str, Record]) -> None:
    """A run that begins without room only fetches: each start on a full disk would pay for one more clip else."""
    states = count_states(records.values())
    lack = room.lacks(states[State.IN_FLIGHT] + 1)
    if states[State.PENDING] and lack:
        engine.stop(lack)


def _remembered(
    setup: Setup, run: Run, admission: Admission, outside: Environment, stack: AsyncExitStack
) -> dict[DurationKey, Durations]:
    """Durations that earlier batches and earlier runs of this one saw; kept for later ones when `stack` is closed."""
    durations = history.load(outside.history, run.service)
    history.with_journal(durations, admission.forecast.seen, setup.settings.poll_interval_s)
    stack.callback(history.save, outside.history, run.service, durations)
    return durations


def _moved(setup: Setup, anchor: Anchor) -> Setup:
    """The setup with the run directory where it is now. Where it is nowhere, no other is made at its old place."""
    place = anchor.place()
    return setup if place is None else replace(setup, rundir=RunDir(place))


async def _finish(
    setup: Setup, journal: Journal, steps: Steps, run: Run, outside: Environment, listener: Listener
) -> int:
    """Store how the run ended and write the reports from what was stored; returns the exit status."""
    written: tuple[Path, ...] = ()
    before = writer.stamps(setup.rundir.path)
    loop = asyncio.get_running_loop()
    try:
        await steps.flush()
        await journal.finish(run)
        held = _held(setup, journal, steps)
        if outside.posters is not None:
            with suppress(OSError):  # a page without pictures is one all the same
                await asyncio.wrap_future(outside.posters.finish(writer.on_page(held)))
        extra = {"junit": setup.settings.junit, "metrics_file": setup.settings.metrics_file}
        if not setup.rundir.internal_dir.is_dir():
            raise LocalFault("disk_error", f"the run directory {setup.rundir.path} is gone")  # noqa: TRY301 (one place)
        write = partial(writer.write, held, setup.rundir.path, batchrunner.__version__, **extra)
        written = await loop.run_in_executor(outside.executor, write)  # a large one takes seconds
    except (LocalFault, OSError) as error:
        older = ", ".join(sorted(name for name, *_ in before & writer.stamps(setup.rundir.path)))
        message = f"the report could not be written: {error}" + (
            f"; what stands there is older: {older}" if older else ""
        )
        listener(Noticed(run.finished_at or run.started_at, (), message + _ids_in_flight(steps), urgent=True))
        if run.exit_status not in _SIGNALS.values():
            run = replace(run, exit_status=int(ExitStatus.STOPPED))
    held = replace(_held(setup, journal, steps), run=run)
    states = count_states([held.records[name] for name in {entry.job.fingerprint for entry in held.entries}])
    report = await loop.run_in_executor(outside.executor, writer.build, held, batchrunner.__version__)
    at, status = run.finished_at or run.started_at, run.exit_status or 0
    listener(RunFinished(at, status, states, tuple(map(str, written)), writer.headline(report), report))
    await webhook.notify(setup.settings.notify, report, setup.rundir.path, listener, outside.proxies)
    return status


def _ids_in_flight(steps: Steps) -> str:
    """What a person needs who has lost the run directory, in words."""
    ids = [record.generation_id for record in steps.records.values() if record.state is State.IN_FLIGHT]
    known = [item for item in ids if item is not None]
    return f"; generations in flight: {', '.join(known)}" if known else ""


def exit_status(records: list[Record]) -> ExitStatus:
    """The batch's own exit status: 0 all succeeded, 3 more to do (run again), 1 what is left failed or is in doubt."""
    counts = count_states(records)
    if counts[State.PENDING] or counts[State.IN_FLIGHT] or counts[State.SUBMITTING]:
        return ExitStatus.STOPPED
    return ExitStatus.FAILED if counts[State.FAILED] or counts[State.IN_DOUBT] else ExitStatus.OK


@contextmanager
def _threads(clock: Clock) -> Iterator[Environment]:
    """The real world: a clock, system randomness, a few threads, processes that decode, the real file system."""
    with (
        ThreadPoolExecutor(max_workers=_FILE_THREADS, thread_name_prefix="files") as executor,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal") as journal_executor,
        ThreadPoolExecutor(max_workers=decoder_pool.WORKERS, thread_name_prefix="checks") as check_executor,
    ):
        rng = Random(int.from_bytes(os.urandom(8)))
        checks = Checks(decoder_pool.pool(), check_executor)
        try:
            yield Environment(clock, executor, journal_executor, Disk(), rng, checks)
        finally:  # a check that nobody waits for any more must not hold up the end
            check_executor.shutdown(wait=False, cancel_futures=True)
            checks.decoders.stop()


def _open(setup: Setup, outside: Environment, base_url: str, listener: Listener) -> Journal:
    """The journal, with what the user should hear of it. Raises UsageError, JournalError, LocalFault."""

    def run() -> Run:
        service = service_name(setup.settings, base_url)
        return run_of(setup, service, f"{outside.rng.getrandbits(48):012x}", outside.clock.now())

    recover = run if setup.recover else None
    entries = setup.batch.entries
    journal = recovery.open_journal(setup.rundir, entries, outside.journal_executor, outside.files, recover)
    if journal.warning:
        listener(Noticed(outside.clock.now(), (), journal.warning, urgent=True))
    return journal


async def _begin(
    setup: Setup, journal: Journal, outside: Environment, base_url: str
) -> tuple[Run, dict[str, Record], bool]:
    """Store the start of this run, and where every job starts from; and say whether it recovers a lost journal."""
    batch, settings = setup.batch, setup.settings
    before = journal.snapshot()
    if before is not None and before.run.provider != settings.provider:
        raise UsageError(
            f"{setup.rundir.path} holds a batch of provider {before.run.provider}, not {settings.provider}",
            "Give this provider a run directory of its own with --output DIR. Nothing was submitted.",
        )
    service = service_name(settings, base_url)
    if before is not None and before.run.service != service:
        raise UsageError(
            f"{setup.rundir.path} holds a batch of {before.run.service}, not of {service}",
            "Give this service a run directory of its own with --output DIR. Nothing was submitted.",
        )
    run = run_of(setup, service, f"{outside.rng.getrandbits(48):012x}", outside.clock.now())
    known = before.records if before else {}
    price = Prices(batch.prices, settings.assume_length_s).estimate
    if journal.is_stale:
        known = held_in_doubt(known, batch.entries, run.run_id, run.started_at, lambda job: price(job).credits)
    elif settings.retry_failed:
        known = held_before_retry(known, run.run_id, run.started_at, lambda job: price(job).credits)
    records, changed = take_up(
        known,
        batch.entries,
        retry_failed=settings.retry_failed and not journal.is_stale,
        resubmit_in_doubt=False,  # the service's log is searched first (`steps.Steps.review`)
    )
    recovers = journal.is_stale
    if recovers or settings.retry_failed:
        changed = list(records.values())
    await journal.begin(run, batch.entries, changed)
    return run, records, recovers


def _announce_start(
    setup: Setup,
    run: Run,
    ids: Mapping[str, tuple[str, ...]],
    steps: Steps,
    listener: Listener,
    proxy: Proxy | None,
) -> None:
    listener(opened(run, str(setup.rundir.path), ids, steps.records, steps.admission.prices))
    if proxy is not None:
        message = f"{run.service} is reached through the proxy {proxy.shown}"
        listener(Noticed(run.started_at, (), message, routine=True))
    for notice in setup.notices:
        listener(Noticed(run.started_at, (), notice))


def _held(setup: Setup, journal: Journal, steps: Steps) -> Snapshot:
    """What the journal holds. Every record that stands in `steps` is stored by now: 100,000 are not read again."""
    return replace(journal.story(), entries=setup.batch.entries, records=steps.records)
