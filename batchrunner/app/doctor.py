"""``doctor``: check before a run what would stop it later, from the key to the account's index.

It submits nothing and costs nothing. Each check is a pure function that returns a `Finding`; `examine` reads the state
of the machine and of the service.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from batchrunner.account import config, index, transactions
from batchrunner.account.folders import config_file, state_folder
from batchrunner.account.limits import Limits, limits_for
from batchrunner.account.names import Account, account_of
from batchrunner.account.run_directories import require_found
from batchrunner.clock import LoopClock, wall_time
from batchrunner.errors import CallError, ExitStatus, LocalFault, ManifestError, UsageError
from batchrunner.formatting import count_text, length_text, printable, printable_json, size_text
from batchrunner.moments import Moment
from batchrunner.net import certificates
from batchrunner.net.proxies import Proxies, read_proxies
from batchrunner.plan.prices import dollars
from batchrunner.providers import registry
from batchrunner.providers.base import Balance, Provider
from batchrunner.providers.endpoint import Endpoint, address_of, read_endpoint, service_name
from batchrunner.settings import Settings
from batchrunner.storage import durable_files
from batchrunner.storage.mounts import lacks, network_type

_LOG_S = 3600.0  # of the service's log that is read for its clock
_SKEW_WARNING_S = 30.0
_SKEW_PROBLEM_S = 300.0
_LEAST_BYTES = 100 << 20
_FEW_BYTES = 1 << 30
_LEAST_INODES = 1000


class Level(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"  # a run works, but perhaps not as expected
    PROBLEM = "problem"  # a run would stop or be refused


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. message: the finding. step: the next step, or ""."""

    check: str
    level: Level
    message: str
    step: str = ""


def exit_status(findings: list[Finding]) -> ExitStatus:
    """Return 1 if a check found a problem, otherwise 0."""
    return ExitStatus.FAILED if any(item.level is Level.PROBLEM for item in findings) else ExitStatus.OK


def key(problem: UsageError | None, service: str) -> Finding:
    """Judge the key's form. problem: why the environment has no usable key or address."""
    if problem is not None:
        return Finding("key", Level.PROBLEM, problem.message, problem.hint)
    return Finding("key", Level.OK, f"a key for {service} is set")


def answer(error: CallError | None, service: str) -> Finding:
    """Judge the service's answer to a call that costs nothing."""
    if error is not None:
        return Finding("service", Level.PROBLEM, error.message, error.hint)
    return Finding("service", Level.OK, f"{service} accepts the key")


def balance(found: Balance | None) -> Finding:
    """Judge the account's balance. found: None if the service does not show it."""
    if found is None:
        return Finding("balance", Level.WARNING, "the service does not show the balance of the account")
    text = f"the balance of the account is {dollars(found.credits)}"
    if found.usd <= 0:
        return Finding("balance", Level.PROBLEM, text, "Top up the account.")
    return Finding("balance", Level.OK, text)


def clock(service_now: float | None, now: float) -> Finding:
    """Compare this machine's clock with the service's (wall time, s; None if the service does not tell it)."""
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if service_now is None:
        return Finding("clock", Level.WARNING, f"it is {shown}; the service does not tell its time")
    skew_s = now - service_now
    step = "Set the clock of this machine (NTP): signatures, deadlines and reports depend on it."
    if abs(skew_s) < _SKEW_WARNING_S:
        return Finding("clock", Level.OK, f"it is {shown}, as at the service")
    direction = "ahead of" if skew_s > 0 else "behind"
    level = Level.PROBLEM if abs(skew_s) >= _SKEW_PROBLEM_S else Level.WARNING
    message = f"this machine's clock is {length_text(abs(skew_s))} {direction} the service's"
    return Finding("clock", level, message, step)


