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
from missive.once.declaration import digest
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, stage_of, until

LONG = 600.0
"""A lease that does not end during a test, in seconds."""


class Store(MemoryOnce, Sink):
    """A store of claims and dead letters. `calls` lists its calls; the next `fails[name]` calls of a name fail."""

    durable = True

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic() * self.speed)
        self.speed = 1.0
        self.fails: Counter[str] = Counter()
        self.calls: list[tuple[str, int]] = []
        self.dead: list[Any] = []

    def put(self, records: Any) -> None:
        self.dead.extend(records)

    def _call(self, name: str, count: int) -> None:
        self.calls.append((name, count))
        if self.fails[name]:
            self.fails[name] -= 1
            raise StoreError("the store is down")

    def once_begin(self, service, requests, owner, lease, ttl):
        self._call("begin", len(requests))
        return super().once_begin(service, requests, owner, lease, ttl)

    def once_extend(self, service, effects, owner, lease):
        self._call("extend", len(effects))
        return super().once_extend(service, effects, owner, lease)

    def once_done(self, service, effects, owner, ttl):
        self._call("done", len(effects))
        return super().once_done(service, effects, owner, ttl)

    def once_drop(self, service, effects, owner):
        self._call("drop", len(effects))
        return super().once_drop(service, effects, owner)

    def claim_elsewhere(self, body: bytes, lease: float = LONG, done: bool = False) -> None:
        """Let another process claim the effect of a body."""
        request = ClaimRequest("handler", digest(JSONMessage(body).get_json()["id"]), hashlib.sha256(body).hexdigest())
        super().once_begin("app", [request], "other", lease, LONG)
        if done:
            super().once_done("app", [request.effect], "other", LONG)

    @property
    def done(self) -> list[bool]:
        """Whether each stored effect has happened."""
        return [row.done for row in self._rows.values()]


@pytest.fixture
def store() -> Store:
    return Store()


def application(store: Any, handle: Any, *, concurrency: int = 2, once: Any = None, **terms: Any) -> Any:
    """Return a processor whose only handler has `once=`, by the field `id` if not given."""
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=concurrency)
    proc.add_handler(Everything(), handle, name="handler", once=once or missive.Once(by_field("id")), **terms)
    return proc


def body(number: int, more: str = "") -> bytes:
    """Return a JSON object with an `id`, and more fields as text."""
    return b'{"id":%d%b}' % (number, more.encode())


def note(ran: list[int]) -> Any:
    """Return a handler that appends the `id` of each message."""
    return lambda message, context: ran.append(message.get_json()["id"])


def block(ran: list[int], go_on: threading.Event) -> Any:
    """Return a handler that appends the `id` of each message, and then waits for an event."""

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])
        go_on.wait(10)

    return handle


def reasons(store: Store) -> list[tuple[str, str | None]]:
    """Return reason and label of each dead letter."""
    return [(str(record.reason), record.label) for record in store.dead]


# Duplicates


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_duplicates_are_acked_and_not_run(store: Store, kind: str):
    """One message of each key runs. The others wait for its end, are acked, and count as duplicates."""
    ran: list[int] = []

    async def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        ran.append(message.get_json()["id"])

    broker = Broker(application(store, note(ran) if kind == "sync" else handle), [body(n % 10) for n in range(30)])
    _, report = run(broker, runtime=FastRuntime())
    assert sorted(ran) == list(range(10))
    assert len(broker.acked) == 30
    assert (report.total_handled, report.duplicates, report.nacked) == (10, 20, 0)
    assert "20 duplicates" in str(report)
    assert store.done == [True] * 10


def test_another_body_is_a_conflict(store: Store):
    """A message with the key of another body is a dead letter, even while the other message is in progress."""
    ran: list[int] = []
    store.claim_elsewhere(body(1), done=True)
    store.claim_elsewhere(body(2))
    broker = Broker(application(store, note(ran)), [body(1, ',"x":1'), body(2, ',"x":1')])
    run(broker)
    assert ran == []
    assert reasons(store) == [("conflict", None)] * 2


