"""The way into a batch: whether there is anything to do is asked before what only a run needs is loaded.

`run_batch` is a program's way in; the command line only turns options into its arguments and its result into an exit
status. Rule: one process at a time is past the lock, and nothing is decided outside of it.
"""

import gc
from collections.abc import Mapping
from pathlib import Path

import batchrunner
from batchrunner.app import rehearsal, up_to_date, webhook
from batchrunner.app.process import Heard
from batchrunner.app.setup import Setup, require_inputs_unwritten
from batchrunner.clock import wall_time
from batchrunner.events import Listener, Noticed
from batchrunner.net import certificates
from batchrunner.net.proxies import read_proxies
from batchrunner.providers.endpoint import read_endpoint, service_name
from batchrunner.report import writer
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import Lock


def run_batch(setup: Setup, environment: Mapping[str, str], listener: Listener, heard: Heard | None = None) -> int:
    """Start or continue a batch. Returns the exit status of the contract.

    environment: the process's; the API key and the service's address are read from it. heard: signals that came, and
    come before the run's own loop hears them: from the lock on they no longer unwind, and the run ends in order.
    Raises BatchrunnerError before anything is submitted, and only then.
    """
    settings = setup.settings
    writer.check_places(setup.rundir.path, junit=settings.junit, metrics_file=settings.metrics_file)
    require_inputs_unwritten(setup)
    endpoint = read_endpoint(settings, environment)
    if endpoint is not None:
        certificates.check(environment)
        read_proxies(environment)
    webhook.check(settings.notify)
    setup.rundir.make()
    heard = heard or Heard()
    with Lock(setup.rundir, wall_time()) as lock:
        heard.unwinds = False
        if lock.notice:
            listener(Noticed(wall_time(), (), lock.notice, urgent=True))
        service = service_name(settings, endpoint.base_url if endpoint else "")
        done = None if setup.recover else up_to_date.nothing_to_do(setup, service)
        if done is not None:
            now = rehearsal.begins_at(setup.sandbox, setup.rundir)
            return up_to_date.announce(setup, done, batchrunner.__version__, now, listener)
        for path, target in _make_way(setup):
            listener(Noticed(wall_time(), (), f"{path} is no report of batchrunner: it was moved to {target}"))
        from batchrunner.app import runner  # here, where the service's client is needed: it takes its time to load

        gc.freeze()  # what is loaded stays: it need not be looked at again
        return runner.run(setup, endpoint, environment, listener, heard.numbers, heard.leave)


def _make_way(setup: Setup) -> list[tuple[Path, Path]]:
    try:
        return writer.make_way(setup.rundir)
    except OSError as error:
        raise durable_files.fault(
            error, f"a file under a report's name in {setup.rundir.path} could not be moved"
        ) from error
