"""Files as sources: reading, checkpoints and errors."""

from __future__ import annotations

import contextlib
import gzip
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from missive import Processor
from missive.adapters.file import FileAdapter
from missive.engine.runner import execute
from missive.matchers import Everything
from tests.conftest import wait_until
from tests.support.engine import RecordingSink
from tests.support.process import Running

Start = Callable[..., Running]

APPLICATION = """
import missive
proc = missive.Processor(missive.JSONMessage, name="app")
@proc.handle_for(lambda message: True)
def number(message, context):
    n = message.get_json()
    print(n, flush=True)
    if n == 13:
        raise ValueError
"""


@pytest.fixture
def run(missive: Start, tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    (tmp_path / "app.py").write_text(APPLICATION)

    def run(url: str = "file:in.jsonl", code: int = 0) -> tuple[list[str], str]:
        process = missive("run", "app:proc", "--from", url)
        out, err = process.finish()
        assert code == process.code
        return out.split(), err

    return run


def lines(first: int, last: int) -> str:
    return "".join(f"{n}\n" for n in range(first, last))


def test_a_second_run_resumes_at_the_checkpoint(run, tmp_path: Path):
    """The next run handles appended lines only, and logs the position. `start=beginning` reads all lines."""
    (tmp_path / "in.jsonl").write_text(lines(0, 20))
    assert [str(n) for n in range(20)] == run()[0]
    out, err = run()
    assert out == []
    assert "has no new lines" in err
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write(lines(20, 25))
    out, err = run()
    assert [str(n) for n in range(20, 25)] == out
    assert "resumes at byte 50" in err
    assert [str(n) for n in range(25)] == run("file:in.jsonl?start=beginning")[0]


def test_a_different_file_is_read_from_its_beginning(run, tmp_path: Path):
    """A rotated file is recognised as a different file, even if it is longer than its predecessor."""
    (tmp_path / "in.jsonl").write_text(lines(0, 5))
    run()
    (tmp_path / "in.jsonl").write_text(lines(100, 120))
    out, err = run()
    assert [str(n) for n in range(100, 120)] == out
    assert "is not the file of the previous run" in err


def test_a_shorter_file_is_read_from_its_beginning(run, tmp_path: Path):
    """A truncated file is read again, because a duplicate is better than a loss."""
    (tmp_path / "in.jsonl").write_text(lines(0, 9))
    run()
    (tmp_path / "in.jsonl").write_text(lines(0, 5))
    assert [str(n) for n in range(5)] == run()[0]


def test_a_gzip_file_is_decompressed(run, tmp_path: Path):
    """Lines and checkpoints of a gzip file refer to its decompressed content."""
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write(lines(0, 12))
    assert [str(n) for n in range(12)] == run("file:in.jsonl.gz")[0]
    with gzip.open(tmp_path / "in.jsonl.gz", "at") as file:
        file.write(lines(12, 13))
    assert run("file:in.jsonl.gz")[0] == ["12"]


def test_a_broken_gzip_file_is_an_error(run, tmp_path: Path):
    """A file named .gz with other content ends processing with one line."""
    (tmp_path / "in.jsonl.gz").write_text("this is not gzip")
    _, err = run("file:in.jsonl.gz", code=1)
    assert "missive: file:in.jsonl.gz is not a complete gzip file" in err.splitlines()[-1]


def test_a_gzip_file_with_invalid_data_is_an_error(run, tmp_path: Path):
    """A gzip file with invalid data in its middle ends processing with one line."""
    content = gzip.compress("".join(f"{n * 7919}\n" for n in range(1000, 50_000)).encode())
    (tmp_path / "in.gz").write_bytes(content[: len(content) // 2] + b"\xff" * 100 + content[len(content) // 2 + 100 :])
    _, err = run("file:in.gz", code=1)
    assert err.splitlines()[-1] == "missive: file:in.gz is not a complete gzip file"


def test_a_run_resumes_after_a_kill(missive: Start, tmp_path: Path):
    """After SIGKILL, the next run starts at the last checkpoint: no line is lost, and few are handled twice."""
    (tmp_path / "app.py").write_text(APPLICATION + "    __import__('time').sleep(0.001)\n")
    (tmp_path / "in.jsonl").write_text(lines(100, 2100))
    process = missive("run", "app:proc", "--from", "file:in.jsonl")
    store = tmp_path / "missive-dlq.db"

    def checkpoint() -> int:
        try:
            with contextlib.closing(sqlite3.connect(store)) as connection:
                row = connection.execute("SELECT value FROM missive_checkpoints").fetchone()
        except sqlite3.OperationalError:
            return 0
        return 0 if row is None else json.loads(row[0])["offset"]

    wait_until(checkpoint, "a checkpoint")
    first = process.kill()[0].split()
    offset = checkpoint()
    assert 0 < offset < 4 * 2000 + 1100
    second = missive("run", "app:proc", "--from", "file:in.jsonl").finish(60)[0].split()
    assert {str(n) for n in range(100, 2100)} == set(first) | set(second)
    assert len(second) < 2000


def test_a_dead_letter_has_its_position(run, tmp_path: Path):
    """A failed line is stored with its position. Another failure adds an attempt to the same record."""
    (tmp_path / "in.jsonl").write_text("13\n")
    run()
    run("file:in.jsonl?start=beginning")
    with contextlib.closing(sqlite3.connect(tmp_path / "missive-dlq.db")) as connection:
        rows = connection.execute("SELECT attempts, origin FROM missive_dead_letters").fetchall()
    assert [attempts for attempts, _ in rows] == [2]
    assert json.loads(rows[0][1])["position"] == 3


@pytest.mark.parametrize(
    ("url", "expected"),
    [("file:", "the URL has no path"), ("file:in.jsonl?begin=1", "no parameter begin="), ("file:.", "is a directory")],
)
def test_an_invalid_url_is_one_line(run, tmp_path: Path, url: str, expected: str):
    """An invalid URL ends the command with one line and without a traceback."""
    _, err = run(url, code=1 if url == "file:." else 2)
    assert expected in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
@pytest.mark.parametrize("ending", [b"\n", b""], ids=["complete", "unfinished"])
def test_a_line_over_the_bound_is_skipped_while_it_is_read(tmp_path: Path, name: str, ending: bytes):
    """A line of 300 MB becomes a dead letter, `too_large`, and is never in memory, also from a small gzip file."""
    path, size = tmp_path / name, 300 << 20
    with gzip.open(path, "wb", compresslevel=1) if name.endswith(".gz") else path.open("wb") as file:
        file.write(b"before\n")
        for _ in range(300):
            file.write(bytes(1 << 20))
        file.write(b"\nafter\n" + b"z" * 101 + ending)
    sink, bodies = RecordingSink(), []
    proc = Processor(name="t", dlq=sink)
    proc.add_handler(Everything(), lambda message, context: bodies.append(message.raw_data))
    tracemalloc.start()
    try:
        execute([FileAdapter(proc, path, progress=False, max_body=100)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bodies == [b"before", b"after"]
    details = [f"the line has {length} bytes, and max_body is 100" for length in (size, 101)]
    assert [("too_large", b"", text) for text in details] == [(r.reason, r.body, r.detail) for r in sink.records]
    assert [7 + size + 1, 7 + size + 1 + 6 + 101 + len(ending)] == [r.origin.position for r in sink.records]
    assert peak < 30 << 20
