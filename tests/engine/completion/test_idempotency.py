"""Claims: the lease form of `once=` in the engine, with a store in memory that fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from typing import Any

import pytest

import missive
from missive import JSONMessage, Processor
from missive.dlq.contract import Sink
from missive.dlq.once import ClaimRequest, MemoryOnce
from missive.engine.completion import idempotency as module
from missive.engine.completion.idempotency import IdempotencyClaims
from missive.errors import StoreError, UsageError
from missive.matchers import Everything, Field, by_field
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, stage_of, until

LONG = 600.0


class Store(MemoryOnce, Sink):
    """Keeps claims and dead letters; a verb named in `fails` fails so often. `calls` is what it was asked."""

    durable = True

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic() * self.speed)
        self.speed = 1.0
        self.fails: Counter[str] = Counter()
        self.calls: list[tuple[str, int]] = []
        self.dead: list[Any] = []

    def put(self, records: Any) -> None:
        self.dead.extend(records)

    def _asked(self, verb: str, count: int) -> None:
        self.calls.append((verb, count))
        if self.fails[verb]:
            self.fails[verb] -= 1
            raise StoreError("the store is down")

    def once_begin(self, service, asked, owner, lease, ttl):
        self._asked("begin", len(asked))
        return super().once_begin(service, asked, owner, lease, ttl)

    def once_extend(self, service, effects, owner, lease):
        self._asked("extend", len(effects))
        return super().once_extend(service, effects, owner, lease)

    def once_done(self, service, effects, owner, ttl):
        self._asked("done", len(effects))
        return super().once_done(service, effects, owner, ttl)

    def once_drop(self, service, effects, owner):
        self._asked("drop", len(effects))
        return super().once_drop(service, effects, owner)

    def other(self, body: bytes, lease: float = LONG, done: bool = False) -> None:
        """Let another process claim the effect of a body."""
        number = missive.JSONMessage(body).get_json()["id"]
        asked = ClaimRequest("handler", module_digest(number), hashlib.sha256(body).hexdigest())
        super().once_begin("app", [asked], "other", lease, LONG)
        if done:
            super().once_done("app", [asked.effect], "other", LONG)

    @property
    def states(self) -> list[bool]:
        """Whether each claim that is kept is done."""
        return [row.done for row in self._rows.values()]


def module_digest(key: object) -> str:
    from missive.once.declaration import digest

    return digest(key)


@pytest.fixture
def store() -> Store:
    return Store()


def application(store: Any, handler: Any, *, concurrency: int = 2, once: Any = None, **settings: Any) -> Any:
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=concurrency)
    proc.add_handler(Everything(), handler, name="handler", once=once or missive.Once(by_field("id")), **settings)
    return proc


def body(number: int, more: str = "") -> bytes:
    return b'{"id":%d%b}' % (number, more.encode())


def effects(ran: list[int]) -> Any:
    return lambda message, context: ran.append(message.get_json()["id"])


def reasons(store: Store) -> list[tuple[str, str | None]]:
    return [(str(record.reason), record.label) for record in store.dead]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_duplicates_are_acked_and_not_run(store: Store, kind: str):
    """Of several messages of one key one runs; the others wait for its end, are acked, and counted by themselves."""
    ran: list[int] = []

    async def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])

    broker = Broker(application(store, effects(ran) if kind == "sync" else handle), [body(n % 10) for n in range(30)])
    _, report = run(broker, runtime=FastRuntime())
    assert sorted(ran) == list(range(10))
    assert len(broker.acked) == 30
    assert (report.total_handled, report.duplicates, report.nacked) == (10, 20, 0)
    assert "20 duplicates" in str(report)
    assert store.states == [True] * 10


def test_claims_are_asked_for_together(store: Store):
    """A thousand messages take some twenty rounds to the store, and not a round each."""
    ran: list[int] = []
    broker = Broker(application(store, effects(ran)), [body(n) for n in range(1000)])
    run(broker)
    rounds = Counter(verb for verb, _ in store.calls)
    assert sorted(ran) == list(range(1000))
    assert rounds["begin"] < 100
    assert rounds["done"] < 100
    assert max(count for _, count in store.calls) <= module._AHEAD + 2


def test_another_body_is_a_conflict(store: Store):
    """A key that another body has is a dead letter, also while that is in progress elsewhere."""
    ran: list[int] = []
    store.other(body(1), done=True)
    store.other(body(2))
    broker = Broker(application(store, effects(ran)), [body(1, ',"x":1'), body(2, ',"x":1')])
    run(broker)
    assert ran == []
    assert reasons(store) == [("conflict", None)] * 2


def test_no_key_and_a_key_that_raises(store: Store):
    """What cannot be told from others is a dead letter, and what follows it in its lane goes on."""
    ran: list[int] = []
    broker = Broker(
        application(store, effects(ran), ordered_by=lambda message: 1), [b"{}", b"{", *[b"{}"] * 2000, body(1)]
    )
    run(broker)
    assert ran == [1]
    assert Counter(reasons(store)) == {("rejected", "no once key"): 2001, ("unreadable", None): 1}


@pytest.mark.parametrize("how", ["raise", "retry", "nack", "dead_letter"])
def test_what_did_not_succeed_can_run_again(store: Store, how: str):
    """A claim is given up where the handler did not succeed; a message of the same key then runs."""
    attempts: list[int] = []

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            if how == "raise":
                raise ValueError("on purpose")
            if how == "dead_letter":
                context.dead_letter("no")
            else:
                getattr(context, how)()

    broker = Broker(application(store, handle, concurrency=1), [body(1)] * 2)
    run(broker, runtime=FastRuntime())
    assert len(attempts) == 2
    assert store.states == [True]
    assert len(broker.acked) == 2


def test_a_discard_is_an_effect(store: Store):
    """What the handler declared to need nothing is not asked about again."""
    broker = Broker(application(store, lambda message, context: context.discard("old")), [body(1)] * 2)
    _, report = run(broker, runtime=FastRuntime())
    assert (report.discarded["handler"], report.duplicates) == (1, 1)


def test_what_is_in_progress_elsewhere_waits(store: Store):
    """While another process is at it a message waits, spends no attempt, and is acked once that is done."""
    ran: list[int] = []
    store.other(body(1))
    broker = Broker(application(store, effects(ran)), [body(1), body(2)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: Counter(verb for verb, _ in store.calls)["begin"] >= 4, "it to be asked again")
        assert broker.acked == [body(2)]
        store.other(body(1), done=True)

    _, report = run(broker, runtime=FastRuntime(), meanwhile=meanwhile)
    assert ran == [2]
    assert (report.duplicates, report.retried, report.nacked) == (1, 0, 0)


def test_what_waits_holds_its_lane(store: Store):
    """With ordered_by, what follows a message that waits for another process does not run before it."""
    ran: list[int] = []
    store.other(body(1, ',"k":1'), lease=0.3)
    given = [body(n, ',"k":1') for n in (1, 2, 3)] + [body(4, ',"k":2')]
    run(Broker(application(store, effects(ran), ordered_by=by_field("k")), given), runtime=FastRuntime())
    assert ran == [4, 1, 2, 3]


def test_a_claim_that_ran_out_is_run_again(store: Store):
    """What another process left when it died is run, once its lease has ended."""
    ran: list[int] = []
    store.other(body(1), lease=0.1)
    run(Broker(application(store, effects(ran)), [body(1)]), runtime=FastRuntime())
    assert ran == [1]


def test_a_claim_that_ran_out_is_flagged(store: Store):
    """Or it is a dead letter for somebody to look at, if so declared; its claim is free then, for a replay."""
    ran: list[int] = []
    store.other(body(1), lease=0.1)
    once = missive.Once(by_field("id"), expired="flag")
    run(Broker(application(store, effects(ran), once=once), [body(1), body(2)]), runtime=FastRuntime())
    assert ran == [2]
    assert reasons(store) == [("conflict", "claim expired")]
    assert store.states == [True]


def test_what_is_to_be_flagged_is_not_claimed_ahead(store: Store):
    """A crash flags only what could have begun: no more is claimed than runs at once."""
    once = missive.Once(by_field("id"), expired="flag")
    run(Broker(application(store, effects([]), once=once), [body(n) for n in range(50)]))
    assert max(count for verb, count in store.calls if verb == "begin") <= 2


def test_done_is_durable_before_settlement(store: Store):
    """While the store cannot keep that an effect happened, its message is not settled, and nothing more is fetched."""
    store.fails["done"] = 3
    settled_at: list[int] = []
    broker = Broker(application(store, effects([])), [body(n) for n in range(5)])
    broker.intercept["settle"] = lambda session, items: settled_at.append(len(store.calls))
    run(broker)
    assert [verb for verb, _ in store.calls[: settled_at[0]]].count("done") == 4
    assert store.states == [True] * 5


def test_a_store_that_is_down(store: Store, caplog: pytest.LogCaptureFixture):
    """Nothing runs whose claim cannot be kept, intake waits, and one line says so; later all is handled."""
    store.fails["begin"] = 3
    ran: list[int] = []
    broker = Broker(application(store, effects(ran)), [body(n) for n in range(5)])
    run(broker)
    assert sorted(ran) == list(range(5))
    assert [r.getMessage() for r in caplog.records if "cannot be stored" in r.getMessage()] == [
        "the store is down; intake is paused, because the claims of once= cannot be stored; trying again"
    ]
    assert "the claims of once= can be stored again; intake continues" in caplog.text


def test_claims_are_held_while_handlers_run(store: Store):
    """A handler that takes three leases keeps its claim, also where it blocks its thread."""
    once = missive.Once(by_field("id"), lease=0.3)
    proc = application(store, lambda message, context: time.sleep(0.9), once=once)
    _, report = run(Broker(proc, [body(1)]))
    assert report.total_handled == 1
    assert [row.fence for row in store._rows.values()] == [1]
    assert 2 <= len([verb for verb, _ in store.calls if verb == "extend"]) <= 12


def test_what_is_past_its_ttl_is_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch):
    """While effects are claimed, what may be forgotten is, in portions until nothing is left."""
    monkeypatch.setattr(module, "_PURGE_EVERY", 0.0)
    monkeypatch.setattr(module, "_PORTION", 10)
    for number in range(25):
        asked = ClaimRequest("handler", str(number), "")
        store.once_begin("app", [asked], "other", 0.01, 0.01)
    proc = application(store, lambda message, context: time.sleep(0.5), once=missive.Once(by_field("id"), lease=1))
    run(Broker(proc, [body(1)]))
    assert store.states == [True]


def test_what_lost_its_claim_does_not_begin(store: Store, caplog: pytest.LogCaptureFixture):
    """A claim that went to another while its message waited here is asked for again, and not run twice."""
    go_on, ran = threading.Event(), []

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])
        go_on.wait(10)

    once = missive.Once(by_field("id"), lease=0.3)
    broker = Broker(application(store, handle, once=once, concurrency=1), [body(1), body(2)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran == [1] and len(store.states) == 2, "both to be claimed")
        store.once_extend = lambda *_: set()  # another process has them
        for effect, row in list(store._rows.items()):
            store._rows[effect] = row._replace(owner="other", done=True)
        held = stage_of(engine, IdempotencyClaims)._mine
        await until(lambda: all(claim.until == 0 for claim in held.values()), "that to be known")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [1]
    assert report.duplicates == 1
    assert "handler: 1 claims expired while their handlers ran; these effects may repeat" in caplog.text


def test_effects_of_a_lost_connection_are_remembered(store: Store):
    """A message whose connection was lost while it ran comes again, and is acked without a second effect."""
    ran, go_on = [], threading.Event()

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])
        go_on.wait(10)

    broker = Broker(application(store, handle), [body(1)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran, "the handler to begin")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2, "another session")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [1]
    assert report.duplicates == 1
    assert broker.acked == [body(1)]


def test_stopping_gives_claims_up(store: Store):
    """What was claimed and not begun when processing stops is free for others at once."""
    ran, go_on = [], threading.Event()

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])
        go_on.wait(10)

    broker = Broker(application(store, handle, concurrency=1), [body(n) for n in range(300)], ends=False)

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran, "the first to begin")
        engine.stop()
        await until(lambda: len(broker.released) == 299, "the others to be given back")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [0]
    assert report.released == 299
    assert store.states == [True]


def test_a_slow_handler_keeps_nothing_else_waiting(store: Store):
    """What waits to be claimed for a handler that is stuck is no reason to fetch nothing for the others."""
    go_on, ran = threading.Event(), []
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=2)
    once = missive.Once(by_field("id"))
    slow = lambda message, context: go_on.wait(10)
    proc.add_handler(Field("kind", "slow"), slow, name="handler", once=once, concurrency=1)
    proc.add_handler(Field("kind", "quick"), effects(ran))
    given = [body(n, ',"kind":"slow"') for n in range(1500)] + [body(n, ',"kind":"quick"') for n in range(10)]
    broker = Broker(proc, given)

    async def meanwhile(engine: Any) -> None:
        await until(lambda: len(ran) == 10, "the others")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.total_handled == 1510


def test_order_is_kept(store: Store):
    """Messages of one key run in their order though each is claimed, beside those of a handler without once=."""
    ran: list[int] = []
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)
    key = by_field("k")
    proc.add_handler(
        Field("kind", "once"), effects(ran), name="handler", once=missive.Once(by_field("id")), ordered_by=key
    )
    proc.add_handler(Field("kind", "plain"), effects(ran), ordered_by=key)
    given = [body(n, f',"k":{n % 3},"kind":"{"once" if n % 2 else "plain"}"') for n in range(120)]
    run(Broker(proc, given))
    for k in range(3):
        assert [n for n in ran if n % 3 == k] == list(range(k, 120, 3))


@pytest.mark.parametrize(("dlq", "said"), [(None, "the processor has none"), ({}, "a DictSink cannot store claims")])
def test_without_a_store_it_does_not_start(dlq: Any, said: str):
    """The lease form needs a store: the start is refused, with the handler's name and the way out."""
    with pytest.raises(UsageError, match=f"^handler: once= .*, but {said}. Set a store with"):
        run(Broker(application(dlq, effects([])), [body(1)]))