def test_a_message_without_a_key_is_a_dead_letter(store: Store):
    """A message without a key, or whose key raises, is a dead letter. The later messages of its lane run."""
    ran: list[int] = []
    broker = Broker(
        application(store, note(ran), ordered_by=lambda message: 1), [b"{}", b"{", *[b"{}"] * 2000, body(1)]
    )
    run(broker)
    assert ran == [1]
    assert Counter(reasons(store)) == {("rejected", "no once key"): 2001, ("unreadable", None): 1}


@pytest.mark.parametrize("how", ["raise", "retry", "nack", "dead_letter"])
def test_a_claim_ends_without_an_effect_when_its_handler_fails(store: Store, how: str):
    """A claim is dropped when its handler does not succeed. Another message of the same key then runs."""
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
    assert store.done == [True]
    assert len(broker.acked) == 2


def test_a_discard_is_an_effect(store: Store):
    """A discarded message counts as an effect: a message with the same key is a duplicate."""
    broker = Broker(application(store, lambda message, context: context.discard("old")), [body(1)] * 2)
    _, report = run(broker, runtime=FastRuntime())
    assert (report.discarded["handler"], report.duplicates) == (1, 1)


def test_an_effect_outlives_a_lost_session(store: Store):
    """A message whose session is lost while it runs is redelivered, and acked without a second effect."""
    ran, go_on = [], threading.Event()
    broker = Broker(application(store, block(ran, go_on)), [body(1)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran, "the handler to begin")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2, "another session")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [1]
    assert report.duplicates == 1
    assert broker.acked == [body(1)]


def test_duplicates_of_the_transactional_form_are_not_handled():
    """In the transactional form, a message whose effect has happened counts as a duplicate, not as handled."""
    proc = Processor(JSONMessage, name="app", dlq={})

    def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        context._claimed(message.get_json()["id"] == 1)

    proc.add_handler(Everything(), handle, name="handler", once=missive.Once(by_field("id"), form="transaction"))
    _, report = run(Broker(proc, [body(1), body(2), body(3)]))
    assert (report.to_dict()["handlers"], report.duplicates) == ({"handler": 1}, 2)


# Claims of other processes


def test_a_message_waits_while_its_effect_is_in_progress_elsewhere(store: Store):
    """A message waits while another process holds its claim. It spends no attempt, and is acked as a duplicate."""
    ran: list[int] = []
    store.claim_elsewhere(body(1))
    broker = Broker(application(store, note(ran)), [body(1), body(2)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: Counter(name for name, _ in store.calls)["begin"] >= 4, "another try to claim")
        assert broker.acked == [body(2)]
        store.claim_elsewhere(body(1), done=True)

    _, report = run(broker, runtime=FastRuntime(), meanwhile=meanwhile)
    assert ran == [2]
    assert (report.duplicates, report.retried, report.nacked) == (1, 0, 0)


def test_a_message_that_waits_for_a_claim_blocks_its_lane(store: Store):
    """With `ordered_by=`, later messages of a lane do not overtake a message that waits for its claim."""
    ran: list[int] = []
    store.claim_elsewhere(body(1, ',"k":1'), lease=0.3)
    given = [body(n, ',"k":1') for n in (1, 2, 3)] + [body(4, ',"k":2')]
    run(Broker(application(store, note(ran), ordered_by=by_field("k")), given), runtime=FastRuntime())
    assert ran == [4, 1, 2, 3]


def test_an_expired_claim_is_taken_over(store: Store):
    """A message whose claim was left by a dead process runs when the lease of the claim has ended."""
    ran: list[int] = []
    store.claim_elsewhere(body(1), lease=0.1)
    run(Broker(application(store, note(ran)), [body(1)]), runtime=FastRuntime())
    assert ran == [1]


def test_an_expired_claim_may_be_flagged(store: Store):
    """With `expired="flag"`, a message with an expired claim is a dead letter. Its claim is dropped for a replay."""
    ran: list[int] = []
    store.claim_elsewhere(body(1), lease=0.1)
    once = missive.Once(by_field("id"), expired="flag")
    run(Broker(application(store, note(ran), once=once), [body(1), body(2)]), runtime=FastRuntime())
    assert ran == [2]
    assert reasons(store) == [("conflict", "claim expired")]
    assert store.done == [True]


def test_claims_that_may_be_flagged_are_not_taken_ahead(store: Store):
    """With `expired="flag"`, only messages that run at once are claimed, so that a crash flags no unstarted ones."""
    once = missive.Once(by_field("id"), expired="flag")
    run(Broker(application(store, note([]), once=once), [body(n) for n in range(50)]))
    assert max(count for name, count in store.calls if name == "begin") <= 2


def test_a_message_that_lost_its_claim_does_not_begin(store: Store, caplog: pytest.LogCaptureFixture):
    """A claim that another process took while its message waited is requested again, and the message does not run."""
    go_on, ran = threading.Event(), []
    once = missive.Once(by_field("id"), lease=0.3)
    broker = Broker(application(store, block(ran, go_on), once=once, concurrency=1), [body(1), body(2)])

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran == [1] and len(store.done) == 2, "both to be claimed")
        store.once_extend = lambda *_: set()  # another process took the claims
        for effect, row in list(store._rows.items()):
            store._rows[effect] = row._replace(owner="other", done=True)
        claims = stage_of(engine, IdempotencyClaims)._mine
        await until(lambda: all(claim.until == 0 for claim in claims.values()), "the engine to drop the claims")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [1]
    assert report.duplicates == 1
    assert "handler: 1 claims expired while their handlers ran; these effects may repeat" in caplog.text


