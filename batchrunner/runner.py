"""The composition root: builds the parts of a run, runs it, and closes in order.

`run_batch` is a program's way in; the command line only turns options into its arguments and its result into an exit
status. `drive` is the same below signals, threads and locks, with the outside world as an argument.
Rule: the API key is read from the environment here and handed to the client; it goes nowhere else.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import batchrunner
from batchrunner import manifest, report, sandbox
from batchrunner.api.client import ApiClient
from batchrunner.clock import Clock, LoopClock, wall_time
from batchrunner.disk import Disk
from batchrunner.downloader import Downloader
from batchrunner.engine import Engine
from batchrunner.errors import ExitStatus, LocalFault, UsageError
from batchrunner.events import Listener, Noticed, RunFinished, RunStarted
from batchrunner.job import Entry, Record, Run, Snapshot, State, count_states
from batchrunner.journal import Journal
from batchrunner.manifest import Batch
from batchrunner.ports import Parts, Policy
from batchrunner.resume import take_up
from batchrunner.rundir import Lock, RunDir
from batchrunner.settings import Settings, resolve
from batchrunner.steps import Steps
from batchrunner.store import Store

KEY_VARIABLES = ("AIMLAPI_KEY", "AIML_API_KEY")
BASE_URL_VARIABLE = "AIMLAPI_BASE_URL"
DEFAULT_BASE_URL = "https://api.aimlapi.com"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# A closed terminal (SIGHUP) ends a run as a service manager does, unless nohup shields it.
_SIGNALS = {
    signal.SIGINT: ExitStatus.SIGINT,
    signal.SIGTERM: ExitStatus.SIGTERM,
    signal.SIGHUP: ExitStatus.SIGTERM,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """A loaded manifest with the settings in force: all that a run starts from."""

    batch: Batch
    settings: Settings
    rundir: RunDir


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the service is, without the path, and the key for it."""

    base_url: str
    key: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run takes from outside: time, chance, threads, files. A simulation gives its own.

    executor: for media and files. journal_executor: one thread, so that commits keep their order.
    """

    clock: Clock
    executor: Executor
    journal_executor: Executor
    files: Disk
    rng: Random


def load(path: Path, flags: Mapping[str, object], environment: Mapping[str, str]) -> Setup:
    """Load a manifest and resolve its settings. Raises ManifestError, UsageError."""
    batch = manifest.load(path)
    settings = resolve(flags, environment, batch.settings)
    return Setup(batch, settings, RunDir(Path(settings.output or f"output/{batch.name}")))


def run_batch(setup: Setup, environment: Mapping[str, str], listener: Listener) -> int:
    """Start or continue a batch. Returns the exit status of the contract.

    environment: the process's; the API key and the service's address are read from it.
    Raises BatchrunnerError before anything is submitted, and only then.
    """
    endpoint = _endpoint(setup.settings, environment)
    setup.rundir.make()
    with Lock(setup.rundir, wall_time()), _threads() as outside:
        return asyncio.run(_run_under_signals(setup, endpoint, listener, outside))


async def _run_under_signals(setup: Setup, endpoint: Endpoint | None, listener: Listener, outside: Surroundings) -> int:
    """The first signal asks for a clean stop, the second ends at once. They are heard before there is an engine."""
    caught: list[signal.Signals] = []
    engines: list[Engine] = []

    def interrupted(number: signal.Signals) -> None:
        caught.append(number)
        for engine in engines:
            engine.close(f"{number.name} received; waiting for calls in the air, the same again ends at once")

    def listen(engine: Engine) -> None:
        engines.append(engine)
        for number in caught:
            engine.close(f"{number.name} received; waiting for calls in the air, the same again ends at once")

    def ending() -> ExitStatus | None:
        return _SIGNALS[caught[0]] if caught else None

    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        asyncio.get_running_loop().add_signal_handler(number, interrupted, number)
    async with _service(endpoint, setup.rundir) as found:
        return await drive(setup, found, listener, outside, (listen, ending))


async def drive(
    setup: Setup,
    endpoint: Endpoint,
    listener: Listener,
    outside: Surroundings,
    control: tuple[Callable[[Engine], None], Callable[[], ExitStatus | None]],
) -> int:
    """One run against a service that is up, from the journal's beginning to the written report.

    control: told the engine before it starts, so that it can be stopped; and asked at the end for an exit status that
    goes before the batch's own. Returns the exit status. The run directory exists and is locked by the caller.
    """
    listen, ending = control
    entries = setup.batch.entries
    async with AsyncExitStack() as stack:
        journal = Journal(setup.rundir.journal, outside.journal_executor)
        stack.callback(journal.close)
        run, records = await _begin(setup, journal, outside, endpoint.base_url)
        store = Store(setup.rundir, journal, outside.executor, outside.files)
        client = ApiClient(endpoint.base_url, endpoint.key, outside.clock, outside.executor)
        clips = Downloader(setup.rundir.parts, outside.executor, outside.files)
        parts = Parts(
            service=await stack.enter_async_context(client),
            journal=journal,
            clips=await stack.enter_async_context(clips),
            store=store,
            clock=outside.clock,
            rng=outside.rng,
            announce=listener,
            ids=_ids_of(entries),
        )
        policy = _policy(setup.settings)
        steps = Steps(parts, policy, run.run_id, records)
        await steps.settle(await store.settle(entries, records))
        engine = Engine(parts, policy, steps)
        listen(engine)
        order = list(dict.fromkeys(entry.job.fingerprint for entry in entries))
        _announce_start(setup, run, [steps.records[fingerprint] for fingerprint in order], listener)
        await engine.run(order)
        status = ending() or exit_status([steps.records[fingerprint] for fingerprint in order])
        finished = replace(run, finished_at=outside.clock.now(), exit_status=int(status), stopped=engine.stopped)
        return await _finish(setup, journal, steps, finished, listener)


async def _finish(setup: Setup, journal: Journal, steps: Steps, run: Run, listener: Listener) -> int:
    """Store how the run ended and write the reports from what the journal holds; returns the exit status."""
    written: tuple[Path, ...] = ()
    try:
        await steps.flush()
        await journal.finish(run)
        written = report.write(_held(journal), setup.rundir.path, batchrunner.__version__)
    except (LocalFault, OSError) as error:
        listener(Noticed(run.started_at, (), f"the report could not be written: {error}"))
        if run.exit_status not in _SIGNALS.values():
            run = replace(run, exit_status=int(ExitStatus.STOPPED))
    held = replace(_held(journal), run=run)
    states = count_states([held.records[name] for name in {entry.job.fingerprint for entry in held.entries}])
    summary = report.headline(report.build(held, batchrunner.__version__))
    at, status = run.finished_at or run.started_at, run.exit_status or 0
    listener(RunFinished(at, status, states, tuple(str(path) for path in written), summary))
    return status


def exit_status(records: list[Record]) -> ExitStatus:
    """The batch's own exit status: 0 all succeeded, 3 more to do (run again), 1 what is left failed or is in doubt."""
    counts = count_states(records)
    if counts[State.PENDING] or counts[State.IN_FLIGHT] or counts[State.SUBMITTING]:
        return ExitStatus.STOPPED
    return ExitStatus.FAILED if counts[State.FAILED] or counts[State.IN_DOUBT] else ExitStatus.OK


