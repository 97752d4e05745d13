"""The command line: commands and options, no logic.

Rule: this file turns words into calls and outcomes into exit statuses. Heavy rooms are imported by the command that
needs them, so that ``--help`` and ``--version`` answer at once.
"""

import atexit
import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
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
    from batchrunner.app.setup import Setup
    from batchrunner.storage.run_directory import RunDir

_EPILOG = """\b
Exit statuses of run:
  0  every job succeeded
  1  some jobs failed, or are held in doubt
  2  usage, or a manifest that does not validate; nothing was submitted
  3  stopped before the end on purpose: run again to continue
  4  another process is running this batch
  130, 143  interrupted by SIGINT, SIGTERM after a clean stop
"""


_METAVARS = {
    "output": "DIR",
    "junit": "FILE",
    "metrics_file": "FILE",
    "notify": "URL",
    "count": "N",
    "number": "N",
    "share": "N|N%",
    "duration": "TIME",
    "moment": "WHEN",
}


class _Path(click.Path):
    """A path, its home folder written out: a shell does it only where ``~`` stands at the beginning of a word."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value) if isinstance(value, str) else value, param, ctx)


_PATH = _Path(path_type=Path)
_TEXT_PATH = _Path()


class _InOrder(click.Group):
    """A group that lists its commands in the order in which a user meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _run_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every setting as an option, from the one table."""
    for setting in reversed(SETTINGS):
        command = _option(setting)(command)
    return command


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + setting.name.replace("_", "-")
    text = setting.help
    if setting.kind == "switch":
        return click.option(flag, setting.name, is_flag=True, default=None, help=text)
    if setting.default is not None:
        text = f"{text} [default: {setting.default}]"
    metavar = "|".join(setting.choices) or _METAVARS.get(setting.name) or _METAVARS[setting.kind]
    return click.option(flag, setting.name, metavar=metavar, help=text)


def _variables(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a manifest's variables stand for, as options."""
    text = "Let ${NAME} in the manifest read this environment variable; repeatable."
    command = click.option("--env", "allowed", multiple=True, metavar="NAME", help=text)(command)
    text = "What ${NAME} in the manifest stands for; repeatable."
    return click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help=text)(command)


