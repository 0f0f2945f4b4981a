"""`missive run --reload`: a run that starts again when the code changes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

from tests.cli.conftest import Run, Start
from tests.conftest import wait_until

APPLICATION = """
import missive
proc = missive.Processor(name="shop")
@proc.handle_for(lambda m: True)
def handle(message, context):
    print("VERSION", flush=True)
"""
SOURCE = "sqlite:///q.db?queue=orders&create=true"


def publish(path: Path) -> None:
    """Put a message into the queue."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO missive_queue (queue, body) VALUES ('orders', x'00')")
    connection.close()


def test_a_change_starts_the_run_again(missive: Start, run: Run, tmp_path: Path):
    """A change of the code drains the run and starts a new one. A broken change waits for the next one."""
    application = tmp_path / "app.py"
    application.write_text(APPLICATION.replace("VERSION", "first"))
    process = missive(
        "run", "app:proc", "--from", SOURCE, "--dlq", "sqlite:///d.db", "--reload", env={"MISSIVE_RELOAD": "1"}
    )
    wait_until((tmp_path / "q.db").exists, "the queue")
    wait_until(lambda: tables(tmp_path / "q.db"), "the table")
    publish(tmp_path / "q.db")
    assert process.line() == "first\n"
    application.write_text("1 / 0")
    wait_until(lambda: "waiting for a change" in process.errors, "the end of a broken run")
    application.write_text(APPLICATION.replace("VERSION", "second"))
    publish(tmp_path / "q.db")
    assert process.line() == "second\n"
    os.kill(process.pid, signal.SIGINT)
    _, err = process.finish(30)
    assert process.code == 0
    assert "app.py changed: starting again" in err
    assert "ZeroDivisionError" in err


def tables(path: Path) -> bool:
    """Return whether the queue has its table."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'missive_queue'").fetchone()
    connection.close()
    return found is not None
