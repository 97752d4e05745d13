"""Tasks that do to a decoder's process what hostile files do, for tests of `batchrunner.media.decoder_pool`."""

import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchrunner.media.decode_worker import TASKS, Bounds, Task, main
from batchrunner.media.decoder import Allow


def echo(item: Mapping[str, Any], _: Allow) -> Any:
    return [item["name"], os.getpid()]


def environment(_: Mapping[str, Any], __: Allow) -> Any:
    return {
        "environment": dict(os.environ),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "session": os.getsid(0),
    }


def page_faults(_: Mapping[str, Any], __: Allow) -> Any:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def crash(_: Mapping[str, Any], __: Allow) -> Any:
    os.abort()


def crash_on(item: Mapping[str, Any], allow: Allow) -> Any:
    return os.abort() if item["name"] == "bad" else echo(item, allow)


def defect(_: Mapping[str, Any], __: Allow) -> Any:
    raise KeyError("nobody thought of it")


def loop(_: Mapping[str, Any], __: Allow) -> Any:
    while True:
        pass


def sleep(item: Mapping[str, Any], _: Allow) -> Any:
    if item.get("path"):
        Path(item["path"]).write_text(f"{os.getpid()}\n", "ascii")
    while True:
        time.sleep(1)


def await_file(item: Mapping[str, Any], _: Allow) -> Any:
    path = Path(item["path"])
    path.with_suffix(".begun").touch()
    while not path.exists():
        time.sleep(0.01)
    return os.getpid()


def hog(item: Mapping[str, Any], _: Allow) -> Any:
    block = bytearray(item["size_bytes"])
    block[::4096] = b"x" * len(block[::4096])
    if item.get("stays"):
        sleep({}, _)
    return len(block)


def widen(item: Mapping[str, Any], allow: Allow) -> Any:
    allow(item["pixels"], 1)
    return hog(item, allow)


def slow_alarm(_: Mapping[str, Any], __: Allow) -> Any:
    signal.alarm(1)
    return sleep({}, __)


ODD: Mapping[str, Task] = {
    **TASKS,
    **{
        task.__name__: task
        for task in (
            echo,
            environment,
            page_faults,
            crash,
            crash_on,
            defect,
            loop,
            sleep,
            await_file,
            hog,
            widen,
            slow_alarm,
        )
    },
}


def serve() -> None:
    main(ODD, Bounds(cpu_s=0.5, size_bytes=200 << 20))


def stuck(item: Mapping[str, Any], _: Allow) -> Any:
    Path(item["path"]).with_suffix(".checked").touch()
    return sleep({}, _)


def serve_stuck() -> None:
    main({**TASKS, "clip": stuck})
