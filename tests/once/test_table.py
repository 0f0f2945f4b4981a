"""The transactional form in SQLite: a claim is part of the transaction of its effect."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import missive
from missive.matchers import Everything, by_header
from missive.once import create_table, purge
from missive.once.declaration import digest
from missive.once.table import Effect, claim
from tests.conftest import wait_until

DAY = 86400.0


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to the database of the handler."""
    connection = sqlite3.connect(tmp_path / "business.db", check_same_thread=False)
    with connection:
        create_table(connection)
        connection.execute("CREATE TABLE effects (key TEXT)")
    yield connection
    connection.close()


def effect(key: str = "a", body: bytes = b"1", ttl: float = DAY) -> Effect:
    return Effect("service", "handler", key, body, ttl)


def message(key: str | None, body: bytes = b"1") -> missive.RawMessage:
    return missive.RawMessage(body, headers={} if key is None else {"key": key})


def application(connection: Any, dead: Any = None) -> missive.Processor[missive.RawMessage]:
    proc = missive.Processor(name="service", dlq={} if dead is None else dead)

    @proc.handle_for(Everything(), name="handler", once=missive.Once(by_header("key"), form="transaction"))
    def handle(message: missive.RawMessage, context: missive.HandlingContext) -> None:
        with connection:
            if not context.claim(connection):
                return
            connection.execute("INSERT INTO effects VALUES (?)", (message.headers["key"],))
            if message.headers.get("fail"):
                raise ValueError("on purpose")

    return proc


def effects(connection: sqlite3.Connection) -> list[str]:
    return [key for (key,) in connection.execute("SELECT key FROM effects ORDER BY key")]


def test_a_duplicate_has_no_effect(connection: sqlite3.Connection):
    """A repeated message is acked as a duplicate. Another key has its own effect."""
    with application(connection).test_client() as client:
        first, second, third = (client.send(message(key)) for key in "aab")
    assert [(r.outcome, r.reason) for r in (first, second, third)] == [
        ("acked", None), ("acked", "duplicate"), ("acked", None),
    ]  # fmt: skip
    assert effects(connection) == ["a", "b"]


def test_a_failure_rolls_back_its_claim(connection: sqlite3.Connection):
    """The claim is rolled back with the effect, so that the message can run again."""
    failing = missive.RawMessage(b"1", headers={"key": "a", "fail": "yes"})
    with application(connection).test_client() as client:
        assert client.send(failing).reason == "failed"
        assert client.send(message("a")).reason is None
    assert effects(connection) == ["a"]


def test_each_item_of_a_batch_claims_its_effect(connection: sqlite3.Connection):
    """After a failure, the halves claim again the effects that were rolled back."""
    proc = missive.Processor(name="service", dlq={})
    once = missive.Once(by_header("key"), form="transaction")

    @proc.handle_batch_for(Everything(), name="handler", once=once)
    def handle(batch: missive.Batch[missive.RawMessage]) -> None:
        with connection:
            for context in batch:
                if context.claim(connection):
                    connection.execute("INSERT INTO effects VALUES (?)", (context.message.headers["key"],))
                if context.message.headers["key"] == "bad":
                    raise ValueError("on purpose")

    with proc.test_client() as client:
        results = client.send_batch([message(key) for key in ("a", "b", "a", "bad", "c")])
    assert [result.reason for result in results] == [None, None, "duplicate", "failed", None]
    assert effects(connection) == ["a", "b", "c"]


def test_a_handler_with_leases_can_claim_in_a_transaction(connection: sqlite3.Connection):
    """Leases and transactional claims use the same key."""
    proc = missive.Processor(name="service", dlq={})

    @proc.handle_for(Everything(), name="handler", once=missive.Once(by_header("key")))
    def handle(message: missive.RawMessage, context: missive.HandlingContext) -> None:
        with connection:
            if context.claim(connection):
                connection.execute("INSERT INTO effects VALUES (?)", (message.headers["key"],))

    with connection:
        claim(connection, Effect("service", "handler", digest("known"), b"1", DAY))  # the lease was lost before the end
    with proc.test_client() as client:
        reasons = [client.send(message(key)).reason for key in ("new", "new", "known", "known")]
    assert reasons == [None, "duplicate", "duplicate", "duplicate"]
    assert effects(connection) == ["new"]


def test_a_batch_handler_cannot_use_leases():
    """A batch handler with the lease form raises an error that names the other form."""
    proc = missive.Processor(name="service")
    with pytest.raises(missive.RegistrationError, match=r"handler is a batch handler .* form='transaction'"):
        proc.add_batch_handler(Everything(), lambda batch: None, name="handler", once=missive.Once(by_header("key")))


def test_another_body_is_a_conflict(connection: sqlite3.Connection):
    """A known key with another body is a dead letter with the reason `conflict`, and has no effect."""
    dead: dict[str, Any] = {}
    with application(connection, dead).test_client() as client:
        client.send(message("a"))
        result = client.send(message("a", b"2"))
    assert (result.outcome, result.reason) == ("dead_lettered", "conflict")
    assert isinstance(result.exception, missive.OnceConflict)
    assert effects(connection) == ["a"]


