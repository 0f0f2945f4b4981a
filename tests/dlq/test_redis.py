"""The Redis store: its own behaviour, and its equality with the SQL store."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis.connection import Connection
from redis.exceptions import ConnectionError  # noqa: A004 - Redis's own

from missive.dlq import Query, Record, RecordLease, Replay, Status, open_store
from missive.dlq.once import ClaimRequest
from missive.dlq.redis import RedisStore, replays
from missive.dlq.redis.database import SCHEMA_VERSION
from missive.dlq.rows import to_json
from missive.dlq.sql import SQLStore
from missive.errors import StoreConflict, StoreError, StoreRefused, UsageError
from tests.support.redis import RedisServer
from tests.support.redis_store import check, indexes
from tests.support.stores import Clock, parked, record

pytestmark = pytest.mark.redis
DAY = 86400.0
SECRET = "hunter2"


@pytest.fixture
def store(redis: RedisServer, clock: Clock) -> Iterator[RedisStore]:
    with contextlib.closing(RedisStore(redis.store(), clock=clock)) as opened:
        yield opened
        check(opened)


# The same calls on both stores


def shown(answer: Any) -> Any:
    """Return an answer in a form that shows differences."""
    if isinstance(answer, Record):
        return to_json(answer)
    if isinstance(answer, list):
        return [shown(one) for one in answer]
    return (shown(answer.record), answer.token) if isinstance(answer, RecordLease) else answer


class Both:
    """Two stores that receive the same calls: their answers and their final contents must be equal."""

    def __init__(self, redis: RedisStore, sql: SQLStore, clock: Clock, seed: int) -> None:
        self.stores, self.clock, self.random = (redis, sql), clock, Random(seed)
        self.ids: list[str] = []
        self.replays: list[str] = []
        self.leased: dict[str, list[str]] = {}

    def do(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of both stores, and compare the answers."""
        answers = []
        for store in self.stores:
            try:
                answer = getattr(store, verb)(*arguments, **named)
            except StoreConflict:
                answer = "conflict"
            answers.append(list(answer) if verb == "query" else answer)
        assert shown(answers[0]) == shown(answers[1]), (verb, arguments)
        return answers[0]

    def some(self, most: int = 4) -> list[str]:
        """Return some ids. Sometimes one of them belongs to no record."""
        ids = self.random.sample(self.ids, min(len(self.ids), self.random.randint(0, most)))
        return [*ids, "nobody"] if self.random.random() < 0.1 else ids

    def new(self) -> Record:
        """Return a new failure: of a new message, of an earlier one, or of a parked one."""
        chance, now = self.random, self.clock.now
        changes: dict[str, object] = {
            "id": f"{len(self.ids):06}",
            "service": chance.choice(["shop", "till"]),
            "fingerprint": chance.choice("abc") * 16,
            "handler": chance.choice([None, "one", "two"]),
            "error_type": chance.choice([None, "KeyError"]),
            "first_at": now,
            "last_at": now,
            "identity": chance.choice([None, "i", "j", "k"]),
            "may_join": chance.random() < 0.5,
        }
        if chance.random() < 0.3:
            changes |= {"status": Status.parked, "due": chance.choice([None, now - 5, now + 5])}
            changes["lane"] = chance.choice([None, "x", "y"])
        self.ids.append(str(changes["id"]))
        return record(**changes)

    def failed(self, token: str) -> Record | None:
        """Return a new failure of a record that a worker leased, or believes to have leased."""
        ids = self.leased.get(token, [])
        there = self.stores[0].get(self.random.choice(ids)) if ids else None
        if there is None:
            return None
        now, park = self.clock.now, self.random.random() < 0.5
        status, lane = (Status.parked, self.random.choice([None, "x"])) if park else (Status.dead, None)
        return replace(there, status=status, last_at=now, lease_token=token, lane=lane, due=now + 3 if park else None)

    def step(self) -> None:
        """Take a random step. Some steps are more frequent."""
        self.clock.now += self.random.choice([0, 0.25, 1, 7, DAY])
        token = self.random.choice(["t1", "t2"])
        often = [
            self.put,
            self.put,
            self.put,
            self.fail,
            self.lease,
            self.lease,
            self.start,
            self.continue_replay,
            self.advance,
        ]
        self.random.choice([*often, self.settle, self.settle, self.change, self.change, self.delete, self.edit])(token)

    def put(self, _: str) -> None:
        """Put some records, or import some, one of them with an id that may exist."""
        if self.random.random() < 0.8:
            self.do("put", [self.new() for _ in range(self.random.randint(1, 4))])
        else:
            self.do(
                "import_", [replace(self.new(), may_join=False), replace(self.new(), id=self.random.choice(self.ids))]
            )

    def fail(self, token: str) -> None:
        """Put another failure of a leased record."""
        if (one := self.failed(token)) is not None:
            self.do("put", [one])

    def lease(self, token: str) -> None:
        """Lease some records of a service."""
        service = self.random.choice(["shop", "till"])
        leases = self.do("lease_records", service, token, self.random.randint(1, 4), 10.0)
        self.leased.setdefault(token, []).extend(lease.record.id for lease in leases)

    def settle(self, token: str) -> None:
        """Resolve, extend or release all records that the token ever leased."""
        chance, mine = self.random, self.leased.get(token, [])
        verb, more = chance.choice(
            [
                ("resolve", (chance.choice([Status.resolved, Status.discarded]), "me", "why")),
                ("extend_leases", (chance.choice([5.0, 20.0]),)),
                ("release_records", (chance.choice([None, 3.5]),)),
            ]
        )
        self.do(verb, mine, token, *more)

    def change(self, _: str) -> None:
        """Change records as an operator."""
        verb, *more = self.random.choice([("discard", "me", "why"), ("restore", "me"), ("note", "me", "text")])
        self.do(verb, self.some(), *more)

    def start(self, _: str) -> None:
        """Start a replay of some records."""
        self.replays.append(f"r{len(self.replays):03}")
        paced = self.random.choice([{}, {"canary": 1}, {"rate": "2/s"}, {"until_failures": 2}])
        self.do("start_replay", Replay(self.replays[-1], "me", "words", **paced), self.some(10))

    def continue_replay(self, _: str) -> None:
        """Queue records of a replay, or set its status."""
        if self.replays:
            one, status = self.random.choice(self.replays), self.random.choice(["running", "stopped", "cancelled"])
            moves = [("queue_remaining", one), ("queue_remaining", one, 1), ("set_replay", one, status)]
            self.do(*self.random.choice(moves))

    def advance(self, _: str) -> None:
        """Advance all replays."""
        self.do("advance")

    def delete(self, _: str) -> None:
        """Delete expired records, or purge some."""
        statuses = self.random.choice([(), (Status.dead, Status.queued)])
        some = Query(statuses=statuses, ids=("x", *self.some()))
        self.do(*self.random.choice([("purge", some), ("expire", 2)]))

    def edit(self, _: str) -> None:
        """Edit a message."""
        if (there := self.stores[0].get(self.random.choice(self.ids or ["none"]))) is not None:
            made = replace(self.new(), status=Status.dead, lane=None, due=None, edited_from=there.id, identity=None)
            self.do("edit", there.id, there.version - self.random.choice([0, 0, 1]), made, "me")

    def compare(self) -> None:
        """Compare the answers to all queries."""
        dead, chance = (Status.dead,), self.random
        of_groups = [Query(), Query(service="shop", statuses=dead), Query(group="a" * 16), Query(handler="one")]
        of_groups.append(Query(error="KeyError", without=(Query(handler="two"), Query(statuses=dead))))
        others = [Query(replay=one) for one in self.replays[-2:]] + [Query(min_attempts=2), Query(topic="none")]
        others += [Query(last_after=self.clock.now - 5), Query(last_before=self.clock.now - 5, statuses=dead)]
        moments = [one.last_at for one in self.stores[0].query(Query(), limit=1, offset=1)]
        others += [Query(last_after=at) for at in moments] + [Query(last_before=at, handler="one") for at in moments]
        others += [Query(ids=tuple(self.some())), Query(text=("KEY",)), Query(source="memory:m", max_attempts=1)]
        others.append(Query(service="till", without=(Query(min_attempts=2), Query(first_after=self.clock.now - 9))))
        for query in [*of_groups, *others]:
            for verb in ("query", "ids", "services", "count", "groups"):
                self.do(verb, query)
            self.do("query", query, limit=chance.randint(0, 4), offset=chance.randint(0, 4))
        self.do("groups", Query(), limit=2, offset=1)
        self.do("replays", limit=3)
        for service in ("shop", "till"):
            self.do("stats", service)
            self.do("lanes", service)
            self.do("next_due", service)
        for one in self.some():
            self.do("notes", one)


