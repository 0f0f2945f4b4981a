"""Standard input: any bytes, any length, and an outcome for every line that was read."""

from __future__ import annotations

import contextlib
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

from missive.adapters.stdin import LineBuffer, TooLong
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
def test_line_buffer_splits_at_newlines(data: bytes, cuts: list[int]):
    """Any division into chunks gives the same lines; the rest follows the last newline."""
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


def test_the_sample_prints_one_greeting_per_line():
    """The sample handles each line and ends with exit code 0 at the end of the input."""
    sample = Path(__file__).parents[2] / "examples" / "hello.py"
    done = subprocess.run([sys.executable, sample], input=b"a\nb\nc", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello, World!\n" * 3, b"")


def test_bytes_are_unchanged(missive: Start, tmp_path: Path):
    """Invalid UTF-8, NULs, carriage returns, empty lines and an unfinished last line arrive byte by byte."""
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
def test_a_line_may_have_a_hundred_megabytes(missive: Start, tmp_path: Path):
    """A line of 100 MB from a pipe is one message where `max_body` allows it."""
    (tmp_path / "app.py").write_text(DIGESTS)
    line = os.urandom(1 << 20).replace(b"\n", b" ") * 100
    process = missive("run", "app:proc", "--from", f"stdin:?max_body={len(line)}", stdin=subprocess.PIPE)
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


def test_a_signal_makes_unstarted_lines_dead_letters(missive: Start, tmp_path: Path):
    """SIGTERM lets the running handler finish. Other lines, even an unfinished one, become dead as `shutdown`."""
    (tmp_path / "app.py").write_text(SLOW)
    process = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    process.write(b"one\ntwo\nthree\nunfin")
    assert process.line() == "started\n"
    process.send(signal.SIGTERM)
    store = tmp_path / "missive-dlq.db"

    def dead_letters():
        with contextlib.closing(sqlite3.connect(store)) as connection:
            return connection.execute("SELECT body, reason FROM missive_dead_letters ORDER BY id").fetchall()

    wait_until(lambda: len(dead_letters()) == 3, "three dead letters")
    (tmp_path / "go").touch()
    _, err = process.finish()
    assert {(b"two", "shutdown"), (b"three", "shutdown"), (b"unfin", "shutdown")} == set(dead_letters())
    assert process.code == 0
    assert "1 handled, 3 dead-lettered (3 shutdown)" in err


def test_a_second_signal_forces_a_stop(missive: Start, tmp_path: Path):
    """A second signal does not wait for a hanging handler. The log counts lost messages; the exit code is 1."""
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
    """A handler that runs longer than the time for draining is abandoned; the exit code is 1."""
    (tmp_path / "app.py").write_text(SLOW.replace("def slow", "async def slow"))
    process = missive("run", "app:proc", "--from", "stdin:", "--drain", "0.2", stdin=subprocess.PIPE)
    process.write(b"one\n")
    assert process.line() == "started\n"
    _, err = process.terminate(15)
    assert process.code == 1
    assert "stopped by force" in err


def test_without_a_store_the_program_stops_at_the_first_dead_letter():
    """Without a store, `run()` exits with code 1 and one line at the first message that needs a dead letter."""
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


def test_a_line_over_the_bound_is_not_kept():
    """A line over the bound is counted and dropped while it arrives; the lines around it are unchanged."""
    lines = LineBuffer(10)
    for chunk in (b"a\n01234", b"56789", b"x" * 5, b"x" * 5 + b"\nb\n0123456789", b"\n", b"y" * 11):
        lines.add(chunk)
    assert sum(map(len, lines._parts)) <= 10
    taken = [lines.take() for _ in range(5)]
    assert [b"a", TooLong(20), b"b", b"0123456789", None] == taken
    assert (TooLong(11), None) == (lines.rest(), lines.rest())


def test_an_endless_line_is_a_dead_letter(missive: Start, tmp_path: Path):
    """A line over `max_body` becomes a dead letter, `too_large`, and the next line is handled."""
    (tmp_path / "app.py").write_text(DIGESTS)
    process = missive("run", "app:proc", "--from", "stdin:?max_body=1000000", stdin=subprocess.PIPE)
    process.write(b"x" * 20_000_000 + b"\nshort")
    out, err = process.finish(60)
    assert out.startswith("2 5 ")
    assert "1 handled, 1 dead-lettered (1 too_large)" in err