def time_zone(now: float, deadline: Moment | None) -> Finding:
    """Show the local time zone, and the end of a run that starts now if there is a deadline."""
    local = datetime.fromtimestamp(now).astimezone()
    text = f"local time is {local:%H:%M} ({local.tzname()}, UTC{local:%z})"
    if deadline is None:
        return Finding("time zone", Level.OK, text)
    end = deadline.after(now)
    if end <= now:
        message = f"{text}; a run that starts now is outside its deadline ({deadline.text})"
        return Finding("time zone", Level.WARNING, message, "A scheduled start inside the window works.")
    closes = datetime.fromtimestamp(end).astimezone()
    return Finding("time zone", Level.OK, f"{text}; a run that starts now ends at {closes:%Y-%m-%d %H:%M}")


def disk(folder: Path, free_bytes: int | None, free_inodes: int | None) -> Finding:
    """Judge the disk of the run directory."""
    if free_bytes is None:
        return Finding("disk", Level.WARNING, f"the file system of {folder} does not report its free space")
    text = f"{size_text(free_bytes)} are free for {folder}"
    if free_inodes is not None and free_inodes < _LEAST_INODES:
        message = f"{text}, but only {count_text(free_inodes, 'file')} can be added (inodes)"
        return Finding("disk", Level.PROBLEM, message, "Remove files, or choose another disk with --output.")
    if free_bytes < _LEAST_BYTES:
        return Finding("disk", Level.PROBLEM, text, "Make room, or choose another disk with --output.")
    level = Level.WARNING if free_bytes < _FEW_BYTES else Level.OK
    return Finding("disk", level, text, "A large batch needs more room." if level is Level.WARNING else "")


def folder(name: str, path: Path, problem: str) -> Finding:
    """Judge whether a folder can be written. problem: why not, or ""."""
    if problem:
        return Finding(name, Level.PROBLEM, f"{path} cannot be written: {problem}", "Change its owner or its rights.")
    return Finding(name, Level.OK, f"{path} can be written")


def shared_folder(path: Path, kind: str, missing: str) -> Finding:
    """Judge the network file system of the run directory. kind: its type. missing: an operation it lacks, or ""."""
    where = f"{path} is on a network file system ({kind})"
    if missing:
        step = "Change the options of its mount, or choose a folder on another file system with --output."
        return Finding("shared folder", Level.PROBLEM, f"{where} without {missing}", step)
    message = f"{where}: one process at a time can run a batch there, and a lease keeps other hosts out"
    return Finding("shared folder", Level.OK, message)


def proxy(proxies: Proxies, problem: UsageError | None, base_url: str) -> Finding:
    """Show how the service is reached."""
    if problem is not None:
        return Finding("proxy", Level.PROBLEM, problem.message, problem.hint)
    found = proxies.for_url(base_url)
    return Finding("proxy", Level.OK, f"{found.shown} is used" if found else "no proxy is used")


def examine(settings: Settings, environment: Mapping[str, str], folders: Mapping[str, Path]) -> list[Finding]:
    """Run every check. folders: folders to write to, by the name of their check; the first one is the run directory."""
    findings = list(_of_machine(settings, folders))
    endpoint, problem = _endpoint(settings, environment)
    service = service_name(settings, endpoint.base_url if endpoint else "")
    if settings.provider == "sandbox":
        return [*findings, Finding("service", Level.OK, "the sandbox needs no key, no balance and no network")]
    findings += _of_account(settings, environment)
    findings.append(key(problem, service))
    proxies, wrong = Proxies(), None
    try:
        certificates.check(environment)
        proxies = read_proxies(environment)
    except UsageError as error:
        wrong = error
    findings.append(proxy(proxies, wrong, endpoint.base_url if endpoint else ""))
    if endpoint is not None and wrong is None:
        findings += asyncio.run(_of_service(endpoint, proxies, service))
    return findings


def _of_machine(settings: Settings, folders: Mapping[str, Path]) -> Iterator[Finding]:
    for name, path in folders.items():
        yield folder(name, path, _write_problem(path))
    place = _existing(next(iter(folders.values())))
    yield disk(place, durable_files.free_bytes(place), durable_files.free_inodes(place))
    kind = network_type(place.absolute())
    if kind and not _write_problem(place):
        yield shared_folder(place, kind, lacks(place))
    yield time_zone(wall_time(), settings.deadline)