@pytest.mark.parametrize("seed", range(2))
def test_both_stores_give_the_same_answers(
    redis: RedisServer, tmp_path: Path, clock: Clock, seed: int, request: pytest.FixtureRequest
):
    """After any sequence of calls, the Redis store answers like the SQL store, and its indexes are right."""
    rounds = 100 if request.config.getoption("--deep") else 4
    clock.now = 1_800_000_000.123
    with (
        contextlib.closing(RedisStore(redis.store(), clock=clock)) as one,
        contextlib.closing(SQLStore(f"sqlite:///{tmp_path}/dlq.db", clock=clock)) as other,
    ):
        both = Both(one, other, clock, seed)
        for _ in range(rounds):
            for _ in range(20):
                both.step()
            both.compare()
            check(one)


def test_several_clients_that_put_one_redelivery_make_one_record(redis: RedisServer, clock: Clock):
    """Four clients put the same redeliveries concurrently: one record each, with all of the history."""
    url = redis.store()
    barrier, every = threading.Barrier(4), [f"i{n}" for n in range(40)]

    def file() -> None:
        with contextlib.closing(RedisStore(url, clock=clock)) as one:
            for identity in every:
                barrier.wait(30)
                one.put([record(identity=identity, may_join=True), record(identity=f"{identity}'", may_join=True)])

    threads = [threading.Thread(target=file) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with contextlib.closing(RedisStore(url, clock=clock)) as store:
        assert [one.attempts for one in store.query(Query())] == [4] * 80
        assert store.count(Query()) == 80
        check(store)


def test_several_workers_queue_no_more_than_the_rate(redis: RedisServer, clock: Clock):
    """Workers that advance a replay concurrently queue no more records than the rate allows."""
    url = redis.store()
    stores = [RedisStore(url, clock=clock) for _ in range(4)]
    stores[0].put([record() for _ in range(100)])
    stores[0].start_replay(Replay("r", "me", "words", rate="10/s"), stores[0].ids(Query()))
    for _ in range(3):
        clock.now += 1
        threads = [threading.Thread(target=one.advance) for one in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    (replay,) = stores[0].replays("r")
    assert (replay.queued, replay.left) == (31, 69)  # one at the start, and ten a second
    for one in stores:
        one.close()


def meanwhile(monkeypatch: pytest.MonkeyPatch, target: object, name: str, act: Callable[[], object]) -> None:
    """Call `act` before the first call of a function."""
    done, there = [], getattr(target, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(act)
            act()
        return there(*arguments, **named)

    monkeypatch.setattr(target, name, call)


def test_a_step_is_computed_again_if_the_replay_has_changed(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, clock: Clock
):
    """The step of another worker counts, and the rate holds."""
    store.put([record() for _ in range(40)])
    store.start_replay(Replay("r1", "me", "words", rate="10/s"), store.ids(Query()))
    meanwhile(monkeypatch, replays, "pace", store.advance)
    store.advance()
    assert store.replays("r1")[0].queued == 11


def test_purge_keeps_a_record_that_has_changed(store: RedisStore, monkeypatch: pytest.MonkeyPatch):
    """A record that was restored and discarded since the selection stays, although its status is the same."""
    store.put([record(id="a")])
    store.discard(["a"], "me")
    run = store._run

    def late(script: str, *arguments: Any) -> Any:
        if script == "delete":
            monkeypatch.undo()
            store.restore(["a"], "other")
            store.discard(["a"], "other")
        return run(script, *arguments)

    monkeypatch.setattr(store, "_run", late)
    assert store.purge(Query()) == 0
    assert store.purge(Query()) == 1


def test_purge_keeps_a_claim_that_was_taken_again(store: RedisStore, monkeypatch: pytest.MonkeyPatch, clock: Clock):
    """A claim that an owner takes again during the purge of expired claims stays."""
    asked = ClaimRequest("handler", "1" * 64, "a" * 64)
    store.once_begin("app", [asked], "me", 60.0, 100.0)
    store.once_done("app", [asked.effect], "me", 100.0)
    clock.now += 101
    replaced = store._replace

    def late(*arguments: Any) -> None:
        monkeypatch.undo()
        store.once_begin("app", [asked], "other", 60.0, 100.0)
        replaced(*arguments)

    monkeypatch.setattr(store, "_replace", late)
    assert store.once_purge() == 0
    assert [str(one.state) for one in store.once_begin("app", [asked], "me", 60.0, 100.0)] == ["busy"]


def test_a_command_is_never_sent_twice(store: RedisStore, monkeypatch: pytest.MonkeyPatch):
    """A connection that breaks before the reply raises an error, because the server may have run the command."""
    kept = record()
    asked = []
    there = Connection.read_response

    def broken(connection: Connection, *arguments: Any, **named: Any) -> Any:
        answer = there(connection, *arguments, **named)
        if not asked and answer == 1:  # the reply of the script of put
            asked.append(answer)
            raise ConnectionError
        return answer

    monkeypatch.setattr(Connection, "read_response", broken)
    with pytest.raises(StoreError, match="it cannot be reached"):
        store.put([kept])
    assert store.get(kept.id) == kept


def test_workers_lease_a_replay_only_after_its_command(store: RedisStore, clock: Clock):
    """Workers lease records of a replay only while no command runs them."""
    kept = [record(id=one) for one in "abc"]
    store.put(kept)
    store.start_replay(Replay("r", "me", "words", by_command=True), [one.id for one in kept])
    assert store.queue_remaining("r", 2) == 2
    assert (store.lease_records("shop", "w", 9, 60), store.next_due("shop")) == ([], None)
    assert len(store.lease_records("shop", "c", 1, 60, "r")) == 1
    store.set_replay("r", "running", by_command=False)
    check(store)
    assert [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)] == [kept[1].id]
    assert store.next_due("shop") == clock.now + 60
    store.set_replay("r", "running", by_command=True)
    assert store.next_due("shop") is None
    store.set_replay("r", "stopped")
    clock.now += 60
    assert store.lease_records("shop", "w", 9, 60) == []
    assert {str(one.status) for one in store.query(Query())} == {"dead"}


def test_a_replay_of_thousands_is_one_replay(store: RedisStore):
    """A large replay is queued in the order of ids, and counted. Thousands of records are discarded in one call."""
    kept = [record(id=f"{n:06}", fingerprint=f"{n % 150:016}") for n in range(2500)]
    store.put(kept)
    assert store.start_replay(Replay("r", "me", "words"), [one.id for one in kept]) == 2500
    assert store.queue_remaining("r", 700) == 700
    first = [lease.record.id for lease in store.lease_records("shop", "t", 3, 60)]
    assert first == ["000000", "000001", "000002"]
    assert store.release_records(first, "t") == set(first)
    assert store.queue_remaining("r") == 1800
    (replay,) = store.replays()
    assert (replay.total, replay.queued, replay.left) == (2500, 2500, 0)
    store.set_replay("r", "stopped")
    (replay,) = store.replays()
    assert (replay.total, replay.queued, replay.left) == (2500, 0, 2500)
    # More groups than a query merges.
    found = [one.id for one in store.query(Query(service="shop", statuses=(Status.dead,)), limit=1200, offset=100)]
    assert found == [f"{n:06}" for n in range(2399, 1199, -1)]
    assert len(store.groups(Query(), limit=20)) == 20
    assert store.discard([one.id for one in kept], "me") == 2500
    assert [store.purge(Query()), store.purge(Query()), store.purge(Query())] == [1000, 1000, 500]
    there, _ = indexes(store)
    assert there == {}


# Servers and URLs


def test_a_newer_schema_is_refused(redis: RedisServer):
    """An older Missive does not touch the store of a newer one. A command that only reads makes no store."""
    url = redis.store()
    with pytest.raises(UsageError, match="there is no dead letter store redis://"):
        open_store(url, create=False)
    with contextlib.closing(RedisStore(url)) as store:
        store._client.set(store._key("schema"), SCHEMA_VERSION + 1)
    with pytest.raises(StoreRefused, match="upgrade Missive"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "names no host"),
        ("redis://h/dlq", "the path must be the number of a database"),
        ("redis://h/0?prefix=", "prefix= must be a printable word"),
        ("redis://h/0?prefix=a{b}", "prefix= must be a printable word"),
        ("redis://h/0?prefx=a", "there is no parameter prefx"),
        ("redis://h/0?keep_resolved=soon", "keep_resolved is a duration"),
        ("redis://u:hunter2@h:port/0", "has no valid host and port"),
        ("redis://u:hunter2@[h/0", "cannot be read"),
    ],
)
def test_a_faulty_url_is_refused(url: str, said: str):
    """The error is one line, with the remedy and without the password."""
    with pytest.raises(UsageError, match=re.escape(said)) as raised:
        open_store(url)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_stores_with_prefixes_share_a_server(redis: RedisServer):
    """Two stores in one database have separate records, and their keys begin with their prefix."""
    with contextlib.closing(RedisStore(redis.store())) as one, contextlib.closing(RedisStore(redis.store())) as other:
        one.put([record(id="a")])
        assert (one.count(Query()), other.count(Query()), other.get("a")) == (1, 0, None)


