"""The entry point of a batch: checks whether there is work to do before it loads the modules of a run.

Programs call `run_batch`. The command line converts options to its arguments and its result to an exit status. Rule:
only one process at a time holds the lock, and all decisions are made under the lock.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import batchrunner
from batchrunner.account import config
from batchrunner.account.folders import config_file
from batchrunner.app import process, rehearsal, shards, takes, up_to_date, webhook
from batchrunner.app.process import ReceivedSignals
from batchrunner.app.setup import Setup, require_inputs_unwritten
from batchrunner.clock import wall_time
from batchrunner.events import EventBus, Listener, Noticed
from batchrunner.net import certificates
from batchrunner.net.proxies import read_proxies
from batchrunner.providers.endpoint import read_endpoint, service_name
from batchrunner.report import writer
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import Lock


def run_batch(
    setup: Setup, environment: Mapping[str, str], listener: Listener, received: ReceivedSignals | None = None
) -> int:
    """Start or continue a batch and return the exit status.

    listener: receives the run's events. If it raises, it is dropped, and the run continues (`EventBus`).
    environment: the environment variables of the process, with the API key and the service's address. received: signals
    that arrive before the run's own event loop. Once the lock is held, they no longer unwind, and the run stops
    cleanly. Raises BatchrunnerError, always before anything is submitted.
    """
    settings = setup.settings
    writer.check_places(setup.rundir.path, junit=settings.junit, metrics_file=settings.metrics_file)
    require_inputs_unwritten(setup)
    endpoint = read_endpoint(settings, environment)
    if endpoint is not None:
        certificates.check(environment)
        read_proxies(environment)
    webhook.check(settings.notify)
    setup = with_hook(setup, environment)
    shards.require_fitting(setup)
    setup.rundir.make()
    received = received or ReceivedSignals()
    bus = EventBus(process.print_warning)
    bus.subscribe(listener, shows_notices=True)

    def notify(message: str) -> None:
        bus.publish(Noticed(wall_time(), (), message, urgent=True))

    with Lock(setup.rundir, wall_time(), notify) as lock:
        received.unwinds = False
        if lock.notice:
            notify(lock.notice)
        shards.require_fitting(setup)
        setup = _with_all_takes(setup)
        service = service_name(settings, endpoint.base_url if endpoint else "")
        done = None if setup.recover else up_to_date.nothing_to_do(setup, service)
        if done is not None:
            now = rehearsal.begins_at(setup.sandbox, setup.rundir)
            return up_to_date.announce(setup, done, batchrunner.__version__, now, bus.publish)
        for path, target in _move_foreign_files(setup):
            bus.publish(Noticed(wall_time(), (), f"{path} is not a report of batchrunner; it was moved to {target}"))
        from batchrunner.app import runner  # loads the service's client, which is slow

        gc.freeze()  # loaded modules are permanent, so they are not scanned for garbage
        return runner.run(setup, endpoint, environment, bus, lock.lease, received.numbers, received.leave_terminal)


def with_hook(setup: Setup, environment: Mapping[str, str]) -> Setup:
    """Return the setup with the hook of config.yaml, if no flag or variable names another one.

    Raises UsageError if the hook cannot run, ManifestError for a config.yaml that cannot be used.
    """
    command = setup.settings.on_clip or config.on_clip(config_file(environment))
    if command is None:
        return setup
    from batchrunner.review.hook import arguments_of  # here, as most batches have no hook

    arguments_of(command)
    return replace(setup, settings=replace(setup.settings, on_clip=command))


def _with_all_takes(setup: Setup) -> Setup:
    found = takes.settled(setup)
    if found.batch is not setup.batch:
        require_inputs_unwritten(found)
    return found


def _move_foreign_files(setup: Setup) -> list[tuple[Path, Path]]:
    try:
        return writer.move_foreign_files(setup.rundir)
    except OSError as error:
        raise durable_files.fault(
            error, f"a file under a report's name in {setup.rundir.path} could not be moved"
        ) from error
