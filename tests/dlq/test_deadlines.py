"""Deadlines of stores: a server that stops answering without closing the connection fails the call in time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from missive.dlq import Query, Status, Store, open_store
from missive.dlq.redis import database as redis_database
from missive.dlq.redis import store as redis_store
from missive.dlq.sql import dialects
from missive.errors import StoreError
from missive.testing.conformance.proxy import Fault, FaultProxy
from tests.support.stores import REDIS, SERVERS, on_servers, record

SECONDS = 0.5
IN_TIME = 10.0
"""A call takes a few times its deadline, on a busy machine. Without a deadline, it takes for ever."""

CALLS: dict[str, Callable[[Store], object]] = {
    "count": lambda store: store.count(Query()),
    "get": lambda store: store.get("a"),
    "query": lambda store: list(store.query(Query())),
    "groups": lambda store: store.groups(Query()),
    "put": lambda store: store.put([record()]),
    "import_": lambda store: store.import_([record()]),
    "lanes": lambda store: store.lanes("shop"),
    "next_due": lambda store: store.next_due("shop"),
    "lease_records": lambda store: store.lease_records("shop", "t", 1, 60.0),
    "extend_leases": lambda store: store.extend_leases(["a"], "t", 60.0),
    "resolve": lambda store: store.resolve(["a"], "t", Status.resolved, "me"),
    "release_records": lambda store: store.release_records(["a"], "t"),
    "discard": lambda store: store.discard(["a"], "me"),
    "expire": lambda store: store.expire(),
    "load_checkpoint": lambda store: store.load_checkpoint("shop", "a"),
    "save_checkpoint": lambda store: store.save_checkpoint("shop", "a", "1"),
    "attempts": lambda store: store.attempts("shop", ["a"]),
    "count_attempts": lambda store: store.count_attempts("shop", {"a": 1}),
    "replays": lambda store: store.replays(),
    "set_replay": lambda store: store.set_replay("r", "stopped"),
    "once_purge": lambda store: store.once_purge(),  # type: ignore[attr-defined]
}
"""A call of each verb, which reads or writes."""


@pytest.fixture(params=[*SERVERS, REDIS])
def server(request: pytest.FixtureRequest) -> Any:
    """Return each server."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxied(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultProxy, str]]:
    """Return a proxy in front of a server, and the URL of a new store behind it. Deadlines are short."""
    monkeypatch.setattr(redis_database, "_REPLY", SECONDS)
    monkeypatch.setattr(redis_database, "_CONNECT", SECONDS)
    monkeypatch.setattr(dialects, "BUSY_SECONDS", 2)  # the shortest of libpq
    url = str(server.store()) if hasattr(server, "store") else str(server.url(server.database()))
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy, url.replace(f":{server.port}/", f":{proxy.address[1]}/")


def test_every_call_has_a_deadline(proxied: tuple[FaultProxy, str]):
    """On a connection that drops everything, each verb raises `StoreError` in time. Afterwards it works again."""
    proxy, url = proxied
    with contextlib.closing(open_store(url)) as store:
        store.patience = SECONDS
        for name, call in CALLS.items():
            call(store)
            proxy.hang()
            proxy.set(Fault.refuse)  # so that the library does not wait for another connection
            began = time.monotonic()
            with pytest.raises(StoreError) as raised:
                call(store)
            assert time.monotonic() - began < IN_TIME, name
            assert raised.value.__cause__ is raised.value.__context__ is None
            proxy.set()
            call(store)


@on_servers
def test_a_locked_table(request: pytest.FixtureRequest, url: str):
    """A statement that waits for the lock of another client fails at its deadline."""
    scheme, _, rest = url.partition("://")
    server = request.getfixturevalue("postgres" if scheme == "postgresql" else "mariadb")
    with contextlib.closing(open_store(url)) as store:
        store.patience = SECONDS
        with contextlib.closing(server.connect(rest.rpartition("/")[2])) as blocker:
            lock = "LOCK TABLE missive_notes" if scheme == "postgresql" else "LOCK TABLES missive_notes WRITE"
            blocker.cursor().execute(lock)
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"cannot be read: it does not answer \(0\.5 s\)"):
                store.notes("a")
            assert time.monotonic() - began < IN_TIME
        assert store.notes("a") == []


def test_opening_a_store_has_a_deadline(proxied: tuple[FaultProxy, str]):
    """A store that does not answer cannot be opened, and the error says so."""
    proxy, url = proxied
    proxy.set(Fault.half_open)
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be opened: it does not answer"):
        open_store(url)
    assert time.monotonic() - began < IN_TIME


def test_a_suspended_server(server: Any, proxied: tuple[FaultProxy, str]):
    """A suspended server fails open connections and new ones in time. The store works when the server continues."""
    with contextlib.closing(open_store(proxied[1])) as store:
        store.patience = SECONDS
        store.put([record()])
        with suspended(server):
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(StoreError, match="does not answer"):
                    store.put([record()])
                assert time.monotonic() - began < IN_TIME
        assert store.count(Query()) >= 1
        store.put([record()])


@pytest.mark.redis
def test_a_given_client_without_a_timeout(redis: Any):
    """The requests of a given client without a timeout get one."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with FaultProxy("127.0.0.1", redis.port) as proxy:
        client = Redis(port=proxy.address[1], socket_timeout=None, retry=Retry(NoBackoff(), 0))
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.closing(client),
        ):
            patch.setattr(redis_database, "_REPLY", SECONDS)
            with contextlib.closing(redis_store.RedisStore(redis.store(), client=client)) as store:
                proxy.set(Fault.half_open)
                with pytest.raises(StoreError, match="does not answer"):
                    store.count(Query())
                assert client.connection_pool.connection_kwargs["socket_timeout"] is None


@contextlib.contextmanager
def suspended(server: Any) -> Iterator[None]:
    """Suspend a server and its child processes."""
    pid = server.pid if hasattr(server, "suspend") else server._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    every = [pid, *map(int, children)]
    for one in every:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in every:
            os.kill(one, signal.SIGCONT)
