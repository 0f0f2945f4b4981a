"""Resources: opened at first use, the same object afterwards, closed in reverse order before settlement."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import traceback
import weakref

import pytest

from missive import (
    DeadLetter,
    Discard,
    ForcedStop,
    HandlingContext,
    Outcome,
    ProcessingContext,
    ProcessingFailed,
    Processor,
    RawMessage,
    RegistrationClosed,
    RegistrationError,
    ResourceError,
    ResourceKey,
    RetryLater,
    UsageError,
)
from missive.dlq.contract import Sink
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.testing import MemoryAdapter

CANARY = "canary-4711"
variable = contextvars.ContextVar("variable", default="clean")


def as_async(fn):
    """Return an async generator function that does what a sync one does."""

    @functools.wraps(fn)
    async def generator(context):
        inner = fn(context)
        step = functools.partial(next, inner)
        while True:
            try:
                value = step()
            except StopIteration:
                return
            try:
                yield value
            except BaseException as error:  # noqa: BLE001 - as the sync one would
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(next, inner)

    return generator


class Noted(MemoryAdapter):
    """Notes each settlement in a log, beside what resources and handlers note there."""

    def __init__(self, proc, bodies, log):
        super().__init__(proc, bodies)
        self.log = log

    async def connect(self, host):
        session = await super().connect(host)
        settle = session.settle

        async def note(items):
            self.log += [f"{item.outcome}" for item in items]
            return await settle(items)

        session.settle = note
        return session


class World:
    """One kind of handler that gets one kind of resource in one way, under a test client or the whole engine."""

    def __init__(self, runner, handlers, resources, asks):
        self.runner, self.handlers, self.resources, self.asks = runner, handlers, resources, asks
        self.log = []
        self.dead = {}
        self.proc = Processor(name="t", dlq=self.dead)
        self.errors = []

    def resource(self, fn, scope="message"):
        """Declare a resource of this kind, given as a sync generator function."""
        return self.proc.resource(scope)(fn if self.resources == "def" else as_async(fn))

    def noted(self, name, scope="message", value=None):
        """Declare a resource that notes when it is opened and closed, and what was raised in it."""

        def fn(context):
            self.log.append(f"open {name}")
            try:
                yield object() if value is None else value
            except BaseException as error:
                self.log.append(f"{name} sees {type(error).__name__}")
                raise
            finally:
                self.log.append(f"close {name}")

        return self.resource(fn, scope)

    def asking(self, fn, *keys):
        """Return a function of this kind that takes a context last, and gives the resources to another one."""
        if self.handlers == "def":

            def call(_, context):
                return fn(context, *[context.get(key) for key in keys])

        elif self.asks == "get":

            async def call(_, context):
                return fn(context, *[context.get(key) for key in keys])

        else:

            async def call(_, context):
                return fn(context, *[await context.aget(key) for key in keys])

        return call

    def hook(self, fn, *keys):
        """Return a processing hook of this kind."""
        two = self.asking(fn, *keys)
        if self.handlers == "def":
            return lambda worker: two(None, worker)

        async def one(worker):
            await two(None, worker)

        return one

    def handle(self, fn, *keys, matcher=Everything()):  # noqa: B008 - frozen
        """Add a handler that gets the resources and gives them, after its context, to a function."""
        self.proc.add_handler(matcher, self.asking(fn, *keys))

    def run(self, *bodies):
        """Send bodies one after the other; returns the outcomes, which are also in the log, each when it is settled."""
        if self.runner == "engine":
            adapter = Noted(self.proc, bodies, self.log)
            execute([adapter])
            return [item.outcome for item in adapter.settled]
        messages = [RawMessage(body) for body in bodies]
        results = self.clients(messages) if self.runner == "client" else asyncio.run(self.async_clients(messages))
        self.errors = [result.exception for result in results]
        return [result.outcome for result in results]

    def clients(self, messages):
        with self.proc.test_client() as client:
            return [self.settled(client.send(message)) for message in messages]

    async def async_clients(self, messages):
        async with self.proc.test_client() as client:
            return [self.settled(await client.send(message)) for message in messages]

    def settled(self, result):
        self.log.append(f"{result.outcome}")
        return result

    @property
    def reasons(self):
        """What the dead letters died of."""
        return [reason for _, reason in self.dead.values()]


RUNNERS = ["client", "async-client", "engine"]
KINDS = {
    "def": ("def", "def", "get"),
    "async-get": ("async", "def", "get"),
    "async-aget": ("async", "def", "aget"),
    "async": ("async", "async", "aget"),
}


@pytest.fixture(params=[f"{runner}: {kind}" for runner in RUNNERS for kind in KINDS])
def world(request):
    """Give each kind of handler and resource under each runner."""
    runner, kind = request.param.split(": ")
    return World(runner, *KINDS[kind])


@pytest.fixture(params=["client-def", "client-async", "engine-def", "engine-async"])
def few(request):
    """Give the kinds that matter most."""
    runner, kind = request.param.split("-")
    return World(runner, *KINDS[kind])


def raise_it(error):
    """Raise; for lambdas."""
    raise error


# Opening and closing


def test_it_is_opened_at_its_first_use_and_closed_before_settlement(world):
    """What two attempts open is theirs: each opens at first use, and closes in reverse order before it is settled."""
    a, b, unused = world.noted("a"), world.noted("b"), world.noted("unused")
    assert isinstance(unused, ResourceKey)
    world.handle(lambda context, *got: world.log.append("handled"), a, b, a)
    assert world.run(b"1", b"2") == ["acked"] * 2
    once = ["open a", "open b", "handled", "close b", "close a"]
    log = [one for one in world.log if one != "acked"]
    assert log == once * 2
    assert world.log.index("acked") >= len(once)


def test_what_it_yields_is_got_each_time(world):
    """The same object is returned however often it is asked for within an attempt, also when it is None."""
    seen = []
    a = world.resource(lambda context: (yield object()))
    none = world.resource(lambda context: (seen.append("none opened"), (yield None)))
    world.handle(lambda context, *got: seen.append(got), a, none, a, none)
    world.run(b"1", b"2")
    (first, nothing, again, _), (second, *_) = seen[1], seen[3]
    assert (first is again, nothing, first is second) == (True, None, False)
    assert seen[0:3:2] == ["none opened"] * 2


def test_nothing_is_opened_for_who_asks_for_nothing(few):
    """A handler that gets no resource leaves its context without any."""
    few.noted("a")
    opened = []
    few.handle(lambda context: opened.append(context.opened))
    few.run(b"1")
    assert opened == [None]


def test_a_message_resource_takes_the_handling_context(few):
    """A message's resource has the context of its attempt, a worker's that of its worker."""
    taken, seen = [], []

    def mine(context):
        taken.append(context)
        yield

    few.handle(lambda context, *_: seen.append(context), few.resource(mine), few.resource(mine, "worker"))
    few.run(b"1")
    assert [seen[0], seen[0].processing_ctx] == taken


def test_what_a_resource_opens_is_closed_after_it(few):
    """A resource that asks for another is closed first."""
    inner = few.noted("inner")

    def outer(context):
        context.get(inner)
        few.log.append("open outer")
        yield
        few.log.append("close outer")

    async def async_outer(context):
        await context.aget(inner)
        few.log.append("open outer")
        yield
        few.log.append("close outer")

    few.handle(lambda context, *_: None, few.proc.resource()(outer if few.resources == "def" else async_outer))
    few.run(b"1")
    assert few.log == ["open inner", "open outer", "close outer", "close inner", "acked"]


def test_what_is_opened_while_closing_is_closed_too(few):
    """A resource that asks for another one when it is closed gets it open, and that is closed next."""
    late = few.noted("late")

    def fn(context):
        yield
        context.get(late)

    async def async_fn(context):
        yield
        await context.aget(late)

    few.handle(lambda context, *_: None, few.proc.resource()(fn if few.resources == "def" else async_fn))
    few.run(b"1")
    assert few.log == ["open late", "close late", "acked"]


# The exception of the attempt


def test_the_exception_is_thrown_in_and_stands(world):
    """Every open resource sees the exception at its yield, and the message fails with it."""
    a, b = world.noted("a"), world.noted("b")
    world.handle(lambda context, *_: raise_it(ValueError("the handler's own")), a, b)
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.log == [
        *["open a", "open b", "b sees ValueError", "close b", "a sees ValueError", "close a"],
        "dead_lettered",
    ]
    assert world.reasons == ["the handler's own"]


def test_keeping_an_exception_makes_no_success_of_it(world):
    """A resource that swallows the exception has cleaned up; the failure stands, and the next resource sees it."""

    def swallow(context):
        with contextlib.suppress(ValueError):
            yield

    world.handle(lambda context, *_: raise_it(ValueError("stands")), world.noted("a"), world.resource(swallow))
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.reasons == ["stands"]
    assert "a sees ValueError" in world.log


def test_another_exception_is_the_failure(world):
    """What a resource raises in place of the exception is the failure, of which those opened before it hear."""

    def translate(context):
        try:
            yield
        except ValueError:
            raise KeyError("another")  # noqa: B904 - as a user would

    world.handle(lambda context, *_: raise_it(ValueError("first")), world.noted("a"), world.resource(translate))
    world.run(b"1")
    assert world.reasons == ["'another'"]
    assert "a sees KeyError" in world.log
    if world.errors:
        assert isinstance(world.errors[0].__context__, ValueError)


def test_the_exception_keeps_the_traceback_that_it_had(world):
    """A dead letter says where the handler raised, and not which resources the exception went through."""
    a = world.resource(lambda context: (yield))
    world.handle(lambda context, *_: raise_it(ValueError()), a, world.noted("b"))
    world.run(b"1")
    for error in world.errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert (names[-1], [name for name in names if name in {"_end", "_aend", "fn"}]) == ("raise_it", [])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("def", StopIteration("one")),  # which no coroutine can raise
        *((kind, error) for kind in KINDS for error in (StopAsyncIteration("two"), GeneratorExit("three"))),
    ],
)
@pytest.mark.parametrize("runner", RUNNERS)
def test_exceptions_that_end_generators_are_as_any_other(runner, kind, error):
    """StopIteration and its like in a handler, a frequent mistake, are the failure as they are."""
    world = World(runner, *KINDS[kind])
    world.handle(lambda context, *_: raise_it(error), world.noted("a"))
    if world.runner != "engine" and isinstance(error, GeneratorExit):
        with pytest.raises(GeneratorExit):  # as Ctrl-C would be in a test client
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
def test_an_outcome_that_is_raised_is_thrown_in_and_stands(kind, error, outcome):
    """A transaction is rolled back by `raise RetryLater`, and the message is retried all the same."""
    world = World("client", *KINDS[kind])
    world.handle(lambda context, *_: raise_it(error), world.noted("a"))
    assert [outcome] == world.run(b"1")
    assert f"a sees {type(error).__name__}" in world.log


def test_an_outcome_that_is_recorded_throws_nothing(few):
    """`context.discard()` is no exception: a resource goes on after its yield, and reads the outcome there."""
    seen = []

    def fn(context):
        yield
        seen.append(context.outcome)

    few.handle(lambda context, *_: context.discard("label"), few.resource(fn), few.noted("a"))
    assert [Outcome.discarded] == few.run(b"1")
    assert seen == [Outcome.discarded]
    assert "a sees" not in " ".join(few.log)


# Failing to close


def fails_to_close(context):
    """Raise when all went well."""
    yield
    raise OSError("commit")


def test_failing_to_close_fails_the_message(world):
    """An exception at the end of a resource is the failure, which those opened before it see."""
    world.handle(lambda context, *_: None, world.noted("a"), world.resource(fails_to_close))
    assert [Outcome.dead_lettered] == world.run(b"1")
    assert world.reasons == ["commit"]
    assert world.log == ["open a", "a sees OSError", "close a", "dead_lettered"]


def test_failing_to_close_after_ack_fails_the_message(few):
    """An `ack()` is no success before the resources are closed."""
    few.handle(lambda context, *_: context.ack(), few.resource(fails_to_close))
    assert [Outcome.dead_lettered] == few.run(b"1")
    assert few.reasons == ["commit"]


def test_another_recorded_outcome_stands_when_closing_fails(few):
    """An outcome other than ack stands, and the exception joins it."""
    few.handle(lambda context, *_: context.discard("label"), few.resource(fails_to_close))
    assert [Outcome.discarded] == few.run(b"1")
    assert [str(error) for error in few.errors] == (["commit"] if few.runner == "client" else [])


def test_closing_can_raise_an_outcome():
    """A commit that has to be tried again raises RetryLater, as a handler would."""
    world = World("client", *KINDS["def"])

    def fn(context):
        yield
        raise RetryLater(7)

    world.handle(lambda context, *_: None, world.resource(fn))
    assert [Outcome.retried] == world.run(b"1")


def test_closing_can_record_an_outcome(few):
    """A resource that knows what an exception means records the outcome, which then stands."""

    def fn(context):
        try:
            yield
        except KeyError:
            context.discard("duplicate")

    few.handle(lambda context, *_: raise_it(KeyError()), few.resource(fn))
    assert [Outcome.discarded] == few.run(b"1")


def test_the_others_are_closed_when_one_fails(few):
    """A resource that fails to close keeps none of the others open."""
    few.handle(
        lambda context, *_: None,
        few.noted("a"),
        few.resource(fails_to_close),
        few.noted("b"),
        few.resource(fails_to_close),
    )
    few.run(b"1")
    assert [one for one in few.log if one.startswith("close")] == ["close b", "close a"]


# Failing to open


def fails_once(world, error=None):
    """Return a resource that opens at its second try."""
    tries = []

    def fn(context):
        tries.append(1)
        world.log.append(f"try {len(tries)}")
        if len(tries) == 1:
            raise error or OSError("connect")
        yield len(tries)

    return fn


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_failing_to_open_is_the_handlers_failure(world, scope):
    """What a resource raises before its yield is raised where it was asked for; the next message tries again."""
    seen = []
    world.handle(lambda context, *got: seen.extend(got[1:]), world.noted("a"), world.resource(fails_once(world), scope))
    assert sorted([Outcome.dead_lettered, Outcome.acked]) == sorted(world.run(b"1", b"2"))
    assert (seen, world.reasons) == ([2], ["connect"])
    assert "a sees OSError" in world.log


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_handler_can_ask_again(scope):
    """A handler that caught what the opening raised asks again, and that opens it."""
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


def never(context):
    """Have a yield that is not come to."""
    if context is None:
        yield


def test_a_resource_that_does_not_yield_is_named(world):
    """A generator that ends before a yield is a ResourceError, in the handler."""
    world.handle(lambda context, *_: None, world.resource(never))
    world.run(b"1")
    assert [f"the resource {__name__}:never ended without a yield. It must yield once"] == world.reasons


def test_a_resource_that_yields_twice_is_named(world):
    """A generator that goes on to a second yield is closed there, and fails the message."""

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


def test_cleaning_up_after_a_second_yield_can_fail(few):
    """What a generator raises when it is closed at its second yield is the failure."""

    def fn(context):
        try:
            yield 1
            yield 2
        finally:
            raise OSError("cleaning up")

    few.handle(lambda context, *_: None, few.noted("a"), few.resource(fn))
    few.run(b"1")
    assert few.reasons == ["cleaning up"]
    assert "a sees OSError" in few.log


def test_a_second_yield_in_place_of_the_exception_is_named(few):
    """It is what the message fails with, and the handler's exception is kept as where that came from."""

    def again(context):
        try:
            yield 1
        except ValueError:
            yield 2

    few.handle(lambda context, *_: raise_it(ValueError("first")), few.resource(again))
    few.run(b"1")
    assert few.reasons[0].endswith("again continued to a second yield. It must yield once")
    assert [str(error.__context__) for error in few.errors] == (["first"] if few.runner == "client" else [])


