"""What needs no handler, and what has none: declared discards, and the handler for what nothing matches."""

from __future__ import annotations

import pytest

import missive
from missive import JSONMessage, Processor, RegistrationError
from missive.engine.runner import execute
from missive.matchers import Field, Header, Topic
from missive.testing import MemoryAdapter

ODD = JSONMessage.of({"type": "odd"})
UNREADABLE = JSONMessage(b"{")


def nothing(message, context):
    """Handle a message by doing nothing."""


async def nothing_async(message, context):
    """Do nothing, on the loop."""


def processor(**settings):
    return Processor(JSONMessage, name="app", dlq={}, **settings)


def test_a_declared_discard_calls_nothing():
    """What `discard_for` matches is discarded with its label, and neither a handler nor a hook runs."""
    proc, called = processor(), []
    proc.before_handling(lambda worker, context: called.append(context))
    proc.discard_for(Field("type", "odd"), reason="not ours")
    with proc.test_client() as client:
        result = client.send(ODD)
        assert (result.outcome, result.reason, result.handler) == ("discarded", "not ours", "discard:not ours")
        assert client.acked == client.discarded == [ODD]
    assert called == []


def test_a_declared_discard_in_the_engine():
    """A declared discard is settled as discarded with its label, and counted."""
    proc = processor()
    proc.discard_for(Field("type", "odd"), reason="not ours")
    proc.add_handler(Field("type", "even"), nothing_async)
    adapter = MemoryAdapter(proc, [ODD.raw_data, b'{"type":"even"}', ODD.raw_data])
    (report,) = execute([adapter])
    assert report.discarded == {"discard:not ours": 2}
    assert sorted((str(item.outcome), item.label) for item in adapter.settled) == [
        ("acked", None),
        ("discarded", "not ours"),
        ("discarded", "not ours"),
    ]


def test_a_discard_is_no_handler_for_an_async_hook():
    """An async hook, which a `def` handler refuses, may stand beside a discard: nothing of it runs."""
    proc = processor()
    proc.discard_for(Field("type", "odd"), reason="not ours")
    proc.add_handler(Field("type", "even"), nothing_async)
    proc.before_handling(nothing_async)
    assert [route.kind for route in proc.freeze()] == ["discard", "async"]


def test_a_discard_is_registered_like_a_handler():
    """A discard with another's matcher is refused, with both named, and it may be included under a condition."""
    proc, other = processor(), Processor(JSONMessage, name="other")
    proc.add_handler(Field("type", "odd"), nothing)
    with pytest.raises(RegistrationError, match="discard:not ours have the same matcher"):
        proc.discard_for(Field("type", "odd"), reason="not ours")
    other.discard_for(Topic("a"), reason="noise")
    proc.include(other, when=Field("type", "seen"))
    assert proc.routes()[-1].to_dict() == {
        "handler": "discard:noise",
        "matcher": repr(Field("type", "seen") & Topic("a")),
        "kind": "discard",
    }


@pytest.mark.parametrize("reason", ["", None, 3])
def test_a_discard_has_a_label(reason):
    """`reason=` is a text that is not empty."""
    with pytest.raises(RegistrationError, match="reason= of discard_for must be a short text"):
        processor().discard_for(Topic("a"), reason=reason)


@pytest.mark.parametrize("handler", [nothing, nothing_async])
def test_the_handler_of_what_is_unmatched(handler):
    """`handle_unmatched` gets what nothing else matches, and only that."""
    proc = processor(on_overlap="ignore")
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


def test_the_handler_of_what_is_unmatched_in_the_engine():
    """In a running processor it handles what nothing matches, with its hooks, and such messages are no dead letters."""
    proc, seen = processor(), []
    proc.before_handling(lambda worker, context: seen.append(context.message.raw_data))
    proc.handle_unmatched(nothing)
    adapter = MemoryAdapter(proc, [ODD.raw_data])
    (report,) = execute([adapter])
    assert (dict(report.handled), report.total_dead, seen) == ({f"{__name__}:nothing": 1}, 0, [ODD.raw_data])


def test_one_handler_of_what_is_unmatched():
    """A second one is refused, and both are named."""
    proc = processor()
    proc.handle_unmatched(nothing)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages already.*:nothing_async"):
        proc.handle_unmatched(nothing_async)


def test_only_what_runs_says_what_is_unmatched():
    """An included processor has no handler of what is unmatched, whichever was first."""
    outer, inner = processor(), Processor(JSONMessage, name="inner")
    inner.handle_unmatched(nothing)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages.* included in app"):
        outer.include(inner)
    late = Processor(JSONMessage, name="late")
    outer.include(late)
    with pytest.raises(RegistrationError, match=r":nothing handles unmatched messages.* included in app"):
        late.handle_unmatched(nothing)


def test_what_is_unmatched_needs_a_handler():
    """A handler of what is unmatched takes a message and a context, like any."""
    with pytest.raises(RegistrationError, match="must take a message and a context"):
        processor().handle_unmatched(lambda message: None)
    proc = processor()
    proc.freeze()
    with pytest.raises(missive.RegistrationClosed):
        proc.handle_unmatched(nothing)
