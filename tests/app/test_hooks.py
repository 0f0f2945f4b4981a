"""Hooks: signatures, async hooks, and includes."""

from __future__ import annotations

import pytest

from missive import Processor, RawMessage, RegistrationError
from missive.matchers import Topic


def nothing(message, context):
    """Do nothing."""


def other(message, context):
    """Do nothing, in another handler."""


async def nothing_async(message, context):
    """Do nothing on the loop."""


async def async_hook(*contexts):
    """Do nothing on the loop."""


def at(topic="t", **envelope):
    """Return a raw message with a topic."""
    return RawMessage(b"", topic=topic, **envelope)


@pytest.mark.parametrize("register", ["before_processing", "after_processing"])
def test_processing_hooks_return_the_function_unchanged(register):
    """The decorator of a processing hook returns the function."""
    hook = lambda context: None
    assert hook is getattr(Processor(), register)(hook)


@pytest.mark.parametrize("register", ["before_handling", "after_handling"])
def test_handling_hooks_return_the_function_unchanged(register):
    """The decorator of a handling hook returns the function."""
    hook = lambda worker, context: None
    assert hook is getattr(Processor(), register)(hook)


@pytest.mark.parametrize(
    ("register", "hook"),
    [
        ("before_processing", lambda: None),
        ("after_processing", lambda a, b: None),
        ("before_handling", lambda a: None),
        ("after_handling", lambda a, b, c: None),
        ("after_handling", None),
    ],
)
def test_a_hook_must_take_its_contexts(register, hook):
    """A hook that cannot be called with its contexts is an error that names its kind."""
    with pytest.raises(RegistrationError, match=f"the {register} hook"):
        getattr(Processor(), register)(hook)


@pytest.mark.parametrize("register", ["before_processing", "after_processing", "before_handling", "after_handling"])
def test_an_async_hook_cannot_serve_a_sync_handler(register):
    """An async hook with a def handler is an error that names both, at the start."""
    proc = Processor()
    getattr(proc, register)(async_hook)
    proc.add_handler(Topic("a"), nothing_async)
    assert len(proc.routes()) == 1
    proc.add_handler(Topic("b"), nothing)
    with pytest.raises(RegistrationError, match=r"hook .*:async_hook is async, and the handler .*:nothing "):
        proc.freeze()


def test_handling_hooks_serve_the_handlers_of_their_processor():
    """Handling hooks serve included handlers too, the outermost first, but no handlers of the including processor."""
    proc, part, inner = Processor(), Processor(), Processor()
    mine, its, own = (lambda worker, context, _n=n: None for n in range(3))
    inner.add_handler(Topic("c"), lambda message, context: None)
    part.include(inner)
    proc.include(part)
    proc.add_handler(Topic("a"), nothing)
    part.add_handler(Topic("b"), other)
    proc.before_handling(mine)  # hooks count until processing starts, as handlers do
    part.before_handling(its)
    part.after_handling(its)
    inner.before_handling(own)
    inner.after_handling(own)
    assert {
        Topic("a"): ((mine,), ()),
        Topic("b"): ((mine, its), (its,)),
        Topic("c"): ((mine, its, own), (its, own)),
    } == {route.matcher: (route.terms.before, route.terms.after) for route in proc.routes()}


def test_hooks_run_from_the_outermost_processor_to_the_handler():
    """The hooks of the including processor run before the included processor's own hooks."""
    calls = []
    proc, part = Processor(dlq={}), Processor()
    proc.include(part)
    for name, owner in (("part", part), ("proc", proc)):
        owner.before_handling(lambda worker, context, name=name: calls.append(f"before {name}"))
        owner.after_handling(lambda worker, context, name=name: calls.append(f"after {name}"))
    part.add_handler(Topic("a"), lambda message, context: calls.append("handler"))
    with proc.test_client() as client:
        client.send(RawMessage(b"", topic="a"))
    assert calls == ["before proc", "before part", "handler", "after proc", "after part"]


def test_an_outer_async_hook_cannot_serve_an_included_sync_handler():
    """An async handling hook of the including processor conflicts with an included def handler."""
    proc, part = Processor(), Processor()
    proc.include(part)
    proc.before_handling(async_hook)
    part.add_handler(Topic("a"), nothing)
    with pytest.raises(RegistrationError, match=r"hook .*:async_hook is async, and the handler .*:nothing "):
        proc.freeze()


def test_processing_hooks_of_a_processor_included_twice_run_once():
    """A processor that is included under two conditions adds its processing hooks once."""
    proc, part = Processor(), Processor()
    hook = part.before_processing(lambda context: None)
    proc.include(part, when=Topic("a"))
    proc.include(part, when=Topic("b"))
    assert proc.registry.hooks().before_processing == [hook]


def test_processing_hooks_of_included_processors_run_too():
    """Processing hooks of included processors follow the hooks of the including one."""
    proc, part = Processor(), Processor()
    one, two = lambda context: None, lambda context: None
    proc.before_processing(one)
    part.before_processing(two)
    part.after_processing(two)
    proc.include(part)
    assert ([one, two], [two]) == (proc.registry.hooks().before_processing, proc.registry.hooks().after_processing)


def test_an_async_hook_concerns_the_handlers_of_its_processor():
    """An async handling hook does not conflict with a def handler of another processor."""
    proc, part = Processor(), Processor()
    part.before_handling(async_hook)
    part.add_handler(Topic("a"), nothing_async)
    proc.add_handler(Topic("b"), nothing)
    proc.include(part)
    assert len(proc.freeze()) == 2