# Hooks


def test_before_hooks_and_the_handler_share_resources(few):
    """What a before_handling hook opened is what the handler gets."""
    a, seen = few.noted("a"), []
    few.proc.before_handling(few.asking(lambda context, got: seen.append(got), a))
    few.handle(lambda context, got: seen.append(got), a)
    few.run(b"1")
    assert seen[0] is seen[1]
    assert few.log == ["open a", "close a", "acked"]


def test_a_raising_before_hook_closes_what_was_opened(few):
    """What a hook raised is thrown in, though no handler ran."""
    a = few.noted("a")
    few.proc.before_handling(few.asking(lambda context, got: raise_it(ValueError()), a))
    few.handle(lambda context: few.log.append("handled"))
    few.run(b"1")
    assert few.log == ["open a", "a sees ValueError", "close a", "dead_lettered"]


def test_after_hooks_see_the_final_outcome(world):
    """Resources are closed before the after_handling hooks, which see how that went."""
    seen = []
    world.handle(lambda context, *_: None, world.noted("a"), world.resource(fails_to_close))
    world.proc.after_handling(
        world.asking(
            lambda context: (seen.append((context.outcome, str(context.exception))), world.log.append("after"))
        )
    )
    world.run(b"1")
    assert seen == [(Outcome.dead_lettered, "commit")]
    assert world.log == ["open a", "a sees OSError", "close a", "after", "dead_lettered"]


