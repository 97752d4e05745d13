"""The lease: one process at a time, on one host or on several that share a folder but not its locks."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from batchrunner.storage import lease
from batchrunner.storage.lease import EXPIRES_S, HEARTBEAT_S, LATE_S, OBSERVE_S, Lease, Taken, Taking
from batchrunner.storage.lease_owner import Owner, myself
from tests.conftest import NOW

MACHINE = "pid:[4026531836]"  # the pid namespace of a machine itself
HERE = replace(myself(NOW), machine="machine", boot="boot", namespace=MACHINE)
ENDED = 2**22 + 1  # above the highest process id of Linux


def put(folder: Path, number: int, content: str | Owner) -> Path:
    path = folder / f"lease.{number}"
    path.write_text(content if isinstance(content, str) else json.dumps(asdict(content)))
    return path


def take(folder: Path, here: Owner = HERE) -> Lease:
    """Take a lease that needs no wait."""
    found = Taking(folder, here, lambda: 0.0).step()
    assert isinstance(found, Lease), "it waits"
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_holder_excludes_others_until_it_releases_the_lease(tmp_path: Path) -> None:
    first = take(tmp_path)
    with pytest.raises(Taken, match=f"pid {os.getpid()} on ") as caught:
        take(tmp_path)
    assert caught.value.path == tmp_path / "lease.1"
    assert first.problem(intent=True) is None
    first.release()
    assert lease.holder(tmp_path, HERE) is None
    assert names(tmp_path) == ["lease.1"], "a number is never taken twice"
    take(tmp_path)
    assert names(tmp_path) == ["lease.2"], "older numbers are removed"


def test_a_number_of_any_length_is_known_again(tmp_path: Path) -> None:
    put(tmp_path, 999_999_999, "released\n")
    take(tmp_path)
    with pytest.raises(Taken):
        take(tmp_path)


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        (HERE, False),
        (replace(HERE, pid=ENDED), True),
        (replace(HERE, process="1"), True),  # another process has the same number now
        (replace(HERE, boot="of yesterday"), True),
        (replace(HERE, boot="of yesterday", namespace="of a container"), False),
        (replace(HERE, boot="", pid=ENDED), False),
        (replace(HERE, boot="of yesterday", machine=""), False),
        (replace(HERE, host="elsewhere"), False),
        (replace(HERE, host="elsewhere", pid=ENDED), False),
        (replace(HERE, machine="a machine of the same name", pid=ENDED), False),
        (replace(HERE, namespace="of another container", pid=ENDED), False),
        (replace(HERE, namespace="of another container", lock="8:1"), True),  # the lock that it had is free
        (replace(HERE, namespace="of another container", lock="8:2"), False),
        (replace(HERE, boot="of another machine", namespace="of another container", lock="8:1"), False),
    ],
)
def test_only_an_owner_that_has_certainly_ended_is_gone(tmp_path: Path, owner: Owner, gone: bool) -> None:
    here = replace(HERE, lock="8:1")
    put(tmp_path, 7, owner)
    assert (lease.holder(tmp_path, here) is None) == gone
    if gone:
        take(tmp_path, here)
        assert names(tmp_path) == ["lease.8"]
    else:
        with pytest.raises((Taken, AssertionError)):
            take(tmp_path, here)
        assert names(tmp_path) == ["lease.7"]


@pytest.mark.parametrize("namespace", ["of a container", MACHINE])
def test_containers_with_equal_names_and_ids_wait_for_each_other(tmp_path: Path, namespace: str) -> None:
    """Their image can hold the machine's id, and some sandboxes of containers have no boot id."""
    owner = replace(HERE, boot="", namespace=namespace, pid=ENDED)
    put(tmp_path, 1, owner)
    taking = Taking(tmp_path, owner, lambda: 0.0)
    assert taking.step() == OBSERVE_S
    assert taking.waits_for.startswith(f"pid {ENDED} on ")


def test_a_lease_of_an_earlier_version_has_no_heartbeat_and_never_expires(tmp_path: Path) -> None:
    fields = {name: value for name, value in asdict(HERE).items() if name not in {"token", "lock"}}
    put(tmp_path, 1, json.dumps(fields | {"host": "elsewhere"}))
    with pytest.raises(Taken) as caught:
        take(tmp_path)
    assert not caught.value.beats


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '"x"'])
def test_a_lease_without_a_name_expires_as_one_of_another_host(tmp_path: Path, content: str) -> None:
    """Its owner may be about to write it, or has ended before it could."""
    put(tmp_path, 3, content)
    now = [0.0]
    taking = Taking(tmp_path, HERE, lambda: now[0], lambda: now[0])
    while not isinstance(step := taking.step(), Lease):
        assert taking.waits_for == "a process that has not written its name"
        now[0] += step
    assert now[0] >= EXPIRES_S
    assert names(tmp_path) == ["lease.4"]


