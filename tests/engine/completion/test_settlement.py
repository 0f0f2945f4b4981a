"""Settlement: reactions to each settlement result, failures of `settle` and `commit`, and batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from missive import Processor
from missive.engine.completion import settlement
from missive.engine.completion.settlement import Settler
from missive.engine.job import Job, by_lane
from missive.engine.limits import Limits
from missive.engine.runner import execute
from missive.engine.runtime import Runtime
from missive.errors import Fatal, StoreError, Transient
from missive.matchers import Body, Everything
from missive.messages import RawMessage
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import plain_bodies, processor, run, until


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    """Repeat failed settlements after 10 to 50 ms."""
    monkeypatch.setattr(settlement, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(settlement, "_LONGEST_BACKOFF", 0.05)


def counting_processor(**settings):
    """Return a processor and the number of runs of each body."""
    proc, ran = processor(RawMessage, **{"dlq": {}, "concurrency": 2, **settings}), Counter()

    @proc.handle_for(Everything())
    def handle(message, context):
        ran[message.raw_data] += 1

    return proc, ran


class Results:
    """Scripted results of the settlements of each message. A message without further results is settled."""

    def __init__(self, broker, **results):
        self.tries = Counter()
        self._broker = broker
        self._results = {name.removeprefix("m").encode(): list(given) for name, given in results.items()}
        broker.intercept["settle"] = self.settle

    def settle(self, session, settlements):
        """Return the results of settlements."""
        return [self._one(session, settlement) for settlement in settlements]

    def _one(self, session, settlement):
        body = settlement.delivery.body
        self.tries[body] += 1
        if left := self._results.get(body):
            result = left.pop(0)
            if result in (SettlementResult.fenced, SettlementResult.sent):
                self._broker.held.pop(settlement.delivery, None)
            return result
        return session._settle(settlement)


F, U, SENT, FENCED = SettlementResult.failed, SettlementResult.unknown, SettlementResult.sent, SettlementResult.fenced


def test_each_settlement_has_its_own_result():
    """Failed and unknown settlements are repeated, fenced messages are redelivered, and other results are final."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(6))
    results = Results(broker, m1=[F], m2=[FENCED], m3=[SENT], m4=[U], m5=[F, F, F])
    _, report = run(broker)
    assert results.tries == {b"0": 1, b"1": 2, b"2": 1, b"3": 1, b"4": 2, b"5": 4}
    assert sorted(broker.acked) == [b"0", b"1", b"4", b"5"]
    assert report.redelivered == 1
    assert ran == dict.fromkeys(plain_bodies(6), 1)


def test_a_failed_settlement_is_repeated_until_it_succeeds():
    """A failed settlement is repeated until it succeeds, and its message is not handled again."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(2))
    results = Results(broker, m0=[F] * 12)
    _, report = run(broker)
    assert results.tries == {b"0": 13, b"1": 1}
    assert (sorted(broker.acked), report.redelivered) == ([b"0", b"1"], 0)
    assert ran == {b"0": 1, b"1": 1}


def test_an_unknown_settlement_is_given_up_after_a_few_tries():
    """A settlement whose result stays unknown is repeated a few times, and then counts as redelivered."""
    proc, _ = counting_processor()
    broker = Broker(proc, plain_bodies(3), ends=False)
    results = Results(broker, m1=[U] * 100)

    async def meanwhile(engine):
        await until(lambda: engine.report.redelivered, "the settlement to be given up")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert 2 <= results.tries[b"1"] <= 6
    assert report.redelivered == 1
    assert sorted(broker.acked) == [b"0", b"2"]


@pytest.mark.parametrize("second", [FENCED, SENT, F])
def test_the_result_after_an_unknown_result_counts(second):
    """When a settlement is repeated after an unknown result, its next result counts."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(1))
    results = Results(broker, m0=[U, second])
    _, report = run(broker)
    assert results.tries[b"0"] == (3 if second is F else 2)
    assert report.redelivered == (1 if second is FENCED else 0)
    assert ran == {b"0": 1}