def test_what_an_after_hook_opens_is_closed_after_the_hooks(world):
    """It is opened anew, does not see the handler's exception, and is closed before settlement."""
    a = world.noted("a")
    world.handle(lambda context, *_: raise_it(ValueError("first")), a)
    world.proc.after_handling(world.asking(lambda context, got: world.log.append("after 1"), a))
    world.proc.after_handling(world.asking(lambda context, got: world.log.append("after 2"), a))
    world.run(b"1")
    assert world.log == [
        *["open a", "a sees ValueError", "close a"],
        *["open a", "after 1", "after 2", "close a"],
        "dead_lettered",
    ]
    assert world.reasons == ["first"]


def test_a_raising_after_hook_is_thrown_into_what_hooks_opened(few):
    """What an after_handling hook raises fails the message, and its resources see it."""
    a = few.noted("a")
    few.handle(lambda context: None)
    few.proc.after_handling(few.asking(lambda context, got: raise_it(KeyError("hook")), a))
    few.run(b"1")
    assert few.log == ["open a", "a sees KeyError", "close a", "dead_lettered"]
    assert few.reasons == ["'hook'"]


def test_what_an_after_hook_opened_fails_to_close(few):
    """That fails the message, though its handler and its hooks succeeded."""
    few.handle(lambda context: None)
    few.proc.after_handling(few.asking(lambda context, got: None, few.resource(fails_to_close)))
    assert [Outcome.dead_lettered] == few.run(b"1")
    assert few.reasons == ["commit"]