# Calls of the store


def test_claims_are_requested_in_batches(store: Store):
    """A thousand messages take less than a hundred calls of the store."""
    ran: list[int] = []
    broker = Broker(application(store, note(ran)), [body(n) for n in range(1000)])
    run(broker)
    calls = Counter(name for name, _ in store.calls)
    assert sorted(ran) == list(range(1000))
    assert calls["begin"] < 100
    assert calls["done"] < 100
    assert max(count for _, count in store.calls) <= module._AHEAD + 2


def test_effects_are_durable_before_settlement(store: Store):
    """A message is not settled, and no other is fetched, until the store has recorded its effect."""
    store.fails["done"] = 3
    settled_at: list[int] = []
    broker = Broker(application(store, note([])), [body(n) for n in range(5)])
    broker.intercept["settle"] = lambda session, settlements: settled_at.append(len(store.calls))
    run(broker)
    assert [name for name, _ in store.calls[: settled_at[0]]].count("done") == 4
    assert store.done == [True] * 5


def test_messages_wait_while_claims_cannot_be_stored(store: Store, caplog: pytest.LogCaptureFixture):
    """No message with once= runs during the outage, and one line each reports its begin and its end."""
    store.fails["begin"] = 3
    ran: list[int] = []
    broker = Broker(application(store, note(ran)), [body(n) for n in range(5)])
    run(broker)
    assert sorted(ran) == list(range(5))
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == [
        "the store is down; messages that need it wait, unsettled, and the others run; trying again",
        "the dead letter store works again",
    ]


def test_claims_are_renewed_while_handlers_run(store: Store):
    """A handler that takes three leases keeps its claim."""
    once = missive.Once(by_field("id"), lease=0.3)
    proc = application(store, lambda message, context: time.sleep(0.9), once=once)
    _, report = run(Broker(proc, [body(1)]))
    assert report.total_handled == 1
    assert [row.fence for row in store._rows.values()] == [1]
    assert 2 <= len([name for name, _ in store.calls if name == "extend"]) <= 12


def test_effects_past_their_ttl_are_purged(store: Store, monkeypatch: pytest.MonkeyPatch):
    """While an engine runs, it deletes effects past their `ttl`, in portions."""
    monkeypatch.setattr(module, "_PURGE_EVERY", 0.0)
    monkeypatch.setattr(module, "_PORTION", 10)
    for number in range(25):
        request = ClaimRequest("handler", str(number), "")
        store.once_begin("app", [request], "other", 0.01, 0.01)
    proc = application(store, lambda message, context: time.sleep(0.5), once=missive.Once(by_field("id"), lease=1))
    run(Broker(proc, [body(1)]))
    assert store.done == [True]


