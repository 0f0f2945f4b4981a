"""The transactional form: a claim is part of the transaction of its effect."""

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
    """A connection of the handler's own database."""
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


def test_the_second_time_there_is_no_effect(connection: sqlite3.Connection):
    """The same message again is acked as a duplicate; another key has an effect of its own."""
    with application(connection).test_client() as client:
        first, second, third = (client.send(message(key)) for key in "aab")
    assert [(r.outcome, r.reason) for r in (first, second, third)] == [
        ("acked", None), ("acked", "duplicate"), ("acked", None),
    ]  # fmt: skip
    assert effects(connection) == ["a", "b"]


def test_what_fails_has_claimed_nothing(connection: sqlite3.Connection):
    """The claim is rolled back with the effect, and so the message can be run again."""
    failing = missive.RawMessage(b"1", headers={"key": "a", "fail": "yes"})
    with application(connection).test_client() as client:
        assert client.send(failing).reason == "failed"
        assert client.send(message("a")).reason is None
    assert effects(connection) == ["a"]


def test_in_batches(connection: sqlite3.Connection):
    """Each item of a batch claims its own effect; after a failure the halves claim again what was rolled back."""
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


def test_leases_and_transactions_together(connection: sqlite3.Connection):
    """A handler whose effects are held by leases can claim them in its transaction too, by the same key."""
    proc = missive.Processor(name="service", dlq={})

    @proc.handle_for(Everything(), name="handler", once=missive.Once(by_header("key")))
    def handle(message: missive.RawMessage, context: missive.HandlingContext) -> None:
        with connection:
            if context.claim(connection):
                connection.execute("INSERT INTO effects VALUES (?)", (message.headers["key"],))

    with connection:
        claim(connection, Effect("service", "handler", digest("known"), b"1", DAY))  # its lease was lost before the end
    with proc.test_client() as client:
        reasons = [client.send(message(key)).reason for key in ("new", "new", "known", "known")]
    assert reasons == [None, "duplicate", "duplicate", "duplicate"]
    assert effects(connection) == ["new"]


def test_batches_have_no_leases():
    """The lease form is of single messages: a batch handler with it is refused, with the way out."""
    proc = missive.Processor(name="service")
    with pytest.raises(missive.RegistrationError, match=r"handler is a batch handler .* form='transaction'"):
        proc.add_batch_handler(Everything(), lambda batch: None, name="handler", once=missive.Once(by_header("key")))


def test_another_body_is_a_conflict(connection: sqlite3.Connection):
    """A key that comes with another body is a dead letter with a reason of its own, and no effect."""
    dead: dict[str, Any] = {}
    with application(connection, dead).test_client() as client:
        client.send(message("a"))
        result = client.send(message("a", b"2"))
    assert (result.outcome, result.reason) == ("dead_lettered", "conflict")
    assert isinstance(result.exception, missive.OnceConflict)
    assert effects(connection) == ["a"]


def test_no_key_is_a_dead_letter(connection: sqlite3.Connection):
    """What cannot be told from others is not run unprotected."""
    with application(connection).test_client() as client:
        result = client.send(message(None))
    assert (result.outcome, result.reason) == ("dead_lettered", "no once key")
    assert effects(connection) == []


def test_a_key_that_raises_is_a_failure(connection: sqlite3.Connection):
    """The exception of a key is the handler's own, and nothing is claimed."""
    proc = missive.Processor(name="service", dlq={})
    once = missive.Once(lambda message: message.headers["missing"], form="transaction")
    proc.add_handler(Everything(), lambda message, context: context.claim(connection), name="handler", once=once)
    with proc.test_client() as client:
        assert client.send(message("a")).reason == "failed"
    assert connection.execute("SELECT count(*) FROM missive_once").fetchone() == (0,)


def test_keys_are_of_one_handler_and_service(connection: sqlite3.Connection):
    """The same key of another handler, or of another service, is another effect."""
    with connection:
        assert claim(connection, effect())
        assert claim(connection, effect()._replace(handler="HANDLER"))
        assert claim(connection, effect()._replace(service="other"))
        assert not claim(connection, effect())


def test_it_is_remembered_for_the_ttl(connection: sqlite3.Connection):
    """After the ttl the same key has an effect again, whatever its body."""
    with connection:
        assert claim(connection, effect(), lambda: 0)
        assert not claim(connection, effect(), lambda: DAY - 1)
        assert claim(connection, effect(body=b"2"), lambda: DAY)
        assert not claim(connection, effect(body=b"2"), lambda: DAY + 1)


def test_purging(connection: sqlite3.Connection):
    """What is not remembered any more is deleted on request, in portions; what is remembered stays."""
    with connection:
        for number in range(5):
            claim(connection, effect(str(number)), lambda: 0)
        claim(connection, effect("new"), lambda: DAY)
    assert [purge(connection, limit=3, clock=lambda: DAY) for _ in range(3)] == [3, 2, 0]
    assert not claim(connection, effect("new"), lambda: DAY)


def test_sqlalchemy_connections_and_sessions(connection: sqlite3.Connection, tmp_path: Path):
    """A Connection, a Session and a scoped one claim in the transaction that they have, or begin."""
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
    """The helpers take SQLAlchemy's connections too."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with engine.begin() as given:
        create_table(given)
        create_table(given)
        assert claim(given, effect(), lambda: 0)
        assert purge(given) == 1
    engine.dispose()


def test_what_commits_by_itself_is_refused(tmp_path: Path, connection: sqlite3.Connection):
    """A claim that were durable before its effect would lose it in a crash: autocommit without BEGIN is an error."""
    path = tmp_path / "business.db"
    by_itself = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(missive.UsageError, match="commits each statement"):
        claim(by_itself, effect())
    by_itself.execute("BEGIN")
    assert claim(by_itself, effect())
    by_itself.execute("ROLLBACK")
    by_itself.close()
    engine = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with engine.connect() as given, pytest.raises(missive.UsageError, match="commits each statement"):
        claim(given, effect())
    engine.dispose()
    assert connection.execute("SELECT count(*) FROM missive_once").fetchone() == (0,)


def test_what_is_no_connection_is_refused(tmp_path: Path):
    """An engine has no transaction, a cursor and a path are no connections: each is named."""
    engine = sa.create_engine("sqlite://")
    with pytest.raises(missive.UsageError, match="a Engine of SQLAlchemy has no transaction"):
        claim(engine, effect())
    with pytest.raises(missive.UsageError, match="not with a str"):
        claim("business.db", effect())


def test_a_concurrent_duplicate_waits(tmp_path: Path, connection: sqlite3.Connection):
    """While one transaction has a claim, the same one elsewhere waits, and is told what became of it."""
    for commits in (True, False):
        key = str(commits)
        assert claim(connection, effect(key))
        answers: list[bool] = []

        def ask(key: str = key, answers: list[bool] = answers) -> None:
            other = sqlite3.connect(tmp_path / "business.db", timeout=20)
            with other:
                answers.append(claim(other, effect(key)))
            other.close()

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        if commits:
            connection.commit()
        else:
            connection.rollback()
        wait_until(lambda answers=answers: answers, "the other's answer")
        asking.join()
        assert answers == [not commits]
