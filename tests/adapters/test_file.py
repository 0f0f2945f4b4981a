"""A file of lines: read once, and gone on with where the last run stopped."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_until
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


def test_a_second_run_goes_on_where_the_first_ended(run, tmp_path: Path):
    """What is appended is read by the next run, what was read is not read again, and the run says so."""
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


def test_another_file_under_the_name_is_read_from_its_beginning(run, tmp_path: Path):
    """A rotated file is not taken for the one before it, also when it is longer."""
    (tmp_path / "in.jsonl").write_text(lines(0, 5))
    run()
    (tmp_path / "in.jsonl").write_text(lines(100, 120))
    out, err = run()
    assert [str(n) for n in range(100, 120)] == out
    assert "is not the file of the previous run" in err


def test_a_shorter_file_is_read_from_its_beginning(run, tmp_path: Path):
    """A truncated file is read again: a duplicate is better than a loss."""
    (tmp_path / "in.jsonl").write_text(lines(0, 9))
    run()
    (tmp_path / "in.jsonl").write_text(lines(0, 5))
    assert [str(n) for n in range(5)] == run()[0]


def test_gzip(run, tmp_path: Path):
    """A gzipped file is read, and gone on with, by what comes out of it."""
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write(lines(0, 12))
    assert [str(n) for n in range(12)] == run("file:in.jsonl.gz")[0]
    with gzip.open(tmp_path / "in.jsonl.gz", "at") as file:
        file.write(lines(12, 13))
    assert run("file:in.jsonl.gz")[0] == ["12"]


def test_a_broken_gzip_file_is_one_line(run, tmp_path: Path):
    """What is called .gz and is not is refused, in one line."""
    (tmp_path / "in.jsonl.gz").write_text("nothing of the kind")
    _, err = run("file:in.jsonl.gz", code=1)
    assert "missive: file:in.jsonl.gz is not a complete gzip file" in err.splitlines()[-1]


def test_a_killed_run_is_resumed(missive: Start, tmp_path: Path):
    """After SIGKILL the next run starts at the last checkpoint: nothing is lost, little comes twice."""
    (tmp_path / "app.py").write_text(APPLICATION + "    __import__('time').sleep(0.001)\n")
    (tmp_path / "in.jsonl").write_text(lines(100, 2100))
    process = missive("run", "app:proc", "--from", "file:in.jsonl")
    store = tmp_path / "missive-dlq.db"

    def checkpoint() -> int:
        try:
            row = sqlite3.connect(store).execute("SELECT value FROM missive_checkpoints").fetchone()
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


def test_a_dead_letter_is_kept_with_its_place(run, tmp_path: Path):
    """A line that fails is in the store with its position, and reading it again adds to its history."""
    (tmp_path / "in.jsonl").write_text("13\n")
    run()
    run("file:in.jsonl?start=beginning")
    rows = (
        sqlite3.connect(tmp_path / "missive-dlq.db")
        .execute("SELECT attempts, origin FROM missive_dead_letters")
        .fetchall()
    )
    assert [attempts for attempts, _ in rows] == [2]
    assert json.loads(rows[0][1])["position"] == 3


@pytest.mark.parametrize(
    ("url", "complaint"),
    [("file:", "the URL has no path"), ("file:in.jsonl?begin=1", "no parameter begin="), ("file:.", "is a directory")],
)
def test_a_wrong_url_is_one_line(run, tmp_path: Path, url: str, complaint: str):
    """A URL that cannot be is refused with what to write instead."""
    _, err = run(url, code=1 if url == "file:." else 2)
    assert complaint in err.splitlines()[-1]
    assert "Traceback" not in err