# Workers


def test_a_workers_resource_is_opened_once_and_closed_at_its_end(world):
    """It outlives messages, also ones that fail, and is closed after the after_processing hooks, in reverse order."""
    a, b = world.noted("a", "worker"), world.noted("b", "worker")
    seen = []
    world.handle(lambda context, *got: (seen.append(got), raise_it(ValueError()) if len(seen) == 1 else None), a, b)
    world.proc.after_processing(world.hook(lambda context, got: world.log.append("end"), a))
    world.run(b"1", b"2", b"3")
    assert seen[0] == seen[1] == seen[2]
    log = [one for one in world.log if one not in {"acked", "dead_lettered"}]
    assert log == ["open a", "open b", "end", "close b", "close a"]


def test_a_processing_hook_opens_it_at_the_start(world):
    """What before_processing got from its context is what the handlers get."""
    a, seen = world.noted("a", "worker"), []
    world.proc.before_processing(world.hook(lambda context, got: seen.append(got), a))
    world.handle(lambda context, got: seen.append(got), a)
    world.run(b"1")
    assert seen[0] is seen[1]
    assert world.log == ["open a", "acked", "close a"]


def test_a_message_resource_is_not_a_workers(few):
    """A ProcessingContext has no message: a message's resource is refused there, and named."""
    a = few.noted("a")

    def hook(worker):
        with pytest.raises(
            ResourceError, match=r"noted.<locals>.fn belongs to a message: get it from a HandlingContext"
        ):
            worker.get(a)
        few.log.append("refused")

    few.proc.before_processing(hook)
    few.handle(lambda context: None)
    few.run()
    assert few.log == ["refused"]


def test_failing_to_close_a_workers_resource_fails_the_processor(world):
    """ProcessingFailed names the resource and the exception's type only; the others are closed all the same."""

    def fn(context):
        yield
        raise OSError(CANARY)

    world.handle(lambda context, *_: None, world.noted("a", "worker"), world.resource(fn, "worker"), world.noted("b"))
    with pytest.raises(ProcessingFailed) as failed:
        world.run(b"1")
    assert str(failed.value) == f"the resource {fn.__module__}:{fn.__qualname__} raised OSError when it was closed"
    assert world.log == ["open a", "open b", "close b", "acked", "close a"]


def test_the_first_that_fails_to_close_is_named(few):
    """Of two worker's resources that fail to close, the one that is closed first is what failed."""

    def one(context):
        yield
        raise OSError

    def other(context):
        yield
        raise KeyError

    few.handle(lambda context, *_: None, few.resource(one, "worker"), few.resource(other, "worker"))
    with pytest.raises(ProcessingFailed, match="other raised KeyError when it was closed"):
        few.run(b"1")


def test_a_hook_that_fails_first_is_what_failed(few):
    """Where an after_processing hook raised, resources are closed all the same, and the hook is named."""

    def fn(context):
        yield
        raise OSError

    few.handle(lambda context, *_: None, few.noted("a", "worker"), few.resource(fn, "worker"))
    few.proc.after_processing(few.hook(lambda context: raise_it(ValueError())))
    with pytest.raises(ProcessingFailed, match=r"^the hook .* raised ValueError$"):
        few.run(b"1")
    assert few.log[-1] == "close a"


def test_what_a_hook_opened_is_closed_when_the_next_one_raises(few):
    """A worker that does not come to its first message closes what its hooks opened."""
    few.handle(lambda context: None)
    few.proc.before_processing(few.hook(lambda context, _: None, few.noted("a", "worker")))
    few.proc.before_processing(few.hook(lambda context: raise_it(ValueError())))
    with pytest.raises(ProcessingFailed, match=r"^the hook .* raised ValueError$"):
        few.run(b"1")
    assert few.log == ["open a", "close a"]


def test_threads_share_no_resource():
    """Three worker threads open three, each in its own thread, where it is closed too."""
    proc, opened, closed, used = Processor(concurrency=3, dlq={}), {}, {}, set()
    together = threading.Barrier(3)

    @proc.resource("worker")
    def connection(context):
        opened[context] = threading.get_ident()
        yield object()
        closed[context] = threading.get_ident()

    @proc.handle_for(Everything())
    def handle(message, context):
        used.add((threading.get_ident(), context.get(connection)))
        together.wait(20)

    execute([MemoryAdapter(proc, [b"x"] * 30)])
    assert len(used) == len(opened) == 3
    assert opened == closed
    assert set(opened.values()) == {thread for thread, _ in used}


def test_a_resource_is_closed_where_it_was_opened():
    """What the awaitable of a def handler opens on the loop is closed there, a sync generator too."""
    proc, where = Processor(dlq=(dead := {})), []
    note = lambda what: where.append((what, threading.get_ident()))

    def sync(context):
        note("open")
        yield
        note("close")

    of_message, of_worker = proc.resource()(sync), proc.resource("worker")(sync)
    async_of_message, async_of_worker = proc.resource()(as_async(sync)), proc.resource("worker")(as_async(sync))

    async def later(context):
        for key in (of_message, of_worker, async_of_message, async_of_worker):
            await context.aget(key)

    proc.add_handler(Everything(), lambda message, context: later(context))
    execute([MemoryAdapter(proc, [b"x"])])
    assert dead == {}
    assert [("open", threading.get_ident())] * 4 + [("close", threading.get_ident())] * 4 == where


