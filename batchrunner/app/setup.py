"""The setup of a run: the loaded manifest, the settings in effect, and values derived from both.

Rule: this module opens no connection and writes no file. `plan` and the read-only commands need nothing more.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from batchrunner.account import config
from batchrunner.account.folders import config_file, state_folder
from batchrunner.account.limits import AccountBudgets, limits_for, require_no_limits
from batchrunner.account.lookup import Found, look_up
from batchrunner.account.names import Account, account_of
from batchrunner.app import bucket_results, lock, price_list, rehearsal
from batchrunner.app.buckets import access_of
from batchrunner.app.signs import require_trusted
from batchrunner.engine.policy import Policy
from batchrunner.engine.run_deadline import REACHED, RunDeadline
from batchrunner.errors import LocalFault, UsageError
from batchrunner.formatting import count_text, redacted
from batchrunner.job import Entry, Record, Retake, Run, Snapshot, State
from batchrunner.journal import journal, summary
from batchrunner.manifest import Batch, shards, variables
from batchrunner.manifest.loader import LoadOptions
from batchrunner.manifest.shards import Others, Shard
from batchrunner.manifest.takes import jobs_of
from batchrunner.moments import Moment
from batchrunner.plan.admission import Admission, TimeLeft
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.kept_clips import KeptClip, kept_clips
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.plan import Plan, ResumeOptions, build
from batchrunner.plan.prices import Prices, list_as_facts
from batchrunner.plan.selection import chosen
from batchrunner.plan.submission_order import LONGEST, Backlog, money_shortage, planned_order, time_shortage
from batchrunner.providers.base import PriceList
from batchrunner.providers.endpoint import address_of, base_url_of, host_of, weak_keys
from batchrunner.report import writer
from batchrunner.settings import Settings, as_facts, resolve, unknown_variables
from batchrunner.storage import paths
from batchrunner.storage.objects.inputs import ObjectInputs
from batchrunner.storage.objects.staged_names import is_staged
from batchrunner.storage.run_directory import REPORTS, RunDir, RunDirectoryClips

if TYPE_CHECKING:
    from batchrunner.plan.egress import Egress
    from batchrunner.plan.projection import Projection
    from batchrunner.sandbox import SandboxConfig
    from batchrunner.storage.objects.store import Access


@dataclass(frozen=True, slots=True)
class Setup:
    """A loaded manifest with the settings in effect. sandbox: for provider ``sandbox``.

    options: arguments of the command line that are not settings and that the same command needs again. service: the
    host that receives submissions. warnings: problems in the environment, as text. recover: continue although the
    journal may lack submissions (`batchrunner.app.recovery`). price_list: the service's own, as far as it is known;
    price_file: where it is kept (`batchrunner.app.price_list`). only: ids and patterns of ``--only``. retake: ids of
    ``--retake``, and ``rejected``; retakes: the takes that these add (`batchrunner.app.takes`). account, state,
    limits_file: the account, the folder of its index, and the path of config.yaml; None for the sandbox. access:
    returns how buckets may be reached. shard: the part of the manifest in `batch` and `settings`; None for the whole.
    others: the jobs of the other parts.
    """

    batch: Batch
    settings: Settings
    rundir: RunDir
    sandbox: "SandboxConfig | None" = None
    options: tuple[str, ...] = ()
    service: str = ""
    warnings: tuple[str, ...] = ()
    recover: bool = False
    price_list: PriceList | None = None
    price_file: Path | None = None
    only: tuple[str, ...] = ()
    retake: tuple[str, ...] = ()
    retakes: tuple[Retake, ...] = ()
    account: Account | None = None
    state: Path | None = None
    limits_file: Path | None = None
    access: "Callable[[], Access] | None" = field(default=None, repr=False)  # holds the environment
    shard: Shard | None = None
    others: Others = field(default_factory=Others)

    @property
    def chosen(self) -> Sequence[Entry]:
        """The entries that may be submitted: those that ``--only`` names, or all."""
        return chosen(self.batch.entries, self.only, self.others.match)

    @property
    def notices(self) -> tuple[str, ...]:
        """Warnings about the environment and the manifest, for the user to read before anything is submitted."""
        found = (f"{item.file}:{item.line}:{item.column}: {item.message}" for item in self.batch.warnings)
        return (*self.warnings, *found)


def load(
    path: Path,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    assignments: Mapping[str, str] | None = None,
    allowed: Sequence[str] = (),
    buckets: Sequence[str] = (),
    *,
    has_inputs: bool = True,
) -> Setup:
    """Load a manifest and resolve its settings. Raises ManifestError, UsageError.

    assignments: values of the manifest's variables. allowed: environment variables that the manifest may read besides
    those that BATCHRUNNER_ENV names. buckets: those that may be read and written besides those in config.yaml.
    has_inputs: False to leave the inputs unread, for a command that needs only names and settings. The flag
    ``only_plan`` keeps the entries packed, because `plan` reads them in order.
    """
    access = partial(access_of, environment, tuple(buckets))
    names, locked = variables.read_allowed(allowed, environment), bool(flags.get("locked"))
    options = LoadOptions(contents=None if has_inputs else {}, packs=bool(flags.get("only_plan")))
    with ObjectInputs(access) as objects:
        batch = lock.load(path, assignments or {}, environment, names, objects, locked=locked, options=options)
    settings = resolve(flags, environment, batch.settings)
    named = {"output": flags.get("output") or environment.get("BATCHRUNNER_OUTPUT")}
    rehearsal_config = rehearsal.configure(settings, batch.name, batch.settings, {**flags, **named})
    texts = _options(flags, assignments or {}, allowed, buckets)
    host = host_of(base_url_of(environment)) if settings.provider != "sandbox" else ""
    warnings = (*unknown_variables(environment), *weak_keys(settings, environment))
    rundir = RunDir(rehearsal_config.folder)
    paths.require_not_kept_in_tilde(rundir.path, rundir.journal)
    recover = bool(flags.get("recover"))
    only, retake = names_of(flags.get("only")), names_of(flags.get("retake"))
    if recover and retake:
        hint = "Run with --recover first, then with --retake. Nothing was submitted."
        raise UsageError("--recover and --retake cannot be used together", hint)
    of_run = rehearsal_config.settings, rundir, rehearsal_config.config
    setup = Setup(batch, *of_run, texts, host, warnings, recover)
    setup = _sharded(replace(setup, only=only, retake=retake, access=access), flags, environment, divides=has_inputs)
    bucket_results.check(setup.settings, batch.entries, access)
    if settings.provider == "sandbox":
        return setup
    file, address = price_list.path_of(environment), address_of(environment)
    account, state = account_of(address, settings.account), state_folder(environment)
    listed, limits = price_list.load(file, address), config_file(environment)
    return replace(setup, price_list=listed, price_file=file, account=account, state=state, limits_file=limits)


def _sharded(setup: Setup, flags: Mapping[str, object], environment: Mapping[str, str], *, divides: bool) -> Setup:
    """Return the setup of the shard that ``--shard`` names, or the whole one. Raises UsageError.

    divides: False for a command that needs no caps and budgets.
    """
    own = shards.read_own_values(names_of(flags.get("per_shard")))
    if flags.get("shard") is None:
        if own:
            raise UsageError("--per-shard needs --shard", "Add --shard, as in --shard 1/4. Nothing was submitted.")
        return setup
    shard = shards.read_option(str(flags["shard"]), environment)
    entries, others = shards.split(setup.batch.entries, shard)
    settings = shards.divide(setup.settings, shard, own) if divides else setup.settings
    return replace(
        setup,
        batch=replace(setup.batch, entries=entries),
        settings=shards.with_own_bucket(settings, shard),
        rundir=RunDir(setup.rundir.path / shard.folder),
        options=(*setup.options, "--shard", str(shard), *_own_values(flags)),
        retake=tuple(name for name in setup.retake if not others.have(name)),
        shard=shard,
        others=others,
    )


def _own_values(flags: Mapping[str, object]) -> list[str]:
    return [text for value in names_of(flags.get("per_shard")) for text in ("--per-shard", value)]


def names_of(value: object) -> tuple[str, ...]:
    """Return the values of a repeatable option. The Python API also takes a single text."""
    return (value,) if isinstance(value, str) else tuple(map(str, cast(Sequence[str], value or ())))


def _options(
    flags: Mapping[str, object], assignments: Mapping[str, str], allowed: Sequence[str], buckets: Sequence[str]
) -> tuple[str, ...]:
    options_text = ["--fast"] if flags.get("fast") else []
    options_text += ["--locked"] if flags.get("locked") else []
    if flags.get("faults"):
        options_text += ["--faults", str(flags["faults"])]
    for name, value in assignments.items():
        options_text += ["--set", redacted(f"{name}={value}")]
    for name in allowed:
        options_text += ["--env", name]
    for name in buckets:
        options_text += ["--allow-bucket", name]
    return tuple(options_text)


def plan_batch(setup: Setup) -> "tuple[Plan, Projection, float]":
    """Return the plan of `start.run_batch`, its projection, and the wall time (s) of both. Writes nothing.

    Raises JournalError, UsageError, ManifestError, LocalFault.
    """
    from batchrunner.plan.projection import project  # here, as a run needs none

    now = rehearsal.begins_at(setup.sandbox, setup.rundir)
    settings, entries = setup.settings, setup.batch.entries
    require_trusted(setup.rundir, entries)
    snapshot = journal.read(setup.rundir.journal)
    clips = RunDirectoryClips(setup.rundir)
    stored = entries if snapshot else ()
    gone = frozenset(entry.job.fingerprint for entry in stored if not clips.exists(entry.file))
    gone -= bucket_results.delivered_names(snapshot)
    prices = prices_of(setup)
    if snapshot is not None:
        prices = prices.raised_by(snapshot.records.values())
    named = frozenset(entry.job.fingerprint for entry in setup.chosen) if setup.only else None
    added = frozenset(jobs_of(entries, setup.retakes) if setup.retakes else ())
    options = ResumeOptions(settings.retry_failed, settings.in_doubt == "resubmit", gone, named, retakes=added)
    plan = build(entries, snapshot, prices, options)
    found = _in_account(setup, plan, now)
    elsewhere = found.jobs
    if elsewhere:
        plan = build(entries, snapshot, prices, options._replace(elsewhere=elsewhere))
    order = [fingerprint for fingerprint in order_of(setup.chosen) if fingerprint not in elsewhere]
    policy = policy_of(settings, len(order), now)
    run_deadline = RunDeadline(0.0, policy.deadline_at, policy.max_runtime_s, policy.deadline)
    end = run_deadline.end(0.0, now)
    admission = admission_of(setup, plan.records, snapshot)
    left = run_deadline.left(0.0, now)
    order, note = _planned_order(setup, order, plan, admission, left, found.budgets)
    projection = project(order, plan.records, admission, settings.concurrency, left, found.budgets)
    projection = replace(projection, notes=(found.note,) if found.note else (), order=note)
    if end is not None and end[0] <= 0 and projection.left_out:
        message = f"{count_text(len(projection.left_out), 'job')} would not be submitted: {end[1]}"
        projection = replace(projection, obstacles=(message,), left_out=dict.fromkeys(projection.left_out, end[1]))
    return plan._replace(kept=_kept(setup, snapshot, clips)), projection, now


def _planned_order(
    setup: Setup, order: Sequence[str], plan: Plan, admission: Admission, left: TimeLeft | None, shared: AccountBudgets
) -> tuple[list[str], str]:
    """Return the order in which a run would submit the pending jobs, and a note for the user."""
    slots, expected, estimates = setup.settings.concurrency, admission.forecast.of_kind, admission.prices.estimates
    order = [name for name in order if plan.records[name].state is State.PENDING]
    if setup.settings.order != LONGEST:
        return order, ""
    pending = {name: plan.records[name].job for name in order}

    def shortage(backlog: Backlog) -> str | None:
        has_limit = bool(shared.rows) or admission.ledger.budget.limit is not None
        needed = sum(one.credits or 0.0 for one in estimates(pending.values())) if has_limit else 0.0
        money = money_shortage(admission.ledger, needed, len(pending)) or shared.refusal(0.0, needed)[0]
        return money or time_shortage(backlog, expected, slots, left)

    return planned_order(pending, priorities_of(setup.chosen), expected, slots, shortage)


def _kept(setup: Setup, snapshot: Snapshot | None, clips: RunDirectoryClips) -> tuple[KeptClip, ...]:
    """Return the clips that a run would move to the folder for kept files."""
    if snapshot is None:
        return ()
    return kept_clips(setup.batch.entries, snapshot, summary.owners(setup.rundir.journal), clips.size_bytes)


def _in_account(setup: Setup, plan: Plan, now: float) -> Found:
    """Return what the account has for the jobs that the plan would submit, and its budgets."""
    if setup.account is None or setup.state is None or not plan.submissions:
        return Found()
    records: Iterable[Record] = _Submitted(plan) if setup.settings.reuse else ()
    limits = limits_for(config.load(setup.limits_file) if setup.limits_file else {}, setup.account)
    try:
        return look_up(setup.state, setup.account, setup.rundir.path, records, limits, now)
    except LocalFault as fault:
        require_no_limits(limits, setup.account, fault)
        return Found(note=f"Not known: what other batches have paid for, because {fault.message}")


@dataclass(frozen=True, slots=True)
class _Submitted:
    """The records of the jobs that a plan would submit. Each iteration creates them anew."""

    plan: Plan

    def __iter__(self) -> Iterator[Record]:
        for entry in self.plan.rows.submitted():
            shared = self.plan.records[entry.job.fingerprint]
            yield shared if shared.job.fingerprint == entry.job.fingerprint else Record(entry.job)


def egress_of(setup: Setup, plan: Plan) -> "Egress":
    """Return the data that a run would send to other hosts."""
    from batchrunner.plan.egress import collect  # here, as a run needs none

    webhook = host_of(setup.settings.notify) if setup.settings.notify else None
    submitted = (entry.job for entry in plan.rows.submitted())
    stage, above_bytes = setup.settings.stage, setup.settings.stage_above
    is_uploaded = partial(is_staged, above_bytes=above_bytes) if stage else lambda _: False
    egress = collect(submitted, setup.service, setup.batch.read, webhook, stage or "", is_uploaded)
    if setup.settings.deliver is None:
        return egress
    delivered = bucket_results.undelivered(setup.settings.deliver, setup.batch.entries, plan.records)
    return replace(egress, deliver=setup.settings.deliver, delivered=delivered)


def require_inputs_unwritten(setup: Setup) -> None:
    """Refuse a run that would overwrite a file that its manifest reads. Raises UsageError."""
    batch, settings = setup.batch, setup.settings
    names = {*REPORTS, *(entry.file for entry in batch.entries)}
    further = {"--junit": settings.junit, "--metrics-file": settings.metrics_file}
    inputs = {media.path for entry in batch.entries for media in entry.job.inputs.values() if media.path}
    last = {name.rpartition("/")[2].casefold() for name in names}
    last |= {Path(text).name.casefold() for text in further.values() if text}
    read = set[Path]()
    for path in (*batch.files, *inputs):
        # Resolve only links and files with the name of an output: resolving all paths is slow.
        if path.name.casefold() in last or path.is_symlink():
            for way in (path.parent.resolve() / path.name, path.resolve()):
                read.add(Path(str(way).casefold()))
    writer.require_unread(setup.rundir.path, names, further, read)


def run_of(setup: Setup, service: str, run_id: str, started_at: float) -> Run:
    """Return the run to record in the journal. service: the service that owns the generations."""
    batch, settings = setup.batch, setup.settings
    return Run(
        service=service,
        run_id=run_id,
        name=batch.name,
        provider=settings.provider,
        manifest_path=str(batch.path),
        manifest_sha256=batch.sha256,
        concurrency=settings.concurrency,
        started_at=started_at,
        settings_json=json.dumps(as_facts(settings) | _further_facts(setup)),
    )


def _further_facts(setup: Setup) -> dict[str, Any]:
    """Return what is stored beside a run's settings: prices, options, hashes of the manifest's files, its data set."""
    models = {entry.job.model for entry in setup.batch.entries}
    listed = list_as_facts(setup.price_list, models) if setup.price_list else None
    only = {"only": list(setup.only)} if setup.only else {}
    shard = {"shard": str(setup.shard)} if setup.shard else {}
    files = [{"path": redacted(path), "sha256": sha256} for path, sha256 in setup.batch.digests]
    return {
        "prices": dict(setup.batch.prices),
        "price_list": listed,
        "options": list(setup.options),
        **only,
        **shard,
        "manifest_files": files,
        "dataset": setup.batch.dataset,
    }


def policy_of(settings: Settings, jobs: int, now: float, *, recovers: bool = False) -> Policy:
    """Return the engine's limits for a batch of `jobs` jobs that starts at `now` (wall time, s).

    recovers: hold jobs with unknown submissions in doubt, whatever the settings say.
    """
    failures, deadline = settings.stop_after_failures, settings.deadline
    return Policy(
        concurrency=settings.concurrency,
        poll_interval_s=settings.poll_interval_s,
        job_timeout_s=settings.job_timeout_s,
        calls_per_s=settings.requests_per_second,
        deadline_at=deadline.after(now) if deadline else None,
        deadline=_too_late(deadline) if deadline and deadline.is_over(now) else REACHED,
        max_runtime_s=settings.max_runtime_s,
        account_wait_s=settings.account_wait_s,
        outage_wait_s=settings.outage_wait_s,
        most_failures=failures.of(jobs) if failures else None,
        generation_retries=settings.generation_retries,
        in_doubt="hold" if recovers else settings.in_doubt,
        submissions=settings.uploads,
        downloads=settings.downloads,
    )


def _too_late(deadline: Moment) -> str:
    """Explain why a run that starts outside its time stops."""
    message = f"this run starts after its deadline ({deadline.text})"
    if deadline.is_window:
        message = f"this run starts outside its window ({deadline.text})"
    return f"{message}; to run all the same, give --deadline another window or a date and time"


def admission_of(setup: Setup, records: Mapping[str, Record], snapshot: Snapshot | None) -> Admission:
    """Return the admission of a batch. The budget and the learned durations cover all its runs."""
    settings = setup.settings
    budget = Budget(settings.max_credits, settings.max_generations, settings.max_cost)
    ledger = Ledger(budget, records.values())
    forecast = Forecast(records.values(), [run.started_at for run in snapshot.runs] if snapshot else ())
    return Admission(prices_of(setup).raised_by(records.values()), ledger, forecast)


def prices_of(setup: Setup) -> Prices:
    """Return the prices in effect: the manifest's own, the service's list, the built-in table."""
    return Prices(setup.batch.prices, setup.settings.assume_length_s, setup.price_list)


def order_of(entries: Iterable[Entry]) -> list[str]:
    """Return the jobs in order of submission: by priority, then in manifest order."""
    levels: dict[int, list[str]] = {}
    for entry in entries:
        levels.setdefault(-entry.priority, []).append(entry.job.fingerprint)
    return list(dict.fromkeys(name for level in sorted(levels) for name in levels[level]))


def priorities_of(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the priorities of those jobs whose priority is not 0. Of equal entries, the highest one counts."""
    highest: dict[str, int] = {}
    for entry in entries:
        fingerprint, priority = entry.job.fingerprint, entry.priority
        highest[fingerprint] = max(highest.get(fingerprint, priority), priority)
    return {fingerprint: priority for fingerprint, priority in highest.items() if priority}
