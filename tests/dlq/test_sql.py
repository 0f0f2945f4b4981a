"""SQL stores only: files, schemas, migrations, and errors of servers."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from missive._sqlite import enable_wal, network_filesystem
from missive.dlq import Query, Replay, Status, open_dlq, open_store
from missive.dlq.sql import SCHEMA_VERSION, SQLStore
from missive.errors import StoreError, StoreRefused, UsageError
from missive.ids import new_id
from tests.support.databases import DatabaseServer, MariaDB, PostgreSQL
from tests.support.stores import SERVERS, on_each_sql, on_servers, parked, record


@pytest.mark.parametrize("url", SERVERS[:1], indirect=True)
def test_leases_walk_an_index(store: SQLStore):
    """PostgreSQL walks an index for due and queued records, even before its statistics know them."""
    store.put([record() for _ in range(3000)])
    with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ALTER TABLE missive_dead_letters SET (autovacuum_enabled = off)"))
        connection.execute(sa.text("ANALYZE missive_dead_letters"))
    store.put([record(status=Status.parked, due=900.0) for _ in range(1000)])
    replay = Replay(new_id(), "me", "chosen", by_command=True)
    store.start_replay(replay, store.ids(Query(statuses=(Status.dead,))))
    store.queue_remaining(replay.id)
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, given: Any, *_: object) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement and "ORDER BY" in statement:
            cursor.execute(f"EXPLAIN {statement}", given)
            plans.append("\n".join(line for (line,) in cursor.fetchall()))

    sa.event.listen(store._engine, "before_cursor_execute", explain)
    assert len(store.lease_records("shop", "t", 10, 60.0)) == 10
    assert len(store.lease_records("shop", "t", 10, 60.0, replay.id)) == 10
    store.next_due("shop")
    assert len(plans) >= 5
    assert [plan for plan in plans if "Sort" in plan] == []


def test_several_threads_open_a_new_file_at_once(tmp_path: Path):
    """All workers that start together on a missing store open it."""
    together, opened = threading.Barrier(4), Counter[str]()

    def open_each() -> None:
        for number in range(40):
            together.wait(30)
            try:
                with contextlib.closing(sqlite3.connect(tmp_path / f"{number}.db", isolation_level=None)) as connection:
                    enable_wal(connection, 5)
                    opened[connection.execute("PRAGMA journal_mode").fetchone()[0]] += 1
            except sqlite3.Error as error:
                opened[str(error)] += 1

    threads = [threading.Thread(target=open_each) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert opened == {"wal": 160}


def test_an_error_does_not_quote_a_damaged_text(tmp_path: Path, store: SQLStore):
    """For a text with invalid UTF-8, the error names the place and not the text."""
    kept = record()
    store.put([kept])
    with contextlib.closing(sqlite3.connect(tmp_path / "dlq.db")) as connection:
        connection.execute("UPDATE missive_dead_letters SET label = CAST(x'ff' || 'secret' AS TEXT)")
        connection.commit()
    with pytest.raises(StoreError, match="Could not decode") as raised:
        store.get(kept.id)
    assert "secret" not in f"{raised.value!r} {raised.value.__context__!r}"


def test_a_newer_schema_is_refused(tmp_path: Path):
    """An older Missive does not touch the store of a newer one, and asks for an upgrade."""
    url = f"sqlite:///{tmp_path}/dlq.db"
    SQLStore(url).close()
    connection = sqlite3.connect(tmp_path / "dlq.db")
    connection.execute("UPDATE missive_schema SET version = ?", (SCHEMA_VERSION + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(StoreRefused, match="upgrade Missive"):
        SQLStore(url)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    """A file that is not a database is refused, and does not change."""
    (tmp_path / "notes.txt").write_text("notes\n" * 1000)
    with pytest.raises(StoreRefused, match="not a database"):
        SQLStore(f"sqlite:///{tmp_path}/notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "notes\n" * 1000


@pytest.mark.parametrize("bad", ["sqlite://", "nothing"])
def test_a_faulty_url_is_refused(bad: str):
    """The error for a faulty URL shows a correct one."""
    with pytest.raises(UsageError, match="sqlite:///"):
        open_dlq(bad)


def test_a_damaged_file_is_refused(tmp_path: Path, store: SQLStore):
    """The error is one line with the command that recovers the data. The file does not change."""
    store.put([record(body=b"x" * 3000) for _ in range(200)])
    store.close()
    path = tmp_path / "dlq.db"
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 20 :] = bytes(len(damaged) - 4096 * 20)
    path.write_bytes(damaged)
    with pytest.raises(StoreRefused, match=r"malformed; keep the file.*\.recover"):
        list(SQLStore(f"sqlite:///{path}").query(Query()))
    assert path.read_bytes() == damaged


def test_an_error_holds_no_content(store: SQLStore):
    """The error of a failing write has SQLite's message, without the values and without a chained exception."""
    kept = record(body=b"hunter2", detail="hunter2")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE missive_dead_letters")
    with pytest.raises(StoreError) as raised:
        store.put([kept])
    assert "no such table" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_the_file_is_private(tmp_path: Path, store: SQLStore):
    """Only the owner may read the file and its log, because they contain bodies in clear text."""
    store.put([record()])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