# At once


def test_a_workers_resource_is_opened_once_for_all_who_ask():
    """Five messages at once that wait for the same opening all get what it yields."""
    proc, log = Processor(concurrency=5, dlq=(dead := {})), []
    got, asked = [], []

    @proc.resource("worker")
    async def pool(context):
        log.append("open")
        await asked_by_all.wait()
        yield object()
        log.append("close")

    asked_by_all = asyncio.Event()

    @proc.handle_for(Everything())
    async def handle(message, context):
        asked.append(message)
        if len(asked) == 5:
            asked_by_all.set()
        got.append(await context.aget(pool))

    execute([MemoryAdapter(proc, [b"x"] * 5)])
    assert (len(got), len(set(got)), dead) == (5, 1, {})
    assert log == ["open", "close"]


def test_a_failing_opening_fails_all_who_wait_and_nobody_after():
    """Those who waited get its exception; who asks next opens it."""
    proc, log, got, asked = Processor(concurrency=5, dlq=(dead := {})), [], [], []
    asked_by_all = asyncio.Event()

    @proc.resource("worker")
    async def pool(context):
        log.append("open")
        await asked_by_all.wait()
        if len(log) == 1:
            raise OSError("connect")
        yield "pool"

    @proc.handle_for(Everything())
    async def handle(message, context):
        asked.append(message)
        if len(asked) == 5:
            asked_by_all.set()
        got.append(await context.aget(pool))

    execute([MemoryAdapter(proc, [b"x"] * 7)])
    assert [reason for _, reason in dead.values()] == ["connect"] * 5
    assert (got, log) == (["pool"] * 2, ["open"] * 2)


def running(main):
    """Run a coroutine function that takes a worker's context; then what the worker has open is closed."""

    async def whole():
        worker = ProcessingContext(Processor())
        await asyncio.wait_for(main(worker), 20)
        failed = None if worker.opened is None else await worker.opened.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return failed

    return asyncio.run(whole())


def gated(scope, log):
    """Return a resource that waits in its opening, and what lets it go on."""
    gate = asyncio.Event()

    @Processor().resource(scope)
    async def resource(context):
        log.append("open")
        try:
            await gate.wait()
            yield "value"
        finally:
            log.append("close")

    return resource, gate


async def moment():
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_to_ask_is_cancelled():
    """A message that times out while it opens a worker's resource takes it from nobody else who waits."""
    log = []

    async def main(worker):
        key, gate = gated("worker", log)
        first, second = (asyncio.ensure_future(worker.aget(key)) for _ in range(2))
        await moment()
        first.cancel()
        await moment()
        gate.set()
        assert await second == "value"
        assert first.cancelled()

    assert running(main) is None
    assert log == ["open", "close"]


def test_an_opening_that_nobody_waits_for_is_given_up():
    """When all who asked are cancelled, so is the opening, and the next to ask begins another."""
    log = []

    async def main(worker):
        key, gate = gated("worker", log)
        first, second = (asyncio.ensure_future(worker.aget(key)) for _ in range(2))
        await moment()
        first.cancel()
        second.cancel()
        await moment()
        assert log == ["open", "close"]
        gate.set()
        assert await worker.aget(key) == "value"
        assert len(worker.opened._tasks) == 1

    assert running(main) is None
    assert log == ["open", "close"] * 2


def test_an_opening_that_will_not_be_given_up_is_closed():
    """A resource that opens in spite of being cancelled is nobody's, and is closed at once."""
    log = []

    @Processor().resource("worker")
    async def stubborn(context):
        log.append("open")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield
        log.append("close")

    async def main(worker):
        asking = asyncio.ensure_future(worker.aget(stubborn))
        await moment()
        asking.cancel()
        await moment()
        assert log == ["open", "close"]

    assert running(main) is None


def slow_to_give_up(log):
    """Return a worker's resource whose first opening ends when it is cancelled for the second time."""

    @Processor().resource("worker")
    async def slow(context):
        log.append("open")
        if log == ["open"]:
            try:
                await asyncio.Event().wait()
            finally:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                log.append("cleaned up")
        yield "value"
        log.append("close")

    return slow


def test_what_is_still_being_given_up_is_waited_for():
    """The next to ask does not wait for an opening that takes its time to be cancelled, and the worker's end does."""
    log = []

    async def main(worker):
        slow = slow_to_give_up(log)
        asking = asyncio.ensure_future(worker.aget(slow))
        await moment()
        asking.cancel()
        await moment()
        assert await worker.aget(slow) == "value"

    assert running(main) is None
    assert log == ["open", "open", "close", "cleaned up"]


def test_a_worker_thread_waits_for_what_is_being_given_up():
    """The same where a worker thread ends, of which a handler's awaitable left an opening on the loop."""
    proc, log = Processor(dlq=(dead := {})), []
    slow = slow_to_give_up(log)

    async def ask(context):
        asking = asyncio.ensure_future(context.aget(slow))
        await moment()
        asking.cancel()
        await moment()

    proc.add_handler(Everything(), lambda message, context: ask(context))
    proc.after_processing(lambda worker: log.append("end"))
    execute([MemoryAdapter(proc, [b"x"])])
    assert (dead, log) == ({}, ["open", "end", "cleaned up"])


def test_one_attempt_opens_it_once_for_all_its_tasks():
    """Tasks of a handler that ask for a message's resource at once get the same; the cancelled one is no matter."""
    log = []

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        key, gate = gated("message", log)
        first, second, third = (asyncio.ensure_future(context.aget(key)) for _ in range(3))
        await moment()
        first.cancel()
        await moment()
        gate.set()
        assert await asyncio.gather(second, third) == ["value"] * 2
        assert await context.opened.aclose(None) is None

    running(main)
    assert log == ["open", "close"] * 2