def test_no_key_contains_content(store: RedisStore, redis: RedisServer):
    """The names of keys contain nothing of a message, and nothing that an operator wrote."""
    odd = record(
        body=b"hunter2", key="hunter2", identity="hunter2", topic="hunter2", label="hunter2", handler="hunter2"
    )
    store.put([odd, parked(None, "lane", message_id="hunter2", service="hunter2")])
    store.note([odd.id], "hunter2", "hunter2")
    store.save_checkpoint("hunter2", "hunter2", "hunter2")
    store.count_attempts("hunter2", {"hunter2": 1})
    assert not list(store._client.scan_iter("*hunter2*"))
    names = {key.partition(b"}:")[2].partition(b":")[0] for key in store._client.scan_iter(f"{store._prefix}:*")}
    assert {b"r", b"status", b"bucket", b"lane", b"ready", b"notes", b"checkpoints", b"attempts"} <= names


def test_text_is_read_back_equal(store: RedisStore):
    """NUL, lone surrogates and long names are stored unchanged, and found."""
    odd = record(detail="a\0b\ud800", message_id="\0", handler="h" * 300, public={"a": ["\xc9t\xe9"]}, body=b"")
    store.put([odd])
    assert store.get(odd.id) == odd
    assert store.ids(Query(handler=odd.handler, text=("\xe9T\xc9",))) == [odd.id]
    store.discard([odd.id], "a\ud800", "b\ud800")
    assert (store.get(odd.id).closed_by, store.get(odd.id).closed_why) == ("a\\ud800", "b\\ud800")


