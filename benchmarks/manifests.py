"""Measure the cost of checking a manifest of 1,000 to 1,000,000 jobs, and write benchmarks/MANIFESTS.md.

    python benchmarks/manifests.py                       # YAML and JSON Lines, 1,000 to 100,000 jobs; a minute
    python benchmarks/manifests.py --million             # also a million rows of JSON Lines
    python benchmarks/manifests.py --against DIR         # also with the package in DIR, for comparison

Each job has two https URLs (one video per ten jobs, ten images), a resolution, a number of steps and a tag, so only the
manifest is read. Each figure comes from a process that does the work of `batchrunner validate`: start, imports,
reading, all checks, ids, fingerprints, entries. CPU seconds are the user and system time of that process. Other
processes do not add to them but can affect caches. The results are medians of the rounds, and the maximum for memory.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
CHECK = """
import resource, sys
from pathlib import Path
from batchrunner.manifest import load
batch = load(Path(sys.argv[1]))
assert not batch.warnings
used = resource.getrusage(resource.RUSAGE_SELF)
print(len(batch.entries), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
RESOLUTIONS = ("480p", "580p", "720p")


def rows(number: int) -> Iterator[dict[str, object]]:
    for at in range(number):
        yield {
            "video": f"https://example.com/clips/scene-{at // 10:06d}/walk.mp4",
            "image": f"https://example.com/faces/{at % 10}.png",
            "resolution": RESOLUTIONS[at % 3],
            "num_inference_steps": 20 + at % 7,
            "tags": {"scene": str(at // 10)},
        }


def yaml_text(row: dict[str, object]) -> str:
    tags = row["tags"]
    assert isinstance(tags, dict)
    fields = "".join(f"  {name}: {value}\n" for name, value in row.items() if name != "tags")
    return f"-{fields[1:]}  tags: {{scene: '{tags['scene']}'}}\n"


def csv_text(row: dict[str, object]) -> str:
    tags = row["tags"]
    assert isinstance(tags, dict)
    return ",".join(str(value) for name, value in row.items() if name != "tags") + f",{tags['scene']}\n"


FORMATS = {
    "YAML": (".yaml", "", yaml_text),
    "CSV": (".csv", "video,image,resolution,num_inference_steps,tags.scene\n", csv_text),
    "JSON Lines": (".jsonl", "", lambda row: json.dumps(row) + "\n"),
}


def write(folder: Path, name: str, number: int) -> Path:
    ending, head, text = FORMATS[name]
    path = folder / f"{number}{ending}"
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        file.writelines(text(row) for row in rows(number))
    return path


def measure(path: Path, number: int, rounds: int, package: Path) -> tuple[float, float]:
    """Return CPU seconds (median) and peak memory in MB."""
    taken = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=True, cwd=package
        )
        jobs, seconds, megabytes = done.stdout.split()
        assert int(jobs) == number
        taken.append((float(seconds), float(megabytes)))
    return statistics.median(item[0] for item in taken), max(item[1] for item in taken)


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def page(lines: list[str], command: str, against: bool) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("PyYAML", "jsonschema"))
    other = " | before: CPU s | before: peak MB" if against else ""
    rule = "---|" * (6 if not against else 8)
    summary = (
        "\n*Before* is the package as it was before equal work was taken out of the loader: each job went through the\n"
        "full schema validator, all rows were held at once, and the garbage collector scanned the growing tree\n"
        "(`git archive 2fbd3f8 batchrunner | tar -x -C DIR`).\n"
        if against
        else ""
    )
    table = "\n".join(lines)
    return f"""# The cost of a large manifest

Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()},
{libraries}, {os.cpu_count()} cores ({cpu()}), other work on the machine at the same time. What is measured, and how,
stands at the head of [manifests.py](manifests.py).

| format | jobs | file, MB | CPU s | peak MB | microseconds a job{other} |
|{rule}
{table}
{summary}
A row of a table is checked and let go before the next one is read, so a million rows of JSON Lines are never a million
objects of raw text and values at once. What stays is what a run needs anyway: for each row an entry and its job, its id
and fingerprint, its tags, and, while it is loaded, the indexes by id and by fingerprint. Equal inputs and equal
parameters are one object. YAML has to be read to its end before its first job is certain: its whole tree is there once.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--against", type=Path, help="a directory that holds another batchrunner package")
    options = parser.parse_args()
    sizes = [(name, number) for name in FORMATS for number in (1_000, 10_000, 100_000)]
    if options.million:
        sizes.append(("JSON Lines", 1_000_000))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, number in sizes:
            path = write(Path(folder), name, number)
            rounds = 1 if number > 100_000 else options.rounds
            seconds, megabytes = measure(path, number, rounds, HERE.parent)
            cells = [name, f"{number:,}", f"{path.stat().st_size / 1e6:.1f}", f"{seconds:.2f}", f"{megabytes:.0f}"]
            cells.append(f"{seconds / number * 1e6:.0f}")
            if options.against and name == "YAML":
                before = measure(path, number, rounds, options.against)
                cells += [f"{before[0]:.2f}", f"{before[1]:.0f}"]
            elif options.against:
                cells += ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
            path.unlink()
    command = " ".join(["python", "benchmarks/manifests.py", *sys.argv[1:]])
    (HERE / "MANIFESTS.md").write_text(page(lines, command, bool(options.against)), "utf-8")


if __name__ == "__main__":
    main()
