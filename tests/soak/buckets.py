"""Runs that stage inputs to a bucket and deliver clips to it, killed at random moments, against a real S3 server.

The server's own listing says what was uploaded, and the service's ledger what was paid for. A proxy delays uploads, so
that kills meet them (`tests.soak.slow_store`).
"""

import hashlib
import json
import shutil
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.run_directory import REPORTS
from batchrunner.transfer.bucket_delivery import MARKER
from tests.objects.s3_server import ADMIN, BUCKET, Server, digests
from tests.orders import fingerprint_of
from tests.soak.batch import KNOBS, MODEL, Batch, make_clip, make_picture
from tests.soak.oracle import Figures
from tests.soak.processes import Command, Service, call
from tests.soak.slow_store import SlowStore
from tests.soak.soak import _STOPS_A_BATCH, Plan, _Life, _slots

_VIDEOS = 12  # of each batch, all different
_LARGE_BYTES = 66_000_000  # sent in several requests
_SMALL_BYTES = (2_000, 40_000, 1_500_000)
_SERVICE = "service: {render: tiny}"
_DURATION = "700ms"  # of a generation
_LONGEST_WAIT_S = 8.0  # for an active upload
_AIMED = 0.8  # the share of kills that wait for an active upload
_SECRETS = (*ADMIN, "X-Amz-Signature", "X-Amz-Credential")


class Store(NamedTuple):
    """The S3 server and the proxy in front of it."""

    server: Server
    proxy: SlowStore


