"""Settlement: what is right for each result, and that nothing counts as settled that may not be."""

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
from missive.engine.runtime import Runtime
from missive.errors import Fatal, StoreError, Transient
from missive.matchers import Body, Everything
from missive.messages import RawMessage
from missive.transport import Capabilities, Delivery, Disposition, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import run, until


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What is tried again is tried soon."""
    monkeypatch.setattr(settlement, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(settlement, "_LONGEST_BACKOFF", 0.05)


def processor(**settings):
    proc = Processor(**{"name": "app", "dlq": {}, "concurrency": 2, "on_overlap": "ignore", **settings})
    ran = Counter()

    @proc.handle_for(Everything())
    def handle(message, context):
        ran[message.raw_data] += 1

    return proc, ran


def bodies(count):
    return [b"%d" % n for n in range(count)]


class Answers:
    """What a broker answers for each message, time after time; afterwards, and for others, it settles."""

    def __init__(self, broker, **answers):
        self.tries = Counter()
        self._broker = broker
        self._answers = {name.removeprefix("m").encode(): list(given) for name, given in answers.items()}
        broker.intercept["settle"] = self.settle

    def settle(self, session, settlements):
        """Answer."""
        return [self._one(session, settlement) for settlement in settlements]

    def _one(self, session, item):
        body = item.delivery.body
        self.tries[body] += 1
        if left := self._answers.get(body):
            result = left.pop(0)
            if result in (SettlementResult.fenced, SettlementResult.sent):
                self._broker.held.pop(item.delivery, None)
            return result
        return session._settle(item)


F, U, SENT, FENCED = SettlementResult.failed, SettlementResult.unknown, SettlementResult.sent, SettlementResult.fenced


def test_each_has_its_result():
    """Failed is tried again, fenced is not ours any more, sent and confirmed are done; each by its place."""
    proc, ran = processor()
    broker = Broker(proc, bodies(6))
    answers = Answers(broker, m1=[F], m2=[FENCED], m3=[SENT], m4=[U], m5=[F, F, F])
    _, report = run(broker)
    assert answers.tries == {b"0": 1, b"1": 2, b"2": 1, b"3": 1, b"4": 2, b"5": 4}
    assert sorted(broker.acked) == [b"0", b"1", b"4", b"5"]
    assert report.redelivered == 1
    assert ran == dict.fromkeys(bodies(6), 1)


def test_what_fails_for_long_is_tried_for_long():
    """What is refused for now is settled in the end, however often, and its message is not handled again."""
    proc, ran = processor()
    broker = Broker(proc, bodies(2))
    answers = Answers(broker, m0=[F] * 12)
    _, report = run(broker)
    assert answers.tries == {b"0": 13, b"1": 1}
    assert (sorted(broker.acked), report.redelivered) == ([b"0", b"1"], 0)
    assert ran == {b"0": 1, b"1": 1}


def test_what_stays_unknown_is_let_go():
    """That of which nothing is ever known is tried a few times, and then counts as what comes again."""
    proc, _ = processor()
    broker = Broker(proc, bodies(3), ends=False)
    answers = Answers(broker, m1=[U] * 100)

    async def meanwhile(engine):
        await until(lambda: engine.report.redelivered, "it to be let go of")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert 2 <= answers.tries[b"1"] <= 6
    assert report.redelivered == 1
    assert sorted(broker.acked) == [b"0", b"2"]


@pytest.mark.parametrize("second", [FENCED, SENT, F])
def test_what_follows_an_unknown(second):
    """An answer that was lost may be followed by any other, which then counts."""
    proc, ran = processor()
    broker = Broker(proc, bodies(1))
    answers = Answers(broker, m0=[U, second])
    _, report = run(broker)
    assert answers.tries[b"0"] == (3 if second is F else 2)
    assert report.redelivered == (1 if second is FENCED else 0)
    assert ran == {b"0": 1}


def test_others_are_settled_meanwhile():
    """While one settlement is tried again, those that come later are settled, and intake goes on."""
    proc, ran = processor()
    broker = Broker(proc, bodies(1), ends=False)
    answers = Answers(broker, m0=[F] * 1000)

    async def meanwhile(engine):
        await until(lambda: answers.tries[b"0"] >= 2, "it to be tried again")
        broker.send(*bodies(50)[1:])
        await until(lambda: len(broker.acked) == 49, "the others to be settled")
        answers._answers.clear()
        await until(lambda: len(broker.acked) == 50, "it to be settled")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert ran == dict.fromkeys(bodies(50), 1)


@pytest.mark.parametrize("verb", ["ack", "release"])
def test_a_stop_waits_for_what_is_tried_again(verb):
    """A stop does not leave behind what was refused for now, be it done or given back unhandled."""
    proc, go_on = Processor(name="app", dlq={}), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Broker(proc, bodies(2), ends=False)
    answers = Answers(broker, **{f"m{0 if verb == 'ack' else 1}": [F] * 5})

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 2, "both to come")
        engine.stop()
        await until(lambda: answers.tries[b"1"], "the one that waits to be given back")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (broker.acked, broker.released) == ([b"0"], [b"1"])
    assert report.redelivered == 0


# A session that answers wrongly, or not at all


@pytest.mark.parametrize(
    "answer",
    [
        Transient("gone"),
        StoreError("locked"),
        RuntimeError("an adapter's mistake"),
        [],
        [SettlementResult.confirmed] * 999,
        None,
    ],
    ids=["transient", "store", "own", "too few", "too many", "dead"],
)
def test_a_settlement_that_fails_drops_the_session(answer):
    """Where `settle` raises or gives a wrong number of answers, nothing counts as settled, and all comes again."""
    proc, ran = processor()
    broker = Broker(proc, bodies(3))

    def settle(session, settlements):
        if session is not broker.sessions[0]:
            return None
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            session._die()
        return answer

    broker.intercept["settle"] = settle
    _, report = run(broker)
    assert len(broker.sessions) == 2
    assert broker.sessions[0].closed
    assert report.redelivered == 3
    assert ran == dict.fromkeys(bodies(3), 2)
    assert sorted(broker.acked) == bodies(3)


def test_a_fatal_settlement_stops():
    """What says that nothing will help stops the processor, and nothing counts as settled."""
    proc, _ = processor()
    broker = Broker(proc, bodies(3), ends=False)

    def settle(session, settlements):
        raise Fatal("not allowed to settle")

    broker.intercept["settle"] = settle
    with pytest.raises(Fatal, match="not allowed to settle"):
        run(broker, check_left=False, drain=0.1)
    assert broker.acked == []


def test_what_is_tried_again_when_its_session_dies():
    """What waits to be settled again is not told to another session: it comes again there, and is handled again."""
    proc, ran = processor()
    broker = Broker(proc, bodies(4))
    answers = Answers(broker, m0=[F] * 3, m1=[U] * 2)

    async def meanwhile(engine):
        await until(lambda: answers.tries[b"0"] >= 2, "it to be tried again")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    # `run` checks that no session was asked about what another had delivered.
    assert len(broker.sessions) == 2
    assert report.redelivered >= 1
    assert set(broker.acked) == set(bodies(4))
    assert ran[b"0"] == 2


def test_a_settlement_under_way_when_its_session_dies():
    """What a dead session is still being told does not count, and everything that it held comes again."""
    proc, ran = processor()
    broker = Broker(proc, bodies(3))
    asked = threading.Event()

    async def settle(session, settlements):
        if session is broker.sessions[0]:
            asked.set()
            await until(lambda: session.closed, "the session to be dropped")
            raise Transient("closed")

    broker.intercept["settle"] = settle

    async def meanwhile(engine):
        await until(asked.is_set, "a settlement")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    assert sorted(broker.acked) == bodies(3)
    assert report.redelivered == 3
    assert all(count == 2 for count in ran.values())


def test_a_fatal_settlement_ends_the_drain():
    """After a fatal settlement, processing ends with its error before the deadline of the drain."""
    proc, _ = processor()
    broker, began = Broker(proc, bodies(5), ends=False), time.monotonic()

    def settle(session, settlements):
        raise Fatal("the queue was deleted")

    broker.intercept["settle"] = settle
    with pytest.raises(Fatal, match="the queue was deleted"):
        run(broker, drain=10, check_left=False)
    assert time.monotonic() - began < 5


def test_a_session_that_dies_after_the_end_of_input():
    """When a session dies during its last settlements, the next session redelivers and settles these messages."""
    proc, _ = processor()
    broker = Broker(proc, bodies(5))

    def settle(session, settlements):
        if session is broker.sessions[0]:
            raise Transient("connection lost")

    broker.intercept["settle"] = settle
    _, report = run(broker)
    assert (len(broker.acked), report.redelivered) == (5, 5)


# Batches and order


class Held(Broker):
    """Keeps its first settlement waiting until all others are done and wait for theirs."""

    def __init__(self, *given):
        super().__init__(*given, per_fetch=5000)
        self.calls = []
        self.dies = False
        """Whether the first session dies over its second settlement."""
        self.go_on = threading.Event()
        self.intercept["settle"] = self.settle

    async def settle(self, session, settlements):
        """Wait, the first time."""
        self.calls.append((session, [settlement.delivery.body for settlement in settlements]))
        await until(self.go_on.is_set, "to go on")
        if self.dies and len(self.calls) > 1 and session is self.sessions[0]:
            raise Transient("gone")

    async def meanwhile(self, engine):
        """Let go when all are done."""
        await until(lambda: engine.report.total_handled == 3000, "all to be handled")
        self.go_on.set()


def held(monkeypatch):
    """Return a broker of 3000 messages, which are all done before the second settlement."""
    monkeypatch.setattr(Runtime, "limits", Limits(5000, 10**6))
    proc = Processor(name="app", dlq={}, concurrency=1)
    proc.add_handler(Everything(), lambda message, context: None)
    return Held(proc, bodies(3000))


def test_settlements_are_in_batches_and_in_order(monkeypatch):
    """Settlements go in few calls, of a thousand at the most, in the order they were done, each once."""
    broker = held(monkeypatch)
    run(broker, meanwhile=broker.meanwhile)
    assert broker.acked == bodies(3000)
    sizes = [len(told) for _, told in broker.calls]
    assert max(sizes) <= 1000
    assert len(sizes) <= 5


def test_a_session_that_dies_over_one_batch_is_told_no_other(monkeypatch):
    """When a session dies over the first of several batches, the others are not told to it: they come again."""
    broker = held(monkeypatch)
    broker.dies = True
    _, report = run(broker, meanwhile=broker.meanwhile)
    first = [told for session, told in broker.calls if session is broker.sessions[0]]
    assert len(first) == 2
    assert sorted(set(broker.acked)) == sorted(bodies(3000))
    assert report.redelivered == 3000 - len(first[0])


def test_what_is_told():
    """Each item says its verb, outcome and label, as far as there is one; what was not handled has no outcome."""
    proc = Processor(name="app", dlq={}, concurrency=1, on_overlap="ignore")
    began = threading.Event()
    proc.add_handler(Body(b"0"), lambda message, context: None, name="h0")
    proc.add_handler(Body(b"1"), lambda message, context: context.discard("not ours"), name="h1")
    proc.discard_for(Body(b"2"), reason="declared")

    @proc.handle_for(Body(b"4"))
    def last(message, context):
        began.set()
        assert stopped.wait(10)

    stopped = threading.Event()
    broker = Broker(proc, [*bodies(5), b"0"], ends=False)

    async def meanwhile(engine):
        await until(began.is_set, "the last to begin")
        engine.stop()
        await until(lambda: broker.released, "the rest to be given back")
        stopped.set()

    run(broker, meanwhile=meanwhile)
    told = {
        (item.delivery.body, item.disposition, None if item.outcome is None else str(item.outcome), item.label)
        for items in broker.settlements
        for item in items
    }
    assert told == {
        (b"0", Disposition.ack, "acked", None),
        (b"1", Disposition.ack, "discarded", "not ours"),
        (b"2", Disposition.ack, "discarded", "declared"),
        (b"3", Disposition.ack, "dead_lettered", None),
        (b"4", Disposition.ack, "acked", None),
        (b"0", Disposition.release, None, None),
    }


def test_a_lost_session_while_others_live():
    """A source that is lost and comes again is nothing to another source of the same handlers."""
    proc, ran = processor()
    broken, other = Broker(proc, bodies(20)), Broker(proc, [b"x%d" % n for n in range(500)], per_fetch=10)
    broken.intercept["settle"] = lambda session, items: [] if session is broken.sessions[0] else None
    _, report = run(broken, other)
    assert (len(broken.sessions), len(other.sessions)) == (2, 1)
    assert sorted(set(broken.acked)) == sorted(bodies(20))
    assert len(other.acked) == 500
    assert all(ran[b"x%d" % n] == 1 for n in range(500))
    assert 1 <= report.redelivered <= 20


def test_marks_are_not_of_a_dead_session():
    """Where progress is a mark, a dead session's is no other's: what it did not pass is handled again, all of it."""
    proc, go_on, ran = Processor(name="app", dlq={}, concurrency=4), threading.Event(), Counter()

    @proc.handle_for(Everything(), ordered_by=lambda message: None)
    def handle(message, context):
        ran[message.raw_data] += 1
        if message.raw_data == b"3":
            go_on.wait(10)

    deliveries = [Delivery(body, lane="p0", position=n) for n, body in enumerate(bodies(10))]
    broker = Broker(proc, deliveries, capabilities=Capabilities(commit="cumulative"))

    async def meanwhile(engine):
        await until(lambda: len(ran) == 10 and broker.acked, "all but one to be done, and a commit")
        assert broker.acked == bodies(3)
        broker.sessions[0].die()
        await until(lambda: ran[b"4"] == 2, "it to come again")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    positions = [mark["p0"] for mark in broker.commits]
    assert positions == sorted(positions)
    assert broker.acked == bodies(10)
    assert [ran[body] for body in bodies(10)] == [1] * 3 + [2] * 7
    assert report.redelivered == 7


def test_a_failed_commit_is_tried_again():
    """A commit whose result is `failed` is tried again."""
    proc, _ = processor()
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
        source = SimpleNamespace(session=session)
        exits = SimpleNamespace(settled=lambda source, jobs, lost: settled.extend(jobs))
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
