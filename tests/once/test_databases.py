"""The transactional form in PostgreSQL and MariaDB, through their drivers and through SQLAlchemy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import missive
from missive.once import create_table, purge
from missive.once.table import Effect, aclaim, claim
from tests.conftest import wait_until

SERVERS = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


def effect(key: str = "a", body: bytes = b"1") -> Effect:
    return Effect("service", "handler", key, body, 1000.0)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Return a server, and the name of an empty database that has the table."""
    server = request.getfixturevalue(request.param)
    database = server.database()
    with contextlib.closing(server.connect(database)) as connection:
        create_table(connection)
        create_table(connection)
        connection.commit()
    return server, database


@pytest.fixture
def connect(server: tuple[Any, str]) -> Iterator[Callable[..., Any]]:
    """Return a function that connects to the database, and close the connections at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(server[0].connect(server[1], **options)))


@pytest.fixture
def url(server: tuple[Any, str]) -> str:
    """Return the URL of the database for SQLAlchemy."""
    scheme, _, rest = server[0].url(server[1]).partition("://")
    return f"{scheme}+{'psycopg' if scheme == 'postgresql' else 'pymysql'}://{rest}"


def test_an_effect_happens_once(connect: Callable[..., Any]):
    """A second claim returns False and another body raises, without ending the transaction."""
    connection = connect()
    assert claim(connection, effect())
    connection.rollback()
    assert claim(connection, effect())
    assert not claim(connection, effect())
    connection.commit()
    with pytest.raises(missive.OnceConflict):
        claim(connection, effect(body=b"2"))
    connection.cursor().execute("SELECT 1")
    assert claim(connection, effect()._replace(handler="HANDLER"))
    connection.commit()


def test_an_effect_is_remembered_for_its_ttl_and_purged(connect: Callable[..., Any]):
    """After the ttl, the key has an effect again, and `purge` deletes expired effects in portions."""
    connection = connect()
    assert claim(connection, effect(), lambda: 0)
    assert not claim(connection, effect(), lambda: 999)
    assert claim(connection, effect(body=b"2"), lambda: 1000)
    claim(connection, effect("b"), lambda: 0)
    claim(connection, effect("c"), lambda: 0)
    assert [purge(connection, limit=1, clock=lambda: 1500) for _ in range(3)] == [1, 1, 0]
    connection.commit()


@pytest.mark.parametrize("commits", [True, False])
def test_a_concurrent_duplicate_waits(connect: Callable[..., Any], commits: bool):
    """A claim waits for a transaction with the same claim, also if its own transaction started earlier."""
    first, second = connect(), connect()
    second.cursor().execute("SELECT count(*) FROM missive_once")  # MariaDB takes its snapshot here
    assert claim(first, effect())
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(claim(second, effect())))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    if commits:
        first.commit()
    else:
        first.rollback()
    wait_until(lambda: results, "the other claim")
    waiting.join()
    assert results == [not commits]
    second.rollback()


def test_autocommit_without_a_transaction_is_an_error(connect: Callable[..., Any], url: str):
    """With autocommit and no transaction, a claim is an error and inserts no row."""
    autocommitting = connect(autocommit=True)
    with pytest.raises(missive.UsageError, match="commits each statement"):
        claim(autocommitting, effect())
    autocommitting.cursor().execute("BEGIN")
    assert claim(autocommitting, effect())
    autocommitting.rollback()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(missive.UsageError, match="commits each statement"):
        claim(connection, effect())
    engine.dispose()
    connection = connect()
    assert claim(connection, effect())
    connection.rollback()


def test_sqlalchemy_connections_and_sessions(url: str):
    """A Connection and a Session claim in their transactions."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        assert claim(connection, effect())
    with Session(engine) as session, session.begin():
        assert not claim(session, effect())
        assert claim(session, effect("b"))
    engine.dispose()


@pytest.mark.postgres
def test_psycopg_async_connections(postgres: Any):
    """An AsyncConnection needs `aclaim`, and a Connection `claim`; each error names the other method."""
    import psycopg

    dsn = postgres.url(postgres.database())

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            with psycopg.connect(dsn) as other:
                create_table(other)
                other.commit()
                with pytest.raises(missive.UsageError, match=r"is not asynchronous. Use context\.claim"):
                    await aclaim(other, effect())
            assert await aclaim(connection, effect())
            assert not await aclaim(connection, effect())
            with pytest.raises(missive.UsageError, match=r"await context\.aclaim"):
                claim(connection, effect())

    asyncio.run(main())


@pytest.mark.postgres
def test_sqlalchemy_async_connections_and_sessions(postgres: Any):
    """An async handler claims with an AsyncConnection or AsyncSession of SQLAlchemy."""
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    url = postgres.url(postgres.database()).replace("postgresql", "postgresql+psycopg")
    proc = missive.Processor(name="service")
    once = missive.Once(lambda message: message.headers["key"], form="transaction")
    engines: list[Any] = []

    @proc.handle_for(lambda message: True, name="handler", once=once)
    async def handle(message: missive.RawMessage, context: missive.HandlingContext) -> None:
        async with AsyncSession(engines[0]) as session, session.begin():
            await context.aclaim(session)

    async def main() -> list[str | None]:
        engines.append(create_async_engine(url))
        async with engines[0].begin() as connection:
            await connection.run_sync(create_table)
            assert await aclaim(connection, effect())
            with pytest.raises(missive.UsageError, match=r"await context\.aclaim"):
                claim(connection, effect())
        async with proc.test_client() as client:
            message = missive.RawMessage(b"1", headers={"key": "a"})
            reasons = [(await client.send(message)).reason for _ in range(2)]
        await engines[0].dispose()
        return reasons

    assert asyncio.run(main()) == [None, "duplicate"]


def test_a_closed_connection_is_an_error_that_names_the_way_out(server: tuple[Any, str]):
    """`with connection:` of psycopg and pymysql closes the connection. The next claim says so."""
    with server[0].connect(server[1]) as connection:
        assert claim(connection, effect())
    with pytest.raises(missive.UsageError, match=r"closes it at its end; use .*(\.transaction\(\)|\.commit\(\))"):
        claim(connection, effect())


def test_many_create_the_table_at_once(server: tuple[Any, str]):
    """Eight workers that create the table at the same time all succeed."""
    database = server[0].database()
    barrier = threading.Barrier(8)

    def create() -> None:
        with contextlib.closing(server[0].connect(database)) as connection:
            barrier.wait()
            create_table(connection)
            connection.commit()

    with ThreadPoolExecutor(8) as pool:
        for created in [pool.submit(create) for _ in range(8)]:
            created.result(30)


@pytest.mark.postgres
def test_the_documented_example_of_psycopg(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example of the page handles a message once, several times over one worker connection."""
    import psycopg

    page = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text(encoding="utf-8")
    (example,) = [
        block for block in re.findall(r"```python no-run\n(.*?)```", page, re.DOTALL) if "psycopg.conn" in block
    ]
    dsn = postgres.url(postgres.database())
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE charges (id TEXT, cents INTEGER)")
    monkeypatch.setenv("BILLING_DATABASE", dsn)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(example, namespace)
    charge = [missive.JSONMessage.of({"type": "charge", "id": "c-1", "cents": cents}) for cents in (250, 250, 999)]
    with namespace["billing"].test_client() as client:
        assert [client.send(message).reason for message in charge] == [None, "duplicate", "conflict"]
        assert client.send(missive.JSONMessage.of({"type": "charge", "id": "c-2", "cents": 1})).reason is None
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT * FROM charges ORDER BY id").fetchall() == [("c-1", 250), ("c-2", 1)]
