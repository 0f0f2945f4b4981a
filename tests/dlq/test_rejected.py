"""A database that rejects one record: the others of its batch are filed, and the record is escaped."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from missive.dlq import Query, open_store
from missive.dlq.sql import SQLStore
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.stores import on_each_sql

Start = Callable[..., Running]

APPLICATION = """
import missive
class Broken(Exception): pass
proc = missive.Processor(missive.JSONMessage, name="shop")
@proc.handle_for(lambda message: True)
def handle(message, context):
    raise Broken("canary " + message.get_json()["say"])
"""


def forbid(url: str, condition: str) -> None:
    """Let the database reject records for which an SQL condition holds."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:"))
    table = "missive_dead_letters"
    checked = f"ALTER TABLE {table} ADD CONSTRAINT c CHECK (NOT ({condition.replace('COLUMN', 'error_text')}))"
    if engine.dialect.name == "sqlite":
        checked = (
            f"CREATE TRIGGER forbid BEFORE INSERT ON {table} WHEN {condition.replace('COLUMN', 'NEW.error_text')}"
            " BEGIN SELECT RAISE(ABORT, 'rejected'); END"
        )
    with engine.begin() as connection:
        connection.execute(sa.text(checked))
    engine.dispose()


def filed(url: str) -> list[tuple[str | None, bytes]]:
    """Return the text of the exception and the body of each record."""
    store = open_store(url)
    assert isinstance(store, SQLStore)
    found = [(one.error_text, one.body) for one in store.query(Query())]
    store.close()
    return found


@on_each_sql
def test_a_rejected_record_is_escaped_and_the_others_are_filed(url: str, missive: Start, tmp_path: Path):
    """A text that the database rejects is escaped. The message and the other records stay as they are."""
    open_store(url).close()
    forbid(url, "COLUMN LIKE '%☃%'")
    says = [*(f"word {number}" for number in range(40)), "a ☃", *(f"word {number}" for number in range(40, 80))]
    bodies = [json.dumps({"say": say}, ensure_ascii=False).encode() for say in says]
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(bodies) + b"\n")
    process = missive("run", "app:proc", "--from", "file:in.jsonl", "--dlq", url)
    _, err = process.finish(60)
    assert (process.code, "81 dead-lettered" in err) == (0, True)
    assert Counter(body for _, body in filed(url)) == Counter(bodies)
    assert [text for text, body in filed(url) if body == bodies[40]] == ["canary a \\u2603"]
    assert ("rejects a text of record" in err, "canary" in err) == (True, False)


@on_each_sql
def test_a_record_that_is_never_taken_blocks_no_other(url: str, missive: Start, tmp_path: Path):
    """A record that the database rejects escaped too stays unsettled, is reported, and the others are filed."""
    open_store(url).close()
    forbid(url, "COLUMN LIKE '%never%'")
    says = [*(f"word {number}" for number in range(20)), "never", *(f"word {number}" for number in range(20, 40))]
    (tmp_path / "app.py").write_text(APPLICATION)
    queue = f"sqlite:///{tmp_path}/q.db?queue=q&create=true"
    process = missive("run", "app:proc", "--from", queue, "--dlq", url, "--drain", "1")
    publish(tmp_path / "q.db", [json.dumps({"say": say}).encode() for say in says])
    wait_until(lambda: len(filed(url)) == len(says) - 1, "the other records")
    wait_until(lambda: "stays unsettled and is tried again" in process.errors, "the report")
    publish(tmp_path / "q.db", [b'{"say": "later"}'])
    wait_until(lambda: len(filed(url)) == len(says), "a record that came later", 10)
    _, err = process.terminate(30)
    assert len(filed(url)) == len(says)
    assert ("canary" in err, "does not answer" in err, process.code) == (False, False, 1)


def publish(path: Path, bodies: list[bytes]) -> None:
    """Put messages into the queue of a running worker."""
    wait_until(path.exists, "the queue")
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        wait_until(
            lambda: connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'missive_queue'").fetchone(),
            "the table",
        )
        connection.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", [(body,) for body in bodies])
