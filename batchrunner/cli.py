"""The command line: commands and options, without logic.

This module converts options to calls, and results to exit statuses. Each command imports the heavy modules that it
needs: ``--help`` and ``--version`` stay fast.
"""

import atexit
import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrunner import __version__
from batchrunner.app import process
from batchrunner.errors import BatchrunnerError, ExitStatus
from batchrunner.formatting import printable, printable_json
from batchrunner.redaction import Redactor
from batchrunner.settings import SETTINGS, Setting
from batchrunner.storage.paths import expanded

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from batchrunner.app.setup import Setup
    from batchrunner.settings import Settings
    from batchrunner.storage.objects.blocking import ObjectReader
    from batchrunner.storage.run_directory import RunDir
    from batchrunner.workers.engines import Workers

_EPILOG = """\b
Exit statuses of run:
  0  every job succeeded
  1  some jobs failed or are in doubt
  2  usage error or invalid manifest; nothing was submitted
  3  stopped early as planned; run again to continue
  4  another process is running this batch
  5  stopped early, and a person has to act
  130, 143  stopped cleanly by SIGINT, SIGTERM
"""


_METAVARS = {
    "output": "DIR",
    "junit": "FILE",
    "metrics_file": "FILE",
    "notify": "URL",
    "on_clip": "COMMAND",
    "count": "N",
    "number": "N",
    "money": "AMOUNT",
    "share": "N|N%",
    "duration": "TIME",
    "moment": "WHEN",
    "toggle": "on|off",
    "account": "NAME",
    "size": "SIZE",
    "bucket": "s3://BUCKET/PREFIX/",
    "workers": "ENGINE",
    "marks": "ACTION|KIND=ACTION,...",
}


class _Path(click.Path):
    """A path whose ``~`` is expanded: a shell expands it only at the start of a word."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value) if isinstance(value, str) else value, param, ctx)


class _Place(_Path):
    """A path, or the address of a place in a bucket, which stays text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from batchrunner.storage.objects.address import is_address

        if isinstance(value, str) and is_address(value):
            return value
        return super().convert(value, param, ctx)


_PATH = _Path(path_type=Path)
_PLACE = _Place(path_type=Path)
_TEXT_PATH = _Path()


class _InOrder(click.Group):
    """A group that lists its commands in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _run_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting in SETTINGS."""
    for setting in reversed(SETTINGS):
        command = _option(setting)(command)
    return command


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + setting.name.replace("_", "-")
    text = setting.help
    if setting.kind == "kinds":
        return click.option(flag, setting.name, metavar="[=KIND,...]", help=text)
    if setting.kind == "switch":
        return click.option(flag, setting.name, is_flag=True, default=None, help=text)
    if setting.default is not None:
        text = f"{text} [default: {setting.default}]"
    metavar = "|".join(setting.choices) or _METAVARS.get(setting.name) or _METAVARS[setting.kind]
    return click.option(flag, setting.name, metavar=metavar, help=text)


class _Run(click.Command):
    """A command with the settings of a run. ``--retry-failed`` may stand without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        bare = [f"{item}=yes" if item == "--retry-failed" else item for item in args[:end]]
        return super().parse_args(ctx, [*bare, *args[end:]])


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that chooses jobs."""
    text = "Submit only the jobs with this id or pattern; repeatable. The others stay as they are."
    return click.option("--only", multiple=True, metavar="ID|GLOB", help=text)(command)


def _retakes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that adds takes."""
    text = "Add the next take of each job whose latest take was rejected, or of the job with this id; repeatable."
    return click.option("--retake", multiple=True, metavar="rejected|ID", help=text)(command)


def _locked(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that compares a manifest with its lock file."""
    text = "Refuse a manifest whose jobs, inputs, tables or variables differ from MANIFEST.lock."
    return click.option("--locked", is_flag=True, help=text)(command)


def _variables(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that set a manifest's variables."""
    text = "Let ${NAME} in the manifest read this environment variable; repeatable."
    command = click.option("--env", "allowed", multiple=True, metavar="NAME", help=text)(command)
    text = "Let this bucket be read and written, besides those in config.yaml; repeatable."
    command = click.option("--allow-bucket", "buckets", multiple=True, metavar="BUCKET", help=text)(command)
    text = "Set the value of ${NAME} in the manifest; repeatable."
    return click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help=text)(command)