def _endpoint(settings: Settings, environment: Mapping[str, str]) -> Endpoint | None:
    """Address and key from the environment; None for the embedded sandbox, which needs neither."""
    if settings.provider == "sandbox":
        return None
    base_url = environment.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    if not _safe_for_a_key(base_url):
        raise UsageError(
            f"{BASE_URL_VARIABLE} cannot be used: not a plain https address", f"The default is {DEFAULT_BASE_URL}."
        )
    key = next((environment[name].strip() for name in KEY_VARIABLES if environment.get(name, "").strip()), "")
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            "no API key: AIMLAPI_KEY is not set" if not key else "AIMLAPI_KEY holds characters that no key has",
            "Set it (export AIMLAPI_KEY=…), or try the batch for free with --provider sandbox.",
        )
    return Endpoint(base_url, key)


def _safe_for_a_key(base_url: str) -> bool:
    """Whether the key may travel there: encrypted, or in clear text to this machine."""
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises where it is no number
        if "@" in parts.netloc or parts.query or parts.fragment:
            return False
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


@asynccontextmanager
async def _service(endpoint: Endpoint | None, rundir: RunDir) -> AsyncIterator[Endpoint]:
    """The service to drive: the one given, or a sandbox for the length of the run that remembers between runs."""
    if endpoint is not None:
        yield endpoint
        return
    local = await sandbox.start(sandbox.SandboxConfig(state_dir=rundir.sandbox))
    try:
        yield Endpoint(local.url, "sandbox")
    finally:
        await local.close()