def test_a_repeated_settlement_does_not_delay_others():
    """While one settlement is repeated, later messages are fetched and settled."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(1), ends=False)
    results = Results(broker, m0=[F] * 1000)

    async def meanwhile(engine):
        await until(lambda: results.tries[b"0"] >= 2, "the settlement to be repeated")
        broker.send(*plain_bodies(50)[1:])
        await until(lambda: len(broker.acked) == 49, "the other messages to be settled")
        results._results.clear()
        await until(lambda: len(broker.acked) == 50, "the message to be settled")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert ran == dict.fromkeys(plain_bodies(50), 1)


@pytest.mark.parametrize("disposition", ["ack", "release"])
def test_a_stop_waits_for_repeated_settlements(disposition):
    """A stop waits for failed settlements of handled messages and of released messages."""
    proc, started, go_on = Processor(name="app", dlq={}), threading.Event(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        started.set()
        go_on.wait(10)

    broker = Broker(proc, plain_bodies(2), ends=False)
    results = Results(broker, **{f"m{0 if disposition == 'ack' else 1}": [F] * 5})

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 2 and started.is_set(), "both messages to be fetched, and one to start")
        engine.stop()
        await until(lambda: results.tries[b"1"], "the waiting message to be released")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (broker.acked, broker.released) == ([b"0"], [b"1"])
    assert report.redelivered == 0


# Failures of `settle`


@pytest.mark.parametrize(
    "result",
    [
        Transient("gone"),
        StoreError("locked"),
        RuntimeError("a bug of the adapter"),
        [],
        [SettlementResult.confirmed] * 999,
        None,
    ],
    ids=["transient", "store", "unexpected", "too few", "too many", "dead"],
)
def test_an_invalid_settle_call_drops_the_session(result):
    """When `settle` raises or returns too few or too many results, all messages are redelivered."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(3))

    def settle(session, settlements):
        if session is not broker.sessions[0]:
            return None
        if isinstance(result, Exception):
            raise result
        if result is None:
            session._die()
        return result

    broker.intercept["settle"] = settle
    _, report = run(broker)
    assert len(broker.sessions) == 2
    assert broker.sessions[0].closed
    assert report.redelivered == 3
    assert ran == dict.fromkeys(plain_bodies(3), 2)
    assert sorted(broker.acked) == plain_bodies(3)


def test_a_fatal_settlement_stops_processing():
    """A Fatal error of `settle` stops processing, and no message counts as settled."""
    proc, _ = counting_processor()
    broker = Broker(proc, plain_bodies(3), ends=False)

    def settle(session, settlements):
        raise Fatal("not allowed to settle")

    broker.intercept["settle"] = settle
    with pytest.raises(Fatal, match="not allowed to settle"):
        run(broker, check_left=False, drain=0.1)
    assert broker.acked == []


