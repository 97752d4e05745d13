"""What a run announces: frozen facts that progress listens to. Pure; nobody has to listen.

An event tells what has happened, never what to do, and it is announced after the journal holds it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchrunner.errors import Problem
from batchrunner.job import Move, Record, State


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The batch is loaded and locked. states: how many jobs stand where at the start, equal entries counted once."""

    at: float
    name: str
    provider: str
    run_dir: str
    concurrency: int
    states: Mapping[State, int]


@dataclass(frozen=True, slots=True)
class JobMoved:
    """A job made a move of the state machine. ids: what it is delivered under (none: an earlier manifest's)."""

    at: float
    ids: tuple[str, ...]
    move: Move
    record: Record


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call failed and will be made again in `retry_in_s` seconds. call: ``submit``, ``poll`` or ``download``."""

    at: float
    ids: tuple[str, ...]
    call: str
    problem: Problem
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something a person may want to know that stops nothing: an unknown status word, an odd clip."""

    at: float
    ids: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """No more submissions from here on. reason: in words, for people."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended and the report is written. states: how many jobs stand where now. reports: files written."""

    at: float
    exit_status: int
    states: Mapping[State, int]
    reports: tuple[str, ...]
    summary: str


Event = RunStarted | JobMoved | CallFailed | Noticed | Stopping | RunFinished
Listener = Callable[[Event], None]