def test_the_content_of_a_lease_is_shown_without_control_characters(tmp_path: Path) -> None:
    put(tmp_path, 1, replace(HERE, host="a\x1b[31m"))
    holder = lease.holder(tmp_path, HERE)
    assert holder is not None
    assert "\x1b" not in holder


def test_a_late_process_gives_up_a_number_that_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw an ended owner.

    Before it continued, another process took over the lease, and a third one took it after that.
    """
    put(tmp_path, 1, replace(HERE, pid=ENDED))
    opened = os.open
    others = iter([True])

    def late(path: object, flags: int, *more: int, **options: int) -> int:
        if flags & os.O_EXCL and next(others, False):
            (tmp_path / "lease.1").unlink()
            put(tmp_path, 3, HERE)
        return opened(path, flags, *more, **options)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(Taken):
        take(tmp_path)
    assert names(tmp_path) == ["lease.3"]


# Hosts that share a folder, but neither locks nor clocks


@dataclass
class Host:
    """A simulated host. fast: how fast its clock runs. asleep: suspended; its monotonic clock stands then.

    The process on it (`lease` or `taking`) writes intents to `intents`: the name of the host, and the lease's number.
    """

    name: str
    folder: Path
    intents: list[str]
    fast: float = 1.0
    boot: int = 0
    now: float = 0.0
    slept: float = 0.0
    asleep: bool = False
    error: int = 0  # of every write to a lease
    next_at: float = 0.0
    beat_at: float = 0.0
    taking: Taking | None = None
    lease: Lease | None = None
    started: int = 0
    ends: list[str] = field(default_factory=list)

    def owner(self) -> Owner:
        """A process that is not alive: other processes of this host see that at once."""
        place = replace(HERE, host=self.name, machine=self.name, boot=f"{self.name}.{self.boot}")
        return replace(place, pid=ENDED, token=f"{self.name}.{self.started}")

    def start(self) -> None:
        self.started += 1
        offset = 1000.0 * len(self.name)  # monotonic clocks start anywhere
        self.taking = Taking(
            self.folder, self.owner(), lambda: offset + self.now, lambda: offset + self.now + self.slept
        )
        self.next_at = self.now

    def stop(self) -> None:
        self.taking = self.lease = None

    def turn(self, seconds: float) -> None:
        """Let time pass on this host."""
        if self.asleep:
            self.slept += seconds * self.fast
            return
        self.now += seconds * self.fast
        with refused(self.error):
            if self.taking is not None and self.now >= self.next_at:
                self.observe()
            if self.lease is not None:
                self.work()

    def observe(self) -> None:
        assert self.taking is not None
        try:
            step = self.taking.step()
        except Taken:
            self.ends.append("locked")
            self.stop()
        except OSError:
            self.ends.append("refused")
            self.stop()
        else:
            if isinstance(step, Lease):
                self.lease, self.taking, self.beat_at = step, None, self.now + HEARTBEAT_S
            else:
                self.next_at = self.now + step

    def work(self) -> None:
        assert self.lease is not None
        if self.now >= self.beat_at:
            self.lease.beat()
            self.beat_at = self.now + HEARTBEAT_S
        if self.lease.problem(intent=True) is None:
            self.intents.append(f"{self.name}.{self.started}")
        elif self.lease.taken:
            self.ends.append("lost")
            self.stop()


@contextmanager
def refused(error: int) -> Iterator[None]:
    """Let every write to a lease, and the creation of one, fail with this error; 0: none fails."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    def opened(path: object, flags: int, *more: int, **options: int) -> int:
        return fail() if flags & (os.O_WRONLY | os.O_CREAT) else real(path, flags, *more, **options)  # type: ignore[arg-type]  # as it was called

    real = os.open
    with pytest.MonkeyPatch.context() as context:
        if error:
            context.setattr(os, "open", opened)
            context.setattr(os, "link", fail)
        yield