@contextmanager
def _threads() -> Iterator[Surroundings]:
    """The real world: the loop's clock, system randomness, a few threads, the real file system."""
    with (
        ThreadPoolExecutor(max_workers=4, thread_name_prefix="files") as executor,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal") as journal_executor,
    ):
        rng = Random(int.from_bytes(os.urandom(8)))
        yield Surroundings(LoopClock(), executor, journal_executor, Disk(), rng)


async def _begin(setup: Setup, journal: Journal, outside: Surroundings, base_url: str) -> tuple[Run, dict[str, Record]]:
    """Store the start of this run, and where every job starts from."""
    batch, settings = setup.batch, setup.settings
    before = journal.snapshot()
    if before is None and any((setup.rundir.path / name).exists() for name in ("report.json", "report.html")):
        raise UsageError(
            f"{setup.rundir.path} holds a report, and no journal that knows what was paid for",
            "Bring .batchrunner/ back, or choose another run directory with --output. Nothing was submitted.",
        )
    if before is not None and before.run.provider != settings.provider:
        raise UsageError(
            f"{setup.rundir.path} holds a batch of provider {before.run.provider}, not {settings.provider}",
            "Give this provider a run directory of its own with --output DIR. Nothing was submitted.",
        )
    service = _service_name(settings, base_url)
    if before is not None and before.run.service != service:
        raise UsageError(
            f"{setup.rundir.path} holds a batch of {before.run.service}, not of {service}",
            "Give this service a run directory of its own with --output DIR. Nothing was submitted.",
        )
    run = Run(
        service=service,
        run_id=f"{outside.rng.getrandbits(48):012x}",
        name=batch.name,
        provider=settings.provider,
        manifest_path=str(batch.path),
        manifest_sha256=batch.sha256,
        concurrency=settings.concurrency,
        started_at=outside.clock.now(),
    )
    records, changed = take_up(
        before.records if before else {},
        batch.entries,
        retry_failed=settings.retry_failed,
        resubmit_in_doubt=settings.in_doubt == "resubmit",
    )
    await journal.begin(run, batch.entries, changed)
    return run, records


def _service_name(settings: Settings, base_url: str) -> str:
    """Whose generations these are: ids of one service mean nothing to another. Ports on this machine come and go."""
    host = urlsplit(base_url).hostname or ""
    return "the embedded sandbox" if settings.provider == "sandbox" else "this machine" if host in _LOOPBACK else host


def _policy(settings: Settings) -> Policy:
    return Policy(
        concurrency=settings.concurrency,
        poll_interval_s=settings.poll_interval_s,
        job_timeout_s=settings.job_timeout_s,
    )


def _ids_of(entries: tuple[Entry, ...]) -> Callable[[str], tuple[str, ...]]:
    ids: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        ids[entry.job.fingerprint] = (*ids.get(entry.job.fingerprint, ()), entry.id)
    return lambda fingerprint: ids.get(fingerprint, ())


def _announce_start(setup: Setup, run: Run, records: list[Record], listener: Listener) -> None:
    states = count_states(records)
    listener(RunStarted(run.started_at, run.name, run.provider, str(setup.rundir.path), run.concurrency, states))
    for warning in setup.batch.warnings:
        listener(Noticed(run.started_at, (), f"{warning.file}:{warning.line}:{warning.column}: {warning.message}"))


def _held(journal: Journal) -> Snapshot:
    """What the journal holds: reports are made from this, so that they agree with it."""
    held = journal.snapshot()
    assert held is not None
    return held
