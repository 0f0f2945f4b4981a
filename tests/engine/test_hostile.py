"""What a hostile reader of the engine found: each was a fault, and was red before it was mended."""

from __future__ import annotations

import threading
import time

import pytest

from missive import JSONMessage, Processor
from missive.matchers import Everything, by_field
from missive.transport import Capabilities
from tests.support.broker import Broker
from tests.support.engine import run, until


def processor(**settings):
    return Processor(JSONMessage, **{"name": "app", "dlq": {}, "concurrency": 4, "on_overlap": "ignore", **settings})


def bodies(count, **fields):
    more = "".join(f',"{name}":{value}' for name, value in fields.items()).encode()
    return [b'{"n":%d%s}' % (n, more) for n in range(count)]


def number(message):
    return message.get_json()["n"]


# rates


def test_a_batch_larger_than_its_adapters_rate():
    """A batch handler's size above the adapter's rate is refused at the start, or gathered smaller; never a wedge."""
    proc, sizes = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: sizes.append(len(batch)), size=10, wait=0.05)
    _, report = run(Broker(proc, bodies(20), rate_limit="5/100ms"), seconds=4)
    assert report.total_handled == 20


# timeouts


# batches


@pytest.mark.parametrize("dlq", [{}, None], ids=["dlq", "no dlq"])
def test_a_session_lost_while_a_batch_fails(dlq):
    """Of a batch that raises after its session died nothing is filed but the culprit: the others come again."""
    proc, calls = processor(dlq=dlq), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        calls.append([number(message) for message in batch.messages])
        if len(calls) == 1:
            broker.sessions[0].die()
            while len(broker.sessions) < 2:
                time.sleep(0.01)
            raise ValueError

    broker = Broker(proc, bodies(4))
    _, report = run(broker)
    assert (report.total_dead, report.total_handled) == (0, 4)


def test_an_exception_of_a_before_hook():
    """`after_handling` sees the exception of the hook that failed its item, and not that of a handler it was not in."""
    proc, seen = processor(), []

    @proc.before_handling
    def before(worker, context):
        if number(context.message) == 1:
            raise KeyError

    @proc.after_handling
    def after(worker, context):
        seen.append((number(context.message), type(context.exception).__name__))

    @proc.handle_batch_for(Everything(), size=2, wait=0.05)
    def handle(batch): ...

    run(Broker(proc, bodies(2)))
    assert sorted(seen) == [(0, "NoneType"), (1, "KeyError")]


# backpressure


# the watchdog and dying sessions


# runs of lanes


@pytest.mark.parametrize("release", ["native", "none"])
def test_a_drain_reaches_what_waits_in_a_run(release):
    """What a worker has of a lane and has not begun goes back at a stop, or is filed where nothing goes back."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    broker = Broker(proc, bodies(10, k=0), capabilities=Capabilities(release=release), ends=False)

    async def meanwhile(engine):
        await until(begun.is_set, "the first to begin")
        engine.stop()
        await until(lambda: len(broker.released if release == "native" else proc.dlq) == 9, "the others to go")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (report.total_handled, report.unsettled) == (1, 0)


# what adapters do


def test_a_client_that_fails_to_stop():
    """Where one source fails to stop its intake, what runs is waited for, and the other sources give back theirs."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    odd, other = Broker(proc, bodies(5), ends=False), Broker(proc, bodies(5), ends=False)

    def stop_intake(session):
        raise OSError("the client is odd")

    odd.intercept["stop_intake"] = stop_intake

    async def meanwhile(engine):
        await until(begun.is_set, "one to begin")
        engine.stop()
        await until(lambda: len(odd.released) + len(other.released) == 9, "the others to go back")
        go_on.set()

    _, report = run(odd, other, meanwhile=meanwhile)
    assert report.total_handled == 1


def test_a_resource_that_translates_what_failed_a_batch():
    """The culprit is found by halves, whatever its resources make of the exception; its failure is what they made."""
    proc = processor()

    @proc.resource()
    def transaction(context):
        try:
            yield 1
        except ValueError:
            raise RuntimeError("rolled back") from None

    @proc.handle_batch_for(Everything(), size=8)
    def handle(batch):
        for context in batch:
            context.get(transaction)
        if any(number(message) == 5 for message in batch.messages):
            raise ValueError

    with proc.test_client() as client:
        results = client.send_batch([JSONMessage(body) for body in bodies(8)])
    assert [result.outcome for result in results].count("acked") == 7
    assert isinstance(results[5].exception, RuntimeError)