def test_a_message_without_a_key_is_a_dead_letter(connection: sqlite3.Connection):
    """A message whose key is None does not run unprotected."""
    with application(connection).test_client() as client:
        result = client.send(message(None))
    assert (result.outcome, result.reason) == ("dead_lettered", "no once key")
    assert effects(connection) == []


def test_a_key_that_raises_is_a_failure(connection: sqlite3.Connection):
    """An exception of the key fails the message, and nothing is claimed."""
    proc = missive.Processor(name="service", dlq={})
    once = missive.Once(lambda message: message.headers["missing"], form="transaction")
    proc.add_handler(Everything(), lambda message, context: context.claim(connection), name="handler", once=once)
    with proc.test_client() as client:
        assert client.send(message("a")).reason == "failed"
    assert connection.execute("SELECT count(*) FROM missive_once").fetchone() == (0,)


def test_keys_belong_to_one_handler_and_service(connection: sqlite3.Connection):
    """The same key in another handler or service is another effect."""
    with connection:
        assert claim(connection, effect())
        assert claim(connection, effect()._replace(handler="HANDLER"))
        assert claim(connection, effect()._replace(service="other"))
        assert not claim(connection, effect())


def test_an_effect_is_remembered_for_its_ttl(connection: sqlite3.Connection):
    """After the ttl, the same key has an effect again, with any body."""
    with connection:
        assert claim(connection, effect(), lambda: 0)
        assert not claim(connection, effect(), lambda: DAY - 1)
        assert claim(connection, effect(body=b"2"), lambda: DAY)
        assert not claim(connection, effect(body=b"2"), lambda: DAY + 1)


def test_purge_deletes_expired_effects(connection: sqlite3.Connection):
    """`purge` deletes expired effects in portions, and no others."""
    with connection:
        for number in range(5):
            claim(connection, effect(str(number)), lambda: 0)
        claim(connection, effect("new"), lambda: DAY)
    assert [purge(connection, limit=3, clock=lambda: DAY) for _ in range(3)] == [3, 2, 0]
    assert not claim(connection, effect("new"), lambda: DAY)


def test_sqlalchemy_connections_and_sessions(connection: sqlite3.Connection, tmp_path: Path):
    """A Connection, a Session and a scoped session claim in their current transaction, or start one."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'business.db'}")
    sessions: Any = scoped_session(sessionmaker(engine))
    with engine.connect() as given:
        assert claim(given, effect("connection"))
        given.rollback()
    with engine.begin() as given:
        assert claim(given, effect("connection"))
    with Session(engine) as given, given.begin():
        assert not claim(given, effect("connection"))
        assert claim(given, effect("session"))
    with sessions.begin():
        assert not claim(sessions, effect("session"))
    sessions.remove()
    engine.dispose()
    assert connection.execute("SELECT count(*) FROM missive_once").fetchone() == (2,)


def test_sqlalchemy_creates_and_purges(tmp_path: Path):
    """`create_table` and `purge` accept connections of SQLAlchemy."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with engine.begin() as given:
        create_table(given)
        create_table(given)
        assert claim(given, effect(), lambda: 0)
        assert purge(given) == 1
    engine.dispose()


def test_autocommit_without_a_transaction_is_an_error(tmp_path: Path, connection: sqlite3.Connection):
    """A claim that is durable before its effect loses the effect in a crash; such a connection is an error."""
    path = tmp_path / "business.db"
    autocommitting = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(missive.UsageError, match="commits each statement"):
        claim(autocommitting, effect())
    autocommitting.execute("BEGIN")
    assert claim(autocommitting, effect())
    autocommitting.execute("ROLLBACK")
    autocommitting.close()
    engine = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with engine.connect() as given, pytest.raises(missive.UsageError, match="commits each statement"):
        claim(given, effect())
    engine.dispose()
    assert connection.execute("SELECT count(*) FROM missive_once").fetchone() == (0,)


def test_other_objects_are_errors(tmp_path: Path):
    """An engine without a transaction, and an object that is no connection, raise errors that name their types."""
    engine = sa.create_engine("sqlite://")
    with pytest.raises(missive.UsageError, match="a Engine of SQLAlchemy has no transaction"):
        claim(engine, effect())
    with pytest.raises(missive.UsageError, match="not with a str"):
        claim("business.db", effect())


def test_a_concurrent_duplicate_waits(tmp_path: Path, connection: sqlite3.Connection):
    """A claim waits for a transaction with the same claim, and returns False if that one commits."""
    for commits in (True, False):
        key = str(commits)
        assert claim(connection, effect(key))
        results: list[bool] = []

        def claim_again(key: str = key, results: list[bool] = results) -> None:
            other = sqlite3.connect(tmp_path / "business.db", timeout=20)
            with other:
                results.append(claim(other, effect(key)))
            other.close()

        waiting = threading.Thread(target=claim_again)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        if commits:
            connection.commit()
        else:
            connection.rollback()
        wait_until(lambda results=results: results, "the other claim")
        waiting.join()
        assert results == [not commits]
