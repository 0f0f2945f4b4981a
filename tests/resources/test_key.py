"""Keys: declarations and requests that are refused."""

from __future__ import annotations

import contextlib

import pytest

from missive import Processor, RegistrationClosed, RegistrationError, ResourceError
from missive.matchers import Everything
from tests.support.resources import as_async, fails_to_close


def test_get_refuses_async_resources(main_world):
    """`get` of an async resource names `aget`, also when the resource is open."""
    key = main_world.proc.resource()(as_async(lambda context: (yield 1)))
    wanted = r"fails.<locals>.<lambda> is async: await context.aget\(…\), in an async def"

    def check(context, *_):
        with pytest.raises(ResourceError, match=wanted.removeprefix(r"fails.<locals>.")):
            context.get(key)
        main_world.log.append("refused")

    main_world.handle(check, *([key] if main_world.resources == "async" else []))
    main_world.run(b"1")
    assert main_world.log == ["refused", "acked"]


@pytest.mark.parametrize("wrong", ["db", None, fails_to_close, 1])
def test_get_refuses_other_values(main_world, wrong):
    """A value that is no key, such as an undeclared function, raises an error with its type."""
    main_world.handle(lambda context, *_: None, wrong)
    main_world.run(b"1")
    assert [
        f"get and aget take the key that Processor.resource returned, not a {type(wrong).__name__}"
    ] == main_world.reasons


@pytest.mark.parametrize("wrong", [lambda context: [1], len, 1, "db", contextlib.contextmanager(fails_to_close)])
def test_a_resource_must_be_a_generator_function(wrong):
    """A function without a yield, or behind @contextmanager, raises an error that names it."""
    with pytest.raises(RegistrationError, match=r"^the resource \S+:\S+ must be a generator function, .*no yield"):
        Processor().resource()(wrong)


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_resource_must_take_one_argument(scope):
    """A generator function that cannot take a context raises an error with its signature."""

    def nothing():
        yield

    kind = "HandlingContext" if scope == "message" else "ProcessingContext"
    with pytest.raises(RegistrationError, match=rf"nothing must take a {kind}; it takes \(\)"):
        Processor().resource(scope)(nothing)


@pytest.mark.parametrize("scope", ["process", None, 1, ""])
def test_the_scope_must_be_message_or_worker(scope):
    """Another scope is an error."""
    with pytest.raises(RegistrationError, match='"message" or "worker"'):
        Processor().resource(scope)


def test_the_decorator_needs_parentheses():
    """`@proc.resource` without parentheses raises an error that shows the correct form."""
    with pytest.raises(RegistrationError, match=r"with parentheses: @proc.resource\(\)"):
        Processor().resource(fails_to_close)


def test_resources_cannot_be_declared_after_the_start():
    """A declaration after the freeze is an error."""
    proc = Processor()
    proc.freeze()
    with pytest.raises(RegistrationClosed, match="a resource cannot be registered any more"):
        proc.resource()(fails_to_close)


def test_the_repr_of_a_key():
    """The repr of a key has its name and its scope."""
    key = Processor().resource("worker")(fails_to_close)
    assert repr(key) == f"<ResourceKey {fails_to_close.__module__}:fails_to_close, worker>"
    assert key.function is fails_to_close


def test_a_key_works_with_any_processor(main_world):
    """Handlers of included and unrelated processors can use the same key."""
    a = main_world.logged("a")
    part = Processor()
    part.add_handler(Everything(), main_world.requesting(lambda context, _: main_world.log.append("part"), a))
    main_world.proc.include(part)
    main_world.run(b"1")
    assert main_world.log == ["open a", "part", "close a", "acked"]
