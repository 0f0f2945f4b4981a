"""Handlers that never return: the process ends, names them and loses no message."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.sqlite import SCHEMA
from tests.support.process import Running

Start = Callable[..., Running]

APPLICATION = """
import time, missive
from missive.matchers import Field

proc = missive.Processor(missive.JSONMessage, name="app", timeout=0.3, concurrency=2)

@proc.handle_for(Field("kind", "thread"))
def thread(message, context):
    time.sleep(120)

@proc.handle_for(Field("kind", "loop"))
async def loop(message, context):
    time.sleep(120)

@proc.handle_for(Field("kind", "fine"))
async def fine(message, context):
    pass
"""


@pytest.mark.parametrize(("kind", "stuck"), [("thread", 2), ("loop", 1)])
def test_a_process_of_stuck_handlers_ends(missive: Start, tmp_path: Path, kind: str, stuck: int):
    """When all threads or the loop are stuck, the process exits with 1 and its messages stay in the queue."""
    (tmp_path / "app.py").write_text(APPLICATION)
    with sqlite3.connect(tmp_path / "queue.db") as queue:
        queue.executescript(SCHEMA)
        bodies = ['{"kind": "fine"}', *[f'{{"kind": "{kind}"}}'] * stuck, '{"kind": "thread"}']
        queue.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", [(body,) for body in bodies])
    source = "sqlite:///queue.db?queue=q"
    process = missive("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--drain", "0.5")
    _, err = process.finish()
    assert process.code == 1
    last = err.splitlines()[-1]
    assert last.startswith("missive: every worker is stuck in a handler past its timeout (app:")
    assert f"app:{kind}" in last
    left = sqlite3.connect(tmp_path / "queue.db").execute("SELECT count(*) FROM missive_queue").fetchone()[0]
    assert left == len(bodies) - 1