NEW = ("ready", "arrival", "closed_why", "edited_from", "correlation_id", "trace", "idempotency_key", "version")


def aged(store: SQLStore) -> None:
    """Remove from a store everything that its schema got after version 1."""
    drop = "ALTER TABLE missive_dead_letters DROP COLUMN"
    mysql = store.url.startswith(("mysql", "mariadb"))
    with store._write() as connection:
        run = connection.exec_driver_sql
        for index in sa.inspect(connection).get_indexes("missive_dead_letters"):
            run(f"DROP INDEX {index['name']}" + (" ON missive_dead_letters" if mysql else ""))
        for column in (*NEW, "due", "lane"):
            run(f"{drop} {column}")
        run("ALTER TABLE missive_replays DROP COLUMN paced_until")
        for table in ("missive_attempts", "missive_groups", "missive_days", "missive_notes"):
            run(f"DROP TABLE {table}")
        run("CREATE INDEX missive_dead_letters_identity ON missive_dead_letters (service, identity)")
        run("UPDATE missive_schema SET version = 1")


@on_each_sql
def test_a_store_of_version_1_is_migrated(store: SQLStore, url: str):
    """The records are found and counted after the migration. A second opening changes nothing."""
    first = record(id="x", identity="i", may_join=True)
    store.put([first, record(status=Status.resolved, closed_at=12.0)])
    aged(store)
    for round_ in range(2):
        with contextlib.closing(SQLStore(url)) as opened:
            assert opened.get("x").due is None
            opened.put([parked(None, "a"), replace(first, id=new_id(), last_at=20.0)])
            opened.count_attempts("shop", {"a": 1})
            assert opened.get("x").attempts == 2 + round_
            counts = {group.status: group.count for group in opened.groups(Query())}
            assert counts == {"dead": 1, "resolved": 1, "parked": 1 + round_}
            assert opened.note(["x"], "me", "seen") == 1


@on_servers
def test_a_newer_schema_on_a_server_is_refused(url: str, store: SQLStore):
    """An older Missive does not touch the database of a newer one."""
    with store._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE missive_schema SET version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreRefused, match="upgrade Missive"):
        SQLStore(url)


@on_servers
def test_opening_without_create_makes_no_tables(url: str):
    """A command that only reads creates no tables."""
    with pytest.raises(UsageError, match="there is no dead letter store"):
        open_store(url, create=False)


@on_servers
def test_an_error_of_a_server_holds_no_content(store: SQLStore):
    """The error has the server's code, without its message, which quotes values, and without a chained exception."""
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE missive_dead_letters")
    with pytest.raises(StoreError, match="the server answered") as raised:
        store.put([record(body=b"hunter2", detail="hunter2")])
    assert "hunter2" not in str(raised.value)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "server", [pytest.param(PostgreSQL, marks=SERVERS[0].marks), pytest.param(MariaDB, marks=SERVERS[1].marks)]
)
def test_records_survive_the_death_of_a_server(server: type[DatabaseServer]):
    """Stored records survive SIGKILL of the server. Calls fail until it is back, and then succeed."""
    with server() as running:
        kept, after = record(), record()
        with contextlib.closing(SQLStore(running.url(running.database()))) as store:
            store.put([kept])
            running.kill()
            with pytest.raises(StoreError):
                store.put([after])
            running.start()
            store.put([after])
            assert sorted(store.ids(Query())) == sorted([kept.id, after.id])


def test_a_network_disk_is_recognized(tmp_path: Path):
    """The innermost mount decides, and the later of two on one directory. Without information, no disk is refused."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nhost:/a /nfs nfs4 rw 0 0\n/dev/b /nfs/local ext4 rw 0 0\n"
        "/dev/c /both ext4 rw 0 0\n//host/b /both cifs rw 0 0\nhost:/c /a\\040b nfs rw 0 0\n"
    )
    seen = [
        network_filesystem(Path(p), mounts)
        for p in ("/x.db", "/nfs/x.db", "/nfs/local/x.db", "/both/x.db", "/a b/x.db")
    ]
    assert seen == [None, "nfs4", None, "cifs", "nfs"]
    assert network_filesystem(Path("/nfs/x.db"), tmp_path / "nothing") is None


def test_a_file_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The error names the disk, and no file is made there."""
    monkeypatch.setattr("missive.dlq.sql.database.network_filesystem", lambda _path: "nfs")
    with pytest.raises(StoreRefused, match="network disk"):
        SQLStore(f"sqlite:///{tmp_path}/dlq.db")
    assert not list(tmp_path.iterdir())