def _rehearsals(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a rehearsal."""
    fast = "With --provider sandbox: time runs 60 times as fast, a night in minutes."
    faults = "With --provider sandbox: what goes wrong; see docs/sandbox.md."
    command = click.option("--faults", type=_TEXT_PATH, metavar="FILE", help=faults)(command)
    return click.option("--fast", is_flag=True, help=fast)(command)


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `run` that decide where a batch lies, for a command that takes its manifest too."""
    rows = {setting.name: setting for setting in SETTINGS}
    return _variables(_option(rows["output"])(_option(rows["provider"])(_rehearsals(command))))


@click.group(
    cls=_InOrder,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", message="batchrunner %(version)s")
def cli() -> None:
    """Run batches of hosted video generations.

    A YAML manifest lists jobs: a reference video, a character image, a resolution. batchrunner submits them, follows
    every generation, downloads the clips, checks them, and writes a report. It never pays twice for a job, whatever is
    killed or cut: run the same command again, and it continues.

    \b
    Try it now, with no key and no network:
      batchrunner run manifests/demo.yaml
    """


@cli.command(short_help="Write a first manifest from a folder of videos and images.")
@click.argument("folder", default=".", type=_PATH)
@click.option("-o", "--to", "path", default="batch.yaml", show_default=True, type=_PATH)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(folder: Path, path: Path, force: bool) -> int:
    """Write a commented manifest from the videos and images in FOLDER and below it, ready to run.

    One image goes with each video; several make every combination; videos and images of equal names make pairs.
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


@cli.command(short_help="Start a batch, or continue it.")
@click.argument("manifest", type=_PATH)
@_variables
@_run_settings
@click.option("--dry-run", is_flag=True, help="The same as plan: submit nothing.")
@click.option(
    "--recover",
    is_flag=True,
    help="Continue where the journal is lost, damaged or too old: what it does not tell is held in doubt.",
)
@_rehearsals
def run(manifest: Path, dry_run: bool, **flags: object) -> int:
    """Start the batch in MANIFEST, or continue it: what is done is not done again.

    The API key comes from the environment: AIMLAPI_KEY. Every option below can also stand in the manifest
    (poll_interval: 15s) or in the environment (BATCHRUNNER_POLL_INTERVAL=15s); options win over the environment, the
    environment over the manifest.
    """
    with process.heard() as heard:
        from batchrunner.app import start
        from batchrunner.progress.progress import make_progress

        setup = _load(manifest, flags)
        if dry_run:
            return _show_plan(setup, as_json=False, every=False)
        quiet, plain, form = setup.settings.quiet, setup.settings.no_progress, setup.settings.log_format
        with make_progress(stream=sys.stderr, quiet=quiet, plain=plain, log_format=form) as progress:
            heard.leave = progress.close
            return start.run_batch(setup, os.environ, progress, heard)


@cli.command(short_help="Check manifests and local inputs.")
@click.argument("manifests", nargs=-1, required=True, type=_PATH)
@_variables
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
    help="Problems to print for each manifest; 0 is all. [default: 20; json: all]",
)
def validate(
    manifests: tuple[Path, ...],
    given: tuple[str, ...],
    allowed: tuple[str, ...],
    form: str,
    max_problems: int | None,
) -> int:
    """Check MANIFESTS and the local files they name; print every problem with its place. Nothing is submitted.

    What the code at the end of a problem means is in docs/diagnostics.md.
    """
    from batchrunner.manifest import validate as validating
    from batchrunner.manifest.variables import read_allowed, read_assignments

    clean = Redactor.of(os.environ).text
    values, names = read_assignments(given), read_allowed(allowed, os.environ)
    checked = [validating.check(path, values, os.environ, names) for path in manifests]
    for text, problem in validating.shown(checked, form, max_problems, colour=process.wants_colour(sys.stderr)):
        click.echo(clean(text), err=problem, color=True)
    return ExitStatus.OK if all(each.valid for each in checked) else ExitStatus.USAGE


@cli.command(short_help="Show what run would do; submits nothing.")
@click.argument("manifest", type=_PATH)
@_variables
@_run_settings
@_rehearsals
@click.option("--all", "every", is_flag=True, help="List every job, however many.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def plan(manifest: Path, as_json: bool, every: bool, **flags: object) -> int:
    """Show what `run` would do with MANIFEST and the same options, job by job, what it would cost, and until when.

    Submits nothing, and writes nothing.
    """
    return _show_plan(_load(manifest, flags), as_json=as_json, every=every)


@cli.command(short_help="Show where a batch stands, also while it runs.")
@click.argument("batch", metavar="MANIFEST|RUN_DIR", type=_PATH)
@_places
@click.option("--json", "as_json", is_flag=True, help="For scripts: what report.json would hold.")
@click.option("--watch", is_flag=True, help="Show it again and again, until the run has ended.")
def status(batch: Path, as_json: bool, watch: bool, **flags: object) -> int:
    """Show where a batch stands, from its journal; another process may be running it."""
    from batchrunner.app import status as looking

    rundir = _located(batch, flags)
    (looking.watch if watch else looking.show)(rundir, sys.stdout, as_json=as_json)
    return ExitStatus.OK


@cli.command(short_help="Write report.json, report.html and results.csv again.")
@click.argument("batch", metavar="RUN_DIR|MANIFEST", type=_PATH)
@_places
@click.option("--junit", type=_TEXT_PATH, metavar="FILE", help="Write a JUnit XML file too.")
@click.option("--metrics-file", type=_TEXT_PATH, metavar="FILE", help="Write a Prometheus text file too.")
def report(batch: Path, junit: str | None, metrics_file: str | None, **flags: object) -> int:
    """Write report.json, report.html and results.csv of a batch again from its journal.

    Posters that are missing are made again. What the files hold is in docs/outputs.md.
    """
    from batchrunner.app.status import look
    from batchrunner.media import decoder_pool, posters
    from batchrunner.report import writer as reporting

    rundir = _located(batch, flags)
    reporting.check_places(rundir.path, junit=junit, metrics_file=metrics_file)
    held = look(rundir)
    for path, target in reporting.make_way(rundir):
        click.echo(printable(f"{path} is no report of batchrunner: it was moved to {target}"), err=True)
    posters.make_missing(rundir, reporting.on_page(held), decoder_pool.pool())
    paths = reporting.write(held, rundir.path, __version__, junit=junit, metrics_file=metrics_file)
    click.echo(reporting.headline(reporting.build(held, __version__)))
    for path in paths:
        click.echo(printable(str(path)))
    return ExitStatus.OK


@cli.command(short_help="Re-hash and re-decode every result.")
@click.argument("batch", metavar="RUN_DIR|MANIFEST", type=_PATH)
@_places
def verify(batch: Path, **flags: object) -> int:
    """Check every result of a batch against what was recorded: size, SHA-256, structure, every frame."""
    from batchrunner.app import verify as verifying
    from batchrunner.app.status import look
    from batchrunner.media import decoder_pool

    rundir = _located(batch, flags)
    bad = total = 0
    for name, complaint in verifying.verify(rundir, look(rundir), decoder_pool.pool()):
        total += 1
        if complaint is not None:
            bad += 1
            click.echo(printable(f"{name}: {complaint}"))
    click.echo(f"{total} results checked, {bad} bad")
    return ExitStatus.FAILED if bad else ExitStatus.OK


@cli.command(short_help="Serve the local sandbox API over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--seed", type=int, help="Decides ids, durations and faults. [default: 0]")
@click.option(
    "--faults", type=_TEXT_PATH, metavar="FILE", help="YAML file of faults and outages to show; see docs/sandbox.md."
)
@click.option("--state", type=_TEXT_PATH, metavar="DIR", help="Remember everything here across restarts.")
@click.option("--duration", metavar="TIME", help="Median time of a generation. [default: 2s]")
@click.option("--capacity", type=click.IntRange(1), help="Generations worked on at once. [default: 8]")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.001, 10_000), help="Hurry its time.")
@click.option("--no-logs", is_flag=True, help="Do not offer GET /v2/logs.")
def sandbox(**options: Any) -> int:
    """Serve a stand-in for the generation service: same endpoints, replies and errors; it renders real clips.

    Any bearer key is taken. It fetches nothing: a remote input is stood in for by a bundled clip or picture. What it
    accepted is listed at /sandbox/ledger.
    """
    from batchrunner.sandbox import serve

    return serve.serve(serve.configure(options))


@cli.command(short_help="Print the manifest's JSON Schema.")
def schema() -> int:
    """Print the manifest's JSON Schema."""
    from batchrunner import manifest

    click.echo(json.dumps(manifest.schema(), indent=2, ensure_ascii=False))
    return ExitStatus.OK


def main() -> None:
    """The `batchrunner` command."""
    # At the end everything goes at once: looking through it for garbage first would take longer than many a command.
    atexit.register(gc.freeze)
    gc.set_threshold(20_000, 20, 20)  # by itself it looks at every 700 new objects, which took a tenth of a run
    process.prepare()
    try:
        sys.exit(_command())
    finally:
        process.settle()


def _command() -> int:
    """Run the command; every outcome that is foreseen as an exit status."""
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError, ValueError):
            if isinstance(error, click.exceptions.NoArgsIsHelpError):
                click.echo(error.format_message())
            else:
                process.refuse(error)
        return ExitStatus.USAGE
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError, ValueError):
            click.echo("interrupted", err=True)
        return ExitStatus.SIGINT
    except BatchrunnerError as error:
        process.complain(error)
        return error.exit_status
    except OSError as error:
        process.give_up(error)
        return ExitStatus.FAILED
    return status if isinstance(status, int) else ExitStatus.OK


