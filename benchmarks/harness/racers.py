"""The contenders of overhead.py: one table with their start commands and requirements.

All of them do the same work: POST, a poll that returns completed, a download of 4 KiB, one written file.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from harness.jobs import MODEL

SCRIPTS = Path(__file__).parent.parent / "contenders"


@dataclass(frozen=True, slots=True)
class Racer:
    """A contender. slow: it takes minutes, so it runs in few rounds at one cap. terminal: it draws on a terminal.

    argv: a template for the values of `command_line`. programs, packages: requirements; without them it is left out.
    step: it measures the cost of one step, in a table of its own at one cap. package: batchrunner's files at another
    commit; None for the working tree.
    """

    name: str
    argv: tuple[str, ...]
    slow: bool = False
    terminal: bool = False
    step: bool = False
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    package: Path | None = None


def _bare(*extras: str) -> tuple[str, ...]:
    return ("{python}", "{scripts}/bare.py", "{lines}", "{clips}", "{cap}", *extras)


def _complete(*extras: str) -> tuple[str, ...]:
    return ("{python}", "{scripts}/complete.py", "{manifest}", "{clips}", "{cap}", *extras)


def _ours(without: str, *options: str) -> tuple[str, ...]:
    run = ("run", "{manifest}", "--output", "{clips}", "--concurrency", "{cap}", "--poll-interval", "1ms")
    calls = ("--uploads", "{calls}", "--downloads", "{calls}")
    return ("{python}", "{scripts}/without.py", without, *run, *calls, *options)


_MOST_FILES = 5000  # bodies; more jobs use the manifest
MOST_CALLS = 64  # of `uploads`, and of `downloads`; 256, the most it allows, took a tenth more CPU
BARE = Racer("bare aiohttp loop, no bookkeeping", _bare())
# Compared with the bare loop, which decodes no frame either.
OURS = Racer("batchrunner without posters and decode check", _ours("posters,decode", "--no-progress"))
WHOLE = Racer("batchrunner", _ours("-", "--no-progress"))
FLOOR = Racer("bare loop + all three: the floor of three promises", _bare("own", "durable", "journal"))
FLOOR_WHOLE = Racer("bare loop + all three + decode check", _bare("own", "durable", "journal", "decode"))
COMPLETE = Racer("all promises, one program for these jobs: the complete floor", _complete())
COMPLETE_WHOLE = Racer("the complete floor + decode check", _complete("decode"))
# The cost of single steps: the savings without one step, and without all of them.
LEFT_OUT = {
    "report": "report",
    "structure check": "structure",
    "flushing": "flushing",
    "a connection for each POST": "own",
    "all of these": "report,structure,flushing,own",
}
RACERS = (
    BARE,
    OURS,
    WHOLE,
    Racer("batchrunner, progress drawn on a terminal", _ours("-"), terminal=True),
    Racer("batchrunner without posters", _ours("posters", "--no-progress"), step=True),
    *(
        Racer(
            f"batchrunner without posters, decode check and {name}",
            _ours(f"posters,decode,{pieces}", "--no-progress"),
            step=True,
        )
        for name, pieces in LEFT_OUT.items()
    ),
    Racer(
        "batchrunner without posters and decode check, on uvloop",
        _ours("posters,decode,uvloop", "--no-progress"),
        step=True,
        packages=("uvloop",),
    ),
    Racer("bare loop on uvloop", _bare("uvloop"), step=True, packages=("uvloop",)),
    Racer("bare loop + a connection for each POST", _bare("own"), step=True),
    Racer("bare loop + file flushed, renamed, folder flushed", _bare("durable"), step=True),
    Racer("bare loop + four rows per job in a journal, flushed", _bare("journal"), step=True),
    FLOOR,
    FLOOR_WHOLE,
    COMPLETE,
    COMPLETE_WHOLE,
    Racer("bare loop + decode check", _bare("decode"), step=True),
    Racer(
        "asyncio script in the OpenAI cookbook's style",
        ("{python}", "{scripts}/cookbook.py", "{bodies}", "{clips}", "{cap}"),
    ),
    Racer(
        "the documentation's sample in a pool of threads",
        ("{peers}", "{scripts}/pool.py", "{bodies}", "{clips}", "{cap}"),
        packages=("requests",),
    ),
    Racer(
        "huey {huey}, its queue in SQLite, threads",
        ("{peers}", "{scripts}/queue_jobs.py", "{bodies}", "{clips}", "{cap}"),
        slow=True,
        packages=("requests", "huey"),
    ),
    Racer(
        "GNU parallel {parallel} with curl",
        ("bash", "{scripts}/parallel_jobs.sh", "{bodies}", "{clips}", "{cap}"),
        slow=True,
        programs=("parallel", "curl", "jq"),
    ),
    Racer(
        "Snakemake {snakemake} with curl",
        ("bash", "{scripts}/snakemake_jobs.sh", "{bin}/snakemake", "{bodies}", "{clips}", "{cap}"),
        slow=True,
        programs=("curl", "jq"),
        packages=("snakemake",),
    ),
)


def at_commit(commit: str, package: Path) -> tuple[Racer, ...]:
    """Return batchrunner at another commit. package: its files."""
    return tuple(
        replace(racer, name=racer.name.replace("batchrunner", f"batchrunner at {commit}"), package=package)
        for racer in (OURS, WHOLE)
    )


_SMOKE = ("bare aiohttp", "batchrunner", "asyncio script", "all promises")
SMOKE = tuple(racer for racer in RACERS if racer.name.startswith(_SMOKE))


@dataclass(frozen=True, slots=True)
class Work:
    """A number of jobs in the forms that contenders read: a manifest, JSON Lines, one file per body."""

    root: Path
    count: int

    @classmethod
    def write(cls, root: Path, count: int) -> "Work":
        """Write the jobs into the new directory `root`."""
        (root / "bodies").mkdir(parents=True)
        common = {"resolution": "480p", "num_inference_steps": 20, "shift": 5.0, "video_quality": "high"}
        with (root / "manifest.jsonl").open("w") as manifest, (root / "lines.jsonl").open("w") as lines:
            for number in range(count):
                name, clip = f"job-{number:06d}", f"https://example.com/clips/{number}.mp4"
                picture = "https://example.com/face.png"
                manifest.write(json.dumps({"id": name, "video": clip, "image": picture}) + "\n")
                body = {"model": MODEL, "video_url": clip, "image_url": picture, **common}
                lines.write(json.dumps({"id": name, "body": body}) + "\n")
                if count <= _MOST_FILES:
                    (root / "bodies" / f"{name}.json").write_text(json.dumps(body))
        return cls(root, count)

    def command_line(self, racer: Racer, cap: int, clips: Path, peers: str, calls: int = MOST_CALLS) -> list[str]:
        """Return the command line. peers: the Python of the other contenders. calls: the most uploads and downloads."""
        values = {
            "python": sys.executable,
            "peers": peers,
            "bin": Path(peers).parent,
            "scripts": SCRIPTS,
            "manifest": self.root / "manifest.jsonl",
            "lines": self.root / "lines.jsonl",
            "bodies": self.root / "bodies",
            "clips": clips,
            "cap": cap,
            "calls": min(cap, calls),
        }
        return [step.format(**values) for step in racer.argv]


def versions(peers: str) -> dict[str, str]:
    """Return the versions of all installed programs and packages."""
    found = {name: _program(name) for name in ("parallel", "curl", "jq")}
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    for python, names in ((sys.executable, ("aiohttp", "batchrunner")), (peers, ("requests", "huey", "snakemake"))):
        for name in names:
            done = subprocess.run([python, "-c", code, name], capture_output=True, text=True, check=False)
            found[name] = done.stdout.strip()
    if importlib.util.find_spec("uvloop"):  # in batchrunner's environment, for a fair comparison
        found["uvloop"] = importlib.metadata.version("uvloop")
    return {name: version for name, version in found.items() if version}


def _program(name: str) -> str:
    if shutil.which(name) is None:
        return ""
    arguments = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return next(
        (argument.removeprefix(f"{name}-") for argument in arguments if any(sign.isdigit() for sign in argument)), ""
    )
