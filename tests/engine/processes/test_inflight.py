"""Delivery marks, and the in-flight log in shared memory that contains them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.engine.processes.inflight import InFlightDirectory, InFlightLog, delivery_mark
from missive.transport import Delivery
from tests.conftest import wait_until
from tests.support.process import Running

CANARY = b"canary-7f3a91"

PRINT = """
from missive.transport import Delivery
from missive.engine.processes.inflight import delivery_mark
print(delivery_mark(Delivery(b"body", position=7)), delivery_mark(Delivery(b"body", producer_id="an id")))
"""

FORKING = """
import os, signal, sys
from types import SimpleNamespace
from missive.transport import Delivery
from missive.engine.processes.inflight import InFlightDirectory, InFlightLog
log = InFlightLog(InFlightDirectory("t"), 1)
job = SimpleNamespace(delivery=Delivery(b"", position=1))
log.acquire().recording({None: lambda job, worker: None})[None](job, None)
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
else:
    signal.pause()
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InFlightDirectory:
    """Return the directory of an application that no other test has, because its working directory is new."""
    monkeypatch.chdir(tmp_path)
    return InFlightDirectory("t")


def die(log: InFlightLog) -> None:
    """Leave the file as a killed process does."""
    log.forked()


def run_all(log: InFlightLog, *deliveries: Delivery) -> None:
    """Let each delivery run in a slot of the log."""

    class Job:
        pass

    for delivery in deliveries:
        slot, job = log.acquire(), Job()
        assert slot is not None
        job.delivery = delivery
        slot.recording({None: lambda job, worker: None})[None](job, None)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_a_delivery_mark_is_the_same_in_every_process(seed: str):
    """A delivery mark does not depend on Python's hashes, whose seed differs from process to process."""
    env = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", PRINT], env=env, capture_output=True, text=True, check=True)
    here = delivery_mark(Delivery(b"body", position=7)), delivery_mark(Delivery(b"body", producer_id="an id"))
    assert tuple(map(int, done.stdout.split())) == here


def test_redeliveries_share_a_delivery_mark_and_other_messages_do_not():
    """A delivery mark depends on position, lane, ID and body, and not on attempt, headers or token."""
    large = b"x" * 100_000
    different = [
        Delivery(b"body", position=7),
        Delivery(b"body", position=8),
        Delivery(b"other", position=7),
        Delivery(b"body", position=7, lane="a"),
        Delivery(b"body", position=7, lane="b"),
        Delivery(b"body", native_id="7"),
        Delivery(b"body", producer_id="8"),
        Delivery(b"body"),
        Delivery(b"body", producer_id="8", record_id="a replay"),
        Delivery(b"", native_id="\udcff"),
        Delivery(large, position=7),
        Delivery(large + b"x", position=7),
        Delivery(large[:-1] + b"y", position=7),
        Delivery(b"y" + large[1:], position=7),
    ]
    marks = [delivery_mark(delivery) for delivery in different]
    assert len(marks) == len(set(marks))
    assert all(0 < mark < 2**64 for mark in marks)
    redelivery = Delivery(b"body", [("h", "v")], position=7, attempt=3, redelivered=True, token="t", key="k")
    assert delivery_mark(redelivery) == marks[0]


def test_the_marks_of_a_dead_process_are_found_once(directory: InFlightDirectory):
    """The marks of a dead process are found until a reader succeeds, which removes the file."""
    log = InFlightLog(directory, 3)
    one, two = Delivery(b"1", position=1), Delivery(b"2", position=2)
    run_all(log, one, two)
    with directory.abandoned() as found:
        assert found == [], "the process is alive"
    die(log)
    with pytest.raises(ZeroDivisionError), directory.abandoned() as found:
        raise ZeroDivisionError
    assert sorted(found) == sorted(map(delivery_mark, (one, two)))
    with directory.abandoned() as found:
        assert sorted(found) == sorted(map(delivery_mark, (one, two))), "the failed reader removed the marks"
    with directory.abandoned() as found:
        assert found == []
    assert not log.path.exists()


def test_a_new_process_does_not_overwrite_unread_marks(directory: InFlightDirectory):
    """A new process takes the lowest free number, and does not overwrite a file with unread marks."""
    first = InFlightLog(directory, 1)
    second = InFlightLog(directory, 1)
    run_all(first, Delivery(b"", position=1))
    die(first)
    third = InFlightLog(directory, 1)
    assert len({first.path, second.path, third.path}) == 3
    with directory.abandoned():
        pass
    fourth = InFlightLog(directory, 1)
    assert fourth.path == first.path
    for log in (second, third, fourth):
        log.close()


@pytest.mark.parametrize("how", ["stopping", "clear", "close", "release"])
def test_finished_work_leaves_no_marks(directory: InFlightDirectory, how: str):
    """No marks are found after a stop, a normal end, or the release of a slot."""
    log = InFlightLog(directory, 1)
    slot = log.acquire()
    assert slot is not None
    assert log.acquire() is None
    log.release(slot)
    run_all(log, Delivery(b"", position=1))
    if how == "clear":
        slot.clear()
    elif how == "release":
        log.release(slot)
    else:
        getattr(log, how)()
    if how != "close":
        die(log)
    with directory.abandoned() as found:
        assert found == []


def test_the_file_is_private_and_contains_no_message_content(directory: InFlightDirectory):
    """Only the user can read the file, and it contains numbers only."""
    log = InFlightLog(directory, 2)
    run_all(log, Delivery(CANARY * 1000, producer_id=CANARY.decode(), lane=CANARY.decode(), key=CANARY))
    content = log.path.read_bytes()
    assert CANARY not in content
    assert len(content) == 8 * 5
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700
    log.close()
    assert not log.path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_other_users_can_access_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int):
    """A directory that other users can access is refused with OSError."""
    monkeypatch.setattr("missive.engine.processes.inflight._SHARED", str(tmp_path))
    (tmp_path / f"missive-{os.geteuid()}").mkdir()
    (tmp_path / f"missive-{os.geteuid()}").chmod(mode)
    with pytest.raises(OSError, match="private"):
        InFlightDirectory("t")


def test_a_forked_child_does_not_hold_the_lock(directory: InFlightDirectory, start: Callable[..., Running]):
    """A forked child that outlives its parent does not hold the lock of the parent's file."""
    process = start(sys.executable, "-c", FORKING, stdin=subprocess.PIPE)
    assert process.line() == "forked\n"
    process.send(signal.SIGKILL)
    wait_until(lambda: process.code is not None, "the parent's death")
    with directory.abandoned() as found:
        assert found == [delivery_mark(Delivery(b"", position=1))]
    process.kill()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 100, bytes(64)])
def test_a_damaged_file_contains_no_marks(directory: InFlightDirectory, content: bytes):
    """A truncated file or a file in another format contains no marks."""
    log = InFlightLog(directory, 1)
    log.path.write_bytes(content)
    die(log)
    with directory.abandoned() as found:
        assert found == []
