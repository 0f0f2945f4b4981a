"""Lost leases: a message that another consumer holds is neither run nor settled, and its handler is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive.engine.intake.leases import LeaseRenewer
from missive.matchers import Everything, by_field
from missive.transport import Capabilities, Disposition, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import keyed_bodies, number, processor, run, stage_of, sync_and_async, until

LEASE = 0.4
RENEWABLE = Capabilities(lease=LEASE)


def lose(broker, which=lambda delivery: True):
    """Let another consumer take held messages at the next renewal. The broker does not redeliver them."""

    def extend(session, deliveries):
        for delivery in deliveries:
            if which(delivery) and not delivery.redelivered:
                broker.held.pop(delivery, None)
        session._changed.set()

    broker.intercept["extend"] = extend


def fence_all(session, deliveries):
    """Let another consumer take all held messages, and answer that their leases are lost."""
    for delivery in deliveries:
        session._broker.held.pop(delivery, None)
    session._changed.set()
    return [SettlementResult.fenced] * len(deliveries)


# Running messages


@pytest.mark.parametrize("dlq", [{}, None], ids=["dlq", "no dlq"])
@pytest.mark.parametrize("how", ["raise", "return", "retry", "dead_letter"])
def test_a_lost_lease_cancels_its_handler(how, dlq):
    """An async handler whose lease is lost is cancelled. Its message is not settled, for any outcome."""
    proc, cancelled = processor(dlq=dlq), []

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(number(message))
            if how == "raise":
                raise
            if how == "retry":
                context.retry(0)
            if how == "dead_letter":
                context.dead_letter("interrupted")

    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE)
    lose(broker)
    _, report = run(broker)
    assert cancelled == [0]
    assert broker.settlements == []
    assert not dlq
    assert (report.redelivered, report.total_dead) == (1, 0)


def test_a_message_fenced_while_it_runs_is_no_dead_letter():
    """A handler that is cancelled because its renewal was fenced leaves no dead letter and no unsettled message."""
    proc, cancelled = processor(), []

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(message)
            raise

    broker = Broker(proc, keyed_bodies(1), capabilities=Capabilities(lease=0.2))
    broker.intercept["extend"] = fence_all
    _, report = run(broker)
    assert len(cancelled) == 1
    assert (proc.dlq, report.total_dead, report.redelivered, report.unsettled) == ({}, 0, 1, 0)


def test_a_thread_that_lost_its_lease_finishes_without_settlement():
    """A thread cannot be interrupted: it finishes, and its message is not settled."""
    proc, go_on, ended = processor(), threading.Event(), []

    @proc.handle_for(Everything())
    def handle(message, context):
        go_on.wait(10)
        ended.append(number(message))

    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE, ends=False)
    lose(broker)

    async def meanwhile(engine):
        await until(lambda: not broker.held, "the lease to be lost")
        await until(lambda: not stage_of(engine, LeaseRenewer)._until, "the engine to drop the lease")
        go_on.set()
        await until(lambda: ended, "the handler to end")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert broker.settlements == []
    assert report.redelivered == 1


def test_a_lane_continues_after_a_lost_lease():
    """The next messages of a lane run in order, after the handler of the lost message has ended."""
    proc, events = processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    async def handle(message, context):
        events.append(number(message))
        if number(message) == 0:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # the handler cleans up, and no other message of its key runs meanwhile
                events.append("ended")
                raise

    broker = Broker(proc, keyed_bodies(5), capabilities=RENEWABLE)
    lose(broker, lambda delivery: delivery.body == keyed_bodies(1)[0])
    _, report = run(broker)
    assert events == [0, "ended", 1, 2, 3, 4]
    assert (report.total_handled, report.redelivered, proc.dlq) == (4, 1, {})


def test_a_message_is_counted_as_handled_once():
    """A message that is lost while it runs, and then redelivered and handled, counts as handled once."""
    proc = processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(0.3 if context.attempt > 1 else 30)
        except asyncio.CancelledError:
            return

    broker = Broker(proc, keyed_bodies(1), capabilities=Capabilities(lease=0.3))
    broker.intercept["extend"] = lambda session, deliveries: (
        session._give_back([d for d in deliveries if d in broker.held and not d.redelivered]) or None
    )
    _, report = run(broker)
    assert (report.total_handled, report.redelivered) == (1, 1)


# Waiting messages


def run_and_lose(broker, *, waiting, go_on, later, ran):
    """Run a broker until all leases but `waiting` are lost, then release the handler and send later messages."""

    async def meanwhile(engine):
        await until(lambda: broker.extended and len(broker.held) == waiting, "the leases to be lost")
        renewer = stage_of(engine, LeaseRenewer)
        await until(lambda: len(renewer._until) == waiting, "the engine to drop the leases")
        go_on.set()
        if later:
            broker.send(b'{"n":3,"k":0}', b'{"n":4,"k":0}', b'{"n":5,"k":0}')
            await until(lambda: 5 in ran, "the later messages to be handled")
        engine.stop()

    return run(broker, meanwhile=meanwhile).report


def check_lost(broker, report, ran, expected):
    """Check that the messages 1 and 2 were lost and not acked, and which messages ran."""
    assert sorted(ran) == expected
    assert report.redelivered == 2
    acked = {
        settlement.delivery.body
        for call in broker.settlements
        for settlement in call
        if settlement.disposition is Disposition.ack
    }
    assert not acked & {b'{"n":1,"k":0}', b'{"n":2,"k":0}'}


@pytest.mark.parametrize("reason", ["worker", "lane", "limit", "retry"])
def test_a_waiting_message_that_lost_its_lease_does_not_run(reason):
    """A message that loses its lease while it waits does not run. Later messages are handled."""
    proc, go_on, ran = processor(concurrency=1 if reason == "worker" else 2), threading.Event(), []
    terms = {"lane": {"ordered_by": by_field("k")}, "limit": {"concurrency": 1}}

    @proc.handle_for(Everything(), **terms.get(reason, {}))
    def handle(message, context):
        ran.append(number(message))
        if number(message) == 0:
            go_on.wait(10)
        elif reason == "retry" and number(message) in (1, 2) and context.attempt == 1:
            context.retry(600)

    broker = Broker(proc, keyed_bodies(3), capabilities=RENEWABLE, ends=False)
    lose(broker, lambda delivery: delivery.body in keyed_bodies(3)[1:])
    report = run_and_lose(broker, waiting=1, go_on=go_on, later=True, ran=ran)
    check_lost(broker, report, ran, [0, 1, 2, 3, 4, 5] if reason == "retry" else [0, 3, 4, 5])


def test_a_message_that_lost_its_lease_before_its_rate_allows_it_does_not_run():
    """A message that loses its lease while it waits for the rate of its handler does not run."""
    proc, go_on, ran = processor(), threading.Event(), []
    proc.add_handler(Everything(), lambda message, context: ran.append(number(message)), rate_limit="3/h")
    bodies = [b'{"n":7,"k":0}'] * 3 + [b'{"n":1,"k":0}', b'{"n":2,"k":0}']
    broker = Broker(proc, bodies, capabilities=RENEWABLE, ends=False)
    lose(broker, lambda delivery: delivery.body in keyed_bodies(3))
    report = run_and_lose(broker, waiting=0, go_on=go_on, later=False, ran=ran)
    check_lost(broker, report, ran, [7, 7, 7])


def test_a_message_that_lost_its_lease_leaves_its_unfinished_batch():
    """A message that loses its lease before its batch is full leaves the batch. Later messages fill it."""
    proc, go_on, ran = processor(), threading.Event(), []
    handle = lambda batch: ran.extend(map(number, batch.messages))
    proc.add_batch_handler(Everything(), handle, size=3, wait=600)
    broker = Broker(proc, keyed_bodies(2), capabilities=RENEWABLE, ends=False)
    lose(broker)
    report = run_and_lose(broker, waiting=0, go_on=go_on, later=True, ran=ran)
    check_lost(broker, report, ran, [3, 4, 5])


def test_all_waiting_messages_of_a_lane_are_dropped_with_their_leases():
    """When a retried message and the message behind it in its lane lose their leases, the engine waits for neither."""
    proc, runs = processor(concurrency=1), []

    @proc.handle_batch_for(Everything(), wait=0, ordered_by=lambda message: "one lane")
    async def handle(batch):
        runs.append(len(batch))
        for context in batch:
            context.retry(600)

    broker = Broker(proc, keyed_bodies(2), capabilities=Capabilities(lease=0.2))
    broker.intercept["extend"] = fence_all
    _, report = run(broker, drain=1)
    assert runs == [2]
    assert (report.redelivered, report.unsettled) == (2, 0)


# Batches


@sync_and_async
def test_a_batch_continues_without_a_lost_message(is_async):
    """When one lease of a running batch is lost, the batch finishes; the other messages are acked."""
    proc, ran = processor(), []

    def handle(batch):
        ran.append([number(message) for message in batch.messages])
        time.sleep(LEASE)

    async def handle_async(batch):
        ran.append([number(message) for message in batch.messages])
        await asyncio.sleep(LEASE)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=4, wait=0.05)
    broker = Broker(proc, keyed_bodies(4), capabilities=RENEWABLE)
    lose(broker, lambda delivery: delivery.body == keyed_bodies(3)[2])
    _, report = run(broker)
    assert ran == [[0, 1, 2, 3]]
    assert sorted(broker.acked) == [body for n, body in enumerate(keyed_bodies(4)) if n != 2]
    assert (report.redelivered, proc.dlq) == (1, {})


def test_a_batch_that_lost_all_leases_is_cancelled():
    """An async batch that lost all its leases is cancelled. It is neither filed nor run again in halves."""
    proc, ran = processor(dlq=None), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        ran.append(len(batch))
        await asyncio.sleep(30)

    broker = Broker(proc, keyed_bodies(4), capabilities=RENEWABLE)
    lose(broker)
    _, report = run(broker)
    assert ran == [4]
    assert (report.redelivered, broker.settlements) == (4, [])
