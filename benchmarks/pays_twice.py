"""Compare how often batchrunner and other tools pay twice, by the same ledger. See benchmarks/README.md.

Exit status: 0 if batchrunner paid for no job twice without a request and delivered all clips, whatever the others did;
otherwise 1.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import page, scenarios
from harness.contenders import AT_ONCE, BATCHES, ONE_CALL, SMOKE, Contender, absent, versions
from harness.scenarios import LOST_REPLIES, Batch, OneCall

PAGE = Path(__file__).parent / "PAYS_TWICE.md"
_SIDE_BY_SIDE = 6  # single calls mostly wait


def main() -> int:
    options = _options()
    found = versions(options.peers)
    everybody = SMOKE if options.smoke else BATCHES
    callers = ONE_CALL[:1] if options.smoke else ONE_CALL
    lacking = {name for contender in (*everybody, *callers) for name in absent(contender, found)}
    if lacking:
        _say(f"left out, not installed: {', '.join(sorted(lacking))}")
    work = Path(options.work or tempfile.mkdtemp(prefix="pays-twice-"))
    try:
        calls = run_calls([one for one in callers if not absent(one, found)], work, options)
        _say(page.one_call_table(calls, found))
        batches = run_batches([one for one in everybody if not absent(one, found)], found, work, options)
        _say(page.batch_table(batches, found))
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)
    if not options.smoke:
        setting = {"runs": options.runs, "jobs": options.jobs, "kills": options.kills, "at_once": AT_ONCE}
        page.write(PAGE, calls, batches, found, {**setting, "absent": ", ".join(sorted(lacking))})
        _say(f"written: {PAGE}")
    return 0 if kept_its_promise(calls[ONE_CALL[0]], batches[BATCHES[0]], options) else 1


def run_calls(
    contenders: Sequence[Contender], work: Path, options: argparse.Namespace
) -> dict[Contender, dict[str, list[OneCall]]]:
    """Run the first scenario, with some contenders in parallel."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        asked = {
            (contender, often, run): pool.submit(
                scenarios.one_call,
                contender,
                work / f"call-{ONE_CALL.index(contender)}-{often}-{run}",
                options.peers,
                fault,
                options.seed + run,
            )
            for contender in contenders
            for often, fault in LOST_REPLIES.items()
            for run in range(options.runs)
        }
        return {
            contender: {
                often: [asked[contender, often, run].result() for run in range(options.runs)] for often in LOST_REPLIES
            }
            for contender in contenders
        }


def run_batches(
    contenders: Sequence[Contender], found: Mapping[str, str], work: Path, options: argparse.Namespace
) -> dict[Contender, list[Batch]]:
    """Run the second scenario, one contender at a time; in parallel for a smoke test."""

    def one(contender: Contender, run: int) -> Batch:
        kills = scenarios.plan_kills(options.seed + run, options.jobs, options.kills)
        root = work / f"batch-{BATCHES.index(contender)}-{run}"
        outcome = scenarios.batch(contender, root, options.peers, options.jobs, kills, options.seed + run)
        _say(f"run {run + 1}, {contender.name.format_map(found)}: {outcome}")
        return outcome

    with ThreadPoolExecutor(len(contenders) if options.smoke else 1) as pool:
        asked = [
            (contender, pool.submit(one, contender, run)) for run in range(options.runs) for contender in contenders
        ]
        results: dict[Contender, list[Batch]] = {contender: [] for contender in contenders}
        for contender, outcome in asked:
            results[contender].append(outcome.result())
    return results


def kept_its_promise(
    calls: Mapping[str, Sequence[OneCall]], batches: Sequence[Batch], options: argparse.Namespace
) -> bool:
    """Return whether batchrunner paid once for each job, except on its user's request, and delivered all clips.

    Returns False also if batchrunner was killed less often than planned.
    """
    once = all(call.accepted == 1 and call.clip for outcomes in calls.values() for call in outcomes)
    killed = all(len(one.ends.in_flight) == options.kills for one in batches)
    return once and killed and all(one.paid_twice <= one.ends.left_in_doubt and not one.bad for one in batches)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare who pays twice. Writes benchmarks/PAYS_TWICE.md.")
    parser.add_argument(
        "--peers", default=sys.executable, metavar="PYTHON", help="Python that has the other contenders"
    )
    parser.add_argument("--smoke", action="store_true", help="12 jobs, 1 kill, two contenders; writes no page")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one adds 1")
    parser.add_argument("--work", metavar="DIR", help="keep everything here, logs too; new or empty")
    options = parser.parse_args()
    if options.smoke:
        options.runs, options.jobs, options.kills = 1, 12, 1
    # Not resolved: a link is what tells a virtual environment's Python from the system's.
    options.peers = str(Path(options.peers).absolute())
    options.work = options.work and str(Path(options.work).absolute())
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
