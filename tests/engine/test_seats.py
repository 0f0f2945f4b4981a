"""Seats: fingerprints, and the file in shared memory that says what runs."""

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
seats = InFlightLog(InFlightDirectory("t"), 1)
job = SimpleNamespace(delivery=Delivery(b"", position=1))
seats.acquire().recording({None: lambda job, worker: None})[None](job, None)
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
else:
    signal.pause()
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InFlightDirectory:
    """A room of its own: another directory is another application."""
    monkeypatch.chdir(tmp_path)
    return InFlightDirectory("t")


def die(seats: InFlightLog) -> None:
    """Leave the file as a process does that is killed."""
    seats.forked()


def take(seats: InFlightLog, *deliveries: Delivery) -> None:
    """Have each run by a worker of its own."""

    class Job:
        pass

    for delivery in deliveries:
        seat, job = seats.acquire(), Job()
        assert seat is not None
        job.delivery = delivery
        seat.recording({None: lambda job, worker: None})[None](job, None)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_a_fingerprint_is_the_same_in_every_process(seed: str):
    """No hash of Python's is in it, which each process salts in its own way."""
    env = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", PRINT], env=env, capture_output=True, text=True, check=True)
    here = delivery_mark(Delivery(b"body", position=7)), delivery_mark(Delivery(b"body", producer_id="an id"))
    assert tuple(map(int, done.stdout.split())) == here


def test_redeliveries_share_a_fingerprint_and_other_messages_do_not():
    """Place, lane, id and body tell messages apart; attempts, headers and tokens do not."""
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
    again = Delivery(b"body", [("h", "v")], position=7, attempt=3, redelivered=True, token="t", key="k")
    assert delivery_mark(again) == marks[0]


def test_what_a_dead_process_ran_is_found_once(room: InFlightDirectory):
    """Its fingerprints are given to the next that asks, and the file is gone after that."""
    seats = InFlightLog(room, 3)
    one, two = Delivery(b"1", position=1), Delivery(b"2", position=2)
    take(seats, one, two)
    with room.abandoned() as found:
        assert found == [], "it lives"
    die(seats)
    with pytest.raises(ZeroDivisionError), room.abandoned() as found:
        raise ZeroDivisionError
    assert sorted(found) == sorted(map(delivery_mark, (one, two)))
    with room.abandoned() as found:
        assert sorted(found) == sorted(map(delivery_mark, (one, two))), "what could not be counted is there still"
    with room.abandoned() as found:
        assert found == []
    assert not seats.path.exists()


def test_a_new_process_does_not_write_over_what_was_not_counted(room: InFlightDirectory):
    """The lowest number that is free is taken, but for one whose seats nobody has read."""
    first = InFlightLog(room, 1)
    second = InFlightLog(room, 1)
    take(first, Delivery(b"", position=1))
    die(first)
    third = InFlightLog(room, 1)
    assert len({first.path, second.path, third.path}) == 3
    with room.abandoned():
        pass
    fourth = InFlightLog(room, 1)
    assert fourth.path == first.path
    for seats in (second, third, fourth):
        seats.close()


@pytest.mark.parametrize("how", ["stopping", "clear", "close", "give_back"])
def test_what_has_come_to_its_end_is_not_left(room: InFlightDirectory, how: str):
    """Nothing is found of a process that was told to stop, of an idle worker, or of an end in good order."""
    seats = InFlightLog(room, 1)
    seat = seats.acquire()
    assert seat is not None
    assert seats.acquire() is None
    seats.release(seat)
    take(seats, Delivery(b"", position=1))
    if how == "clear":
        seat.clear()
    elif how == "give_back":
        seats.release(seat)
    else:
        getattr(seats, how)()
    if how != "close":
        die(seats)
    with room.abandoned() as found:
        assert found == []


def test_the_file_is_private_and_holds_no_content(room: InFlightDirectory):
    """Only its user may read it, and there is no more in it than numbers."""
    seats = InFlightLog(room, 2)
    take(seats, Delivery(CANARY * 1000, producer_id=CANARY.decode(), lane=CANARY.decode(), key=CANARY))
    content = seats.path.read_bytes()
    assert CANARY not in content
    assert len(content) == 8 * 4
    assert stat.S_IMODE(seats.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(seats.path.parent.stat().st_mode) == 0o700
    seats.close()
    assert not seats.path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_can_look_into_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int):
    """Whoever made it first, what runs is told to nobody else."""
    monkeypatch.setattr("missive.engine.processes.inflight._SHARED", str(tmp_path))
    (tmp_path / f"missive-{os.geteuid()}").mkdir()
    (tmp_path / f"missive-{os.geteuid()}").chmod(mode)
    with pytest.raises(OSError, match="private"):
        InFlightDirectory("t")


def test_a_forked_child_does_not_keep_the_seats(room: InFlightDirectory, start: Callable[..., Running]):
    """A process that a handler forked, and that lives on, does not hide that its parent died."""
    process = start(sys.executable, "-c", FORKING, stdin=subprocess.PIPE)
    assert process.line() == "forked\n"
    process.send(signal.SIGKILL)
    wait_until(lambda: process.code is not None, "the parent's death")
    with room.abandoned() as found:
        assert found == [delivery_mark(Delivery(b"", position=1))]
    process.kill()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 100, bytes(64)])
def test_a_file_of_another_kind_says_nothing(room: InFlightDirectory, content: bytes):
    """What was cut off, or is no such file, is not mistaken for messages."""
    seats = InFlightLog(room, 1)
    seats.path.write_bytes(content)
    die(seats)
    with room.abandoned() as found:
        assert found == []