def test_all_tasks_of_an_attempt_get_what_the_opening_raised():
    """A message's resource that fails to open fails for all who waited, and can be asked for again."""
    tries = []

    @Processor().resource()
    async def fails(context):
        tries.append(1)
        await moment()
        if len(tries) == 1:
            raise OSError("connect")
        yield len(tries)

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        errors = await asyncio.gather(*(context.aget(fails) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in errors] == ["connect"] * 3
        assert [frame.name for frame in traceback.extract_tb(errors[0].__traceback__)].count("wait") <= 1
        assert await context.aget(fails) == 2
        await context.opened.aclose(None)

    running(main)


# Tasks, cancellation and context variables


def test_a_workers_async_resource_lives_in_one_task():
    """It is opened and closed in the same task, which is no message's: task groups and timeouts can be held open."""
    proc, tasks = Processor(dlq=(dead := {})), []

    @proc.resource("worker")
    async def group(context):
        tasks.append(asyncio.current_task())
        token = variable.set("the worker's")
        async with asyncio.timeout(None), asyncio.TaskGroup() as inside:
            yield inside
        variable.reset(token)
        tasks.append(asyncio.current_task())

    @proc.handle_for(Everything())
    async def handle(message, context):
        (await context.aget(group)).create_task(moment())
        tasks.append(asyncio.current_task())
        assert variable.get() == "clean"

    execute([MemoryAdapter(proc, [b"x"])])
    opened, handled, closed = tasks
    assert dead == {}
    assert opened is closed
    assert opened is not handled


def test_a_workers_resource_that_ends_by_itself_is_opened_anew():
    """One whose own task group failed is of no more use: the next gets a new one, and the end says what happened."""
    opened, gate = [], asyncio.Event()

    @Processor().resource("worker")
    async def group(context):
        async with asyncio.TaskGroup() as inside:
            opened.append(inside)
            try:
                yield inside
            finally:
                await gate.wait()  # so that the next asks while this one still cleans up
                opened.append("closed")

    async def main(worker):
        async def fail():
            raise OSError(CANARY)

        first = await worker.aget(group)
        first.create_task(fail())
        await moment()
        second = await worker.aget(group)
        assert second is not first
        assert "closed" not in opened
        gate.set()
        await moment()
        assert await worker.aget(group) is second

    failed = running(main)
    assert opened[2:] == ["closed"] * 2
    assert str(failed).endswith("raised ExceptionGroup when it was closed")


def test_a_worker_that_is_cancelled_while_it_closes_closes_the_rest():
    """An end that the engine does not wait for any longer cancels the closing that hangs, and goes on to the next."""
    log = []

    @Processor().resource("worker")
    async def first(context):
        yield
        log.append("close first")

    @Processor().resource("worker")
    async def hangs(context):
        yield
        log.append("hang")
        try:
            await asyncio.Event().wait()
        finally:
            await moment()
            log.append("hangs no more")

    async def main(worker):
        await worker.aget(first)
        await worker.aget(hangs)
        closing = asyncio.ensure_future(worker.opened.aclose())
        await moment()
        closing.cancel()
        assert str(await closing).endswith("hangs raised CancelledError when it was closed")

    running(main)
    assert log == ["hang", "hangs no more", "close first"]


def test_a_cancelled_handler_closes_its_resources():
    """The cancellation is thrown in at the yield, and cleaning up may await."""
    log, proc = [], Processor(dlq={})

    @proc.resource()
    async def transaction(context):
        try:
            yield
        except asyncio.CancelledError:
            await moment()
            log.append("rolled back")
            raise

    @proc.handle_for(Everything())
    async def handle(message, context):
        await context.aget(transaction)
        log.append("waits")
        await asyncio.Event().wait()

    async def main():
        async with proc.test_client() as client:
            sending = asyncio.ensure_future(client.send(RawMessage(b"")))
            await moment()
            sending.cancel()
            return await sending

    result = asyncio.run(main())
    assert log == ["waits", "rolled back"]
    assert isinstance(result.exception, asyncio.CancelledError)


def test_a_forced_stop_closes_what_async_handlers_opened():
    """A handler that will not be waited for is cancelled, which its resources see; then the worker's are closed."""
    proc, log, engines = Processor(dlq={}), [], []

    @proc.resource("worker")
    async def pool(context):
        yield
        log.append("close pool")

    @proc.resource()
    async def transaction(context):
        try:
            yield await context.aget(pool)
        except asyncio.CancelledError:
            log.append("rolled back")
            raise

    async def main():
        loop = asyncio.get_running_loop()
        adapter = MemoryAdapter(proc, [b"x"], ends=False)
        engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=0.01, handlers_loop=loop)
        engines.append(engine)
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(engine.main(), 20)
        return adapter

    @proc.handle_for(Everything())
    async def handle(message, context):
        await context.aget(transaction)
        engines[0].stop()
        await asyncio.Event().wait()

    assert asyncio.run(main()).settled == []
    assert log == ["rolled back", "close pool"]


def test_a_message_resource_sets_context_variables_for_its_handler(world):
    """A handler sees what a message's resource sets; it is reset when that is closed, and gone for the next message."""
    seen = []

    def bound(context):
        seen.append(variable.get())
        token = variable.set("bound")
        yield
        variable.reset(token)
        seen.append(variable.get())

    world.handle(lambda context, _: seen.append(variable.get()), world.resource(bound))
    assert [Outcome.acked] * 2 == world.run(b"1", b"2")
    assert seen == ["clean", "bound", "clean"] * 2


def test_a_workers_resource_has_nothing_of_a_message(world):
    """It neither sees the context variables of the message that opens it nor sets any for a message."""
    seen = []

    def fn(context):
        seen.append(variable.get())
        token = variable.set("the worker's")
        yield
        seen.append(variable.get())
        variable.reset(token)

    a = world.resource(fn, "worker")

    def before(worker, context):
        variable.set("a message's")

    world.proc.before_handling(before)
    world.handle(lambda context, _: seen.append(variable.get()), a)
    assert [Outcome.acked] * 2 == world.run(b"1", b"2")
    assert seen == ["clean", "a message's", "a message's", "the worker's"]


class Watched(RawMessage):
    """A message of which it is known when it is gone."""

    __slots__ = ("__weakref__",)