def _rehearsals(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a rehearsal."""
    fast = "With --provider sandbox: run time 60 times as fast; a night takes minutes."
    faults = "With --provider sandbox: faults to simulate; see docs/sandbox.md."
    command = click.option("--faults", type=_TEXT_PATH, metavar="FILE", help=faults)(command)
    return click.option("--fast", is_flag=True, help=fast)(command)


def _shards(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose a part of the manifest."""
    text = "With --shard: a cap or budget of each shard, instead of its part of the whole; repeatable."
    command = click.option("--per-shard", multiple=True, metavar="NAME=VALUE", help=text)(command)
    text = "Only part I of N of the manifest, in a run directory of its own; auto/N: the number of an array's task."
    return click.option("--shard", metavar="I/N", help=text)(command)


def _with_workers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says where the work on clips runs."""
    return _option(next(setting for setting in SETTINGS if setting.name == "workers"))(command)


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `run` that determine a batch's run directory, for a command that also takes a manifest."""
    rows = {setting.name: setting for setting in SETTINGS}
    return _variables(_shards(_option(rows["output"])(_option(rows["provider"])(_rehearsals(command)))))


@click.group(
    cls=_InOrder,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", message="batchrunner %(version)s")
def cli() -> None:
    """Run batches of hosted video generations.

    A YAML manifest lists jobs: a reference video, a character image, a resolution. batchrunner submits the jobs, polls
    each generation, downloads and checks the clips, and writes a report. It never pays twice for a job, even if the
    process is killed or the network fails. Run the same command again to continue.

    \b
    Try it without a key and without a network:
      batchrunner run manifests/demo.yaml
    """


@cli.command(short_help="Write a first manifest from a folder of videos and images.")
@click.argument("folder", default=".", type=_PATH)
@click.option("-o", "--to", "path", default="batch.yaml", show_default=True, type=_PATH)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(folder: Path, path: Path, force: bool) -> int:
    """Write a commented manifest from the videos and images in FOLDER and its subfolders, ready to run.

    A single image is used for every video. Several images give every combination. Videos and images with equal names
    are paired.
    """
    from batchrunner import manifest
    from batchrunner.manifest import scaffold as initial

    if not force:
        initial.require_free(path)
    found = initial.scan(folder, path.absolute().parent)
    text, how = initial.compose(found, path, folder)
    initial.write(text, path)
    click.echo(initial.report(found, how, len(manifest.load(path).entries), path, folder))
    return ExitStatus.OK


@cli.command(cls=_Run, short_help="Start or continue a batch.")
@click.argument("manifest", type=_PATH)
@_variables
@_locked
@_selection
@_retakes
@_shards
@_run_settings
@click.option("--dry-run", is_flag=True, help="Same as plan; submits nothing.")
@click.option(
    "--recover",
    is_flag=True,
    help="Continue with a lost, damaged or outdated journal; jobs with unknown submissions are held in doubt.",
)
@_rehearsals
def run(manifest: Path, dry_run: bool, **flags: object) -> int:
    """Start or continue the batch in MANIFEST. Completed jobs are not run again.

    The API key is read from the environment: AIMLAPI_KEY. Every option below can also be set in the manifest
    (poll_interval: 15s) or in the environment (BATCHRUNNER_POLL_INTERVAL=15s). Options take precedence over the
    environment, and the environment over the manifest.
    """
    with process.record_signals() as received:
        from batchrunner.app import start
        from batchrunner.progress.progress import make_progress

        setup = _load(manifest, flags)
        if dry_run:
            return _show_plan(setup, as_json=False, every=False)
        quiet, plain, form = setup.settings.quiet, setup.settings.no_progress, setup.settings.log_format
        with make_progress(stream=sys.stderr, quiet=quiet, plain=plain, log_format=form) as progress:
            received.leave_terminal = progress.close
            return start.run_batch(setup, os.environ, progress, received)


@cli.command(short_help="Check manifests and local inputs.")
@click.argument("manifests", nargs=-1, required=True, type=_PATH)
@_variables
@_locked
@click.option("--no-inputs", is_flag=True, help="Do not read the local videos and images, which need not exist.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="json: one document for scripts; github: annotations for a pull request.",
)
@click.option(
    "--max-problems",
    metavar="N",
    type=click.IntRange(0),
    help="Problems to print per manifest; 0 prints all. [default: 20; json: all]",
)
def validate(
    manifests: tuple[Path, ...],
    assignments: tuple[str, ...],
    allowed: tuple[str, ...],
    buckets: tuple[str, ...],
    locked: bool,
    no_inputs: bool,
    **output: Any,
) -> int:
    """Check MANIFESTS and the local files they name, and print each problem with its place. Submits nothing.

    docs/diagnostics.md explains the code at the end of each problem.
    """
    from functools import partial

    from batchrunner.app import lock as locks
    from batchrunner.app.buckets import access_of
    from batchrunner.manifest import validate as validating
    from batchrunner.manifest.variables import read_allowed, read_assignments
    from batchrunner.storage.objects.inputs import ObjectInputs

    clean = Redactor.of(os.environ).text
    values, names = read_assignments(assignments), read_allowed(allowed, os.environ)
    read = partial(locks.load_to_check, locked=locked, has_inputs=not no_inputs)
    with ObjectInputs(partial(access_of, os.environ, buckets)) as objects:
        checked = [validating.check(path, values, os.environ, names, objects, read) for path in manifests]
    colour = process.wants_colour(sys.stderr)
    for text, problem in validating.shown(checked, output["form"], output["max_problems"], colour=colour):
        click.echo(clean(text), err=problem, color=True)
    return ExitStatus.OK if all(item.valid for item in checked) else ExitStatus.USAGE


@cli.command(short_help="Write MANIFEST.lock: the hash of each input, table and job.")
@click.argument("manifest", type=_PATH)
@_variables
@click.option("--check", is_flag=True, help="Write nothing; fail if the manifest differs from its lock file.")
def lock(
    manifest: Path, assignments: tuple[str, ...], allowed: tuple[str, ...], buckets: tuple[str, ...], check: bool
) -> int:
    """Write the lock file of MANIFEST beside it. It has every input and table by hash, the variables and the jobs.

    With --locked, run, plan and validate refuse a manifest that differs from its lock file. Submits nothing.
    """
    from functools import partial

    from batchrunner.app import lock as locks
    from batchrunner.app.buckets import access_of
    from batchrunner.manifest.variables import read_allowed, read_assignments
    from batchrunner.storage.objects.inputs import ObjectInputs

    values, names = read_assignments(assignments), read_allowed(allowed, os.environ)
    with ObjectInputs(partial(access_of, os.environ, buckets)) as objects:
        batch, sentence = (locks.check if check else locks.write)(manifest, values, os.environ, names, objects)
    for item in batch.warnings:
        click.echo(f"warning: {printable(f'{item.file}:{item.line}:{item.column}: {item.message}')}", err=True)
    click.echo(printable(sentence))
    return ExitStatus.OK


@cli.command(cls=_Run, short_help="Show what run would do; submits nothing.")
@click.argument("manifest", type=_PATH)
@_variables
@_locked
@_selection
@_retakes
@_shards
@_run_settings
@_rehearsals
@click.option("--all", "every", is_flag=True, help="List all jobs, also in a large batch.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def plan(manifest: Path, as_json: bool, every: bool, **flags: object) -> int:
    """Show what `run` would do with MANIFEST and the same options for each job, its cost and its expected end.

    Costs are in US dollars. The service is asked for its prices and the balance. Submits nothing.
    """
    return _show_plan(_load(manifest, {**flags, "only_plan": True}), as_json=as_json, every=every)


@cli.command(short_help="Show the state of a batch, also while it runs.")
@click.argument("batch", metavar="MANIFEST|RUN_DIR", type=_PATH)
@_places
@click.option("--json", "as_json", is_flag=True, help="Print the contents of report.json, for scripts.")
@click.option("--watch", is_flag=True, help="Repeat until the run has ended.")
def status(batch: Path, as_json: bool, watch: bool, **flags: object) -> int:
    """Show the state of a batch from its journal. Another process may be running it."""
    from batchrunner.app import status as status_command

    rundir = _located(batch, flags)
    if not rundir.journal.exists():
        from batchrunner.app import shard_status

        if shard_status.report(rundir.path, sys.stdout, __version__, as_json=as_json, watch=watch):
            return ExitStatus.OK
    (status_command.watch if watch else status_command.show)(rundir, sys.stdout, as_json=as_json)
    return ExitStatus.OK


@cli.command(short_help="Write report.json, report.html and results.csv again.")
@click.argument("batches", metavar="RUN_DIR|MANIFEST | --merge DIR... OUT", nargs=-1, required=True, type=_PATH)
@_places
@click.option("--merge", is_flag=True, help="Write one report of the run directories DIR... into the folder OUT.")
@_with_workers
@click.option("--junit", type=_TEXT_PATH, metavar="FILE", help="Write a JUnit XML file too.")
@click.option("--metrics-file", type=_TEXT_PATH, metavar="FILE", help="Write a Prometheus text file too.")
def report(
    batches: tuple[Path, ...],
    merge: bool,
    workers: str | None,
    junit: str | None,
    metrics_file: str | None,
    **flags: object,
) -> int:
    """Write report.json, report.html and results.csv of a batch again from its journal.

    Missing posters are created again. docs/outputs.md describes the files. With --merge, the jobs of several run
    directories, such as the shards of a batch, are in one report. Each generation is counted once.
    """
    if merge:
        if junit or metrics_file or workers:
            raise click.UsageError("--junit, --metrics-file and --workers cannot be used with --merge.")
        return _merge(batches, flags)
    if len(batches) != 1:
        raise click.UsageError("Name one run directory or manifest, or add --merge DIR... OUT.")
    from batchrunner.app.status import read_with_charges
    from batchrunner.media import posters
    from batchrunner.report import writer as reporting

    rundir = _located(batches[0], flags)
    reporting.check_places(rundir.path, junit=junit, metrics_file=metrics_file)
    snapshot = read_with_charges(rundir, os.environ)
    for path, target in reporting.move_foreign_files(rundir):
        click.echo(printable(f"{path} is not a report of batchrunner; it was moved to {target}"), err=True)
    with _workers(workers) as opened:
        posters.make_missing(rundir, reporting.on_page(snapshot), opened.decoders, width=opened.width)
    extra = {"junit": junit, "metrics_file": metrics_file}
    paths, written = reporting.write_and_sum_up(snapshot, rundir.path, __version__, **extra)
    if foreign := reporting.foreign_verdicts(rundir.path):
        click.echo(f"warning: {printable(foreign)}", err=True)
    click.echo(reporting.headline(written))
    for path in paths:
        click.echo(printable(str(path)))
    return ExitStatus.OK


def _merge(paths: tuple[Path, ...], flags: dict[str, Any]) -> int:
    """Write the merged report of the run directories and manifests before the last path, which is the folder for it."""
    from batchrunner.app import merge as merging
    from batchrunner.app.shards import folders_of
    from batchrunner.report import writer as reporting

    if len(paths) < 2:
        raise click.UsageError("--merge needs at least one run directory and the folder OUT for the report.")
    named = [
        path if _is_folder(path) else _load(path, dict(flags), has_inputs=False).rundir.path for path in paths[:-1]
    ]
    folders, out = folders_of(named), paths[-1]
    merging.require_target(out, folders)
    inputs = merging.read(folders, out, os.environ, __version__)
    merged, written = merging.write(inputs, out)
    for line in merging.warnings_of(inputs):
        click.echo(f"warning: {printable(line)}", err=True)
    click.echo(reporting.headline(merged))
    for path in written:
        click.echo(printable(str(path)))
    return ExitStatus.OK


@cli.command(short_help="Hash and decode every result again.")
@click.argument("batch", metavar="RUN_DIR|MANIFEST|report.json|DATASET|SHA256SUMS", type=_PLACE)
@_places
@_with_workers
@click.option("--deep", is_flag=True, help="Decode every frame, too. Always on with a journal.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def verify(batch: Path | str, workers: str | None, deep: bool, as_json: bool, **flags: Any) -> int:
    """Check each result: size and SHA-256, and with --deep structure and all frames. Writes nothing.

    A run directory is checked against its journal, with the copies of its clips in a bucket. report.json checks the
    clips beside it, and SHA256SUMS the files that it lists, on any machine. DATASET is a folder with SHA256SUMS, or
    such a place in a bucket (s3://BUCKET/PREFIX/); files that it does not list are named too. The exit status is 0 if
    all is well, 1 if not, and 2 if there is nothing to check against.
    """
    from batchrunner.app import verify_output as verifying

    if isinstance(batch, str):
        target = verifying.Target(verifying.BUCKET, batch)
    else:
        target = verifying.recognize(batch) or verifying.Target(verifying.RUN_DIR, _located(batch, flags).path)
    progress = verifying.Progress(sys.stderr if sys.stderr.isatty() else None)
    with _workers(workers) as opened:
        findings = verifying.check(target, opened, deep=deep, objects=_object_reader(flags))
        if as_json:
            tally = verifying.run_json(target, findings, partial(click.echo, nl=False), progress)
        else:
            tally = verifying.run(target, findings, click.echo, progress)
            click.echo(verifying.summary(target, tally, deep=deep))
    return verifying.exit_status(tally)


@cli.command(short_help="Watch the clips in a browser, and accept or reject them.")
@click.argument("batch", metavar="RUN_DIR|MANIFEST", type=_PATH)
@_places
@click.option("--accept", multiple=True, metavar="ID", help="Accept the clip of this job, without a page; repeatable.")
@click.option("--reject", multiple=True, metavar="ID", help="Reject the clip of this job, without a page; repeatable.")
@click.option("--clear", multiple=True, metavar="ID", help="Withdraw the verdict on this job's clip; repeatable.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="A reason of these verdicts; repeatable.")
@click.option("--note", default="", metavar="TEXT", help="A note on these clips.")
@click.option("--rating", type=click.IntRange(1, 5), help="A rating of these clips, 5 is best.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 uses a free port. [default: 8766, or a free one]")
@click.option("--no-open", is_flag=True, help="Print the address only; open no browser.")
def review(batch: Path, host: str, port: int | None, no_open: bool, **flags: Any) -> int:
    """Serve a page on this machine that shows the clips of a batch, also while it runs, until Ctrl-C.

    Each verdict is stored in review.jsonl of the run directory before it is shown as saved. docs/review.md lists the
    keys. With --accept, --reject or --clear, these verdicts are stored and no page is served.
    """
    from batchrunner.app import review as reviewing

    ids = {verdict: flags.pop(option) for option, verdict in reviewing.OPTIONS.items()}
    request = reviewing.VerdictRequest(ids, flags.pop("reasons"), flags.pop("rating"), flags.pop("note"))
    if request.lacks_ids:
        raise click.UsageError("--reason, --note and --rating need --accept ID, --reject ID or --clear ID.")
    if request:
        for line in reviewing.give(_located(batch, flags), request, os.environ):
            click.echo(line)
        return ExitStatus.OK
    from batchrunner.app import review_page

    options = review_page.PageOptions(host, port, open_browser=not no_open)
    reader = _object_reader(flags)
    return review_page.serve(_located(batch, flags), options, __version__, click.echo, reader)


@cli.command("export", short_help="Make a data set from the clips of run directories.")
@click.argument("batches", metavar="RUN_DIR|MANIFEST...", nargs=-1, required=True, type=_PATH)
@click.argument("out", type=_PLACE)
@_places
@_with_workers
@click.option(
    "--format",
    "form",
    type=click.Choice(["folder", "webdataset", "parquet"]),
    required=True,
    help="See docs/datasets.md. parquet needs pip install 'batchrunner[parquet]'.",
)
@click.option("--shard-size", metavar="SIZE", help="Size of a file of webdataset or parquet. [default: 1GB]")
@click.option("--only", type=click.Choice(["accepted"]), help="Export only clips with the verdict accept.")
@click.option("--split", metavar="NAME=SHARE,...", help="Split the clips, as in train=.8,val=.1,test=.1.")
@click.option(
    "--group-by",
    default="",
    metavar="INPUT|tags.NAME",
    help="Keep clips together in one split that share this. [default: the reference video]",
)
@click.option("--salt", default="", metavar="TEXT", help="Another salt gives other splits.")
@click.option("--mark", type=click.Choice(["xmp", "c2pa"]), help="Mark the copies as synthetic media.")
@click.option("--c2pa-key", type=_PATH, metavar="FILE", help="Private key (PEM) for --mark c2pa.")
@click.option("--c2pa-certificates", type=_PATH, metavar="FILE", help="Certificates (PEM) for --mark c2pa.")
def export_dataset(batches: tuple[Path, ...], out: Path | str, workers: str | None, **flags: Any) -> int:
    """Copy the clips of one or more batches to the new folder OUT, as a data set with a card and checksums.

    OUT can also be a place in a bucket without other objects, such as s3://BUCKET/PREFIX/ (docs/datasets.md). The clips
    and inputs are checked against their recorded SHA-256. An export that was interrupted continues. The same batches
    give the same bytes.
    """
    from batchrunner.app import export as exporting
    from batchrunner.app.shards import folders_of

    names = ("form", "only", "split", "group_by", "salt", "mark", "c2pa_key", "c2pa_certificates")
    options = exporting.format_options(flags["form"], flags.pop("shard_size"))
    request = exporting.ExportRequest(**{name: flags.pop(name) for name in names}, options=options, version=__version__)
    run_dirs = []
    for batch in batches:
        setup = None if _is_folder(batch) else _load(batch, dict(flags), has_inputs=False)
        found = folders_of([batch if setup is None else setup.rundir.path])
        run_dirs += found
        if setup is not None:
            request.blocks.update(dict.fromkeys(found, setup.batch.dataset))

    def warn(line: str) -> None:
        click.echo(f"warning: {printable(line)}", err=True)

    objects = _object_reader(flags)
    if isinstance(out, str):
        out, request = exporting.to_bucket(out, run_dirs[0], request, objects)
    with _workers(workers) as opened:
        request = replace(request, workers=opened)
        return exporting.export(run_dirs, out, request, click.echo, warn, objects=objects)


@cli.command(short_help="Show what all batches of the account share.")
@click.option(
    "--month", is_flag=False, flag_value="", metavar="[YYYY-MM]", help="Spend of a month (UTC), not of today."
)
@click.option("--account", "name", metavar="NAME", help="The account, as in the setting account.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--prometheus", is_flag=True, help="As metrics, for a textfile collector.")
@click.option("--scan", multiple=True, metavar="DIR", type=_PATH, help="Add the run directories in DIR; repeatable.")
@click.option(
    "--forget",
    multiple=True,
    metavar="DIR",
    type=_PATH,
    help="Go on without the run directories in DIR that are not found; repeatable.",
)
def account(
    month: str | None,
    name: str | None,
    as_json: bool,
    prometheus: bool,
    scan: tuple[Path, ...],
    forget: tuple[Path, ...],
) -> int:
    """Show balance, generations in flight, submissions in doubt, spend and budgets of the account.

    The account is that of the service's address, or the one that --account names. Submits nothing.
    """
    from batchrunner.app import account_directories, account_view

    for do, folders in ((account_directories.scan, scan), (account_directories.forget, forget)):
        for line in do(os.environ, name, folders) if folders else ():
            click.echo(printable(line), err=True)
    shown = account_view.view(os.environ, name, month)
    if as_json:
        text = printable_json(json.dumps(account_view.as_json(shown), indent=1))
    else:
        text = account_view.as_prometheus(shown) if prometheus else account_view.as_text(shown)
    click.echo(Redactor.of(os.environ).text(text))
    return ExitStatus.OK


@cli.command(short_help="Settle one submission in doubt by hand.")
@click.argument("batch", metavar="RUN_DIR|MANIFEST", type=_PATH)
@click.argument("job")
@_places
@click.option("--adopt", metavar="ID", help="The submission was accepted: this is its generation.")
@click.option("--release", is_flag=True, help="The submission was not accepted: submit the job again, at its price.")
def resolve(batch: Path, job: str, adopt: str | None, release: bool, **flags: object) -> int:
    """Settle the submission in doubt of JOB, after you have looked for it in the service's log.

    A job that is held because another batch of the account has it in doubt is settled in that batch. A wrong release
    pays twice.
    """
    from batchrunner.app import resolve as resolving

    if (adopt is None) == (not release):
        raise click.UsageError("Give one of --adopt ID and --release.")
    click.echo(printable(resolving.settle(_located(batch, flags), job, adopt, os.environ)))
    return ExitStatus.OK


@cli.command(short_help="Serve the local sandbox API over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 uses a free port.")
@click.option("--seed", type=int, help="Seed for ids, durations and faults. [default: 0]")
@click.option(
    "--faults",
    type=_TEXT_PATH,
    metavar="FILE",
    help="YAML file of faults and outages to simulate; see docs/sandbox.md.",
)
@click.option("--state", type=_TEXT_PATH, metavar="DIR", help="Keep the state in this directory across restarts.")
@click.option("--duration", metavar="TIME", help="Median time of a generation. [default: 2s]")
@click.option("--capacity", type=click.IntRange(1), help="Number of concurrent generations. [default: 8]")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 10_000),
    help="Time runs this many times as fast.",
)
@click.option("--max-body", metavar="SIZE", help="A larger request body gets 413, e.g. 10MB.")
@click.option("--no-logs", is_flag=True, help="Do not offer GET /v2/logs.")
def sandbox(**options: Any) -> int:
    """Serve a stand-in for the generation service with the same endpoints, replies and errors. It renders real clips.

    It accepts any bearer key. It fetches nothing from other machines: a bundled clip or picture replaces a remote
    input. /sandbox/ledger lists the accepted submissions.
    """
    from batchrunner.sandbox import serve

    return serve.serve(serve.configure(options))


@cli.command(short_help="Remove staged inputs that no batch needs.")
@click.argument("manifest", type=_PATH, required=False)
@_places
@click.option("--stage", "prefix", metavar="s3://BUCKET/PREFIX/", help="The place in the bucket, without a manifest.")
@click.option("--clean", is_flag=True, help="List the staged inputs that no batch needs, then remove them.")
@click.option("--yes", is_flag=True, help="Do not ask before removing.")
def stage(manifest: Path | None, prefix: str | None, clean: bool, yes: bool, **flags: Any) -> int:
    """Remove the inputs in a bucket that runs with 'stage' have uploaded and that no batch needs.

    A batch needs the inputs of its jobs that have not ended. Batches on other machines are not known: they upload again
    what they miss. Other objects in the bucket are never removed. Without a terminal and without --yes, it only lists.
    """
    from batchrunner.app import staged_inputs
    from batchrunner.app.buckets import access_of

    if not clean:
        raise click.UsageError("Give --clean. `run` stages inputs itself; see the setting stage.")
    access = access_of(os.environ, flags.get("buckets", ()))
    setup = _load(manifest, {**flags, "stage": prefix}) if manifest else None
    place = staged_inputs.prefix_in(setup, prefix, os.environ)
    known = staged_inputs.needed(os.environ, setup)

    def agree(question: str) -> bool:
        return yes or (sys.stdin.isatty() and click.confirm(question))

    staged_inputs.clean(place, access, known, lambda line: click.echo(printable(line)), agree)
    return ExitStatus.OK


@cli.command(short_help="Check key, balance, clock, disk and folders before a run.")
@click.argument("manifest", type=_PATH, required=False)
@_places
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def doctor(manifest: Path | None, as_json: bool, **flags: object) -> int:
    """Check before a run what would stop it later.

    It checks key, balance, clock, disk, folders, time zone, proxy, config.yaml and the account's index. With MANIFEST,
    it checks the settings and the run directory of its batch. Submits nothing and costs nothing. The exit status is 1
    if a run would stop or be refused, otherwise 0.
    """
    from batchrunner.app import doctor as examination

    settings, folders = _examined(manifest, flags)
    findings = examination.examine(settings, os.environ, folders)
    clean = Redactor.of(os.environ).text
    click.echo(clean(examination.as_json(findings) if as_json else examination.as_text(findings)))
    return examination.exit_status(findings)


def _examined(manifest: Path | None, flags: dict[str, Any]) -> tuple["Settings", dict[str, Path]]:
    """Return the settings and folders that `doctor` checks."""
    from batchrunner.engine.polling import duration_cache
    from batchrunner.settings import resolve

    if manifest is None:
        settings = resolve(flags, os.environ, {})
        folders = {"run directory": Path(settings.output or "output")}
    else:
        setup = _load(manifest, flags)
        settings, folders = setup.settings, {"run directory": setup.rundir.path}
    cache = duration_cache.place(os.environ)
    return settings, folders | ({"cache": cache.parent} if cache else {})


@cli.command(short_help="Print the manifest's JSON Schema.")
def schema() -> int:
    """Print the manifest's JSON Schema."""
    from batchrunner import manifest

    click.echo(json.dumps(manifest.editor_schema(), indent=2, ensure_ascii=False))
    return ExitStatus.OK


def main() -> None:
    """Run the `batchrunner` command."""
    # Skip the last garbage collection: it would take longer than many commands, and the process exits anyway.
    atexit.register(gc.freeze)
    gc.set_threshold(5_000, 10, 160)  # the default of 700 objects takes a tenth of a run, 20,000 take 20 ms at a time
    process.prepare()
    try:
        sys.exit(_command())
    finally:
        process.flush_streams()


def _command() -> int:
    """Run the command, and convert each expected outcome to an exit status."""
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError, ValueError):
            if isinstance(error, click.exceptions.NoArgsIsHelpError):
                click.echo(error.format_message())
            else:
                process.print_usage_error(error)
        return ExitStatus.USAGE
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError, ValueError):
            click.echo("interrupted", err=True)
        return ExitStatus.SIGINT
    except BatchrunnerError as error:
        process.print_error(error)
        return error.exit_status
    except OSError as error:
        process.print_os_error(error)
        return ExitStatus.FAILED
    return status if isinstance(status, int) else ExitStatus.OK


def _load(manifest: Path, flags: dict[str, Any], *, has_inputs: bool = True) -> "Setup":
    from batchrunner import gc_pause
    from batchrunner.app import setup as prepare
    from batchrunner.manifest.variables import read_assignments

    with gc_pause.gc_paused():
        assignments, allowed = read_assignments(flags.pop("assignments", ())), flags.pop("allowed", ())
        buckets = flags.pop("buckets", ())
        setup = prepare.load(manifest, flags, os.environ, assignments, allowed, buckets, has_inputs=has_inputs)
        gc.freeze()  # loaded data is permanent, so it is not scanned for garbage
    return setup


def _show_plan(setup: "Setup", *, as_json: bool, every: bool) -> int:
    from batchrunner.app import price_list, shards, takes
    from batchrunner.app import setup as prepare
    from batchrunner.plan import render

    shards.require_fitting(setup)
    setup = takes.settled(setup)
    for warning in setup.notices:
        click.echo(f"warning: {printable(warning)}", err=True)
    setup, account = price_list.view_account(setup, os.environ)
    plan, projection, now = prepare.plan_batch(setup)
    leaving = prepare.egress_of(setup, plan)
    if as_json:
        for piece in render.json_pieces(plan, projection, leaving, account):
            click.echo(printable_json(piece), nl=False)
        click.echo()
    else:
        free = setup.settings.provider == "sandbox"
        lines = render.lines_of(plan, projection, now, every=every, free=free, leaving=leaving, account=account)
        for line in lines:
            click.echo(line)
    return ExitStatus.OK


def _object_reader(flags: dict[str, Any]) -> "ObjectReader":
    """Return what reads the buckets that the user allows."""
    from batchrunner.app.buckets import access_of
    from batchrunner.storage.objects.blocking import ObjectReader

    return ObjectReader(partial(access_of, os.environ, tuple(flags.get("buckets") or ())))


def _workers(flag: str | None) -> "AbstractContextManager[Workers]":
    """Open the workers that the flag or the environment names."""
    from batchrunner import settings
    from batchrunner.workers.engines import open_workers
    from batchrunner.workers.spec import parse

    def warn(line: str) -> None:
        click.echo(f"warning: {printable(line)}", err=True)

    return open_workers(parse(settings.resolve({"workers": flag}, os.environ, {}).workers), warn)


def _located(batch: Path, flags: dict[str, Any]) -> "RunDir":
    """Return the run directory, named by its path or by its manifest with the options of `run`. Inputs may be gone."""
    from batchrunner.storage.run_directory import RunDir

    return RunDir(batch) if _is_folder(batch) else _load(batch, dict(flags), has_inputs=False).rundir


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not a valid path on any file system
        return False
