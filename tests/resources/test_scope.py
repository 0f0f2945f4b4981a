"""Scopes: resources open at first use, are shared within their scope, and close in reverse order."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from missive import Outcome, ProcessingFailed, Processor, RawMessage, ResourceError, ResourceKey
from missive.dlq.contract import Sink
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.testing import MemoryAdapter
from tests.support.resources import CANARY, KINDS, World, as_async, raise_error, variable


def test_resources_open_at_first_use_and_close_before_settlement(world):
    """Each attempt opens its resources at first use, and closes them in reverse order before settlement."""
    a, b, unused = world.logged("a"), world.logged("b"), world.logged("unused")
    assert isinstance(unused, ResourceKey)
    world.handle(lambda context, *received: world.log.append("handled"), a, b, a)
    assert world.run(b"1", b"2") == ["acked"] * 2
    once = ["open a", "open b", "handled", "close b", "close a"]
    log = [one for one in world.log if one != "acked"]
    assert log == once * 2
    assert world.log.index("acked") >= len(once)


def test_one_attempt_receives_the_same_object(world):
    """Repeated requests in one attempt return the same object, also when that object is None."""
    seen = []
    a = world.resource(lambda context: (yield object()))
    none = world.resource(lambda context: (seen.append("none opened"), (yield None)))
    world.handle(lambda context, *received: seen.append(received), a, none, a, none)
    world.run(b"1", b"2")
    (first, nothing, again, _), (second, *_) = seen[1], seen[3]
    assert (first is again, nothing, first is second) == (True, None, False)
    assert seen[0:3:2] == ["none opened"] * 2


def test_a_handler_without_requests_opens_nothing(main_world):
    """The context of a handler that requests no resource holds none."""
    main_world.logged("a")
    opened = []
    main_world.handle(lambda context: opened.append(context.opened))
    main_world.run(b"1")
    assert opened == [None]


def test_a_resource_receives_the_context_of_its_scope(main_world):
    """A message's resource receives the HandlingContext, and a worker's resource the ProcessingContext."""
    taken, seen = [], []

    def mine(context):
        taken.append(context)
        yield

    main_world.handle(
        lambda context, *_: seen.append(context), main_world.resource(mine), main_world.resource(mine, "worker")
    )
    main_world.run(b"1")
    assert [seen[0], seen[0].processing_ctx] == taken


def test_an_outer_resource_is_closed_before_its_inner_one(main_world):
    """A resource that requests another one is closed before it."""
    inner = main_world.logged("inner")

    def outer(context):
        context.get(inner)
        main_world.log.append("open outer")
        yield
        main_world.log.append("close outer")

    async def async_outer(context):
        await context.aget(inner)
        main_world.log.append("open outer")
        yield
        main_world.log.append("close outer")

    main_world.handle(
        lambda context, *_: None, main_world.proc.resource()(outer if main_world.resources == "def" else async_outer)
    )
    main_world.run(b"1")
    assert main_world.log == ["open inner", "open outer", "close outer", "close inner", "acked"]


def test_a_resource_opened_during_closing_is_closed(main_world):
    """A resource that is requested during the end of another one is opened, and closed next."""
    late = main_world.logged("late")

    def fn(context):
        yield
        context.get(late)

    async def async_fn(context):
        yield
        await context.aget(late)

    main_world.handle(
        lambda context, *_: None, main_world.proc.resource()(fn if main_world.resources == "def" else async_fn)
    )
    main_world.run(b"1")
    assert main_world.log == ["open late", "close late", "acked"]


def test_a_workers_resource_opens_once_and_closes_with_the_worker(world):
    """Worker resources outlive messages and failures. They close in reverse order after the after_processing hooks."""
    a, b = world.logged("a", "worker"), world.logged("b", "worker")
    seen = []
    world.handle(
        lambda context, *received: (seen.append(received), raise_error(ValueError()) if len(seen) == 1 else None), a, b
    )
    world.proc.after_processing(world.hook(lambda context, received: world.log.append("end"), a))
    world.run(b"1", b"2", b"3")
    assert seen[0] == seen[1] == seen[2]
    log = [one for one in world.log if one not in {"acked", "dead_lettered"}]
    assert log == ["open a", "open b", "end", "close b", "close a"]


def test_a_processing_context_refuses_a_messages_resource(main_world):
    """A ProcessingContext raises an error that names a message's resource."""
    a = main_world.logged("a")

    def hook(worker):
        with pytest.raises(
            ResourceError, match=r"logged.<locals>.fn belongs to a message: get it from a HandlingContext"
        ):
            worker.get(a)
        main_world.log.append("refused")

    main_world.proc.before_processing(hook)
    main_world.handle(lambda context: None)
    main_world.run()
    assert main_world.log == ["refused"]


def test_a_workers_resource_that_fails_to_close_fails_the_processor(world):
    """ProcessingFailed names the resource and the type of the exception only. The other resources are closed."""

    def fn(context):
        yield
        raise OSError(CANARY)

    world.handle(lambda context, *_: None, world.logged("a", "worker"), world.resource(fn, "worker"), world.logged("b"))
    with pytest.raises(ProcessingFailed) as failed:
        world.run(b"1")
    assert str(failed.value) == f"the resource {fn.__module__}:{fn.__qualname__} raised OSError when it was closed"
    assert world.log == ["open a", "open b", "close b", "acked", "close a"]


def test_the_first_failure_to_close_is_reported(main_world):
    """If two worker's resources fail to close, the error names the one that is closed first."""

    def one(context):
        yield
        raise OSError

    def other(context):
        yield
        raise KeyError

    main_world.handle(
        lambda context, *_: None, main_world.resource(one, "worker"), main_world.resource(other, "worker")
    )
    with pytest.raises(ProcessingFailed, match="other raised KeyError when it was closed"):
        main_world.run(b"1")


def test_threads_do_not_share_resources():
    """Each of three worker threads opens, uses and closes its own resource."""
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


def test_a_resource_closes_in_the_thread_that_opened_it():
    """Resources that the awaitable of a def handler opens on the loop are closed on the loop, sync generators too."""
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


def test_a_messages_resource_sets_context_variables_for_its_handler(world):
    """A handler sees the context variables that its resource sets. They are reset before the next message."""
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


def test_a_workers_resource_shares_no_context_variables_with_messages(world):
    """A worker's resource neither sees the context variables of a message nor sets any for it."""
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
    """A message that supports weak references."""

    __slots__ = ("__weakref__",)


class Nowhere(Sink):
    """A store that drops all records."""

    def put(self, records):
        pass


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("how", ["well", "handling", "opening", "closing", "opening the worker's", "the hook"])
def test_a_finished_attempt_releases_its_message(kind, how):
    """After an attempt, no resource and no exception refers to its message, not even in a reference cycle."""
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

    keys = [world.logged("a"), world.resource(of_worker, "worker"), world.resource(fn)]
    world.handle(lambda context, *_: fail_when("handling"), *keys)
    world.proc.before_handling(lambda worker, context: kept.append(weakref.ref(context.message)))
    if how == "the hook":
        world.proc.after_handling(world.requesting(lambda context, _: fail_when("the hook"), keys[0]))
    gc.collect()
    gc.disable()
    try:
        world.run(*[b"x"] * 3)
        assert (len(kept), [one() for one in kept if one() is not None]) == (3, [])
    finally:
        gc.enable()
