"""The hook: a user's command that runs once for each finished clip (``--on-clip``) and may reject it.

::

    exit status 10     reject the clip; the first line of standard output is the reason
    exit status 0      no verdict
    another one        the hook failed: a warning, and the next run calls it again

Rules: the command is split into arguments, and no shell runs it. It gets the clip's row on standard input as JSON, and
an environment without secrets. It and its children end after `WITHIN_S`, with the hook itself, or with the run.
`.batchrunner/on_clip.jsonl` records outcomes, so the hook runs once for each clip. Everything here blocks.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.redaction import Redactor, without_secrets
from batchrunner.storage import durable_files
from batchrunner.storage.line_file import append_line
from batchrunner.storage.run_directory import RunDir

WITHIN_S = 120.0
REJECTS = 10
_NO_REASON = "rejected by the hook"
_MOST_REASON, _MOST_ERROR = 300, 200
_KEPT_BYTES = 64 * 1024  # of an output
_CHUNK_BYTES = 64 * 1024
_DRAINED_WITHIN_S = 1.0  # a process that left the hook's group may keep its output open
_HINT = "Nothing was submitted. Give --on-clip (or BATCHRUNNER_ON_CLIP) a program and its arguments; no shell runs it."


def arguments_of(command: str) -> tuple[str, ...]:
    """Split a command as a shell would, without expanding anything. Raises UsageError if it cannot run."""
    try:
        arguments = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"the command of --on-clip is not complete: {error}".lower(), _HINT) from None
    if not arguments:
        raise UsageError("the command of --on-clip is empty", _HINT)
    if shutil.which(arguments[0]) is None:
        raise UsageError(f"the program of --on-clip is not found or not executable: {printable(arguments[0])}", _HINT)
    return arguments


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call of the hook decided. reason: of a rejection. problem: why there is no decision, or "".

    A call that the end of the run stopped has no decision and no problem.
    """

    is_decided: bool
    reason: str = ""
    problem: str = ""


_STOPPED = Outcome(is_decided=False)


class Hook:
    """Runs the command. Safe to use from several threads. environment: of this process."""

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str], within_s: float = WITHIN_S) -> None:
        self.arguments = arguments
        self._environment = without_secrets(environment)
        self._clean = Redactor.of(environment).text
        self._within_s = within_s
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._is_stopped = False

    @property
    def digest(self) -> str:
        """Identifies the command: another command decides anew."""
        return hashlib.sha256("\0".join(self.arguments).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def run(self, row: Mapping[str, Any]) -> Outcome:
        """Call the hook for one clip. row: what it gets as JSON. Raises nothing that the command can cause."""
        if self._is_stopped:
            return _STOPPED
        try:
            with tempfile.TemporaryFile() as content:
                content.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
                content.seek(0)
                process = subprocess.Popen(  # noqa: S603 (the user's own command, without a shell)
                    self.arguments,
                    stdin=content,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=self._environment,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            return Outcome(is_decided=False, problem=f"cannot be started: {getattr(error, 'strerror', None) or error}")
        return self._follow(process)

    def stop(self) -> None:
        """End all running calls at once, and start no more. Callable from any thread and from a signal handler."""
        self._is_stopped = True
        for process in list(self._running.values()):
            _end_group(process)

    def _follow(self, process: "subprocess.Popen[bytes]") -> Outcome:
        self._running[process.pid] = process
        outputs = [_Output(stream) for stream in (process.stdout, process.stderr) if stream is not None]
        if self._is_stopped:
            _end_group(process)
        is_late = False
        try:
            process.wait(self._within_s)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            _end_group(process)  # with the children that it leaves
            process.wait()
            del self._running[process.pid]
        answer, errors = (output.text() for output in outputs)
        return self._outcome(process.returncode, answer, errors, is_late=is_late)

    def _outcome(self, status: int, answer: str, errors: str, *, is_late: bool) -> Outcome:
        if is_late:
            return Outcome(is_decided=False, problem=f"did not end within {self._within_s:g} s and was stopped")
        if status == 0:
            return Outcome(is_decided=True)
        if status == REJECTS:
            reason = self._clean(answer.strip().split("\n", 1)[0].strip())
            return Outcome(is_decided=True, reason=printable(reason, _MOST_REASON) or _NO_REASON)
        if self._is_stopped:
            return _STOPPED
        how = f"ended with status {status}" if status > 0 else f"was ended by {_signal_name(-status)}"
        last = errors.strip().rsplit("\n", 1)[-1].strip()
        said = f": {printable(self._clean(last), _MOST_ERROR)}" if last else ""
        return Outcome(is_decided=False, problem=f"{how}{said}")


class _Output:
    """Reads an output to its end in a thread, and keeps its first and its last bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._first = self._last = b""
        self._thread = threading.Thread(target=self._read, name="on_clip output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError, ValueError), self._stream:
            while chunk := os.read(self._stream.fileno(), _CHUNK_BYTES):
                missing = _KEPT_BYTES - len(self._first)
                self._first += chunk[:missing]
                self._last = (self._last + chunk[missing:])[-_KEPT_BYTES:]

    def text(self) -> str:
        """Return what was read. Waits for the end of the output, for a limited time."""
        self._thread.join(_DRAINED_WITHIN_S)
        return (self._first + self._last).decode("utf-8", "replace")


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Outcomes:
    """The clips for which the hook has decided, by fingerprint, SHA-256 and the hook's digest.

    One run at a time writes them. Raises LocalFault.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = RunDir(run_dir).hook_outcomes
        self._lock = threading.Lock()
        self._known: set[tuple[str, str, str]] = set()
        try:
            with durable_files.open_plain(self._path) as file:
                self._known = {key for line in file if (key := _key_of(line))}
        except FileNotFoundError:
            pass
        except OSError as error:
            raise durable_files.fault(error, f"the outcomes of the hook in {self._path} could not be read") from error

    def has(self, fingerprint: str, sha256: str, digest: str) -> bool:
        """Return whether the hook has decided about this clip."""
        return (fingerprint, sha256, digest) in self._known

    def add(self, fingerprint: str, sha256: str, digest: str) -> None:
        """Record that the hook has decided. It is on the disk when this returns."""
        line = json.dumps({"fingerprint": fingerprint, "sha256": sha256, "hook": digest}).encode() + b"\n"
        with self._lock:
            try:
                append_line(self._path, line)
            except OSError as error:
                raise durable_files.fault(
                    error, f"the outcome of the hook could not be stored in {self._path}"
                ) from error
            self._known.add((fingerprint, sha256, digest))


def _key_of(line: bytes) -> tuple[str, str, str] | None:
    try:
        stored = json.loads(line)
        return str(stored["fingerprint"]), str(stored["sha256"]), str(stored["hook"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
