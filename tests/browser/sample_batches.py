"""Generated batches for the page: any size, with failures, jobs in doubt, an outage, throttling and three runs."""

import hashlib
from pathlib import Path
from random import Random

from batchrunner.errors import Problem
from batchrunner.job import Attempt, Entry, Job, Media, Record, Result, Run, Snapshot, State, TimelineEvent

START = 1_800_000_000.0
MODEL = "alibaba/wan2.2-14b-animate-replace"
_SCENES = ("park", "beach", "street", "kitchen", "harbour", "attic")
_CONTENT = Problem(
    "content_policy",
    "The input was rejected by the content policy (generation {id})",
    "Change the reference clip or the character image; the same inputs are rejected again.",
)
_CRASH = Problem(
    "generation_failed",
    "Internal error while rendering",
    "Nothing was charged for it. --retry-failed submits it again.",
    "service",
)
_SILENT = Problem(
    "timed_out", "no answer within 60 s after the request was sent", "It may have been accepted.", "network"
)


def sample_batch(jobs: int, folder: Path | None = None, seed: int = 0) -> Snapshot:
    """Generate a batch of the given number of jobs. folder: the folder of its reference clip and pictures."""
    rng = Random(seed)
    base = folder or Path("/nowhere")
    video = Media(
        "video", "clips/walk.mp4", base / "walk.mp4", None, "ef" * 32, 77_794, "video/mp4", 0, 480, 480, 2.4, 60
    )
    faces = [
        Media("image", f"faces/{name}.jpg", base / f"{name}.jpg", None, digest * 32, 60_270, "image/jpeg", 0, 512, 512)
        for name, digest in (("astronaut", "aa"), ("admiral", "bb"))
    ]
    runs = _runs(jobs)
    lanes = [START + 2.0] * 24
    entries, records = [], {}
    for number in range(jobs):
        digest = hashlib.sha256(f"{seed}.{number}".encode()).hexdigest()
        params = {"resolution": rng.choice(("480p", "580p", "720p")), "num_inference_steps": 20, "shift": 5.0}
        job = Job(f"sha256:{digest}", MODEL, {"video": video, "image": rng.choice(faces)}, params)
        lane = min(range(len(lanes)), key=lambda index: lanes[index])
        record = _record(job, number, lanes[lane], rng)
        if record.attempts:
            last = record.last
            lanes[lane] = (last.completed_at or last.ended_at or last.submitted_at + 1800) + rng.uniform(1, 8)
        records[job.fingerprint] = record
        tags = {"scene": rng.choice(_SCENES), "take": str(number % 4)}
        entries.append(Entry(number, f"{tags['scene']}-{number:04d}", job, tags))
    end = max(lanes) + 20.0
    last_run = runs[-1]
    done = Run(
        **{**{name: getattr(last_run, name) for name in Run.__slots__}, "finished_at": max(end, last_run.started_at)}
    )
    return Snapshot(done, tuple(entries), records, (*runs[:-1], done), _timeline(jobs))


def _runs(jobs: int) -> tuple[Run, ...]:
    def run(number: int, start: float, end: float | None, status: int | None, stopped: str = "") -> Run:
        settings = '{"concurrency": 24, "max_credits": 900000000, "poll_interval_s": 15.0}'
        path, digest = "nights/heroes.yaml", "cd" * 32
        return Run(
            f"run-{number}", "nightly-heroes", "aimlapi", path, digest, 24, START + start, end and START + end, status,
            stopped, "api.example.com", settings,
        )  # fmt: skip

    if jobs < 30:
        return (run(1, 0, None, 1),)
    return (run(1, 0, None, None), run(2, 2400, 5400, 3, "the account is out of credits"), run(3, 5900, None, 1))


def _record(job: Job, number: int, at: float, rng: Random) -> Record:
    accepted = at + rng.uniform(0.5, 3)
    generating = accepted + rng.uniform(5, 90)
    completed = generating + rng.lognormvariate(5.2, 0.3)
    ended = completed + rng.uniform(1, 9)
    name = f"gen-{job.key}:{MODEL}"
    price = {"480p": 390_000.0, "580p": 585_000.0, "720p": 780_000.0}[job.params["resolution"]]
    attempt = Attempt(
        1, f"run.{job.key}.1", at, name, "succeeded", None, accepted, generating, completed, ended, price, price,
        int((completed - accepted) / 15) + 1,
    )  # fmt: skip
    chance = rng.random()
    if chance < 0.03 or number == 1:
        problem = Problem(_CONTENT.kind, _CONTENT.message.format(id=name), _CONTENT.hint)
        return Record(job, State.FAILED, (_ended(attempt, "failed", problem),), problem)
    if chance < 0.045 or number == 2:
        return Record(job, State.FAILED, (_ended(attempt, "failed", _CRASH),), _CRASH)
    if chance < 0.05 or number == 3:
        lost = Attempt(1, f"run.{job.key}.1", at, None, "in_doubt", _SILENT, estimate=price)
        return Record(job, State.IN_DOUBT, (lost,), _SILENT)
    if chance < 0.06:
        return Record(job)
    size = {"480p": 480, "580p": 580, "720p": 720}[job.params["resolution"]]
    warnings = ("lasts 1.20 s, the reference clip 2.40 s",) if chance > 0.985 else ()
    result = Result(150_000 + number, hashlib.sha256(name.encode()).hexdigest(), size, size, 2.4, warnings)
    return Record(job, State.SUCCEEDED, (attempt,), None, result)


def _ended(attempt: Attempt, outcome: str, problem: Problem) -> Attempt:
    fields = {name: getattr(attempt, name) for name in Attempt._fields}
    over = {"outcome": outcome, "error": problem, "ended_at": attempt.completed_at, "completed_at": None}
    return Attempt(**{**fields, **over, "credits": None})


def _timeline(jobs: int) -> tuple[TimelineEvent, ...]:
    if jobs < 30:
        return ()
    rows = [
        (700, "call_health", "submit", "throttled", "429: too many generations in flight"),
        (701, "cap", "submit", "12", "working cap 12 of 24"),
        (702, "cap", "submit", "6", "working cap 6 of 24"),
        (900, "call_health", "submit", "fine", ""),
        (1000, "cap", "submit", "15", "working cap 15 of 24"),
        (1300, "cap", "submit", "24", "working cap 24 of 24"),
        (1500, "call_health", "submit", "down", "502 Bad Gateway"),
        (1501, "call_health", "poll", "down", "502 Bad Gateway"),
        (1950, "call_health", "poll", "fine", ""),
        (1960, "call_health", "submit", "fine", ""),
        (3800, "call_health", "download", "unreachable", "connection refused"),
        (4100, "call_health", "download", "fine", ""),
        (4900, "call_health", "submit", "paused", "402: out of credits"),
        (5350, "stopping", "", "", "the account is out of credits"),
    ]
    return tuple(TimelineEvent(START + at, kind, call, status, message) for at, kind, call, status, message in rows)
