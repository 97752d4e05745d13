"""The lease: one process at a time on a file system that cannot lock."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batchrunner.storage import lease
from tests.conftest import NOW

HERE = lease.myself(NOW)
ENDED = 2**22 + 1  # above the highest process id of Linux


def put(folder: Path, number: int, content: str | lease.Owner) -> Path:
    path = folder / f"lease.{number}"
    path.write_text(content if isinstance(content, str) else json.dumps(asdict(content)))
    return path


def test_the_holder_excludes_others_until_it_releases_the_lease(tmp_path: Path) -> None:
    path = lease.take(tmp_path, HERE)
    with pytest.raises(lease.Taken, match=f"pid {os.getpid()} on ") as caught:
        lease.take(tmp_path, HERE)
    assert caught.value.path == path
    lease.release(path)
    assert lease.holder(tmp_path, HERE) is None
    assert path.exists(), "a number is never taken twice"
    assert lease.take(tmp_path, HERE) == tmp_path / "lease.2"
    assert not path.exists(), "older numbers are removed"


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        (HERE, False),
        (replace(HERE, pid=ENDED), True),
        (replace(HERE, process="1"), True),  # another process has the same number now
        (replace(HERE, boot="of yesterday"), True),
        (replace(HERE, host="elsewhere"), False),
        (replace(HERE, host="elsewhere", pid=ENDED), False),
        (replace(HERE, machine="a machine of the same name", pid=ENDED), False),
        (replace(HERE, namespace="of another container", pid=ENDED), False),
    ],
)
def test_only_an_owner_that_has_certainly_ended_is_gone(tmp_path: Path, owner: lease.Owner, gone: bool) -> None:
    here = replace(HERE, machine=HERE.machine or "this machine")
    owner = replace(owner, machine=owner.machine or "this machine")
    path = put(tmp_path, 7, owner)
    if gone:
        assert lease.holder(tmp_path, here) is None
        assert lease.take(tmp_path, here) == tmp_path / "lease.8"
        return
    with pytest.raises(lease.Taken, match=owner.host):
        lease.take(tmp_path, here)
    assert path.exists()


def test_another_boot_may_be_another_machine_if_machines_have_no_ids(tmp_path: Path) -> None:
    put(tmp_path, 1, replace(HERE, machine="", boot="unknown"))
    assert lease.holder(tmp_path, replace(HERE, machine="")) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '"x"'])
def test_a_lease_without_a_name_has_an_owner(tmp_path: Path, content: str) -> None:
    """Its owner may be about to write it."""
    put(tmp_path, 3, content)
    with pytest.raises(lease.Taken, match="has not written its name"):
        lease.take(tmp_path, HERE)


def test_the_content_of_a_lease_is_shown_without_control_characters(tmp_path: Path) -> None:
    put(tmp_path, 1, replace(HERE, host="a\x1b[31m", machine="m"))
    holder = lease.holder(tmp_path, replace(HERE, machine="m"))
    assert holder is not None
    assert "\x1b" not in holder[0]


def test_a_late_process_gives_up_a_number_that_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw an ended owner.

    Before it continued, another process took over the lease, and a third one took it after that.
    """
    put(tmp_path, 1, replace(HERE, pid=ENDED))
    opened = os.open
    others = iter([True])

    def late(path: object, flags: int, *more: int) -> int:
        if flags & os.O_EXCL and next(others, False):
            (tmp_path / "lease.1").unlink()
            put(tmp_path, 3, HERE)
        return opened(path, flags, *more)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(lease.Taken):
        lease.take(tmp_path, HERE)
    assert [path.name for path in tmp_path.iterdir()] == ["lease.3"]


RACE = """
import sys
from pathlib import Path
from batchrunner.storage import lease
room = Path(sys.argv[1])
here = lease.myself(0.0)
print("ready", flush=True)
sys.stdin.read(1)
for _ in range(40):
    try:
        held = lease.take(room, here)
    except (lease.Taken, OSError):
        continue
    (room / "inside").mkdir()  # fails where another process is inside
    (room / "inside").rmdir()
    lease.release(held)
"""


def test_processes_that_compete_for_it_never_hold_it_together(tmp_path: Path) -> None:
    put(tmp_path, 1, replace(HERE, pid=ENDED))
    texts = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(texts, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        racer.communicate(b"x")
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("lease.")]) <= len(racers)
    assert lease.holder(tmp_path, HERE) is None


def test_a_killed_owner_is_gone(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from batchrunner.storage import lease\n"
    program += "lease.take(Path(sys.argv[1]), lease.myself(0.0)); print('held', flush=True); sys.stdin.read()"
    texts = [sys.executable, "-c", program, str(tmp_path)]
    owner = subprocess.Popen(texts, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    holder = lease.holder(tmp_path, HERE)
    owner.kill()
    owner.communicate()
    assert holder is not None
    assert f"pid {owner.pid} " in holder[0]
    assert lease.take(tmp_path, HERE).name == "lease.2"