def test_a_given_client_is_used_and_left_open(redis: RedisServer):
    """A client that decodes replies is refused."""
    with redis.client() as client:
        with contextlib.closing(RedisStore(redis.store(), client=client)) as store:
            store.put([record()])
            assert store.count(Query()) == 1
        assert client.ping()
    with redis.client(decode_responses=True) as client, pytest.raises(UsageError, match="without decode_responses"):
        RedisStore(redis.store(), client=client)


def test_an_error_holds_no_content(redis: RedisServer):
    """The error has the server's code, without its message and without a chained exception."""
    with contextlib.closing(RedisStore(redis.store())) as store:
        store._client.set(store._key("status:dead"), SECRET)
        with pytest.raises(StoreError, match=r"cannot be written: the server answered WRONGTYPE$") as raised:
            store.put([record(body=SECRET.encode(), detail=SECRET)])
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_users_passwords_and_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A wrong password or a missing permission is one line. A server without an append-only file causes a warning."""
    options = "--appendonly no --maxmemory-policy allkeys-lru --user default on >hunter2 ~* &* +@all"
    reader = "--user reader on >hunter2 ~* +@read +@connection"
    with RedisServer(tmp_path / "redis", *options.split(), *reader.split()) as server:
        with pytest.raises(StoreError, match=r"^the dead letter store redis://127.0.0.1.* opened: it refuses the user"):
            open_store(server.store("default:hunter3@"))
        with pytest.raises(StoreError, match="cannot be opened: the user lacks a permission"):
            open_store(server.store("reader:hunter2@"))
        with contextlib.closing(open_store(server.store("default:hunter2@"))) as store:
            store.put([record()])
        said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert len(said) == 2
        assert "no append-only file" in said[0]
        assert "allkeys-lru may evict" in said[1]
        assert "hunter2" not in "".join(said)
    with pytest.raises(StoreError, match="it cannot be reached"):
        open_store(server.store("default:hunter2@"))


@pytest.mark.openssl
def test_tls(tmp_path: Path):
    """`rediss://` connects to a server with a trusted certificate, and sends nothing to another one."""
    with RedisServer(tmp_path / "redis", tls=True) as server:
        with contextlib.closing(open_store(server.store(ca_file=server.certificate))) as store:
            store.put([record()])
            assert store.count(Query()) == 1
        with pytest.raises(StoreError, match="it cannot be reached"):
            open_store(server.store())


def test_records_survive_the_death_of_the_server(tmp_path: Path, clock: Clock):
    """Stored records survive SIGKILL at any moment, and are complete. `put` fails until the server is back."""
    chance, returned = Random(), list[str]()
    with (
        RedisServer(tmp_path / "redis") as server,
        contextlib.closing(RedisStore(server.store(), clock=clock)) as store,
    ):
        for _ in range(3):
            killer = threading.Timer(chance.uniform(0, 0.02), server.kill)
            enough = len(returned) + chance.randint(20, 100)
            with contextlib.suppress(StoreError):
                while True:
                    some = [record(lane="x", status=Status.parked), record(identity="i", may_join=True), record()]
                    store.put(some)
                    returned += [some[0].id, some[2].id]
                    if len(returned) >= enough and killer.ident is None:
                        killer.start()  # at any moment of the calls below
                    ids = [lease.record.id for lease in store.lease_records("shop", "t", 2, 60.0)]
                    store.resolve(ids, "t", Status.resolved, "me")
            killer.join()
            with pytest.raises(StoreError):
                store.put([record()])
            server.start()
            assert set(returned) <= set(store.ids(Query()))
            check(store)
    assert len(returned) >= 60


@pytest.mark.parametrize("cut", [3, 100, 300])
def test_an_unfinished_change_in_the_file_is_removed(tmp_path: Path, clock: Clock, cut: int):
    """A server killed during a change is consistent, also after the next kill, if its file was rewritten."""
    with (
        RedisServer(tmp_path / "redis") as server,
        contextlib.closing(RedisStore(server.store(), clock=clock)) as store,
    ):
        (file,) = (tmp_path / "redis").glob("appendonlydir/*.incr.aof")
        kept = parked(None, "x")
        store.put([kept])
        before = file.stat().st_size
        store.put([parked(None, "x")])
        server.kill()
        os.truncate(file, file.stat().st_size - cut)
        assert file.stat().st_size > before
        server.start()
        assert store.ids(Query()) == [kept.id]
        check(store)
        later = record()
        store.put([later])
        server.kill()
        server.start()
        assert sorted(store.ids(Query())) == sorted([kept.id, later.id])
        check(store)
