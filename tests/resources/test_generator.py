"""Generators: exceptions at the yield, at the end, and before the yield."""

from __future__ import annotations

import contextlib
import traceback

import pytest

from missive import DeadLetter, Discard, Outcome, RetryLater
from missive.matchers import Everything
from tests.support.resources import KINDS, RUNNERS, World, fails_to_close, never, raise_error


def test_the_exception_of_the_attempt_is_raised_at_each_yield(world):
    """Each open resource receives the exception at its yield, and the message fails with it."""
    a, b = world.logged("a"), world.logged("b")
    world.handle(lambda context, *_: raise_error(ValueError("the handler's own")), a, b)
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.log == [
        *["open a", "open b", "b sees ValueError", "close b", "a sees ValueError", "close a"],
        "dead_lettered",
    ]
    assert world.reasons == ["the handler's own"]


def test_a_suppressed_exception_is_still_the_failure(world):
    """A suppressed exception still fails the message, and the next resource receives it."""

    def swallow(context):
        with contextlib.suppress(ValueError):
            yield

    world.handle(lambda context, *_: raise_error(ValueError("stands")), world.logged("a"), world.resource(swallow))
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.reasons == ["stands"]
    assert "a sees ValueError" in world.log


def test_another_exception_replaces_the_failure(world):
    """An exception that a resource raises instead is the failure, and the outer resources receive it."""

    def translate(context):
        try:
            yield
        except ValueError:
            raise KeyError("another")  # noqa: B904 - as a user would

    world.handle(lambda context, *_: raise_error(ValueError("first")), world.logged("a"), world.resource(translate))
    world.run(b"1")
    assert world.reasons == ["'another'"]
    assert "a sees KeyError" in world.log
    if world.errors:
        assert isinstance(world.errors[0].__context__, ValueError)


def test_the_exception_keeps_its_traceback(world):
    """The traceback ends in the handler, without frames of the resources."""
    a = world.resource(lambda context: (yield))
    world.handle(lambda context, *_: raise_error(ValueError()), a, world.logged("b"))
    world.run(b"1")
    for error in world.errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert (names[-1], [name for name in names if name in {"_end", "_aend", "fn"}]) == ("raise_error", [])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("def", StopIteration("one")),  # a coroutine cannot raise it
        *((kind, error) for kind in KINDS for error in (StopAsyncIteration("two"), GeneratorExit("three"))),
    ],
)
@pytest.mark.parametrize("runner", RUNNERS)
def test_stop_iteration_is_a_failure_like_any_other(runner, kind, error):
    """StopIteration, StopAsyncIteration and GeneratorExit of a handler are the failure, unchanged."""
    world = World(runner, *KINDS[kind])
    world.handle(lambda context, *_: raise_error(error), world.logged("a"))
    if world.runner != "engine" and isinstance(error, GeneratorExit):
        with pytest.raises(GeneratorExit):  # a test client raises it, like KeyboardInterrupt
            world.run(b"1")
    else:
        assert [Outcome.dead_lettered] == world.run(b"1")
        assert world.reasons == [str(error)]
    assert f"a sees {type(error).__name__}" in world.log


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RetryLater(5), Outcome.retried),
        (DeadLetter("label"), Outcome.dead_lettered),
        (Discard("label"), Outcome.discarded),
    ],
)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_raised_outcome_is_raised_at_the_yield(kind, error, outcome):
    """`raise RetryLater` rolls back a transaction, and the message is still retried."""
    world = World("client", *KINDS[kind])
    world.handle(lambda context, *_: raise_error(error), world.logged("a"))
    assert [outcome] == world.run(b"1")
    assert f"a sees {type(error).__name__}" in world.log


def test_a_recorded_outcome_raises_nothing(main_world):
    """After `context.discard()`, a resource continues after its yield and can read the outcome."""
    seen = []

    def fn(context):
        yield
        seen.append(context.outcome)

    main_world.handle(lambda context, *_: context.discard("label"), main_world.resource(fn), main_world.logged("a"))
    assert [Outcome.discarded] == main_world.run(b"1")
    assert seen == [Outcome.discarded]
    assert "a sees" not in " ".join(main_world.log)


def test_a_resource_that_fails_to_close_fails_the_message(world):
    """An exception at the end of a resource is the failure, and the outer resources receive it."""
    world.handle(lambda context, *_: None, world.logged("a"), world.resource(fails_to_close))
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.reasons == ["commit"]
    assert world.log == ["open a", "a sees OSError", "close a", "dead_lettered"]


def test_a_failure_to_close_overrides_ack(main_world):
    """A message whose resource fails to close fails, also after `ack()`."""
    main_world.handle(lambda context, *_: context.ack(), main_world.resource(fails_to_close))
    assert [Outcome.dead_lettered] == main_world.run(b"1")
    assert main_world.reasons == ["commit"]


