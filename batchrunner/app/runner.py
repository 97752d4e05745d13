"""The composition root: builds the objects of a run, runs them, and closes them in order.

`run` starts a batch that has work to do; `batchrunner.app.start` calls it. `drive` is the same without signals and
threads: its caller passes the outside world.
Rule: objects are closed in the reverse order of their creation, whatever ends the run.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from batchrunner.account.base import Hold, Reuse
from batchrunner.account.limits import AccountBudgets
from batchrunner.app import bucket_results, clip_checks, opening, rehearsal, settlement, takes, webhook
from batchrunner.app.account import Joined, joined, overview, shared_of
from batchrunner.app.environment import Environment, real_environment
from batchrunner.app.overrun_posts import OverrunPoster
from batchrunner.app.price_list import refreshed
from batchrunner.app.run_end import final_status, finish
from batchrunner.app.run_signals import RunSignals, restored_handlers
from batchrunner.app.run_started import opened
from batchrunner.app.setup import Setup, admission_of, order_of, policy_of
from batchrunner.app.submission_order import priorities_for
from batchrunner.app.thread_notices import from_threads
from batchrunner.clock import Clock, LoopClock
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.loop import Engine
from batchrunner.engine.policy import Policy
from batchrunner.engine.polling import duration_cache
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.engine.ports import Clips, Dependencies, ReadyInputs
from batchrunner.errors import ExitStatus
from batchrunner.events import Alive, EventBus, JobMoved, Listener, Noticed, Overrun
from batchrunner.job import JobNames, Record, Run, Snapshot, State, count_states
from batchrunner.journal.journal import Journal
from batchrunner.media.posters import Posters
from batchrunner.net.proxies import Proxies, Proxy, read_proxies
from batchrunner.plan.admission import Admission
from batchrunner.plan.endings import LEASE_LOST, NO_REASON, StopReason, stop_for
from batchrunner.plan.selection import unmatched_notices
from batchrunner.providers.base import Provider
from batchrunner.providers.endpoint import Endpoint, on_this_machine
from batchrunner.providers.generation_owners import GenerationOwners
from batchrunner.quality.marks import is_on
from batchrunner.quality.references import References
from batchrunner.redaction import Redactor
from batchrunner.report import writer
from batchrunner.storage.disk_space import DiskSpaceGuard
from batchrunner.storage.lease import Lease
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress, is_address
from batchrunner.storage.objects.staged_names import uploads
from batchrunner.storage.run_directory import Anchor, RunDir
from batchrunner.transfer.clip_copies import ClipCopies
from batchrunner.transfer.delivery import ResultStore
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.url_guard import Guard
from batchrunner.workers import spec as worker_specs
from batchrunner.workers.engines import open_workers

# Only some batches use these: they are imported where they are used.
if TYPE_CHECKING:
    from batchrunner.review.hook import Hook
    from batchrunner.storage.objects.staging import Staging
    from batchrunner.transfer.bucket_delivery import BucketStore

_TIME_EVERY_S = 0.25

Control = tuple[Callable[[Engine], None], Callable[[], ExitStatus | None]]


def run(
    setup: Setup,
    endpoint: Endpoint | None,
    environment: Mapping[str, str],
    bus: EventBus,
    lease: Lease | None = None,
    early: Sequence[signal.Signals] = (),
    leave: Callable[[], None] = lambda: None,
) -> int:
    """Run a batch in its locked run directory, write the reports, and return the exit status.

    endpoint: None to start an embedded sandbox. environment: the environment variables of the process. lease: of the
    run directory. early: signals that arrived before the event loop; more may be appended until the loop handles
    signals itself. leave: restores the terminal before a second signal ends the process.
    """
    clock = rehearsal.clock(setup.sandbox, setup.rundir, recover=setup.recover)
    with (
        restored_handlers(),
        open_workers(worker_specs.parse(setup.settings.workers), from_threads(bus)) as workers,
        real_environment(clock, workers) as outside,
        shared_of(environment) if endpoint else nullcontext() as shared,
        Posters(setup.rundir, workers.decoders) as posters,
    ):
        bus.subscribe(posters.listener(setup.batch.entries[: writer.MOST_CARDS]), name="posters", events=Posters.EVENTS)
        is_remote = endpoint is not None and not on_this_machine(endpoint.base_url)
        complete = replace(
            outside,
            posters=posters,
            history=duration_cache.place(environment) if is_remote else None,
            proxies=read_proxies(environment) if endpoint or setup.settings.notify else Proxies(),
            shared=shared,
            on_clip=_hook(setup, environment),
            lease=lease,
        )
        return asyncio.run(_run_under_signals(setup, endpoint, bus, complete, (early, leave)))


def _hook(setup: Setup, environment: Mapping[str, str]) -> "Hook | None":
    if setup.settings.on_clip is None:
        return None
    from batchrunner.review.hook import Hook, arguments_of

    return Hook(arguments_of(setup.settings.on_clip), environment)


async def _run_under_signals(
    setup: Setup,
    endpoint: Endpoint | None,
    bus: EventBus,
    outside: Environment,
    shell: tuple[Sequence[signal.Signals], Callable[[], None]],
) -> int:
    """Handle signals from the start, then open the service and drive the run."""
    early, leave = shell

    def announce_stop() -> None:
        if outside.posters is not None:
            outside.posters.hurry()
        if outside.on_clip is not None:
            outside.on_clip.stop()
        message = "Finishing active requests. Press Ctrl-C again to quit now."
        bus.publish(Noticed(outside.clock.now(), (), message, routine=True))

    def leave_at_once() -> None:
        if outside.on_clip is not None:
            outside.on_clip.stop()
        leave()

    signals = RunSignals(announce_stop, leave_at_once)
    signals.listen()
    for number in early:
        signals.receive(number)
    local = rehearsal.service(setup.sandbox, setup.rundir, outside.clock)
    ticking = asyncio.get_running_loop().create_task(_announce_time(outside.clock, bus.publish))
    try:
        async with nullcontext(endpoint) if endpoint else local as service:
            async with outside.connect(service, outside.clock, outside.executor, proxies=outside.proxies) as provider:
                setup = await refreshed(setup, provider, service.base_url)
            return await drive(setup, service, bus, outside, (signals.attach, signals.exit_status))
    finally:
        ticking.cancel()


async def _announce_time(clock: Clock, listener: Listener) -> None:
    """Announce the run's time every 0.25 s of real time, whatever the speed of the run's clock."""
    while True:
        await LoopClock().sleep(_TIME_EVERY_S)
        listener(Alive(clock.now()))


@dataclass(frozen=True, slots=True)
class _OpenRun:
    """A run that has begun, with everything that it uses open.

    setup: with all takes of the batch. known: each job's record at its start. notices: what the user should know about
    it, as text.
    """

    setup: Setup
    run: Run
    known: dict[str, Record]
    recovers: bool
    notices: tuple[str, ...]
    ids: Mapping[str, tuple[str, ...]]
    admission: Admission
    anchor: Anchor
    journal: Journal
    store: ResultStore
    bucket: "BucketStore | None"
    disk_space: DiskSpaceGuard
    deps: Dependencies
    account_budgets: AccountBudgets


async def drive(setup: Setup, endpoint: Endpoint, bus: EventBus, outside: Environment, control: Control) -> int:
    """Run a batch against a service that is up, in a locked run directory, and return the exit status.

    control: two functions. The first receives the engine before it starts. The second is called at the end; an exit
    status that it returns replaces the batch's own.
    """
    on_engine, ending = control
    decoder = _load(outside.checks)
    async with AsyncExitStack() as stack:
        open_run = await _open_run(setup, endpoint, bus, outside, stack)
        setup, run, journal, admission = open_run.setup, open_run.run, open_run.journal, open_run.admission
        checks = stack.enter_context(clip_checks.opened(setup, run, outside, bus))
        order = await outside.in_thread(order_of, setup.chosen)
        policy = policy_of(setup.settings, len(order), outside.clock.now(), recovers=open_run.recovers)
        engine, records = _engine(open_run.deps, policy, run, open_run.known, admission)
        await settlement.take_known(open_run.deps, records)
        await _announce_start(open_run, records, order, bus, outside, outside.proxies.for_url(endpoint.base_url))
        await webhook.notify_start(setup.settings.notify, run, setup.rundir.path, bus.publish, outside.proxies)
        _post_overruns(setup, run, outside, bus, stack)
        await engine.settle(await open_run.store.settle(setup.batch.entries, records.view))
        await decoder  # before money is spent on clips that could not be checked
        on_engine(engine)
        await checks.begin(records.view.values())
        _stop_without_disk_space(engine, open_run.disk_space, records.view)
        _stop_without_bucket(engine, open_run.bucket, bus, outside.clock)
        elsewhere = await _known_elsewhere(open_run.deps, records, order)
        await engine.run(order, elsewhere, await _priorities(open_run, records, elsewhere))
        lost, in_thread = open_run.deps.lost, outside.in_thread
        own = await final_status(lost, engine, open_run.store, journal, records, order, in_thread)
        await settlement.settle(open_run.deps, journal, records, signalled=ending() is not None)
        reason = engine.stopped
        await checks.finish(records, reason)
        ended = replace(
            run,
            finished_at=outside.clock.now(),
            exit_status=int(ending() or own),
            stopped=str(reason),
            stop_kind=reason.kind,
        )
        setup = _moved(setup, open_run.anchor)
        return await finish(setup, journal, records, ended, outside, bus, open_run.bucket)


async def _open_run(
    setup: Setup, endpoint: Endpoint, bus: EventBus, outside: Environment, stack: AsyncExitStack
) -> _OpenRun:
    """Open the journal, the account and the connections, and store the start of the run. `stack` closes them."""
    in_thread = outside.in_thread  # for what takes long in a large batch: the event loop goes on meanwhile
    journal, setup, before = await opening.open_journal(setup, outside, endpoint.base_url, bus, stack)
    anchor = stack.enter_context(Anchor(setup.rundir))
    await in_thread(bucket_results.require_bucket, setup, before, journal.files)
    account = await _join(joined(setup, endpoint, journal, before, outside, bus.publish), outside.clock, stack)
    setup, run, known, recovers = await _begin(setup, endpoint, journal, before, outside, account)
    files = outside.executor, outside.files, outside.checks.decoders
    local = await in_thread(outside.open_store, setup.rundir, journal, *files)
    bucket = bucket_results.store_of(setup, local, outside)
    checks = await in_thread(_measuring, outside.checks, setup, known)
    staging = await in_thread(_staging, setup, known, outside, bus)
    provider, clips = await _connect(stack, setup, endpoint, replace(outside, checks=checks), known, bus, staging)
    ids = await in_thread(JobNames, setup.batch.entries)
    story = journal.story()
    admission = await in_thread(admission_of, setup, known, story)
    disk_space = await in_thread(DiskSpaceGuard, setup.rundir.path, outside.clock, known.values())
    bus.subscribe(disk_space.on_event, name="disk space guard", events=(JobMoved,))
    deps = Dependencies(
        provider=provider,
        journal=journal,
        clips=clips,
        store=bucket or local,
        clock=outside.clock,
        rng=outside.rng,
        announce=bus.publish,
        ids=ids.ids,
        durations=_learned_durations(setup, run, admission, outside, stack),
        lacks_space=disk_space.lacks,
        lost=partial(_lost, anchor, outside.lease),
        confirm=partial(_confirm, outside.lease),
        timeline=story.timeline_events,
        account=account.session,
        copies=ClipCopies(setup.rundir.partial_dir, outside.executor, outside.files, checks),
        pace=account.pace,
        inputs=staging or ReadyInputs(),
        bucket=bucket,
        in_thread=in_thread,
    )
    notices = setup.notices + unmatched_notices(before.records.values() if before else (), setup.settings.retry_failed)
    begun = (setup, run, known, recovers, notices, ids, admission, anchor, journal, bucket or local)
    return _OpenRun(*begun, bucket, disk_space, deps, account.budgets)


async def _begin(
    setup: Setup, endpoint: Endpoint, journal: Journal, before: Snapshot | None, outside: Environment, account: Joined
) -> tuple[Setup, Run, dict[str, Record], bool]:
    """Store the start of the run, also in the account if it recovers a journal. See `opening.begin`.

    Returns also the setup with the takes that a stale journal has lost: the account may have shown that it is stale.
    """
    if journal.is_stale:
        setup = takes.recovered(setup)
    run, known, recovers = await opening.begin(setup, journal, before, account.lost, outside, endpoint.base_url)
    if recovers:
        for record in known.values():
            account.session.moved(record)
    return setup, run, known, recovers


async def _known_elsewhere(deps: Dependencies, records: JobRecords, order: Sequence[str]) -> Mapping[str, Reuse | Hold]:
    """Return what other batches of the account have for the pending jobs, and announce where those batches are."""
    found = await deps.account.survey(await deps.in_thread(_pending, records, order))
    for message in overview(found):
        deps.announce(Noticed(deps.clock.now(), (), message))
    return found


async def _priorities(
    open_run: _OpenRun, records: JobRecords, elsewhere: Mapping[str, Reuse | Hold]
) -> Mapping[str, int] | None:
    """Return the priorities of the jobs, None for the order of the manifest, and announce why."""
    deps, prices = open_run.deps, open_run.admission.prices
    ranking = open_run.setup, prices, open_run.account_budgets, records, elsewhere
    priorities: Mapping[str, int] | None
    priorities, notice = await deps.in_thread(priorities_for, *ranking)
    if notice:
        deps.announce(Noticed(deps.clock.now(), (), notice, routine=True))
    return priorities


def _pending(records: JobRecords, order: Sequence[str]) -> list[Record]:
    return [record for name in order if (record := records[name]).state is State.PENDING]


def _engine(
    deps: Dependencies, policy: Policy, run: Run, known: dict[str, Record], admission: Admission
) -> tuple[Engine, JobRecords]:
    def announce_overrun(record: Record) -> None:
        ledger, ids = admission.ledger, deps.ids(record.job.fingerprint)
        deps.announce(Overrun(deps.clock.now(), ids, record, ledger.total.worst, ledger.budget, admission.prices))

    admission.on_overrun = announce_overrun
    records = JobRecords(known, deps, admission.ledger)
    return Engine(deps, policy, run.run_id, records, admission), records


async def _join(joining: AbstractAsyncContextManager[Joined], clock: Clock, stack: AsyncExitStack) -> Joined:
    """Join the account, and store what its session defers. Closing `stack` ends both."""
    account = await stack.enter_async_context(joining)
    stack.callback(asyncio.get_running_loop().create_task(account.session.keep_up(clock.sleep)).cancel)
    return account


def _post_overruns(setup: Setup, run: Run, outside: Environment, bus: EventBus, stack: AsyncExitStack) -> None:
    """Post overruns to the webhook from now on. Closing `stack` ends it."""
    url, run_dir = setup.settings.notify, setup.rundir.path
    poster = OverrunPoster(url, run, run_dir, bus.publish, outside.proxies)
    if poster.is_needed:
        bus.subscribe(poster, name="webhook", events=(Overrun,))
        stack.callback(asyncio.get_running_loop().create_task(poster.work(outside.clock)).cancel)


def _load(checks: Checks) -> "asyncio.Future[None]":
    """Start loading a decoder in a thread. Awaiting the result raises NoDecoder."""
    return asyncio.get_running_loop().run_in_executor(checks.executor, checks.decoders.ready)


async def _connect(
    stack: AsyncExitStack,
    setup: Setup,
    endpoint: Endpoint,
    outside: Environment,
    known: Mapping[str, Record],
    bus: EventBus,
    staging: "Staging | None",
) -> tuple[Provider, Clips]:
    """Open the client of the service and the downloader. Closing `stack` closes them."""
    client = outside.connect(endpoint, outside.clock, outside.executor, proxies=outside.proxies)
    plain = await stack.enter_async_context(client)

    def notify(message: str) -> None:
        bus.publish(Noticed(outside.clock.now(), (), message))

    with_links = await outside.in_thread(_with_links, plain, setup, endpoint.redactor, known, staging, notify)
    provider = await outside.in_thread(GenerationOwners, with_links, known.values())
    guard = Guard(endpoint.base_url, proxies=outside.proxies)
    files = outside.files
    clips = Downloader(setup.rundir.partial_dir, outside.executor, files, guard, outside.checks, endpoint.redactor)
    await stack.enter_async_context(clips)
    if (executor := outside.checks.remote) is None:
        return provider, clips
    folder, checks = setup.rundir.partial_dir, outside.checks
    from batchrunner.transfer.remote_fetch import RemoteFetch

    remote = RemoteFetch(clips, executor, folder, endpoint.base_url, checks)
    bus.subscribe(remote.on_event, name="downloads on workers", events=(JobMoved,))
    return provider, remote


def _staging(setup: Setup, known: Mapping[str, Record], outside: Environment, bus: EventBus) -> "Staging | None":
    """Return the uploads of the run; None if it stages nothing."""
    if setup.settings.stage is None or setup.access is None:
        return None
    from batchrunner.storage.objects.staging import Staging, Target
    from batchrunner.storage.objects.store import open_store

    prefix, above_bytes, access = ObjectAddress.parse(setup.settings.stage), setup.settings.stage_above, setup.access
    pending = [entry.job for entry in setup.chosen if known[entry.job.fingerprint].state is State.PENDING]
    found = uploads(pending, above_bytes).values()

    def notify(message: str) -> None:
        bus.publish(Noticed(outside.clock.now(), (), message, routine=True))

    target = Target(prefix, above_bytes, lambda: open_store(prefix, access()))
    return Staging(target, (len(found), sum(media.size_bytes or 0 for media in found)), notify)


def _with_links(
    provider: Provider,
    setup: Setup,
    redactor: Redactor,
    known: Mapping[str, Record],
    staging: "Staging | None",
    notify: Callable[[str], None],
) -> Provider:
    """Return a provider that signs and uploads the inputs in buckets: `provider` itself if there are none."""
    jobs = [record.job for record in known.values()]  # those of the manifest are among them
    if staging is None and not any(is_address(media.source) for job in jobs for media in job.inputs.values()):
        return provider
    from batchrunner.storage.objects.signing import Links, with_signed_inputs
    from batchrunner.storage.objects.staging import StagedInputs
    from batchrunner.storage.objects.store import Access

    access = setup.access or (lambda: Access(AllowedBuckets(), {}))
    links = Links(access, setup.settings.link_lifetime_s, redactor, notify)
    signed = with_signed_inputs(provider, links, jobs, [staging.example] if staging else [])
    return StagedInputs(signed, staging, known.values()) if staging else signed


def _measuring(checks: Checks, setup: Setup, known: Mapping[str, Record]) -> Checks:
    """Return the checks, which also measure what a clip shows, unless no mark is wanted or the clips are stand-ins."""
    if not is_on(setup.settings.quality) or (setup.sandbox is not None and setup.sandbox.render == "stub"):
        return checks
    jobs = (record.job for record in known.values())
    return replace(checks, further=References(jobs, checks.decoders.run_all).fields_of)


def _lost(anchor: Anchor, lease: Lease | None) -> StopReason:
    """Return why nothing can be stored in the run directory any more; NO_REASON if it can."""
    if lease is not None and lease.taken:
        return StopReason(LEASE_LOST, lease.taken)
    message = anchor.lost()
    return StopReason("run_directory_gone", message) if message else NO_REASON


def _confirm(lease: Lease | None) -> None:
    if lease is not None and (problem := lease.problem(intent=True)) is not None:
        raise problem


def _stop_without_disk_space(engine: Engine, disk_space: DiskSpaceGuard, records: Mapping[str, Record]) -> None:
    """Submit nothing if the disk is full at the start: each run would pay for one more clip that it cannot store."""
    states = count_states(records.values())
    shortage = disk_space.lacks(states[State.IN_FLIGHT] + 1)
    if states[State.PENDING] and shortage:
        engine.stop(shortage)


def _stop_without_bucket(engine: Engine, bucket: "BucketStore | None", bus: EventBus, clock: Clock) -> None:
    """Submit nothing if the bucket refuses at the start. What is paid for is fetched to the run directory."""
    if bucket is not None and (fault := bucket.obstacle) is not None:
        message = f"nothing is submitted, because clips cannot be delivered: {fault.message}. {fault.hint}".strip()
        bus.publish(Noticed(clock.now(), (), message, urgent=True))
        engine.stop(stop_for(fault))


def _learned_durations(
    setup: Setup, run: Run, admission: Admission, outside: Environment, stack: AsyncExitStack
) -> dict[DurationKey, Durations]:
    """Return the generation times of earlier batches and runs. Closing `stack` saves them for later ones."""
    durations = duration_cache.load(outside.history, run.service)
    forecast = admission.forecast
    duration_cache.with_journal(durations, forecast.seen, setup.settings.poll_interval_s, forecast.works)
    stack.callback(duration_cache.save, outside.history, run.service, durations)
    return durations


def _moved(setup: Setup, anchor: Anchor) -> Setup:
    """Follow a run directory that was moved during the run. If it was deleted, do not create another."""
    place = anchor.place()
    return setup if place is None else replace(setup, rundir=RunDir(place))


async def _announce_start(
    open_run: _OpenRun,
    records: JobRecords,
    order: Sequence[str],
    bus: EventBus,
    outside: Environment,
    proxy: Proxy | None,
) -> None:
    """Announce the start of the run, and its notices. Nothing keeps the event: it has the record of each job."""
    run, setup = open_run.run, open_run.setup
    place, prices = str(setup.rundir.path), open_run.admission.prices
    started = await outside.in_thread(opened, run, place, open_run.ids, records.view, prices)
    if setup.only:
        started = started._replace(unselected=frozenset(open_run.ids).difference(order))
    bus.publish(started)
    if proxy is not None:
        message = f"{run.service} is reached through the proxy {proxy.shown}"
        bus.publish(Noticed(run.started_at, (), message, routine=True))
    for notice in open_run.notices:
        bus.publish(Noticed(run.started_at, (), notice))
