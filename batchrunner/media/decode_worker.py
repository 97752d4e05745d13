"""The worker process that decodes untrusted media: it reads tasks from standard input and writes their results.

`batchrunner.media.decoder_pool` starts it and exchanges lines of JSON with it. `answer` runs one task without limits,
in any process. The worker limits itself before each task and again after the file's header is read: address space, CPU
time, and an alarm for a task that blocks. A task that exceeds a limit ends the process, and the pool starts another.
Rules: the worker has no secrets, because `decoder_pool` gives it no environment and no open files. It writes no files
but posters. It ends with the process that started it.
"""

import errno
import json
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchrunner.media import decoder
from batchrunner.media.decoder import Allow, CheckLimit

_BASE_CPU_S = 20.0
_CPU_S_PER_PIXEL = 50e-9  # ten times what H.264 takes
_MOST_CPU_S = 900.0
_WALL_S = 60.0
_WALL_PER_CPU = 10.0  # a busy machine, a slow disk
_BASE_BYTES = 1 << 30
_BYTES_PER_PIXEL = 48  # 16 reference frames of 10 bits
_MOST_BYTES = 3 << 30
_NICE = 5  # the loop that submits and polls goes first


Task = Callable[[Mapping[str, Any], Allow], Any]


class Bounds:
    """Bounds on this process for one task: `begin` sets them, `allow` raises them to what a file's header declares.

    cpu_s, size_bytes: CPU time and memory that suffice for headers and small clips.
    """

    def __init__(self, cpu_s: float = _BASE_CPU_S, size_bytes: int = _BASE_BYTES) -> None:
        self._base_cpu_s = cpu_s
        self._base_bytes = size_bytes
        self._begun_cpu_s = 0.0
        try:
            self._memory: int | None = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # outside Linux there is no such file: the parent checks the memory instead
            self._memory = None

    def begin(self) -> None:
        """Start a task."""
        self._begun_cpu_s = self._used_cpu_s()
        self._limit(self._base_cpu_s, self._base_bytes)

    def allow(self, pixels: int, frames: int) -> None:
        """Raise the limits for this number of frames and pixels. Raises CheckLimit if a frame is too large."""
        decoder.allow_pixels(pixels, frames)
        cpu_s = min(_MOST_CPU_S, self._base_cpu_s + pixels * max(1, frames) * _CPU_S_PER_PIXEL)
        self._limit(cpu_s, min(_MOST_BYTES, self._base_bytes + pixels * _BYTES_PER_PIXEL))

    def _limit(self, cpu_s: float, size_bytes: int) -> None:
        _set_limit(resource.RLIMIT_CPU, int(self._begun_cpu_s + cpu_s) + 1)
        signal.alarm(int(_WALL_S + cpu_s * _WALL_PER_CPU))
        if self._memory is not None:
            pages = int(os.pread(self._memory, 64, 0).split()[0])
            _set_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + size_bytes)

    @staticmethod
    def _used_cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


def _set_limit(which: int, value: int) -> None:
    """Set a soft limit; the hard one stays, and bounds it."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def answer(task: Task, item: Mapping[str, Any], allow: Allow) -> dict[str, Any]:
    """Run a task for one item and return its outcome as JSON values.

    It has one key of ``done``, ``limit``, ``bad``, ``problem`` and ``system``.
    """
    from batchrunner.media.probe import MediaProblem

    try:
        return {"done": task(item, allow)}
    except CheckLimit as error:
        return {"limit": str(error)}
    except MediaProblem as error:
        return {"problem": [error.message, error.hint]}
    except ValueError as error:
        return {"bad": str(error)}
    except MemoryError:
        return {"system": [errno.ENOMEM, "out of memory"]}
    except OSError as error:
        return {"system": [error.errno or errno.EIO, error.strerror or str(error)]}


def _clip(item: Mapping[str, Any], allow: Allow) -> dict[str, Any]:
    path, size_bytes = Path(item["path"]), item["size_bytes"]
    if not item.get("quality"):
        return decoder.inspect(path, size_bytes, allow, start_bytes=item.get("start_bytes"))._asdict()
    try:
        from batchrunner.quality import collector
    except (ImportError, MemoryError):  # measures are optional: a paid clip must not fail for them
        return decoder.inspect(path, size_bytes, allow)._asdict()
    frames = collector.Collector()
    decoded = decoder.inspect(path, size_bytes, allow, frames.begin)
    return {**decoded._asdict(), "quality": collector.numbers(frames, decoded.duration_s, item.get("reference"))}


def _reference(item: Mapping[str, Any], allow: Allow) -> dict[str, Any]:
    from batchrunner.quality import collector

    return collector.reference(Path(item["path"]), allow)


def _input(item: Mapping[str, Any], allow: Allow) -> dict[str, Any]:
    from batchrunner.media import probe

    excerpt = bool(item.get("excerpt"))
    return probe.inspect_file(Path(item["path"]), item["kind"], item["shown"], allow, excerpt=excerpt)


def _poster(item: Mapping[str, Any], allow: Allow) -> None:
    from batchrunner.media import posters

    posters.make(Path(item["folder"]), posters.Wanted(item["key"], item["kind"], item["path"]), allow)


TASKS: Mapping[str, Task] = {"clip": _clip, "input": _input, "poster": _poster, "reference": _reference}


def main(tasks: Mapping[str, Task] = TASKS, bounds: Bounds | None = None) -> None:
    """Serve tasks until standard input ends."""
    bounds = bounds or Bounds()
    replies = os.dup(1)
    os.dup2(2, 1)  # output of libraries is not a reply
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.nice(_NICE)
    with suppress(OSError):  # Linux: kill this process first if memory is short
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    try:
        import av  # noqa: F401 (here, before the first task)
        from PIL import Image  # noqa: F401 (for the same reason)
    except (ImportError, OSError) as error:
        _reply(replies, {"fault": str(error)})
        return
    _reply(replies, {"ready": True})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 1
    try:
        for line in sys.stdin.buffer:
            name, items = json.loads(line)
            _reply(replies, {"outcomes": [_serve(tasks[name], item, bounds) for item in items]})
        status = 0
    finally:  # do not wait for the other thread
        os._exit(status)


def _serve(task: Task, item: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    bounds.begin()
    reply = answer(task, item, bounds.allow)
    signal.alarm(0)
    if reply.get("system", [0])[0] == errno.ENOMEM:
        return {"limit": "decoding it takes more memory than a clip of its size needs"}
    return reply


def _end_with_parent() -> None:
    """End this process when its input ends, also while a task runs: the parent has ended. Tasks do not wake this."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # reports the end of the input only
    poll.poll()
    os._exit(0)


def _reply(descriptor: int, reply: Mapping[str, Any]) -> None:
    left = memoryview(json.dumps(reply).encode() + b"\n")
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    main()