@dataclass(frozen=True, slots=True)
class BucketBatch(Batch):
    """A batch with a prefix of its own in the bucket. store: where it is."""

    store: Store
    prefix: str

    @property
    def staged(self) -> str:
        return f"{self.prefix}/staged"

    @property
    def results(self) -> str:
        return f"{self.prefix}/results"

    def inputs(self) -> dict[str, str]:
        """Return the name in the bucket of each local input, by file name."""
        files = [*self.folder.glob("clip-*.mp4"), self.folder / "picture.png"]
        return {path.name: f"{hashlib.sha256(path.read_bytes()).hexdigest()}{path.suffix}" for path in files}

    def orders(self) -> dict[str, str]:
        """Return the fingerprint that the service has for each job, by id."""
        names, orders = self.inputs(), {}
        link = f"{self.store.proxy.url}/{BUCKET}/{self.staged}/"
        for job in json.loads(self.manifest.read_text())["jobs"]:
            fields = {"model": MODEL, **KNOBS, "shift": job["shift"]}
            orders[job["id"]] = fingerprint_of(
                fields, video=link + names[job["video"]], image=link + names["picture.png"]
            )
        return orders

    def clips(self) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of the clips in the bucket, as its server lists them."""
        for name, content in self.store.server.contents(self.results).items():
            if name.endswith(".mp4"):
                yield name, content

    def start(self, *options: str, forked: bool = False) -> Command:
        """Start `batchrunner run`."""
        return super(BucketBatch, self).start("--allow-bucket", BUCKET, *options, forked=forked)

    def verify(self) -> tuple[int, str]:
        """Run `batchrunner verify`; return its status and output."""
        allowed = ("--allow-bucket", BUCKET)
        done = call("verify", self.output, *allowed, cwd=self.folder, **self.environment)
        return done.returncode, done.stdout + done.stderr


@dataclass
class BucketFigures(Figures):
    """The figures of batches in buckets.

    staging, delivering: kills while an input or a result was uploaded. uploaded: objects in the bucket at the end.
    twice: contents that the bucket has under two names. missing: inputs and results that it has not.
    """

    staging: int = 0
    delivering: int = 0
    uploaded: int = 0
    twice: int = 0
    missing: int = 0

    def table(self, stop: str) -> str:
        """Return the figures as text."""
        rows = {
            f"{stop}s while an input was uploaded": self.staging,
            f"{stop}s while a result was uploaded": self.delivering,
            "objects in the bucket": self.uploaded,
            "contents under two names": self.twice,
            "missing objects": self.missing,
        }
        lines = [f"{name:<38}{number:>8,}" for name, number in rows.items()]
        return "\n".join([*lines, super().table(stop)])


def soak_buckets(plan: Plan, server: Server, folder: Path) -> BucketFigures:
    """Kill runs until `plan.stops` of them were hit, let every batch end, and return the figures of all."""
    started, total, rng = time.monotonic(), BucketFigures(), Random(f"{plan.seed} buckets")
    with SlowStore(server.port, plan.seed) as proxy:
        while total.stops < plan.stops:
            place = folder / f"batch-{total.batches}"
            place.mkdir(parents=True)
            (place / "service.yaml").write_text(_SERVICE)
            share = min(_STOPS_A_BATCH, plan.stops - total.stops)
            with ExitStack() as stack:
                options = ("--duration", _DURATION, "--capacity", "16", "--faults", str(place / "service.yaml"))
                service = stack.enter_context(Service(place, *options))
                batch = _make_batch(place, plan, service, Store(server, proxy), rng)
                total.add(_BucketLife(plan, share, batch, service, rng, None).live())
    total.seconds = time.monotonic() - started
    return total


def _make_batch(folder: Path, plan: Plan, service: Service, store: Store, rng: Random) -> BucketBatch:
    """Write a manifest and its inputs. Several jobs share an input; one content has two file names."""
    make_clip(folder / "clip.mp4")
    make_picture(folder / "picture.png")
    clip = (folder / "clip.mp4").read_bytes()
    large = rng.randrange(_VIDEOS)
    for number in range(_VIDEOS):
        size_bytes = _LARGE_BYTES if number == large else rng.choice(_SMALL_BYTES)
        padding = rng.randbytes(1000) * (size_bytes // 1000)
        (folder / f"clip-{number}.mp4").write_bytes(clip + struct.pack(">I4s", 8 + len(padding), b"free") + padding)
    small = (large + 1) % _VIDEOS
    shutil.copy(folder / f"clip-{small}.mp4", folder / "clip-copy.mp4")
    names = [f"clip-{number}.mp4" for number in range(_VIDEOS) if number != large] + ["clip-copy.mp4"]
    videos = [f"clip-{large}.mp4", *(names[number % len(names)] for number in range(1, plan.jobs))]
    rows = [{"id": f"job-{at:03}", "video": video, "shift": 1 + at / 64} for at, video in enumerate(videos)]
    rng.shuffle(rows)
    prefix = f"soak-{folder.parent.name}-{folder.name}-{plan.seed}"
    content = {
        "version": 1,
        "name": prefix,
        "concurrency": plan.concurrency,
        "poll_interval": "100ms",
        "stage": f"s3://{BUCKET}/{prefix}/staged/",
        "stage_above": 0,
        "deliver": f"s3://{BUCKET}/{prefix}/results/",
        "keep_local": rng.random() < 0.5,
        "defaults": {"image": "picture.png", **KNOBS},
        "jobs": rows,
    }
    environment = {**service.environment(), **store.server.environment(), "AWS_ENDPOINT_URL": store.proxy.url}
    batch = BucketBatch(folder, environment, folder / "out", store, prefix)
    batch.manifest.write_text(json.dumps(content, indent=1))
    return batch


@dataclass(slots=True)
class _BucketLife(_Life):
    """One batch in a bucket, from its first run to its last. staging, delivering: kills that met an upload."""

    staging: int = 0
    delivering: int = 0

    def live(self) -> BucketFigures:
        """Kill runs, let the batch end, and check it and the bucket."""
        assert isinstance(self.batch, BucketBatch)
        figures = BucketFigures(**asdict(super(_BucketLife, self).live()))
        figures.staging, figures.delivering = self.staging, self.delivering
        _check_bucket(self.batch, figures)
        return figures

    def _finish(self, status: int) -> int:
        """Run once more: the last run may have been killed while it uploaded the reports. Nothing else may change."""
        self.runs += 1
        return self.batch.run(*_slots(self.plan, self.batch), forked=False)

    def _run(self) -> int | None:
        """Start a run and stop it; then search its files for secrets."""
        status = super(_BucketLife, self)._run()
        self.wrong += _secrets_in(self.batch.output)
        return status

    def _lasts(self, command: Command) -> bool:
        lasts = self._meets_upload(command) if self.rng.random() < _AIMED else super(_BucketLife, self)._lasts(command)
        if lasts:
            active = self._active
            self.staging += any("/staged/" in path for path in active)
            self.delivering += any("/results/" in path for path in active)
        return lasts

    def _meets_upload(self, command: Command) -> bool:
        """Wait for an active upload, and for a moment longer. Return whether the run is still active."""
        end = time.monotonic() + _LONGEST_WAIT_S
        wanted = self.rng.choice(["/staged/", "/results/"])
        while not command.ended_within(0.005):
            if any(wanted in path for path in self._active):
                return not command.ended_within(self.rng.uniform(0.0, 0.1))
            if time.monotonic() > end:
                return True
        return False

    @property
    def _active(self) -> list[str]:
        assert isinstance(self.batch, BucketBatch)
        return [path for path in self.batch.store.proxy.active if self.batch.prefix in path]


def _check_bucket(batch: BucketBatch, figures: BucketFigures) -> None:
    """Compare what the server lists with the batch's inputs and its report."""
    report = batch.report()
    staged, results = digests(batch.store.server, batch.staged), digests(batch.store.server, batch.results)
    results.pop(MARKER)
    succeeded = [row for row in report["jobs"] if row["state"] == "succeeded"]
    expected = {row["file"]: row["sha256"] for row in succeeded}
    expected |= {name: hashlib.sha256((batch.output / name).read_bytes()).hexdigest() for name in REPORTS}
    figures.uploaded += len(staged) + len(results)
    counts = Counter([*staged.values(), *results.values()])
    figures.twice += sum(count > 1 for count in counts.values())
    inputs = {name: name.partition(".")[0] for name in batch.inputs().values()}
    for what, found, wanted in (("staged", staged, inputs), ("delivered", results, expected)):
        figures.missing += len(wanted.keys() - found.keys())
        for name in found.keys() | wanted.keys():
            if found.get(name) != wanted.get(name):
                figures.wrong.append(f"{what} {name}: {found.get(name)} instead of {wanted.get(name)}")
    figures.wrong += _wrong_rows(batch, succeeded)
    figures.wrong += _secrets_in(batch.folder)


def _secrets_in(folder: Path) -> Iterator[str]:
    """Yield the files with a secret. Inputs are left out: nothing writes to them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("clip-"):
            content = path.read_bytes()
            yield from (f"{path} contains {secret}" for secret in _SECRETS if secret.encode() in content)


def _wrong_rows(batch: BucketBatch, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield errors in what the report and the run directory say of delivered clips."""
    keeps = json.loads(batch.manifest.read_text())["keep_local"]
    prefix = ObjectAddress("s3", BUCKET, f"{batch.results}/")
    for row in rows:
        if (row["object"] or {}).get("address") != str(prefix.child(row["file"])):
            yield f"{row['id']} is delivered to {row['object']}"
        if (batch.output / row["file"]).exists() != keeps:
            yield f"{row['file']} is {'not ' if keeps else ''}in the run directory"