def test_failed_settlements_are_not_repeated_in_another_session():
    """A message whose settlement failed in a dead session is redelivered and handled again in the next session."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(4))
    results = Results(broker, m0=[F] * 3, m1=[U] * 2)

    async def meanwhile(engine):
        await until(lambda: results.tries[b"0"] >= 2, "the settlement to be repeated")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    # `run` checks that each session settles its own deliveries only.
    assert len(broker.sessions) == 2
    assert report.redelivered >= 1
    assert set(broker.acked) == set(plain_bodies(4))
    assert ran[b"0"] == 2


def test_a_running_settlement_of_a_dead_session_does_not_count():
    """A settlement that runs when its session dies does not count, and all held messages are redelivered."""
    proc, ran = counting_processor()
    broker = Broker(proc, plain_bodies(3))
    settling = threading.Event()

    async def settle(session, settlements):
        if session is broker.sessions[0]:
            settling.set()
            await until(lambda: session.closed, "the session to be dropped")
            raise Transient("closed")

    broker.intercept["settle"] = settle

    async def meanwhile(engine):
        await until(settling.is_set, "a settlement")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    assert sorted(broker.acked) == plain_bodies(3)
    assert report.redelivered == 3
    assert all(count == 2 for count in ran.values())


def test_a_fatal_settlement_ends_the_drain():
    """After a fatal settlement, processing ends with its error before the deadline of the drain."""
    proc, _ = counting_processor()
    broker, began = Broker(proc, plain_bodies(5), ends=False), time.monotonic()

    def settle(session, settlements):
        raise Fatal("the queue was deleted")

    broker.intercept["settle"] = settle
    with pytest.raises(Fatal, match="the queue was deleted"):
        run(broker, drain=10, check_left=False)
    assert time.monotonic() - began < 5


def test_a_session_that_dies_after_the_end_of_input():
    """When a session dies during its last settlements, the next session redelivers and settles these messages."""
    proc, _ = counting_processor()
    broker = Broker(proc, plain_bodies(5))

    def settle(session, settlements):
        if session is broker.sessions[0]:
            raise Transient("connection lost")

    broker.intercept["settle"] = settle
    _, report = run(broker)
    assert (len(broker.acked), report.redelivered) == (5, 5)


# Batches and their order


class SlowToSettle(Broker):
    """A broker whose first settlement lasts until all messages are handled."""

    def __init__(self, *given):
        super().__init__(*given, per_fetch=5000)
        self.calls = []
        self.dies = False
        """Whether the first session dies during its second settlement."""
        self.go_on = threading.Event()
        self.intercept["settle"] = self.settle

    async def settle(self, session, settlements):
        """Wait until all messages are handled."""
        self.calls.append((session, [settlement.delivery.body for settlement in settlements]))
        await until(self.go_on.is_set, "permission to go on")
        if self.dies and len(self.calls) > 1 and session is self.sessions[0]:
            raise Transient("gone")

    async def meanwhile(self, engine):
        """Let the first settlement end when all messages are handled."""
        await until(lambda: engine.report.total_handled == 3000, "all messages to be handled")
        self.go_on.set()


def slow_to_settle(monkeypatch):
    """Return a broker with 3000 messages, which are all handled before the second settlement."""
    monkeypatch.setattr(Runtime, "limits", Limits(5000, 10**6))
    proc = Processor(name="app", dlq={}, concurrency=1)
    proc.add_handler(Everything(), lambda message, context: None)
    return SlowToSettle(proc, plain_bodies(3000))


def test_settlements_are_batched_in_order_of_completion(monkeypatch):
    """Settlements are sent once each, in order of completion, in calls of at most a thousand."""
    broker = slow_to_settle(monkeypatch)
    run(broker, meanwhile=broker.meanwhile)
    assert broker.acked == plain_bodies(3000)
    sizes = [len(settled) for _, settled in broker.calls]
    assert max(sizes) <= 1000
    assert len(sizes) <= 5


def test_a_dead_session_receives_no_further_batches(monkeypatch):
    """When a session dies during one of several batches, the messages of the later batches are redelivered."""
    broker = slow_to_settle(monkeypatch)
    broker.dies = True
    _, report = run(broker, meanwhile=broker.meanwhile)
    first = [settled for session, settled in broker.calls if session is broker.sessions[0]]
    assert len(first) == 2
    assert sorted(set(broker.acked)) == sorted(plain_bodies(3000))
    assert report.redelivered == 3000 - len(first[0])


def test_a_settlement_has_a_disposition_an_outcome_and_a_label():
    """A settlement contains its disposition, outcome and label. A released message has no outcome."""
    proc = Processor(name="app", dlq={}, concurrency=1, on_overlap="ignore")
    began = threading.Event()
    proc.add_handler(Body(b"0"), lambda message, context: None, name="h0")
    proc.add_handler(Body(b"1"), lambda message, context: context.discard("not relevant"), name="h1")
    proc.discard_for(Body(b"2"), reason="declared")

    @proc.handle_for(Body(b"4"))
    def last(message, context):
        began.set()
        assert stopped.wait(10)

    stopped = threading.Event()
    broker = Broker(proc, [*plain_bodies(5), b"0"], ends=False)

    async def meanwhile(engine):
        await until(began.is_set, "the last handler to start")
        engine.stop()
        await until(lambda: broker.released, "the waiting message to be released")
        stopped.set()

    run(broker, meanwhile=meanwhile)
    settled = {
        (one.delivery.body, one.disposition, None if one.outcome is None else str(one.outcome), one.label)
        for settlements in broker.settlements
        for one in settlements
    }
    assert settled == {
        (b"0", Disposition.ack, "acked", None),
        (b"1", Disposition.ack, "discarded", "not relevant"),
        (b"2", Disposition.ack, "discarded", "declared"),
        (b"3", Disposition.ack, "dead_lettered", None),
        (b"4", Disposition.ack, "acked", None),
        (b"0", Disposition.release, None, None),
    }


def test_a_lost_session_does_not_affect_other_sources():
    """When a source loses its session, messages of another source are handled and settled once."""
    proc, ran = counting_processor()
    broken, other = Broker(proc, plain_bodies(20)), Broker(proc, [b"x%d" % n for n in range(500)], per_fetch=10)
    broken.intercept["settle"] = lambda session, settlements: [] if session is broken.sessions[0] else None
    _, report = run(broken, other)
    assert (len(broken.sessions), len(other.sessions)) == (2, 1)
    assert sorted(set(broken.acked)) == sorted(plain_bodies(20))
    assert len(other.acked) == 500
    assert all(ran[b"x%d" % n] == 1 for n in range(500))
    assert 1 <= report.redelivered <= 20


def test_the_watermark_of_a_dead_session_is_discarded():
    """After a session dies, all messages beyond its committed watermark are handled again."""
    proc, go_on, ran = Processor(name="app", dlq={}, concurrency=4), threading.Event(), Counter()

    @proc.handle_for(Everything(), ordered_by=lambda message: None)
    def handle(message, context):
        ran[message.raw_data] += 1
        if message.raw_data == b"3":
            go_on.wait(10)

    deliveries = [Delivery(body, lane="p0", position=n) for n, body in enumerate(plain_bodies(10))]
    broker = Broker(proc, deliveries, capabilities=Capabilities(commit="cumulative"))

    async def meanwhile(engine):
        await until(lambda: len(ran) == 10 and broker.acked, "a commit, and the start of all messages")
        assert broker.acked == plain_bodies(3)
        broker.sessions[0].die()
        await until(lambda: ran[b"4"] == 2, "a message to be redelivered")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    positions = [positions["p0"] for positions in broker.commits]
    assert positions == sorted(positions)
    assert broker.acked == plain_bodies(10)
    assert [ran[body] for body in plain_bodies(10)] == [1] * 3 + [2] * 7
    assert report.redelivered == 7


def test_a_failed_commit_is_repeated():
    """A commit whose result is `failed` is repeated."""
    proc, _ = counting_processor()
    deliveries = [Delivery(b"{}", position=n, lane="p") for n in range(5)]
    broker = Broker(proc, deliveries, ends=False, capabilities=Capabilities(commit="cumulative"))
    tries = []

    def commit(session, watermarks):
        tries.append(watermarks)
        return dict.fromkeys(watermarks, SettlementResult.failed) if len(tries) == 1 else None

    broker.intercept["commit"] = commit

    async def meanwhile(engine):
        await until(lambda: len(tries) > 1, "another commit")
        engine.stop()

    run(broker, meanwhile=meanwhile)


def test_a_watermark_passes_acked_messages_before_a_released_one():
    """When an early message of a lane is acked last, the watermark passes all messages before a released one."""

    async def main():
        settled, positions = [], []

        async def commit(watermarks):
            positions.append(watermarks[None].position)
            return {None: SettlementResult.confirmed}

        session = SimpleNamespace(capabilities=Capabilities(commit="cumulative"), commit=commit)
        source = SimpleNamespace(session=session, vanished=())
        exits = SimpleNamespace(draining=False, settled=lambda source, jobs, lost: settled.extend(jobs))
        settler = Settler(source, exits, Runtime())
        jobs = [Job(source, session, Delivery(b"", position=n), RawMessage(b"")) for n in range(3)]
        settler.taken(source, session, jobs, by_lane(jobs))
        jobs[2].disposition = Disposition.release
        for job in (jobs[1], jobs[2], jobs[0]):
            settler.add([job])
            await settler.flush()
        assert sorted(settled, key=jobs.index) == jobs
        assert positions[-1] == 1

    asyncio.run(main())


def test_the_credit_limits_completed_messages_behind_a_held_one():
    """While a message is held, at most one credit of later messages is handled, which bounds the redeliveries."""
    proc = Processor(name="t", dlq={})
    handled = []

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.raw_data == b"0" and context.attempt == 1:
            context.retry(1)
        else:
            handled.append(int(message.raw_data))

    deliveries = [Delivery(b"%d" % n, position=n) for n in range(3000)]
    positions = []

    class Cumulative(MemoryAdapter):
        async def connect(self, host):
            session = await super().connect(host)

            async def commit(watermarks):
                positions.append(watermarks[None].position)
                return {None: SettlementResult.confirmed}

            session.commit = commit
            return session

    (report,) = execute([Cumulative(proc, deliveries, capabilities=Capabilities(commit="cumulative"))])
    assert (report.total_handled, positions[-1]) == (3000, 2999)
    assert 0 < handled.index(0) <= 1000


def test_completed_messages_behind_a_held_one_are_redelivered_after_a_lost_session():
    """Completed messages behind a held one return their credit when their session dies, and are redelivered."""
    proc = Processor(name="t", dlq={})
    seen = []

    class FailingFetch(MemoryAdapter):
        async def connect(self, host):
            session = await super().connect(host)
            self.waiting.extend(Delivery(b"%d" % n, position=n) for n in range(3))
            fetch, first = session.fetch, self.sessions == 1

            async def die(credit):
                if first and not self.waiting:
                    while len(seen) < 3:
                        await host.sleep(0.01)
                    await host.sleep(0.1)  # the results reach the settler
                    raise Transient("gone")
                return await fetch(credit)

            async def commit(watermarks):
                return {None: SettlementResult.confirmed}

            session.fetch, session.commit = die, commit
            return session

    @proc.handle_for(Everything())
    def handle(message, context):
        seen.append(message.raw_data)
        if seen == [b"0"]:
            context.retry(600)

    (report,) = execute([FailingFetch(proc, capabilities=Capabilities(commit="cumulative"))])
    assert seen == [b"0", b"1", b"2", b"0", b"1", b"2"]
    assert report.unsettled == 0
