"""Shared by tests of several packages: a small valid clip, jobs, records, paths.

Nothing here may sleep or open a connection beyond loopback.
"""

import fcntl
import gc
import importlib
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, suppress
from fractions import Fraction
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from batchrunner.job import Attempt, Entry, Job, Media, PlacedFile, Record, Result, Run, State
from batchrunner.storage.durable_files import Disk

ROOT = Path(__file__).parent.parent
MEDIA = ROOT / "manifests" / "media"
NOW = 1_800_000_000.0  # wall time for tests that need one
_TESTS = count()
V = TypeVar("V")
_MEMORY_BYTES = 4 << 30  # a multiple of what the tests write

# A test may take any time on a busy machine.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


# Tests with the marker `slow`, longest first. Most of them start real processes and take real time.
_SLOW = (
    "tests/soak/test_soak.py",
    "tests/powercut/",
    "tests/scenarios/test_long",
    "tests/soak/",
    "tests/test_end_to_end.py",
    "tests/scenarios/",
)


def pytest_xdist_auto_num_workers() -> int:
    """For ``-n auto``: four workers more than there are CPUs, because tests of whole processes mostly wait."""
    return (os.cpu_count() or 1) + 4


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Restore SIGINT's default for the programs under test, and select the folders of the tests.

    A shell that starts the tests in the background ignores SIGINT.
    """
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        config.option.basetemp = _folder_in_memory(config)
    gc.disable()  # until the tests are collected: nearly all objects of a collection stay
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Bytecode is kept, as for a user: without it each worker compiles all tests, in twice the time of importing them.
    sys.dont_write_bytecode = False
    # No test needs the authorities of the system. Reading them takes 20 ms in each process, and again in each run.
    os.environ["SSL_CERT_FILE"] = str(ROOT / "tests" / "certificates" / "nobody.pem")
    # No test writes to the user's own state folder. Workers share their controller's.
    os.environ.setdefault("XDG_STATE_HOME", tempfile.mkdtemp(prefix="batchrunner-tests-"))


def _folder_in_memory(config: pytest.Config) -> str | None:
    """Return a new folder for temporary files in memory, or None if there is not enough of it.

    Thousands of tests flush files. Flushing to a real disk would take a large part of their time, and shows nothing:
    what a power cut leaves is tested on a simulated disk.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < _MEMORY_BYTES:
        return None
    folder = tempfile.mkdtemp(prefix="batchrunner-tests-", dir=memory)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


@pytest.fixture(autouse=True)
def folders_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each test a state folder and a config folder of its own, never the user's."""
    folder = tmp_path_factory.getbasetemp() / "folders" / str(next(_TESTS))
    monkeypatch.delenv("BATCHRUNNER_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile new test modules in the controller of several workers, before it starts them.

    Otherwise all workers would compile every module at the same time after a fresh checkout.
    """
    if not session.config.pluginmanager.has_plugin("dsession"):
        return
    names = [_module_name(path) for path in _files_of(session.config) if not _is_compiled(path)]
    processes = os.cpu_count() or 1
    for child in [_forked_import(names[first::processes]) for first in range(min(processes, len(names)))]:
        os.waitpid(child, 0)


def _is_compiled(path: Path) -> bool:
    cached = path.parent.glob(f"__pycache__/{path.stem}.{sys.implementation.cache_tag}-pytest-*.pyc")
    return any(file.stat().st_mtime >= path.stat().st_mtime for file in cached)


def _forked_import(names: list[str]) -> int:
    """Import modules in a forked process, whose id is returned. Python writes their bytecode."""
    child = os.fork()
    if child:
        return child
    for name in names:
        with suppress(BaseException):  # the workers import it again, and report what is wrong
            importlib.import_module(name)
    os._exit(0)


def _files_of(config: pytest.Config) -> Iterator[Path]:
    """Yield the files that pytest was asked to collect, unless some of a folder are to be ignored."""
    if config.getoption("ignore") or config.getoption("ignore_glob"):
        return
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if path.is_relative_to(ROOT / "tests"):
            yield from sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow tests, and order all tests for xdist, which gives each worker a consecutive block."""
    workers = int(getattr(config, "workerinput", {"workercount": 1})["workercount"])
    places = {item: _place(item) for item in items}
    slow = sorted((item for item in items if places[item] < len(_SLOW)), key=places.__getitem__)
    for item in slow:
        item.add_marker("slow")
    items[:] = _in_blocks(slow, [item for item in items if places[item] == len(_SLOW)], workers)


def _in_blocks(slow: list[pytest.Item], quick: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Order tests so that the block of each worker has its share of the slow ones, and a part of the others.

    Most slow tests wait for processes. So every second worker computes meanwhile: it runs its slow ones after half of
    the others. The tests of a module stay together: nearly every fixture of a module is made by one worker only.
    """
    left, ordered = len(slow) + len(quick), list[pytest.Item]()
    others = iter(quick)
    for worker in range(workers):
        size = left // (workers - worker)  # as xdist divides them
        share = slow[worker::workers]
        further = list(islice(others, max(0, size - len(share))))
        first = len(further) // 2 if worker % 2 else 0
        ordered += [*further[:first], *share, *further[first:]]
        left -= size
    return ordered


def pytest_collection_finish() -> None:
    """Let the garbage collector skip what collection has made, and collect as seldom as in the command.

    Otherwise it would search thousands of tests again and again, for a tenth of the whole CPU time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def _place(item: pytest.Item) -> int:
    return next((place for place, name in enumerate(_SLOW) if item.nodeid.startswith(name)), len(_SLOW))


def for_all(values: Collection[V], name: Callable[[V], str]) -> Callable[[Callable[[V], None]], Callable[[], None]]:
    """Make one test of a check of many values. A failure names each value that fails, and says why.

    A case of its own for each value would cost more time than a check that takes microseconds.
    """

    def decorated(check: Callable[[V], None]) -> Callable[[], None]:
        def test() -> None:
            problems = []
            for value in values:
                try:
                    check(value)
                except Exception as error:  # noqa: BLE001 (it is reported with its value)
                    problems.append(f"{name(value)}: {type(error).__name__}: {error}")
            assert not problems, "\n".join(problems)
            assert values

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorated


class Opening(Disk):
    """A disk that creates every file with `open`, for test doubles that observe or refuse it."""

    def create(self, path: Path | str, content: bytes) -> None:
        with closing(self.open(Path(path), "wb")) as file:
            file.write(content)


class Inline(Executor):
    """Runs each task immediately, in the calling thread."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **more))
        except BaseException as error:  # noqa: BLE001 (it is handed on, not swallowed)
            future.set_exception(error)
        return future


@pytest.fixture(scope="session")
def clip() -> bytes:
    """An H.264 MP4 of eight frames, 480 by 480 pixels, that passes every check."""
    return encoded(8)


@pytest.fixture(scope="session")
def other_clip() -> bytes:
    """A second, longer clip."""
    return encoded(12)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """Return this worker's copy of a folder that the first worker that needs it makes for all. name: of the folder.

    make: fills the folder that it gets.
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / f"{name}.made").exists():
            shutil.rmtree(shared / name, ignore_errors=True)  # what a worker left whose attempt failed
            (shared / name).mkdir()
            make(shared / name)
            (shared / f"{name}.made").touch()
    return Path(shutil.copytree(shared / name, factory.mktemp(name) / name, symlinks=True))


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="test") as threads:
        yield threads