def _load(manifest: Path, flags: dict[str, Any]) -> "Setup":
    from batchrunner import gc_pause
    from batchrunner.app import setup as prepare
    from batchrunner.manifest.variables import read_assignments

    with gc_pause.gc_paused():
        given, allowed = read_assignments(flags.pop("given", ())), flags.pop("allowed", ())
        setup = prepare.load(manifest, flags, os.environ, given, allowed)
        gc.freeze()  # what is loaded stays: it need not be looked at, not even once
    return setup


def _show_plan(setup: "Setup", *, as_json: bool, every: bool) -> int:
    from batchrunner.app import setup as prepare
    from batchrunner.plan import render

    for warning in setup.notices:
        click.echo(f"warning: {printable(warning)}", err=True)
    plan, projection, now = prepare.plan_batch(setup)
    leaving = prepare.egress_of(setup, plan)
    if as_json:
        click.echo(printable_json(json.dumps(render.as_json(plan, projection, leaving), indent=1)))
    else:
        free = setup.settings.provider == "sandbox"
        click.echo(render.as_text(plan, projection, now, every=every, free=free, leaving=leaving))
    return ExitStatus.OK


def _located(batch: Path, flags: dict[str, Any]) -> "RunDir":
    """The run directory, named by itself or by its manifest with the options that `run` was given."""
    from batchrunner.storage.run_directory import RunDir

    return RunDir(batch) if _is_folder(batch) else _load(batch, flags).rundir


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file system takes
        return False