def test_duplicates_of_the_transactional_form_are_counted():
    """A handler that was told that its effect happened has not handled it."""
    proc = Processor(JSONMessage, name="app", dlq={})

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        context._claimed(message.get_json()["id"] == 1)

    proc.add_handler(Everything(), handle, name="handler", once=missive.Once(by_field("id"), form="transaction"))
    _, report = run(Broker(proc, [body(1), body(2), body(3)]))
    assert (report.to_dict()["handlers"], report.duplicates) == ({"handler": 1}, 2)


def test_handlers_without_once_pay_nothing():
    """The chain of a handler without once= is the chain as it always was, and nothing stands before the dispatcher."""
    from missive.engine.workers.compiler import compile_async_route, compile_route

    proc = Processor(JSONMessage, name="app", dlq={})
    proc.add_handler(Field("a", 1), lambda message, context: None)
    (route,) = proc.freeze()
    clock = time.monotonic
    assert compile_route(route, lambda _: None, clock).__qualname__ == "compile_handler.<locals>.run"
    assert compile_async_route(route, clock).__qualname__ == "compile_async_handler.<locals>.run"
    engine, _ = run(Broker(proc, [b'{"a":1}']))
    assert not any(isinstance(stage, IdempotencyClaims) for stage in engine.stations.stages.all)
    assert not engine.stations.stages.intercepts


def test_in_a_test_client():
    """A test client keeps claims in memory, by its own clock."""
    ran: list[int] = []
    once = missive.Once(by_field("id"), ttl=100)
    proc = application(None, effects(ran), once=once)
    with proc.test_client() as client:
        first, second = (client.send(JSONMessage(body(1))) for _ in range(2))
        assert (first.reason, second.outcome, second.reason) == (None, "acked", "duplicate")
        with pytest.raises(missive.OnceConflict):
            client.send(JSONMessage(body(1, ',"x":1')))
        client.advance(100)
        assert client.send(JSONMessage(body(1))).reason is None
    assert ran == [1, 1]


def test_in_an_async_test_client():
    """The same in a running loop; what failed may run again."""
    failing = [True]

    async def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        if failing.pop() if failing else False:
            raise ValueError("on purpose")

    async def main() -> list[str | None]:
        async with application({}, handle).test_client() as client:
            return [(await client.send(JSONMessage(body(1)))).reason for _ in range(3)]

    assert asyncio.run(main()) == ["failed", None, "duplicate"]