class Nowhere(Sink):
    """Keeps nothing."""

    def put(self, records):
        pass


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("how", ["well", "handling", "opening", "closing", "opening the worker's", "the hook"])
def test_nothing_keeps_a_message(kind, how):
    """When an attempt is over nothing that was opened or raised in it holds its message, not even in a circle."""
    world, kept = World("engine", *KINDS[kind]), []
    world.proc = Processor(Watched, name="t", dlq=Nowhere())

    def fail_when(doing):
        if how == doing:
            raise ValueError

    def fn(context):
        fail_when("opening")
        yield
        fail_when("closing")

    def of_worker(context):
        fail_when("opening the worker's")
        yield

    keys = [world.noted("a"), world.resource(of_worker, "worker"), world.resource(fn)]
    world.handle(lambda context, *_: fail_when("handling"), *keys)
    world.proc.before_handling(lambda worker, context: kept.append(weakref.ref(context.message)))
    if how == "the hook":
        world.proc.after_handling(world.asking(lambda context, _: fail_when("the hook"), keys[0]))
    gc.collect()
    gc.disable()
    try:
        world.run(*[b"x"] * 3)
        assert (len(kept), [one() for one in kept if one() is not None]) == (3, [])
    finally:
        gc.enable()


# What is refused


def test_an_async_resource_is_got_with_aget(few):
    """`get` of an async resource says what to write, also when it is open."""
    key = few.proc.resource()(as_async(lambda context: (yield 1)))
    wanted = r"fails.<locals>.<lambda> is async: await context.aget\(…\), in an async def"

    def check(context, *_):
        with pytest.raises(ResourceError, match=wanted.removeprefix(r"fails.<locals>.")):
            context.get(key)
        few.log.append("refused")

    few.handle(check, *([key] if few.resources == "async" else []))
    few.run(b"1")
    assert few.log == ["refused", "acked"]


@pytest.mark.parametrize("wrong", ["db", None, fails_to_close, 1])
def test_only_keys_are_asked_for(few, wrong):
    """What is no key, such as the function that was never declared, is refused with its type."""
    few.handle(lambda context, *_: None, wrong)
    few.run(b"1")
    assert [f"get and aget take the key that Processor.resource returned, not a {type(wrong).__name__}"] == few.reasons


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_sync_resource_that_needs_itself_is_named(scope):
    """Two resources that ask for each other are an error, and no endless recursion."""
    world = World("client", *KINDS["def"])

    @world.proc.resource(scope)
    def one(context):
        yield context.get(other)

    @world.proc.resource(scope)
    def other(context):
        yield context.get(one)

    world.handle(lambda context, *_: None, one)
    world.run(b"1")
    assert [
        f"the resource {one.name} needs itself, through the resources that it opens. Break the circle"
    ] == world.reasons


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_an_async_resource_that_needs_itself_is_named(scope):
    """Two async resources that ask for each other, or one that asks for itself, are an error, and no endless wait."""

    @Processor().resource(scope)
    async def one(context):
        yield await context.aget(other)

    @Processor().resource(scope)
    async def other(context):
        yield await context.aget(one)

    @Processor().resource(scope)
    async def itself(context):
        yield await asyncio.gather(context.aget(itself))

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        with pytest.raises(ResourceError, match=r"one needs itself"):
            await context.aget(one)
        with pytest.raises(ResourceError, match=r"itself needs itself"):
            await context.aget(itself)

    assert running(main) is None


def test_messages_that_open_a_circle_from_both_ends_do_not_wait_for_ever():
    """Two messages that each open one of two resources which need each other fail, instead of waiting."""
    both = []

    @Processor().resource("worker")
    async def one(context):
        both.append(1)
        await moment()
        yield await context.aget(other)

    @Processor().resource("worker")
    async def other(context):
        both.append(1)
        await moment()
        yield await context.aget(one)

    async def main(worker):
        errors = await asyncio.gather(worker.aget(one), worker.aget(other), return_exceptions=True)
        assert len(both) == 2
        assert [ResourceError] * 2 == [type(error) for error in errors]

    assert running(main) is None


def test_a_circle_is_found_after_something_else_was_opened():
    """A resource that opened one that is in no circle, and then one that needs it, is named all the same."""

    @Processor().resource()
    async def innocent(context):
        yield

    @Processor().resource()
    async def one(context):
        await context.aget(innocent)
        yield await context.aget(other)

    @Processor().resource()
    async def other(context):
        await moment()
        yield await context.aget(one)

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        with pytest.raises(ResourceError, match=r"one needs itself"):
            await context.aget(one)
        await context.opened.aclose(None)

    running(main)


def test_what_was_needed_once_is_in_no_circle():
    """A resource that did without another one, which failed to open, can be needed by that when it is tried again."""
    tries, gate = [], asyncio.Event()

    @Processor().resource("worker")
    async def without(context):
        with contextlib.suppress(OSError):
            await context.aget(fails_at_first)
        await gate.wait()
        yield "without"

    @Processor().resource("worker")
    async def fails_at_first(context):
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        yield f"with {await context.aget(without)}"

    async def main(worker):
        first = asyncio.ensure_future(worker.aget(without))
        await moment()
        second = asyncio.ensure_future(worker.aget(fails_at_first))
        await moment()
        gate.set()
        assert await asyncio.gather(first, second) == ["without", "with without"]

    assert running(main) is None


def test_needing_the_same_is_no_circle():
    """Two resources that need a third, and one that needs both, are opened side by side."""

    @Processor().resource("worker")
    async def base(context):
        await moment()
        yield ["base"]

    @Processor().resource("worker")
    async def left(context):
        yield [*await context.aget(base), "left"]

    @Processor().resource("worker")
    async def right(context):
        yield [*await context.aget(base), "right"]

    @Processor().resource()
    async def top(context):
        yield await asyncio.gather(context.aget(left), context.aget(right))

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        assert await context.aget(top) == [["base", "left"], ["base", "right"]]
        await context.opened.aclose(None)

    assert running(main) is None


