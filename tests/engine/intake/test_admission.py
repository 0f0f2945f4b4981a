"""Admission of messages without a matching handler: declared discards, and the handler of unmatched messages."""

from __future__ import annotations

import pytest

import missive
from missive import JSONMessage, Processor, RegistrationError
from missive.engine.runner import execute
from missive.matchers import Field, Header, Topic
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.support.broker import Broker
from tests.support.engine import RecordingSink

ODD = JSONMessage.of({"type": "odd"})
UNREADABLE = JSONMessage(b"{")


def nothing(message, context):
    """Do nothing."""


async def nothing_async(message, context):
    """Do nothing."""


def strict_processor():
    """Return a processor that does not ignore overlapping matchers."""
    return Processor(JSONMessage, name="app", dlq={})


def test_a_declared_discard_runs_no_code_of_the_user():
    """A message that matches `discard_for` is discarded with its label, without a call of handlers or hooks."""
    proc, called = strict_processor(), []
    proc.before_handling(lambda worker, context: called.append(context))
    proc.discard_for(Field("type", "odd"), reason="not relevant")
    with proc.test_client() as client:
        result = client.send(ODD)
        assert (result.outcome, result.reason, result.handler) == ("discarded", "not relevant", "discard:not relevant")
        assert client.acked == client.discarded == [ODD]
    assert called == []


def test_the_engine_settles_and_counts_declared_discards():
    """The engine settles a declared discard as discarded with its label, and counts it."""
    proc = strict_processor()
    proc.discard_for(Field("type", "odd"), reason="not relevant")
    proc.add_handler(Field("type", "even"), nothing_async)
    adapter = MemoryAdapter(proc, [ODD.raw_data, b'{"type":"even"}', ODD.raw_data])
    (report,) = execute([adapter])
    assert report.discarded == {"discard:not relevant": 2}
    assert sorted((str(settlement.outcome), settlement.label) for settlement in adapter.settled) == [
        ("acked", None),
        ("discarded", "not relevant"),
        ("discarded", "not relevant"),
    ]


def test_a_discard_allows_async_hooks():
    """A declared discard does not conflict with an async hook, although a `def` handler does."""
    proc = strict_processor()
    proc.discard_for(Field("type", "odd"), reason="not relevant")
    proc.add_handler(Field("type", "even"), nothing_async)
    proc.before_handling(nothing_async)
    assert [route.kind for route in proc.freeze()] == ["discard", "async"]


def test_a_discard_is_registered_like_a_handler():
    """A discard with the matcher of a handler is refused with both names, and an include narrows a discard."""
    proc, other = strict_processor(), Processor(JSONMessage, name="other")
    proc.add_handler(Field("type", "odd"), nothing)
    with pytest.raises(RegistrationError, match="discard:not relevant have the same matcher"):
        proc.discard_for(Field("type", "odd"), reason="not relevant")
    other.discard_for(Topic("a"), reason="noise")
    proc.include(other, when=Field("type", "seen"))
    assert proc.routes()[-1].to_dict() == {
        "handler": "discard:noise",
        "matcher": repr(Field("type", "seen") & Topic("a")),
        "kind": "discard",
    }


@pytest.mark.parametrize("reason", ["", None, 3])
def test_a_discard_requires_a_label(reason):
    """The `reason=` of a discard must be non-empty text."""
    with pytest.raises(RegistrationError, match="reason= of discard_for must be a short text"):
        strict_processor().discard_for(Topic("a"), reason=reason)


@pytest.mark.parametrize("handler", [nothing, nothing_async])
def test_handle_unmatched_registers_the_handler_of_unmatched_messages(handler):
    """The handler of `handle_unmatched` gets the messages that no other handler matches, and no others."""
    proc = Processor(JSONMessage, name="app", dlq={}, on_overlap="ignore")
    assert proc.handle_unmatched(handler) is handler
    proc.add_handler(Field("type", "even"), nothing)
    proc.add_handler(Header("h", "x"), nothing, name="by header")
    name = f"{__name__}:{handler.__name__}"
    with proc.test_client() as client:
        assert client.send(ODD).handler == name
        assert client.send(JSONMessage.of({"type": "even"})).handler == f"{__name__}:nothing"
        both = client.send(JSONMessage.of({"type": "even"}, headers={"h": "x"}))
        assert (both.reason, both.handler) == ("ambiguous", None)
        assert client.send(UNREADABLE).reason == "unreadable"
    assert proc.explain(ODD).handler == name
    assert {one.handler for one in proc.explain(ODD).considered} == {f"{__name__}:nothing", "by header"}
    assert proc.route(ODD) == []
    assert proc.check().handlers == 2


def test_the_engine_runs_the_handler_of_unmatched_messages():
    """The engine runs the handler of unmatched messages with its hooks, and files no dead letter."""
    proc, seen = strict_processor(), []
    proc.before_handling(lambda worker, context: seen.append(context.message.raw_data))
    proc.handle_unmatched(nothing)
    adapter = MemoryAdapter(proc, [ODD.raw_data])
    (report,) = execute([adapter])
    assert (dict(report.handled), report.total_dead, seen) == ({f"{__name__}:nothing": 1}, 0, [ODD.raw_data])


def test_a_second_handler_of_unmatched_messages_is_refused():
    """A second handler of unmatched messages is refused with an error that names both."""
    proc = strict_processor()
    proc.handle_unmatched(nothing)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages already.*:nothing_async"):
        proc.handle_unmatched(nothing_async)


def test_an_included_processor_cannot_handle_unmatched_messages():
    """An included processor cannot have a handler of unmatched messages, before or after the include."""
    outer, inner = strict_processor(), Processor(JSONMessage, name="inner")
    inner.handle_unmatched(nothing)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages.* included in app"):
        outer.include(inner)
    late = Processor(JSONMessage, name="late")
    outer.include(late)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages.* included in app"):
        late.handle_unmatched(nothing)


def test_a_handler_of_unmatched_messages_takes_a_message_and_a_context():
    """A handler of unmatched messages must take a message and a context, and be registered before processing starts."""
    with pytest.raises(RegistrationError, match="must take a message and a context"):
        strict_processor().handle_unmatched(lambda message: None)
    proc = strict_processor()
    proc.freeze()
    with pytest.raises(missive.RegistrationClosed):
        proc.handle_unmatched(nothing)


def test_a_delivery_that_the_session_cannot_decode_becomes_a_dead_letter():
    """An unreadable delivery runs no handler, is filed with the reason of the session, and the next one is handled."""
    box, handled = RecordingSink(), []
    proc = Processor(JSONMessage, name="app", dlq=box)
    proc.add_handler(missive.matchers.Everything(), lambda message, context: handled.append(message.raw_data))
    odd = Delivery(b"{}", headers=[("properties", b"\xff")], unreadable="the properties cannot be decoded")
    (report,) = execute([Broker(proc, [odd, b'{"n": 1}'])])
    assert (handled, report.total_handled, dict(report.dead)) == ([b'{"n": 1}'], 1, {"unreadable": 1})
    (record,) = box.records
    assert (record.body, record.reason, record.handler) == (b"{}", "unreadable", None)
    assert record.headers == (("properties", b"\xff"),)
    assert record.detail == "the properties cannot be decoded"