def test_a_stop_drops_the_claims_of_unstarted_messages(store: Store):
    """At a stop, the claims of unstarted messages are dropped at once."""
    ran, go_on = [], threading.Event()
    broker = Broker(application(store, block(ran, go_on), concurrency=1), [body(n) for n in range(300)], ends=False)

    async def meanwhile(engine: Any) -> None:
        await until(lambda: ran, "the first message to begin")
        engine.stop()
        await until(lambda: len(broker.released) == 299, "the other messages to be released")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert ran == [0]
    assert report.released == 299
    assert store.done == [True]


# Other messages


def test_messages_that_wait_for_a_claim_leave_credit_for_others(store: Store):
    """Messages that wait to be claimed for a blocked handler do not keep other messages from being fetched."""
    go_on, ran = threading.Event(), []
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=2)
    once = missive.Once(by_field("id"))
    slow = lambda message, context: go_on.wait(10)
    proc.add_handler(Field("kind", "slow"), slow, name="handler", once=once, concurrency=1)
    proc.add_handler(Field("kind", "quick"), note(ran))
    given = [body(n, ',"kind":"slow"') for n in range(1500)] + [body(n, ',"kind":"quick"') for n in range(10)]
    broker = Broker(proc, given)

    async def meanwhile(engine: Any) -> None:
        await until(lambda: len(ran) == 10, "the other messages to be handled")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.total_handled == 1510


def test_claimed_and_other_messages_of_a_key_run_in_order(store: Store):
    """Messages of one key run in order when only some of their handlers have `once=`."""
    ran: list[int] = []
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)
    key = by_field("k")
    proc.add_handler(
        Field("kind", "once"), note(ran), name="handler", once=missive.Once(by_field("id")), ordered_by=key
    )
    proc.add_handler(Field("kind", "plain"), note(ran), ordered_by=key)
    given = [body(n, f',"k":{n % 3},"kind":"{"once" if n % 2 else "plain"}"') for n in range(120)]
    run(Broker(proc, given))
    for k in range(3):
        assert [n for n in ran if n % 3 == k] == list(range(k, 120, 3))


def test_handlers_without_once_have_no_claim_stage():
    """A handler without `once=` is compiled without claims, and its engine has no stage of claims."""
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


# The start, and test clients


@pytest.mark.parametrize(("dlq", "problem"), [(None, "the processor has none"), ({}, "a DictSink cannot store claims")])
def test_the_engine_refuses_to_start_without_a_store_of_claims(dlq: Any, problem: str):
    """The engine refuses to start when the lease form has no store. The error names the handler and the remedy."""
    with pytest.raises(UsageError, match=f"^handler: once= .*, but {problem}. Set a store with"):
        run(Broker(application(dlq, note([])), [body(1)]))


def test_a_test_client_holds_claims_in_memory():
    """A test client stores claims in memory, by its own clock."""
    ran: list[int] = []
    once = missive.Once(by_field("id"), ttl=100)
    proc = application(None, note(ran), once=once)
    with proc.test_client() as client:
        first, second = (client.send(JSONMessage(body(1))) for _ in range(2))
        assert (first.reason, second.outcome, second.reason) == (None, "acked", "duplicate")
        with pytest.raises(missive.OnceConflict):
            client.send(JSONMessage(body(1, ',"x":1')))
        client.advance(100)
        assert client.send(JSONMessage(body(1))).reason is None
    assert ran == [1, 1]


def test_an_async_test_client_holds_claims_in_memory():
    """An async test client stores claims in memory too. A message that failed may run again."""
    failing = [True]

    async def handle(message: JSONMessage, context: missive.HandlingContext) -> None:
        if failing.pop() if failing else False:
            raise ValueError("on purpose")

    async def main() -> list[str | None]:
        async with application({}, handle).test_client() as client:
            return [(await client.send(JSONMessage(body(1)))).reason for _ in range(3)]

    assert asyncio.run(main()) == ["failed", None, "duplicate"]