@cache
def encoded(frames: int) -> bytes:
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "40"})
        stream.width = stream.height = 480
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(480, 480, "yuv420p")
            for plane in frame.planes:
                count = plane.buffer_size // 97 + 1
                values = b"".join(bytes([(number * 20 + at) % 256]) * 97 for at in range(count))
                plane.update(values[: plane.buffer_size])
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def remote(kind: str = "video", url: str = "https://example.com/walk.mp4") -> Media:
    return Media(kind=kind, source=url.partition("?")[0], uri=url)


def make_job(name: str = "a", video: Media | None = None, image: Media | None = None, **params: Any) -> Job:
    """Make a job whose fingerprint depends only on `name`; its first 16 hex digits are readable."""
    digits = name.encode().hex().ljust(64, "0")
    return Job(
        fingerprint=f"sha256:{digits}",
        model="alibaba/wan2.2-14b-animate-replace",
        inputs={"video": video or remote(), "image": image or remote("image", "https://example.com/hero.png")},
        params=params or {"resolution": "480p"},
    )


def make_record(name: str = "a", state: State = State.PENDING, attempts: int | None = None, **more: Any) -> Record:
    """Make a record that is valid in `state`."""
    job = more.pop("job", None) or make_job(name)
    count = attempts if attempts is not None else int(state is not State.PENDING)
    history = tuple(
        Attempt(
            number=number,
            request_id=f"run.{job.key}.{number}",
            submitted_at=NOW + number,
            generation_id=f"gen:{name}/{number}" if state in {State.IN_FLIGHT, State.SUCCEEDED} else None,
        )
        for number in range(1, count + 1)
    )
    return Record(job, state, history, **more)


def make_entries(*names: str, tags: dict[str, str] | None = None) -> tuple[Entry, ...]:
    """Make entries ``id=job``, or one name for both: ``make_entries("a", "copy=a")``."""
    pairs = [name.partition("=")[::2] for name in names]
    return tuple(Entry(place, name, make_job(job or name), tags or {}) for place, (name, job) in enumerate(pairs))


def make_run(run_id: str = "run1", **changes: Any) -> Run:
    values = {
        "run_id": run_id,
        "name": "night",
        "provider": "aimlapi",
        "manifest_path": "night.yaml",
        "manifest_sha256": "00" * 32,
        "concurrency": 4,
        "started_at": NOW,
        "service": "api.example.com",
    }
    return Run(**{**values, **changes})


def result_of(content: bytes, **more: Any) -> Result:
    import hashlib

    return Result(len(content), hashlib.sha256(content).hexdigest(), **more)


def placed_of(job: Job, content: bytes) -> PlacedFile:
    result = result_of(content)
    return PlacedFile(job.fingerprint, result.sha256, result.size_bytes)