def _of_account(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check config.yaml, the state folder and the account's index."""
    account, path = account_of(address_of(environment), settings.account), config_file(environment)
    limits = Limits()
    try:
        limits = limits_for(config.load(path), account)
        text = "has limits" if limits.any else "sets no limits"
        yield Finding("config.yaml", Level.OK, f"{path} {text} for the account {account.shown}")
    except ManifestError as error:
        found = "; ".join(f"{item.line}:{item.column}: {item.message}" for item in error.diagnostics[:3])
        yield Finding("config.yaml", Level.PROBLEM, f"{path}: {found}", "Correct the file.")
    except UsageError as error:
        yield Finding("config.yaml", Level.PROBLEM, error.message, error.hint)
    state = state_folder(environment)
    if why := _write_problem(state):
        level = Level.PROBLEM if limits.any else Level.WARNING
        message = f"{state} cannot be written: {why}; what other batches have paid for is not known to a run"
        yield Finding("state folder", level, message, "Change its rights, or move it with BATCHRUNNER_STATE.")
        return
    kind = network_type(state.absolute())
    if kind:
        message = f"{state} is on a network file system ({kind}), where the account's index can be damaged"
        yield Finding("state folder", Level.WARNING, message, "Move it to a local disk with BATCHRUNNER_STATE.")
    else:
        yield folder("state folder", state, "")
    yield _index(state, account)


def _index(state: Path, account: Account) -> Finding:
    try:
        with index.viewed(state) as view:
            require_found(view, state, account.key, "")
            batches = len(transactions.batch_rows(view, account.key))
    except (LocalFault, UsageError) as error:
        return Finding("account index", Level.PROBLEM, error.message, error.hint)
    return Finding("account index", Level.OK, f"run directories that it knows: {batches:,}")


def _endpoint(settings: Settings, environment: Mapping[str, str]) -> tuple[Endpoint | None, UsageError | None]:
    try:
        return read_endpoint(settings, environment), None
    except UsageError as error:
        return None, error


async def _of_service(endpoint: Endpoint, proxies: Proxies, service: str) -> list[Finding]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        async with registry.connect(endpoint, LoopClock(), executor, proxies=proxies) as provider:
            try:
                await provider.ping()
            except CallError as error:
                return [answer(error, service)]
            return [answer(None, service), await _balance(provider), await _clock(provider)]


async def _balance(provider: Provider) -> Finding:
    if not provider.capabilities.balance:
        return balance(None)
    try:
        return balance(await provider.balance())
    except CallError as error:
        return Finding("balance", Level.WARNING, error.message, error.hint)


async def _clock(provider: Provider) -> Finding:
    if not provider.capabilities.find_submissions:
        return clock(None, wall_time())
    try:
        listed = await provider.find_submissions(wall_time() - _LOG_S)
    except CallError as error:
        return Finding("clock", Level.WARNING, f"the service's time cannot be read: {error.message}", error.hint)
    return clock(listed.now, wall_time())


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(item for item in (path.absolute(), *path.absolute().parents) if item.exists())


def _write_problem(path: Path) -> str:
    """Return why nothing can be written to `path`, or to its future parent directory; "" if it can."""
    place = _existing(path)
    probe = place / f".batchrunner-doctor-{id(path):x}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def as_text(findings: list[Finding]) -> str:
    """Return one line for each finding, and its next step below it."""
    lines = []
    for item in findings:
        lines.append(f"{item.level:<8} {item.check:<14} {printable(item.message)}")
        if item.step:
            lines.append(f"{'':<8} {'':<14} -> {printable(item.step)}")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """Return the findings as a JSON array."""
    return printable_json(json.dumps([asdict(item) for item in findings], indent=2, ensure_ascii=False))
