"""What a sandbox is told before it starts. Values only; the one file read is the faults file."""

from dataclasses import dataclass
from pathlib import Path

from batchrunner.errors import UsageError
from batchrunner.sandbox.faults import Fault, parse_faults


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """How a sandbox behaves. Durations are medians of seeded lognormal draws with the spread `spread`.

    host, port: where it listens; port 0 takes a free one.
    seed: of every draw: ids, durations, faults.
    faults: rules of misbehaviour, first match wins.
    state_dir: where ledger, inputs and results live across restarts; None for a temporary one.
    capacity: generations worked on at once. queue_limit: waiting ones above that; more are refused with 429.
    queue_wait_s: median of the wait before a generation may start. duration_s: median of the generating time.
    spread: sigma of the logarithm of both; 0 makes them constant.
    workers: render processes.
    logs: offer GET /v2/logs. log_delay_s: time from acceptance until a row shows there.
    logs_in_flight: show unfinished generations there (whether the service does is not known).
    body_limit_bytes: larger request bodies are refused with 413.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    state_dir: Path | None = None
    capacity: int = 8
    queue_limit: int = 64
    queue_wait_s: float = 0.3
    duration_s: float = 2.0
    spread: float = 0.4
    workers: int = 2
    logs: bool = True
    log_delay_s: float = 0.0
    logs_in_flight: bool = True
    body_limit_bytes: int = 512 * 1024 * 1024


def load_faults(path: Path) -> tuple[Fault, ...]:
    """The rules in a YAML file. Raises UsageError that names the file, the rule and what is wrong with it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path}: the faults file cannot be read: {reason}") from None
    return parse_faults(text, str(path))