@pytest.mark.parametrize("wrong", [lambda context: [1], len, 1, "db", contextlib.contextmanager(fails_to_close)])
def test_only_generator_functions_are_resources(wrong):
    """A function without a yield, also one that @contextmanager made, is refused and named."""
    with pytest.raises(RegistrationError, match=r"^the resource \S+:\S+ must be a generator function, .*no yield"):
        Processor().resource()(wrong)


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_resource_takes_one_argument(scope):
    """A generator function that cannot take a context is refused, with what it takes."""

    def nothing():
        yield

    kind = "HandlingContext" if scope == "message" else "ProcessingContext"
    with pytest.raises(RegistrationError, match=rf"nothing must take a {kind}; it takes \(\)"):
        Processor().resource(scope)(nothing)


@pytest.mark.parametrize("scope", ["process", None, 1, ""])
def test_scopes_are_two(scope):
    """Another scope is refused at once."""
    with pytest.raises(RegistrationError, match='"message" or "worker"'):
        Processor().resource(scope)


def test_forgotten_parentheses_are_said():
    """`@proc.resource` without parentheses says what to write."""
    with pytest.raises(RegistrationError, match=r"with parentheses: @proc.resource\(\)"):
        Processor().resource(fails_to_close)


def test_no_resource_is_declared_once_processing_started():
    """A resource that is declared after the freeze is refused."""
    proc = Processor()
    proc.freeze()
    with pytest.raises(RegistrationClosed, match="a resource cannot be registered any more"):
        proc.resource()(fails_to_close)


def test_a_key_says_what_it_is():
    """A key's repr has its name and its scope."""
    key = Processor().resource("worker")(fails_to_close)
    assert repr(key) == f"<ResourceKey {__name__}:fails_to_close, worker>"
    assert key.function is fails_to_close


def test_a_key_is_used_with_any_processor(few):
    """A key belongs to no processor: handlers of included ones, and of strangers, get the resource too."""
    a = few.noted("a")
    part = Processor()
    part.add_handler(Everything(), few.asking(lambda context, _: few.log.append("part"), a))
    few.proc.include(part)
    few.run(b"1")
    assert few.log == ["open a", "part", "close a", "acked"]


# Overrides


@pytest.fixture(params=["client", "async-client"])
def client(request):
    """Send one message under each kind of client; returns the result."""

    def send(proc, **options):
        if request.param == "client":
            with proc.test_client(**options) as client:
                return client.send(RawMessage(b""))

        async def main():
            async with proc.test_client(**options) as client:
                return await client.send(RawMessage(b""))

        return asyncio.run(main())

    return send


def asking_processor(scope, kind, seen):
    """Return a processor whose handler gets a resource that cannot be opened in a test, and its key."""
    world = World("client", *KINDS[kind])
    key = world.resource(lambda context: (yield raise_it(AssertionError("opened"))), scope)
    world.handle(lambda context, got: seen.append(got), key)
    return world.proc, key


overriding = pytest.mark.parametrize(
    ("scope", "kind"), [(scope, kind) for scope in ("message", "worker") for kind in KINDS]
)


@overriding
@pytest.mark.parametrize("fake", [1, None, print, Outcome, lambda context: 1])
def test_a_value_stands_in_as_it_is(client, scope, kind, fake):
    """What is no generator function is given as it is, also when it can be called."""
    seen = []
    proc, key = asking_processor(scope, kind, seen)
    assert Outcome.acked is client(proc, overrides={key: fake}).outcome
    assert seen == [fake]


@overriding
def test_a_generator_function_stands_in_and_is_run(client, scope, kind):
    """A fake with a yield is run as the resource is: with its context, opened once, and closed."""
    seen, log = [], []
    proc, key = asking_processor(scope, kind, seen)

    def fake(context):
        log.append(type(context))
        yield "fake"
        log.append("closed")

    assert Outcome.acked is client(proc, overrides={key: as_async(fake) if kind == "async" else fake}).outcome
    assert seen == ["fake"]
    assert log == [HandlingContext if scope == "message" else ProcessingContext, "closed"]


@overriding
def test_another_resource_stands_in(client, scope, kind):
    """A key as a fake is what it was declared as, in the scope of what it stands in for."""
    seen = []
    proc, key = asking_processor(scope, kind, seen)
    fake = Processor().resource()(lambda context: (yield "other"))
    client(proc, overrides={key: fake})
    assert seen == ["other"]


@pytest.mark.parametrize("fake", [1, lambda context: (yield 1)])
def test_a_fake_is_asked_for_as_the_resource_is(client, fake):
    """`get` of an async resource is an error in a test too, whatever stands in."""
    proc = Processor(dlq={})
    key = proc.resource()(as_async(lambda context: (yield)))
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    assert isinstance(client(proc, overrides={key: fake}).exception, ResourceError)


def test_an_async_fake_of_a_sync_resource_is_got_with_aget(client):
    """An async generator function that stands in for a sync one needs `aget`, and `get` names it."""
    proc = Processor(dlq={})
    key = proc.resource()(fails_to_close)
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    error = client(proc, overrides={key: as_async(lambda context: (yield))}).exception
    assert (
        str(error)
        == f"the resource {__name__}:fails_to_close (overridden) is async: await context.aget(…), in an async def"
    )


def test_a_failing_fake_is_named(client):
    """A fake that does not yield once is called by the resource it stands in for."""
    proc = Processor(dlq={})
    key = proc.resource()(fails_to_close)
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    error = client(proc, overrides={key: never}).exception
    assert str(error).startswith(f"the resource {__name__}:fails_to_close (overridden) ended without a yield")


@pytest.mark.parametrize("key", ["db", fails_to_close, None])
def test_overrides_are_by_key(key):
    """What is no key is refused when the client is made."""
    with pytest.raises(
        UsageError, match=rf"must be resources, as Processor.resource returns them, not a {type(key).__name__}"
    ):
        Processor().test_client(overrides={key: 1})


def test_overrides_are_one_clients(client):
    """The next client opens the resource itself."""
    proc, seen = Processor(), []
    key = proc.resource()(lambda context: (yield "real"))
    proc.add_handler(Everything(), lambda message, context: seen.append(context.get(key)))
    client(proc, overrides={key: "fake"})
    client(proc)
    assert seen == ["fake", "real"]
