"""What a hostile reader of the engine found: each was a fault, and was red before it was mended."""

from __future__ import annotations

import threading

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


# timeouts


# batches


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
