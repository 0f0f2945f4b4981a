"""Standard input: any bytes, any length, and nothing that was read is forgotten."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.adapters.stdin import LineBuffer
from tests.conftest import wait_until
from tests.support.process import Running

Start = Callable[..., Running]

DIGESTS = """
import hashlib
import missive
proc = missive.Processor()
@proc.handle_for(lambda message: True)
def digest(message, context):
    print(context.native, len(message.raw_data), hashlib.sha256(message.raw_data).hexdigest(), flush=True)
"""


@given(st.binary(max_size=200), st.lists(st.integers(1, 7), max_size=50))
def test_lines_are_cut_as_split_does(data: bytes, cuts: list[int]):
    """However the bytes arrive, the lines are those between the newlines, and the rest is what follows the last."""
    lines, place = LineBuffer(), 0
    for cut in [*cuts, len(data)]:
        lines.add(data[place : place + cut])
        place = min(place + cut, len(data))
    found = []
    while (line := lines.take()) is not None:
        found.append(line)
    rest = lines.rest()
    assert data == b"".join(line + b"\n" for line in found) + (rest or b"")
    assert len(found) == data.count(b"\n")


def test_the_sample_prints_a_greeting_a_line():
    """The design's sample ends at the end of its input with exit code 0, having greeted each line."""
    sample = Path(__file__).parents[2] / "examples" / "hello.py"
    done = subprocess.run([sys.executable, sample], input=b"a\nb\nc", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello, World!\n" * 3, b"")


def test_bytes_arrive_as_they_are(missive: Start, tmp_path: Path):
    """Invalid UTF-8, NULs, carriage returns, empty lines and a last line without newline are kept to the byte."""
    (tmp_path / "app.py").write_text(DIGESTS)
    lines = [b"\xff\xfe\x00", b"", b"\r", bytes(set(range(256)) - {10}), b"last"]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    with (tmp_path / "in").open("rb") as stdin:
        process = missive("run", "app:proc", "--from", "stdin:", stdin=stdin)
        out, _ = process.finish()
    expected = [f"{n} {len(line)} {hashlib.sha256(line).hexdigest()}" for n, line in enumerate(lines, 1)]
    assert expected == out.splitlines()
    assert process.code == 0


@pytest.mark.slow
def test_a_line_of_a_hundred_megabytes(missive: Start, tmp_path: Path):
    """A line of 100 MB, through a pipe, is one message."""
    (tmp_path / "app.py").write_text(DIGESTS)
    line = os.urandom(1 << 20).replace(b"\n", b" ") * 100
    process = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    process.write(line + b"\nshort")
    out, _ = process.finish(60)
    assert f"1 {len(line)} {hashlib.sha256(line).hexdigest()}" == out.splitlines()[0]
    assert out.splitlines()[1].startswith("2 5 ")


SLOW = """
import time, missive
proc = missive.Processor()
@proc.handle_for(lambda message: True)
def slow(message, context):
    print("started", flush=True)
    while not __import__("os").path.exists("go"):
        time.sleep(0.01)
"""


def test_a_signal_files_what_was_read_and_not_started(missive: Start, tmp_path: Path):
    """SIGTERM lets the running message finish; the lines behind it, the unfinished one too, are dead as `shutdown`."""
    (tmp_path / "app.py").write_text(SLOW)
    process = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    process.write(b"one\ntwo\nthree\nunfin")
    assert process.line() == "started\n"
    process.send(signal.SIGTERM)
    store = tmp_path / "missive-dlq.db"
    query = "SELECT body, reason FROM missive_dead_letters ORDER BY id"
    wait_until(lambda: len(sqlite3.connect(store).execute(query).fetchall()) == 3, "three dead letters")
    (tmp_path / "go").touch()
    _, err = process.finish()
    rows = sqlite3.connect(store).execute(query).fetchall()
    assert {(b"two", "shutdown"), (b"three", "shutdown"), (b"unfin", "shutdown")} == set(rows)
    assert process.code == 0
    assert "1 handled, 3 dead-lettered (3 shutdown)" in err


def test_a_second_signal_forces(missive: Start, tmp_path: Path):
    """A second signal does not wait for a handler that hangs, says what it left, and exits 1."""
    (tmp_path / "app.py").write_text(SLOW)
    process = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    process.write(b"one\n")
    assert process.line() == "started\n"
    process.send(signal.SIGINT)
    assert "stopping" in process.error_line() + process.error_line()
    process.send(signal.SIGINT)
    _, err = process.finish(10)
    assert process.code == 1
    assert "messages read from stdin: that are lost: 1" in err
    assert "Traceback" not in err


def test_the_drain_ends_at_its_deadline(missive: Start, tmp_path: Path):
    """A handler that is still running when the drain's time is over is left behind; exit code 1."""
    (tmp_path / "app.py").write_text(SLOW.replace("def slow", "async def slow"))
    process = missive("run", "app:proc", "--from", "stdin:", "--drain", "0.2", stdin=subprocess.PIPE)
    process.write(b"one\n")
    assert process.line() == "started\n"
    _, err = process.terminate(15)
    assert process.code == 1
    assert "stopped by force" in err


def test_without_a_store_the_program_stops_at_the_first_dead_letter():
    """`run()` exits 1 with one line when a message would be a dead letter and nothing keeps it."""
    program = (
        "import missive; p = missive.Processor(missive.JSONMessage, name='app');"
        "p.add_handler(missive.matchers.Field('a', 1), lambda m, c: print('ok'));"
        "missive.adapters.StdinAdapter(p).run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b'{"a":1}\nhunter2\n', capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"ok\n")
    lines = done.stderr.decode().splitlines()
    assert lines[-1].startswith("missive: a message of stdin: ended as a dead letter: unreadable")
    assert "hunter2" not in done.stderr.decode()
