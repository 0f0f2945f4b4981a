"""Batches: the object that a batch handler gets, and the declaration of batch handlers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from missive import RegistrationError
from missive.app.batch import Batch
from missive.matchers import Everything, Field
from tests.support.broker import Broker
from tests.support.engine import CANARY, number, processor, run


def test_a_batch_is_a_sequence_of_contexts():
    """A `Batch` is a sequence of contexts in the order of their messages. Its repr shows no content."""
    proc, seen = processor(), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        assert isinstance(batch, Sequence)
        assert (len(batch), bool(batch)) == (4, True)
        assert [context.message for context in batch] == batch.messages == [item.message for item in batch[0:4]]
        assert number(batch[-1].message) == 3
        assert batch[1] in batch
        assert batch.index(batch[2]) == 2
        assert [context.processing_ctx for context in reversed(batch)] == [batch.processing_ctx] * 4
        assert all(context.attempt == 1 and context.adapter is broker for context in batch)
        seen.append(repr(batch))

    broker = Broker(proc, [b'{"n":%d,"text":"%s"}' % (n, CANARY.encode()) for n in range(4)])
    assert run(broker).report.total_handled == 4
    assert seen == ["<Batch: 4 messages>"]
    with pytest.raises(IndexError):
        Batch([], None)[0]


def test_the_routes_show_which_handlers_take_batches():
    """The routes of a processor show which handlers take batches."""
    proc = processor()

    @proc.handle_batch_for(Field("a", 1), name="sync")
    def handle(batch): ...

    @proc.handle_batch_for(Field("a", 2), name="async")
    async def handle_async(batch): ...

    proc.add_handler(Field("a", 3), lambda message, context: None, name="single")
    assert [(route.name, route.to_dict()["kind"], route.terms.batch is not None) for route in proc.routes()] == [
        ("sync", "sync batch", True),
        ("async", "async batch", True),
        ("single", "sync", False),
    ]
    assert handle.__name__ == "handle"


def generator(batch):
    yield


@pytest.mark.parametrize(
    ("handler", "settings", "complaint"),
    [
        (print, {"size": 0}, "size= must be a whole number of messages from 1"),
        (print, {"size": True}, "size= must be a whole number of messages from 1"),
        (print, {"size": 2.0}, "size= must be a whole number of messages from 1"),
        (print, {"wait": -1}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": float("nan")}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": None}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": "soon"}, "wait= must be a number of seconds, zero or more"),
        (lambda message, context: None, {}, r"the batch handler .* must take a batch; it takes \(message, context\)"),
        (lambda: None, {}, "must take a batch"),
        (generator, {}, "must take a batch; it contains a `yield`"),
        (3, {}, "must take a batch; it is a int"),
        (print, {"size": 11, "rate_limit": "10/s"}, "size=11 is more messages than rate_limit='10/1s' allows at once"),
        (print, {"concurrency": 0}, "concurrency= must be a whole number from 1"),
        (print, {"ordered_by": "k"}, "ordered_by= .* must take a message"),
    ],
)
def test_invalid_declarations_are_refused(handler, settings, complaint):
    """Invalid sizes, waits and handlers raise RegistrationError, and nothing is registered."""
    proc = processor()
    with pytest.raises(RegistrationError, match=complaint):
        proc.add_batch_handler(Everything(), handler, **{"name": "h", **settings})
    assert proc.routes() == ()