class Hosts:
    """Hosts on one folder. A turn is a quarter of a second of true time."""

    def __init__(self, folder: Path, *clocks: float) -> None:
        self.intents: list[str] = []
        names = ("ash", "birch", "cedar")
        self.all = [Host(name, folder, self.intents, fast) for name, fast in zip(names, clocks, strict=False)]

    def turn(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            for host in self.all:
                host.turn(0.25)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Hosts, Host, Host]:
    hosts = Hosts(tmp_path, 1.0, 1.05)
    first, second = hosts.all
    first.start()
    hosts.turn(1)
    assert first.lease is not None
    return hosts, first, second


Pair = tuple[Hosts, Host, Host]


def test_a_second_host_ends_when_it_sees_the_heartbeat_of_the_first(pair: Pair) -> None:
    hosts, first, second = pair
    second.start()
    hosts.turn(3)
    assert second.ends == []
    hosts.turn(HEARTBEAT_S + OBSERVE_S)
    assert second.ends == ["locked"]
    hosts.turn(600)
    assert first.ends == []
    assert set(hosts.intents) == {"ash.1"}


def test_the_lease_of_a_dead_host_expires_after_a_minute(pair: Pair) -> None:
    hosts, first, second = pair
    first.stop()
    second.start()
    hosts.turn(EXPIRES_S / 1.05 - 1)
    assert "birch.1" not in hosts.intents
    hosts.turn(OBSERVE_S + 5)
    assert hosts.intents[-1] == "birch.1"


def test_a_suspended_host_writes_no_intent_after_the_other_took_over(pair: Pair) -> None:
    hosts, first, second = pair
    first.asleep = True
    second.start()
    hosts.turn(EXPIRES_S + 20)
    assert hosts.intents[-1] == "birch.1"
    first.asleep = False
    hosts.turn(60)
    assert first.ends == ["lost"]
    assert "ash.1" not in hosts.intents[hosts.intents.index("birch.1") :]
    assert second.ends == []


def test_a_suspended_host_that_nobody_replaced_continues(pair: Pair) -> None:
    hosts, first, second = pair
    first.asleep = True
    hosts.turn(1000)
    first.asleep = False
    hosts.turn(1)
    assert (first.ends, hosts.intents[-1]) == ([], "ash.1")
    second.start()
    hosts.turn(30)
    assert second.ends == ["locked"]


def test_a_suspended_host_that_awakes_during_the_observation_keeps_the_lease(pair: Pair) -> None:
    hosts, first, second = pair
    first.asleep = True
    second.start()
    hosts.turn(EXPIRES_S - 10)
    first.asleep = False
    hosts.turn(60)
    assert (first.ends, second.ends) == ([], ["locked"])


def test_a_paused_virtual_machine_finds_that_its_lease_is_gone(pair: Pair) -> None:
    """Its clocks do not count the pause."""
    hosts, first, second = pair
    hosts.all.remove(first)
    second.start()
    hosts.turn(EXPIRES_S + 20)
    first.turn(0.25)
    assert first.ends == ["lost"]


def test_the_same_host_after_a_restart_takes_over_at_once(pair: Pair) -> None:
    hosts, first, _ = pair
    first.stop()
    first.boot += 1
    first.start()
    first.turn(0.25)
    assert hosts.intents[-1] == "ash.2"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ESTALE, errno.EIO])
def test_without_heartbeats_no_intent_is_written_before_the_lease_can_expire(pair: Pair, error: int) -> None:
    hosts, first, second = pair
    second.start()
    first.error = error
    hosts.turn(LATE_S + 11)
    count = len(hosts.intents)
    hosts.turn(10)
    assert len(hosts.intents) == count, "the heartbeat is too old"
    assert first.lease is not None
    with refused(error):
        fault = first.lease.problem(intent=True)
        assert first.lease.problem(intent=False) is None, "nobody has taken it: ids are stored"
    assert fault is not None
    assert fault.kind == ("disk_full" if error == errno.ENOSPC else "disk_error")
    hosts.turn(60)
    first.error = 0
    hosts.turn(60)
    assert (first.ends, hosts.intents[-1]) == (["lost"], "birch.1")


def test_heartbeats_that_are_possible_again_keep_the_lease(pair: Pair) -> None:
    hosts, first, _ = pair
    first.error = errno.EIO
    hosts.turn(100)
    first.error = 0
    hosts.turn(1)
    assert (first.ends, hosts.intents[-1]) == ([], "ash.1")