def test_other_recorded_outcomes_stand_when_closing_fails(main_world):
    """An outcome other than ack stands, and the result carries the exception."""
    main_world.handle(lambda context, *_: context.discard("label"), main_world.resource(fails_to_close))
    assert [Outcome.discarded] == main_world.run(b"1")
    assert [str(error) for error in main_world.errors] == (["commit"] if main_world.runner == "client" else [])


def test_closing_can_raise_an_outcome():
    """A resource can raise RetryLater at its end, like a handler."""
    world = World("client", *KINDS["def"])

    def fn(context):
        yield
        raise RetryLater(7)

    world.handle(lambda context, *_: None, world.resource(fn))
    assert [Outcome.retried] == world.run(b"1")


def test_closing_can_record_an_outcome(main_world):
    """A resource can record an outcome after an exception, and that outcome stands."""

    def fn(context):
        try:
            yield
        except KeyError:
            context.discard("duplicate")

    main_world.handle(lambda context, *_: raise_error(KeyError()), main_world.resource(fn))
    assert [Outcome.discarded] == main_world.run(b"1")


def test_all_resources_close_when_one_fails(main_world):
    """A resource that fails to close does not keep the others open."""
    main_world.handle(
        lambda context, *_: None,
        main_world.logged("a"),
        main_world.resource(fails_to_close),
        main_world.logged("b"),
        main_world.resource(fails_to_close),
    )
    main_world.run(b"1")
    assert [one for one in main_world.log if one.startswith("close")] == ["close b", "close a"]


def fails_once(world, error=None):
    """Return a resource that opens at its second attempt."""
    tries = []

    def fn(context):
        tries.append(1)
        world.log.append(f"try {len(tries)}")
        if len(tries) == 1:
            raise error or OSError("connect")
        yield len(tries)

    return fn


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_failure_to_open_is_raised_in_the_handler(world, scope):
    """An exception before the yield is raised in the handler. The next message opens the resource anew."""
    seen = []
    world.handle(
        lambda context, *received: seen.extend(received[1:]),
        world.logged("a"),
        world.resource(fails_once(world), scope),
    )
    assert sorted([Outcome.dead_lettered, Outcome.acked]) == sorted(world.run(b"1", b"2"))
    assert (seen, world.reasons) == ([2], ["connect"])
    assert "a sees OSError" in world.log


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_handler_can_request_again_after_a_failure(scope):
    """A handler that catches the failure to open can request the resource again."""
    world = World("client", *KINDS["def"])
    key = world.resource(fails_once(world), scope)
    seen = []

    def handle(message, context):
        with pytest.raises(OSError, match="connect"):
            context.get(key)
        seen.append(context.get(key))

    world.proc.add_handler(Everything(), handle)
    assert [Outcome.acked] == world.run(b"1")
    assert seen == [2]


def test_a_resource_without_a_yield_is_an_error(world):
    """A generator that ends before its yield raises a ResourceError in the handler, which names it."""
    world.handle(lambda context, *_: None, world.resource(never))
    world.run(b"1")
    assert [f"the resource {never.__module__}:never ended without a yield. It must yield once"] == world.reasons


def test_a_second_yield_is_an_error(world):
    """A generator that continues to a second yield is closed there, and fails the message."""

    def twice(context):
        try:
            yield 1
            yield 2
        finally:
            world.log.append("closed")

    world.handle(lambda context, *_: None, world.resource(twice))
    world.run(b"1")
    assert [reason.partition("<locals>.")[2] for reason in world.reasons] == [
        "twice continued to a second yield. It must yield once"
    ]
    assert world.log == ["closed", "dead_lettered"]


def test_an_exception_after_a_second_yield_is_the_failure(main_world):
    """An exception that a generator raises while it is closed at its second yield is the failure."""

    def fn(context):
        try:
            yield 1
            yield 2
        finally:
            raise OSError("cleaning up")

    main_world.handle(lambda context, *_: None, main_world.logged("a"), main_world.resource(fn))
    main_world.run(b"1")
    assert main_world.reasons == ["cleaning up"]
    assert "a sees OSError" in main_world.log


def test_a_second_yield_keeps_the_exception_as_its_context(main_world):
    """The message fails with the error about the second yield, whose context is the handler's exception."""

    def again(context):
        try:
            yield 1
        except ValueError:
            yield 2

    main_world.handle(lambda context, *_: raise_error(ValueError("first")), main_world.resource(again))
    main_world.run(b"1")
    assert main_world.reasons[0].endswith("again continued to a second yield. It must yield once")
    assert [str(error.__context__) for error in main_world.errors] == (
        ["first"] if main_world.runner == "client" else []
    )
