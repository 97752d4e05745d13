"""The contenders: one table with their start commands and their behaviour on retries and restarts."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.jobs import Jobs
from harness.service import command

SCRIPTS = Path(__file__).parent.parent / "contenders"
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender. name: a template for its versions. argv: a template for the values of `command_line`.

    how: how it retries, or its behaviour on a restart. programs: required programs on PATH. packages: required packages
    of the peers' Python. sandbox: more options of the service. ask: the option of a user who decides to submit jobs in
    doubt (exit status 1) again.
    """

    name: str
    argv: tuple[str, ...]
    how: str
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    sandbox: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()

    def command_line(self, jobs: Jobs, peers: str) -> list[str]:
        """Return the command line for `jobs`. peers: the Python of the other contenders."""
        values = {
            "peers": peers,
            "scripts": SCRIPTS,
            "batchrunner": command(),
            "manifest": jobs.manifest,
            "bodies": jobs.bodies,
            "body": jobs.bodies / f"{next(iter(jobs.shifts))}.json",
            "clips": jobs.clips,
            "clip": jobs.clips / f"{next(iter(jobs.shifts))}.mp4",
            "bin": Path(peers).parent,
            "at_once": AT_ONCE,
        }
        return [piece.format(**values) for piece in self.argv]


_BATCHRUNNER = (
    "{batchrunner}",
    "run",
    "{manifest}",
    "--output",
    "{clips}",
    "--concurrency",
    "{at_once}",
    "--poll-interval",
    "500ms",
    "--no-progress",
)

ONE_CALL = (
    Contender(
        "batchrunner {batchrunner}",
        _BATCHRUNNER,
        "no POST whose reply was lost is repeated; the service's log is searched for it by `X-Client-Request-Id`",
    ),
    Contender(
        "batchrunner {batchrunner}, service without that log",
        _BATCHRUNNER,
        "the same; not found, the job is held in doubt and named, exit status 1",
        sandbox=("--no-logs",),
    ),
    Contender(
        "curl {curl}",
        ("bash", "{scripts}/curl_retry.sh", "{body}", "{clip}"),
        "`--retry 10 --retry-all-errors` (with `--retry-delay 1`, or its waits would add up to 17 minutes)",
        programs=("curl", "jq"),
    ),
    Contender(
        "fal-client {fal-client}",
        ("{peers}", "{scripts}/fal.py", "{body}", "{clip}"),
        "its own `submit`, its address pointed at the sandbox: 10 tries on time-outs and transport errors",
        packages=("fal-client",),
    ),
    Contender(
        "OpenAI SDK {openai}",
        ("{peers}", "{scripts}/openai_sdk.py", "{body}", "{clip}"),
        "its own `post` at its defaults: `max_retries=2`, so 3 tries",
        packages=("openai",),
    ),
    Contender(
        "the documentation's sample, requests {requests}",
        ("{peers}", "{scripts}/documented.py", "{body}", "{clip}"),
        "not at all: it ends with a traceback, the id is lost, and the user starts it again",
        packages=("requests",),
    ),
)

BATCHES = (
    Contender(
        "batchrunner {batchrunner}",
        _BATCHRUNNER,
        "`batchrunner run` again: what is in flight is in the journal and is polled; a POST cut off by the kill is "
        "looked up in the service's log; what is not found there is held, and submitted again only when asked for",
        ask=("--in-doubt", "resubmit"),
    ),
    Contender(
        "GNU parallel {parallel}",
        ("bash", "{scripts}/parallel_jobs.sh", "{bodies}", "{clips}", "{at_once}"),
        "`parallel --joblog --resume` again: runs what its job log does not call finished, from the POST on",
        programs=("parallel", "curl", "jq"),
    ),
    Contender(
        "Snakemake {snakemake}",
        ("bash", "{scripts}/snakemake_jobs.sh", "{bin}/snakemake", "{bodies}", "{clips}", "{at_once}"),
        "`snakemake --unlock`, then `snakemake --rerun-incomplete`: runs what has no complete file, from the POST on",
        programs=("curl", "jq"),
        packages=("snakemake",),
    ),
    Contender(
        "asyncio script in the style of the OpenAI cookbook, aiohttp {aiohttp}",
        ("{peers}", "{scripts}/cookbook.py", "{bodies}", "{clips}", "{at_once}"),
        "the script again: skips the ids in its JSON Lines file of finished jobs, runs the others from the POST on",
        packages=("aiohttp",),
    ),
)
SMOKE = (BATCHES[0], BATCHES[3])


def versions(peers: str) -> dict[str, str]:
    """Return the versions of all installed programs and packages."""
    found = {name: _program(name) for name in ("curl", "jq", "parallel")}
    found["batchrunner"] = _package(sys.executable, "batchrunner")
    for name in ("fal-client", "openai", "requests", "aiohttp", "snakemake"):
        found[name] = _package(peers, name)
    return {name: version for name, version in found.items() if version}


def absent(contender: Contender, found: dict[str, str]) -> list[str]:
    """Return the missing programs and packages of a contender."""
    return [name for name in (*contender.programs, *contender.packages) if name not in found]


def _program(name: str) -> str:
    if shutil.which(name) is None:
        return ""
    arguments = subprocess.run(
        [name, "--version"], capture_output=True, text=True, check=False, timeout=20
    ).stdout.split()
    return next(
        (argument.removeprefix(f"{name}-") for argument in arguments if any(sign.isdigit() for sign in argument)), ""
    )


def _package(python: str, name: str) -> str:
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", code, name], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip()
