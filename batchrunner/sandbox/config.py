"""The configuration of a sandbox. Values only; the one file that it reads is the faults file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchrunner.errors import UsageError
from batchrunner.sandbox.faults import file
from batchrunner.sandbox.faults.outages import Conditions
from batchrunner.sandbox.faults.rules import Fault
from batchrunner.sandbox.world import BALANCE_CREDITS, CREDITS_PER_SECOND, OVERCHARGE

FAST = 60.0  # how many times as fast a hurried rehearsal runs: an eight-hour night in eight minutes


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """How a sandbox behaves. Durations are medians of seeded lognormal draws with the spread `spread`.

    host, port: where it listens; port 0 takes a free one.
    seed: of every draw: ids, durations, faults.
    faults: rules; the first match wins. conditions: scripted events at fixed times; they take precedence.
    state_dir: keeps ledger, inputs and results across restarts; None for a temporary one.
    capacity: generations that run at once. queue_limit: waiting ones above that; more are refused with 429.
    queue_wait_s: median of the wait before a generation may start. duration_s: median of the generating time.
    spread: sigma of the logarithm of both; 0 makes them constant.
    concurrency_limit: unfinished generations. requests_per_second: calls to the API. Above them: 429; None: no limit.
    retry_after: ``none``, ``seconds`` or ``date``: what these 429s say in Retry-After. retry_delay_s: how long it asks.
    balance_credits: in the account. prices: credits per second of video by resolution.
    listed_prices: what GET /v1/models says instead of `prices`; None: the same.
    quotes: the reply to a submission names its price. overcharge: a generation with the fault ``overcharged`` is
        charged its price times this.
    billing: offer GET /v2/billing and its transactions. price_list: offer GET /v1/models.
    settle_delay_s: time from the end of a generation until the transactions list its charge.
    workers: render processes. render: ``composite`` replaces the subject, ``transcode`` only re-encodes the reference,
        ``stub`` makes plain clips of the right size and length.
    logs: offer GET /v2/logs. log_delay_s: time from acceptance until a row shows there.
    logs_in_flight: show unfinished generations there (whether the service does is not known).
    body_limit_bytes: larger request bodies are refused with 413.
    fetch: the inputs by URL that are fetched when a generation starts: ``local``, those on this machine, ``all`` or
        ``none``; bundled media replace the others. input_timeout_s: time limit of each fetch.
    speed: how many times as fast as real its time runs, where no clock is given to `start`.
    hang_s: hanging replies are cut after this time; None: never, the client gives up. For rehearsals in hurried time,
        because the client's timeouts are in real time.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)
    state_dir: Path | None = None
    capacity: int = 8
    queue_limit: int = 64
    queue_wait_s: float = 0.3
    duration_s: float = 2.0
    spread: float = 0.4
    concurrency_limit: int | None = None
    requests_per_second: float | None = None
    retry_after: str = "none"
    retry_delay_s: float = 10.0
    balance_credits: int = BALANCE_CREDITS
    prices: Mapping[str, int] = field(default_factory=lambda: CREDITS_PER_SECOND)
    listed_prices: Mapping[str, int] | None = None
    quotes: bool = True
    overcharge: float = OVERCHARGE
    billing: bool = True
    price_list: bool = True
    settle_delay_s: float = 0.0
    workers: int = 2
    render: str = "composite"
    logs: bool = True
    log_delay_s: float = 0.0
    logs_in_flight: bool = True
    body_limit_bytes: int = 512 * 1024 * 1024
    fetch: str = "local"
    input_timeout_s: float = 60.0
    speed: float = 1.0
    hang_s: float | None = None

    @property
    def lists_on_acceptance(self) -> bool:
        """Whether the log, if it answers, lists each submission as soon as it is accepted."""
        hides = any(fault.on == "logs" and fault.kind == "empty" for fault in self.faults)
        return self.logs and self.logs_in_flight and self.log_delay_s == 0 and not hides

    def with_faults(self, path: Path) -> "SandboxConfig":
        """This, as the faults file at `path` changes it. Raises UsageError that names file, section and key."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UsageError(f"{path}: the faults file cannot be read: {reason}") from None
        return replace(self, **file.parse(text, str(path)))


def rehearsal(*, fast: bool, faults: Path | None) -> SandboxConfig:
    """Return the configuration for a run with provider sandbox: fast as in a demo, or a hurried rehearsal.

    fast: durations as those of the service's sibling models (half a minute to nine, as documented) in a time that
    runs FAST times as fast. Its clips are plain, as rendering cannot be hurried. faults: a faults file.
    Raises UsageError.
    """
    config = SandboxConfig()
    if fast:
        config = replace(
            config, speed=FAST, hang_s=300.0, queue_wait_s=20.0, duration_s=180.0, render="stub", queue_limit=10_000
        )
    return config.with_faults(faults) if faults else config
