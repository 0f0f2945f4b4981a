"""Claims of `once=`: memory and every database give the same answers."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from typing import Any

import pytest

from missive.dlq.once import ClaimRequest, ClaimState, MemoryOnce, OnceStore
from missive.dlq.sql import SQLStore
from missive.errors import StoreError
from tests.support.redis import RedisServer
from tests.support.stores import opened_at

LEASE, TTL = 60.0, 1000.0
ONE, TWO = ClaimRequest("handler", "1" * 64, "a" * 64), ClaimRequest("handler", "2" * 64, "a" * 64)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sql(path: Path, clock: Callable[[], float]) -> Any:
    return SQLStore(f"sqlite:///{path / 'dlq.db'}", clock=clock)


SERVERS = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
    pytest.param("redis", marks=pytest.mark.redis),
]


def new_url(server: Any) -> str:
    """Return the URL of a new store on a server."""
    return str(server.store() if isinstance(server, RedisServer) else server.url(server.database()))


@pytest.fixture(params=["memory", "sqlite", *SERVERS])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[OnceStore]:
    """Open a store of each kind."""
    with contextlib.ExitStack() as opened:
        if request.param == "memory":
            yield MemoryOnce(clock)
        elif request.param == "sqlite":
            yield opened.enter_context(contextlib.closing(sql(tmp_path, clock)))
        else:
            url = new_url(request.getfixturevalue(request.param))
            yield opened.enter_context(contextlib.closing(opened_at(url, clock)))


def begin(store: OnceStore, *asked: ClaimRequest, owner: str = "me", service: str = "app") -> list[str]:
    answers = store.once_begin(service, asked, owner, LEASE, TTL)
    return [f"{answer.state} {answer.fence}" for answer in answers]


def test_a_claim_is_held_until_its_lease_ends(store: OnceStore, clock: Clock):
    """Other owners get `busy` and the end of the lease. The owner itself gets the claim again."""
    assert begin(store, TWO, ONE) == ["ours 1", "ours 1"]
    assert begin(store, ONE) == ["ours 1"]
    assert begin(store, ONE, owner="other") == ["busy 1"]
    (answer,) = store.once_begin("app", [ONE], "other", LEASE, TTL)
    assert answer.until == clock.now + LEASE
    clock.now += LEASE
    assert begin(store, ONE, owner="other") == ["ours 2"]
    assert begin(store, ONE) == ["busy 2"]


def test_services_and_handlers_have_separate_effects(store: OnceStore):
    """The same key of another service or handler is another effect. Upper and lower case differ."""
    assert begin(store, ONE, ONE._replace(handler="HANDLER")) == ["ours 1", "ours 1"]
    assert begin(store, ONE, service="App", owner="other") == ["ours 1"]


def test_a_done_effect_is_remembered_for_its_ttl(store: OnceStore, clock: Clock):
    """An effect that has happened is done for every owner until its ttl has passed."""
    begin(store, ONE, TWO)
    clock.now += 10
    assert store.once_done("app", [ONE.effect], "me", TTL) == {ONE.effect}
    assert store.once_done("app", [ONE.effect], "me", TTL) == {ONE.effect}
    assert begin(store, ONE) == begin(store, ONE, owner="other") == ["done 1"]
    clock.now += TTL - 1
    assert begin(store, ONE, owner="other") == ["done 1"]
    clock.now += 1
    assert begin(store, ONE._replace(body="b" * 64), owner="other") == ["ours 1"]


def test_another_body_is_a_conflict(store: OnceStore, clock: Clock):
    """A key belongs to one body: while its claim is held, after the lease, and when the effect is done."""
    other = ONE._replace(body="b" * 64)
    begin(store, ONE)
    assert begin(store, other, owner="other") == ["conflict 1"]
    clock.now += LEASE
    assert begin(store, other, owner="other") == ["conflict 1"]
    store.once_done("app", [ONE.effect], "me", TTL)
    assert begin(store, other) == ["conflict 1"]


def test_only_the_owner_changes_a_claim(store: OnceStore, clock: Clock):
    """The previous owner of a claim can neither extend, complete nor drop it."""
    begin(store, ONE, TWO)
    clock.now += LEASE
    begin(store, ONE, owner="other")
    both = [ONE.effect, TWO.effect]
    assert store.once_extend("app", both, "me", LEASE) == {TWO.effect}
    assert store.once_done("app", [ONE.effect], "me", TTL) == set()
    assert store.once_drop("app", [ONE.effect], "me") == set()
    assert begin(store, ONE, TWO, owner="other") == ["ours 2", "busy 1"]


def test_an_extended_lease_starts_at_the_call(store: OnceStore, clock: Clock):
    """An extended lease ends `lease` seconds after the call."""
    begin(store, ONE)
    clock.now += LEASE - 1
    assert store.once_extend("app", [ONE.effect], "me", LEASE) == {ONE.effect}
    clock.now += LEASE - 1
    assert begin(store, ONE, owner="other") == ["busy 1"]


def test_a_dropped_claim_is_free(store: OnceStore):
    """After a drop, any owner can claim the effect with any body. A done effect cannot be dropped."""
    begin(store, ONE, TWO)
    store.once_done("app", [TWO.effect], "me", TTL)
    assert store.once_drop("app", [ONE.effect, TWO.effect], "me") == {ONE.effect}
    assert begin(store, ONE._replace(body="b" * 64), TWO, owner="other") == ["ours 1", "done 1"]


def test_purge_deletes_expired_claims_in_batches(store: OnceStore, clock: Clock):
    """Claims past their ttl are deleted. Held claims and remembered effects stay."""
    many = [ONE._replace(digest=f"{n:064x}") for n in range(5)]
    begin(store, *many)
    store.once_done("app", [one.effect for one in many], "me", TTL)
    clock.now += TTL - 1
    begin(store, TWO, owner="other")
    assert store.once_purge() == 0
    clock.now += 1
    assert [store.once_purge(3) for _ in range(3)] == [3, 2, 0]
    assert begin(store, TWO) == ["busy 1"]


def test_one_call_handles_many_claims(store: OnceStore):
    """One call claims, extends and completes more effects than fit into one statement."""
    many = [ONE._replace(digest=f"{n:064x}") for n in range(1200)]
    effects = {one.effect for one in many}
    assert set(begin(store, *many)) == {"ours 1"}
    assert store.once_extend("app", effects, "me", LEASE) == effects
    assert store.once_done("app", effects, "me", TTL) == effects
    assert set(begin(store, *many, owner="other")) == {"done 1"}


def contend(path: str, number: int, barrier: Barrier, answers: Any) -> None:
    store = SQLStore(path)
    for key in range(40):
        asked = [ClaimRequest("handler", f"{(key * 3 + n) % 50:064x}", "a" * 64) for n in range(3)]
        barrier.wait(30)
        for one, answer in zip(asked, store.once_begin("app", asked, f"owner-{number}", LEASE, TTL), strict=True):
            if answer.state is ClaimState.ours:
                answers.put((one.digest, number))
    store.close()
    answers.put(None)


def test_one_of_several_processes_gets_a_claim(tmp_path: Path):
    """Two processes that claim the same effects concurrently never both get one."""
    path = f"sqlite:///{tmp_path / 'dlq.db'}"
    SQLStore(path).close()
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=contend, args=(path, n, barrier, answers)) for n in range(2)]
    for process in processes:
        process.start()
    owners: dict[str, set[int]] = {}
    for _ in processes:
        while (answer := answers.get(timeout=60)) is not None:
            owners.setdefault(answer[0], set()).add(answer[1])
    for process in processes:
        process.join(30)
    assert len(owners) == 50
    assert {len(who) for who in owners.values()} == {1}


@pytest.mark.parametrize("name", SERVERS)
def test_one_of_several_clients_of_a_server_gets_a_claim(request: pytest.FixtureRequest, name: str):
    """Six clients claim, complete and drop the same effects: each effect happens once, and no call fails."""
    url = new_url(request.getfixturevalue(name))
    opened_at(url).close()
    had: list[tuple[str, str]] = []
    failed: list[str] = []

    def work(number: int) -> None:
        random, store = Random(number), opened_at(url)
        for _ in range(60):
            asked = [ClaimRequest("handler", f"{key:064x}", "a" * 64) for key in random.sample(range(100), 10)]
            try:
                answers = store.once_begin("app", asked, f"{number}", LEASE, TTL)
                ours = [one.effect for one, a in zip(asked, answers, strict=True) if a.state is ClaimState.ours]
                if random.random() < 0.3:
                    store.once_drop("app", ours, f"{number}")
                else:
                    had.extend(store.once_done("app", ours, f"{number}", TTL))
            except Exception as error:  # noqa: BLE001 - the test allows no exception
                failed.append(type(error).__name__)
        store.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(had) == len(set(had)) == 100


def test_an_error_of_the_database_holds_no_key_or_body(tmp_path: Path, clock: Clock):
    """A failing write raises `StoreError` without the key and the body."""
    store = sql(tmp_path, clock)
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE missive_once_claims")
    with pytest.raises(StoreError, match="no such table") as raised:
        begin(store, ONE)
    assert ONE.digest not in str(raised.value)
    assert raised.value.__context__ is None
    store.close()