def test_a_full_disk_is_no_obstacle_to_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the lease before has space for the next one."""
    take(tmp_path).release()
    put(tmp_path, 1, replace(HERE, pid=ENDED))
    real = os.write
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    taken = take(tmp_path)
    monkeypatch.setattr(os, "write", real)
    assert names(tmp_path) == ["lease.2"]
    assert taken.problem(intent=True) is None
    assert str(lease.holder(tmp_path, HERE)).startswith(f"pid {HERE.pid} ")


def test_a_removed_lease_is_renewed_unless_another_process_was_there(tmp_path: Path) -> None:
    first = take(tmp_path)
    (tmp_path / "lease.1").unlink()
    assert first.problem(intent=True) is None
    assert names(tmp_path) == ["lease.2"]
    (tmp_path / "lease.2").unlink()
    second = take(tmp_path, replace(HERE, token="other"))
    assert names(tmp_path) == ["lease.1"]
    assert first.problem(intent=False) is not None
    assert second.problem(intent=True) is None


def test_a_lease_moves_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    moved = take(folder)
    folder.rename(tmp_path / "moved")
    moved.beat()
    assert moved.problem(intent=True) is None
    moved.release()
    assert (tmp_path / "moved" / "lease.1").read_bytes() == b"released\n"


def events(rng: Random) -> Iterator[Callable[[Host], None]]:
    def start(host: Host) -> None:
        if host.taking is None and host.lease is None and not host.asleep:
            host.start()

    def restart(host: Host) -> None:
        host.stop()
        host.boot += 1
        host.asleep = False

    def release(host: Host) -> None:
        if host.lease is not None and not host.asleep:
            host.lease.release()
            host.stop()

    while True:
        yield rng.choice(
            [
                *(start, start, start, start, Host.stop, restart, release),
                lambda host: setattr(host, "asleep", True),
                lambda host: setattr(host, "asleep", False),
                lambda host: setattr(host, "error", rng.choice([errno.ENOSPC, errno.ESTALE, errno.EIO])),
                *[lambda host: setattr(host, "error", 0)] * 2,
            ]
        )


@pytest.mark.parametrize("seed", range(8))
def test_intents_of_two_owners_never_alternate(tmp_path: Path, seed: int) -> None:
    """Whatever happens to three hosts, a run writes no intent after another run has begun to write them."""
    rng = Random(seed)
    hosts = Hosts(tmp_path, *(rng.uniform(0.9, 1.1) for _ in range(3)))
    happen = events(rng)
    for _ in range(80):
        next(happen)(rng.choice(hosts.all))
        hosts.turn(rng.choice([0.25, 2, 15, 40, 90]))
    order = [owner for owner, before in zip(hosts.intents, ["", *hosts.intents], strict=False) if owner != before]
    assert len(order) == len(set(order)), order
    assert len(order) > 1


RACE = """
import sys
from pathlib import Path
from batchrunner.storage import lease
from batchrunner.storage.lease_owner import myself
room = Path(sys.argv[1])
here = myself(0.0)
print("ready", flush=True)
sys.stdin.read(1)
for _ in range(40):
    try:
        held = lease.Taking(room, here, lambda: 0.0).step()
    except (lease.Taken, OSError):
        continue
    (room / "inside").mkdir()  # fails where another process is inside
    (room / "inside").rmdir()
    held.release()
"""


def test_processes_that_compete_for_it_never_hold_it_together(tmp_path: Path) -> None:
    put(tmp_path, 1, replace(myself(NOW), pid=ENDED))
    texts = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(texts, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        racer.communicate(b"x")
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("lease.")]) <= len(racers)
    assert lease.holder(tmp_path, myself(NOW)) is None


def test_a_killed_owner_is_gone(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from batchrunner.storage import lease, lease_owner\n"
    program += "taken = lease.Taking(Path(sys.argv[1]), lease_owner.myself(0.0), lambda: 0.0).step()\n"
    program += "print(taken, flush=True); sys.stdin.read()"
    texts = [sys.executable, "-c", program, str(tmp_path)]
    owner = subprocess.Popen(texts, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    holder = lease.holder(tmp_path, myself(NOW))
    owner.kill()
    owner.communicate()
    assert holder is not None
    assert f"pid {owner.pid} " in holder
    take(tmp_path, myself(NOW))
    assert names(tmp_path) == ["lease.2"]
