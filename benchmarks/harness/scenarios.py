"""The two scenarios: one job whose reply is lost, and a batch that is killed repeatedly until it is done."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from harness import jobs as making
from harness.contenders import Contender
from harness.jobs import Jobs
from harness.processes import Running, environment
from harness.service import Ledger, missing_or_bad, sandbox

LIMIT_S = 240.0  # a contender that takes longer is stopped and judged by its results so far
_LOOK_S = 0.02
_GIVEN_UP = 3  # restarts in a row after an end of its own with a complaint
LOST_REPLIES = {"once": "- {on: submit, kind: lost_reply, first: 1}", "always": "- {on: submit, kind: lost_reply}"}


@dataclass(frozen=True, slots=True)
class OneCall:
    """The outcome of one job. accepted: paid generations. clip: whether it was delivered. status: exit status, None if
    stopped.
    """

    accepted: int
    clip: bool
    status: int | None


@dataclass(slots=True)
class Ends:
    """The ends of a contender's processes. in_flight: generations at each kill. starts: of the contender.

    left_in_doubt: jobs without a clip when the contender left the decision to its user, who then had them submitted
    again. status: of the last exit; None if the contender was stopped at the time limit.
    """

    in_flight: list[int] = field(default_factory=list)
    starts: int = 0
    left_in_doubt: int = 0
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The outcome of a batch. accepted: paid generations. paid_twice, bad: jobs. seconds: of all starts."""

    accepted: int
    paid_twice: int
    bad: int
    seconds: float
    ends: Ends


@dataclass(frozen=True, slots=True)
class Kill:
    """The moment of a kill: a number of clips, and seconds after it."""

    clips: int
    later_s: float


def plan_kills(seed: int, jobs: int, kills: int) -> list[Kill]:
    """Return kills over the first three quarters of the batch. Each one finds work in flight."""
    rng = Random(seed)
    share = 0.75 * jobs / kills
    return [Kill(round(share * (number + rng.uniform(0.4, 1))), rng.uniform(0, 0.7)) for number in range(kills)]


def one_call(contender: Contender, root: Path, peers: str, fault: str, seed: int) -> OneCall:
    """Run one job under `root` whose submission meets `fault` (a line of a faults file)."""
    jobs = making.write(root, 1)
    faults = root / "faults.yaml"
    faults.write_text(fault + "\n")
    options = ("--faults", str(faults), "--duration", "1s", *contender.sandbox)
    with sandbox(root / "sandbox", seed, options) as url:
        argv = contender.command_line(jobs, peers)
        with Running(argv, root, environment(root, url), root / "contender.log") as running:
            status = running.wait(time.monotonic() + LIMIT_S)
        ledger = Ledger.read(url)
        return OneCall(ledger.accepted, missing_or_bad(jobs, ledger) == 0, status)


def batch(contender: Contender, root: Path, peers: str, count: int, kills: Sequence[Kill], seed: int) -> Batch:
    """Run a batch of `count` jobs under `root`. Kill it as planned and start it again until it is done."""
    jobs = making.write(root, count)
    with sandbox(root / "sandbox", seed, ("--duration", "1s", *contender.sandbox)) as url:
        began = time.monotonic()
        ends = _kill_and_restart(contender, jobs, url, peers, list(kills))
        seconds = time.monotonic() - began
        ledger = Ledger.read(url)
        return Batch(ledger.accepted, ledger.paid_twice, missing_or_bad(jobs, ledger), seconds, ends)


def _kill_and_restart(contender: Contender, jobs: Jobs, url: str, peers: str, kills: list[Kill]) -> Ends:
    until = time.monotonic() + LIMIT_S
    argv, seen, ends = contender.command_line(jobs, peers), environment(jobs.root, url), Ends()
    complaints = 0
    while complaints <= _GIVEN_UP:
        ends.starts += 1
        with Running(argv, jobs.root, seen, jobs.root / "contender.log") as running:
            if kills and (flying := _await_kill(running, jobs, url, kills[0], until)):
                running.kill()
                ends.in_flight.append(flying)
                kills.pop(0)
                continue
            ends.status = running.wait(until)
        if not ends.status:  # done, or out of time
            break
        complaints += 1
        if ends.status == 1 and contender.ask and not ends.left_in_doubt:
            ends.left_in_doubt = len(jobs.shifts) - _standing(jobs)
            argv += contender.ask
    return ends


def _await_kill(running: Running, jobs: Jobs, url: str, kill: Kill, until: float) -> int:
    """Return the generations in flight at the moment of the kill; 0 if the contender ended or time ran out before it.

    The kill waits until this process has delivered a clip, so the contender is always at work.
    """
    since: float | None = None
    wanted = max(kill.clips, _standing(jobs) + 1)
    while running.ended() is None and (now := time.monotonic()) < until:
        if since is None and _standing(jobs) >= wanted:
            since = now
        if since is not None and now >= since + kill.later_s and (flying := Ledger.read(url).in_flight):
            return flying
        time.sleep(_LOOK_S)
    return 0


def _standing(jobs: Jobs) -> int:
    return sum(1 for _ in jobs.clips.glob("*.mp4"))
