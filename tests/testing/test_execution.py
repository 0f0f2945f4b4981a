"""Handlers and hooks in a test client: callables, order, failures and isolation."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import warnings

import pytest

from missive import (
    Outcome,
    OutcomeConflict,
    ProcessingFailed,
    Processor,
    UnmatchedError,
)
from missive.matchers import Everything, Topic
from tests.support.clients import (
    OUTCOMES,
    Runner,
    hooked,
    message,
    raise_it,
)

# Handlers


def test_the_return_value_of_a_handler_is_ignored(runner):
    """The client ignores the value that a handler returns."""
    for value in (False, 0, "nack", object(), [1], Outcome.nacked):
        _, result, _ = runner.one(lambda message, context, value=value: value)
        assert Outcome.acked is result.outcome


def test_a_returned_awaitable_is_awaited(runner):
    """The client awaits an awaitable that a handler returns, also from a `def` that calls an `async def`."""
    done = []

    async def later(message):
        await asyncio.sleep(0)
        done.append(message.message_id)

    proc = Processor()
    if runner.handler_kind == "def":
        proc.add_handler(Everything(), lambda message, context: later(message))
    else:

        async def handle(message, context):
            return later(message)

        async def twice(message, context):
            await (await handle(message, context))

        proc.add_handler(Everything(), twice)
    _, [result] = runner.run(proc, message("a", message_id="1"))
    assert (["1"], Outcome.acked) == (done, result.outcome)


def test_a_returned_awaitable_that_raises_fails_the_message(each_client):
    """An exception in a returned awaitable counts as an exception of the handler."""

    async def later():
        raise ValueError("later")

    box = {}
    proc = Processor(dlq=box)
    proc.add_handler(Everything(), lambda message, context: later())
    _, [result] = each_client.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "later") == (result.outcome, box["1"][1])


def test_a_returned_object_with_await_is_awaited(each_client):
    """The client awaits a returned object that has `__await__` and is not a coroutine."""
    done = []

    class Later:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            done.append(1)

    proc = Processor()
    proc.add_handler(Everything(), lambda message, context: Later())
    each_client.run(proc, message("a"))
    assert done == [1]


class Handlers:
    """Callables of every kind, which record the id of their message."""

    def __init__(self):
        self.seen = []

    def __call__(self, message, context):
        """Handle."""
        self.seen.append(message.message_id)

    def method(self, message, context):
        """Handle."""
        self(message, context)

    async def async_method(self, message, context):
        """Handle on the loop."""
        self(message, context)

    def with_option(self, option, message, context):
        """Handle with an extra first argument."""
        self.seen.append((option, message.message_id))

    async def async_with_option(self, option, message, context):
        """Handle on the loop, with an extra first argument."""
        self.with_option(option, message, context)


@pytest.mark.parametrize(
    ("get", "expected"),
    [
        (lambda h: h, "1"),
        (lambda h: h.method, "1"),
        (lambda h: h.async_method, "1"),
        (lambda h: functools.partial(h.with_option, "x"), ("x", "1")),
        (lambda h: functools.partial(h.async_with_option, "x"), ("x", "1")),
        (lambda h: functools.partial(functools.partial(h.async_with_option), "x"), ("x", "1")),
    ],
    ids=["object", "method", "async method", "partial", "partial of async", "partial of partial"],
)
def test_partials_methods_and_objects_are_handlers(each_client, get, expected):
    """Partials, bound methods and callable objects work as handlers, sync and async."""
    handlers, proc = Handlers(), Processor()
    proc.add_handler(Everything(), get(handlers))
    _, [result] = each_client.run(proc, message("a", message_id="1"))
    assert ([expected], Outcome.acked) == (handlers.seen, result.outcome)


def test_the_context_of_a_handler(runner):
    """`native` is None, the adapter is never connected, and the processor and message are the given ones."""
    seen = []

    def handle(message, context):
        seen.append((context.native, context.adapter.transport, context.processing_ctx.processor, context.message))

    proc, sent = runner.processor(handle), message("a")
    runner.run(proc, sent)
    assert [(None, "test", proc, sent)] == seen
    assert sent is seen[0][3]


# Hooks


def test_hooks_run_around_the_handler(runner):
    """Processing hooks run once. Handling hooks run around each message, and the later one sees the outcome."""
    log = []
    runner.run(hooked(runner, log), message("a"), message("a"))
    around = [("before", None, None), "handler", ("after", Outcome.acked, None)]
    assert ["start", *around, *around, "end"] == log


def test_after_hooks_run_after_an_exception(runner):
    """After an exception, `after_handling` sees the outcome and the exception, and `after_processing` runs."""
    log, error = [], ValueError()
    runner.run(hooked(runner, log, lambda m, c: raise_it(error), dlq={}), message("a"))
    assert ["start", ("before", None, None), ("after", Outcome.dead_lettered, error), "end"] == log


@pytest.mark.parametrize(("act", "outcome", "reason", "delay", "lists"), OUTCOMES)
def test_after_hooks_see_the_outcome(runner, act, outcome, reason, delay, lists):
    """`after_handling` sees the outcome of the result in every case."""
    log = []
    runner.run(hooked(runner, log, lambda m, c: act(c), dlq={}), message("a"))
    assert [outcome] == [entry[1] for entry in log if entry[0] == "after"]


def test_a_before_hook_that_raises_fails_the_message(runner):
    """When `before_handling` raises, the handler does not run, `after_handling` runs, and the message has failed."""
    log, box = [], {}
    proc = hooked(runner, log, dlq=box)
    proc.before_handling(lambda worker, context: raise_it(ValueError("hook")))
    _, [result] = runner.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "failed", "hook") == (result.outcome, result.reason, box["1"][1])
    assert "handler" not in log
    assert Outcome.dead_lettered in [entry[1] for entry in log if entry[0] == "after"]


def test_an_after_hook_that_raises_fails_the_message(runner):
    """When `after_handling` raises, the message has failed, and the other hooks still run."""
    log, box = [], {}
    proc = runner.processor(lambda m, c: c.ack(), dlq=box)
    proc.after_handling(lambda worker, context: raise_it(ValueError("hook")))
    proc.after_handling(lambda worker, context: log.append("second"))
    _, [result] = runner.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "failed", "hook") == (result.outcome, result.reason, box["1"][1])
    assert log == ["second"]


def test_the_exception_of_the_handler_has_precedence(runner):
    """When handler and hook raise, the result has the exception of the handler."""
    proc = runner.processor(lambda m, c: raise_it(ValueError("handler")), dlq={})
    proc.after_handling(lambda worker, context: raise_it(ValueError("hook")))
    _, [result] = runner.run(proc, message("a"))
    assert str(result.exception) == "handler"


@pytest.mark.parametrize("fails", [False, True])
def test_an_outcome_of_an_after_hook_is_not_dropped(runner, fails):
    """An outcome recorded in `after_handling` is applied or raises an error. It is never ignored."""
    proc = runner.processor(lambda m, c: raise_it(ValueError("x")) if fails else None, dlq={})
    proc.after_handling(lambda worker, context: context.retry(3))
    _, [result] = runner.run(proc, message("a"))
    assert Outcome.retried is result.outcome or isinstance(result.exception, OutcomeConflict)


def test_async_hooks_serve_async_handlers(each_client):
    """Hooks may be async when every handler is async."""
    log, proc = [], Processor()

    def hook(name):
        async def run(*contexts):
            await asyncio.sleep(0)
            log.append(name)

        return run

    async def handle(message, context):
        log.append("handler")

    for name in ("before_processing", "after_processing", "before_handling", "after_handling"):
        getattr(proc, name)(hook(name))
    proc.add_handler(Everything(), handle)
    each_client.run(proc, message("a"))
    assert log == ["before_processing", "before_handling", "handler", "after_handling", "after_processing"]


def test_hooks_and_handlers_share_state(runner):
    """Hooks and handlers share both states. The state of a worker persists; the state of a message ends with it."""
    log = []
    proc = runner.processor(lambda m, c: log.append((c.state.number, c.processing_ctx.state.connection)))

    @proc.before_processing
    def connect(worker):
        worker.state.connection = "open"

    @proc.before_handling
    def number(worker, context):
        assert not hasattr(context.state, "number")
        context.state.number = len(log)

    @proc.after_handling
    def check(worker, context):
        log[-1] += (context.state.number, worker.state.connection)

    runner.run(proc, message("a"), message("a"))
    assert log == [(0, "open", 0, "open"), (1, "open", 1, "open")]


def test_sync_and_async_handlers_have_separate_workers(each_client):
    """With handlers of both kinds, processing hooks run once for the thread and once for the loop."""
    proc, log = Processor(), []

    async def handle(message, context):
        log.append(context.processing_ctx)

    proc.add_handler(Topic("a"), lambda m, c: log.append(c.processing_ctx))
    proc.add_handler(Topic("b"), handle)
    workers = []
    proc.before_processing(workers.append)
    each_client.run(proc, message("a"), message("b"), message("a"))
    assert len(workers) == 2
    assert [workers[0], workers[1], workers[0]] == log


def test_processing_hooks_run_without_a_message(each_client):
    """Entering and leaving a client runs the processing hooks, even if no message is sent."""
    log = []
    each_client.run(hooked(each_client, log))
    assert log == ["start", "end"]


@contextlib.contextmanager
def closing_loops():
    """Discard the loop of a client that failed to open, with the ResourceWarning about it."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.set_event_loop(None)
            gc.collect()


@pytest.mark.parametrize("handlers", ["def", "async"])
def test_a_start_hook_that_raises_stops_the_sync_client(handlers):
    """Entering a client raises the failure of a `before_processing` hook."""
    runner = Runner("sync", handlers)
    proc = runner.processor(lambda m, c: None)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with closing_loops(), pytest.raises((ProcessingFailed, ValueError)):
        runner.run(proc)


@pytest.mark.parametrize("client", ["sync", "async"])
def test_the_error_names_the_failed_hook_of_async_handlers(client):
    """ProcessingFailed names the hook of async handlers, as it does for sync handlers and in production."""
    runner = Runner(client, "async")
    proc = runner.processor(lambda m, c: None)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with closing_loops(), pytest.raises(ProcessingFailed, match=r"the hook .* raised ValueError"):
        runner.run(proc)


def test_end_hooks_run_after_a_failed_start_hook(each_client):
    """`after_processing` runs after a failed `before_processing`, as in production."""
    log = []
    proc = hooked(each_client, log)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with pytest.raises(ProcessingFailed):
        each_client.run(proc)
    assert log == ["start", "end"]


def test_end_hooks_run_after_an_exception_in_the_test(each_client):
    """Leaving the client with an exception runs `after_processing`."""
    log = []
    with pytest.raises(UnmatchedError):
        each_client.run(hooked(each_client, log, matcher=Topic("b")), message("a"))
    assert log == ["start", "end"]


# Isolation


variable = contextvars.ContextVar("variable", default="clean")


def leaking(seen):
    """Return a handler that records a context variable and then sets it."""

    def handle(message, context):
        seen.append(variable.get())
        variable.set("leaked")

    return handle


@pytest.mark.parametrize(
    ("client", "handlers"),
    [
        ("sync", "def"),
        ("async", "def"),
        ("async", "async"),
        pytest.param("sync", "async"),
    ],
)
def test_context_variables_do_not_leak(client, handlers):
    """A context variable that a handler sets does not reach the next message or the test."""
    seen = []
    runner = Runner(client, handlers)
    runner.run(runner.processor(leaking(seen)), message("a"), message("a"), message("a"))
    assert seen == ["clean"] * 3
    assert variable.get() == "clean"


@pytest.mark.parametrize(
    "client",
    [
        "async",
        pytest.param("sync"),
    ],
)
def test_context_variables_of_a_returned_awaitable_do_not_leak(client):
    """A returned awaitable sees the variables of its handler, and the next message sees neither."""
    seen, proc = [], Processor()

    async def later():
        seen.append(variable.get())
        variable.set("leaked")

    def handle(message, context):
        seen.append(variable.get())
        variable.set(message.topic)
        return later()

    proc.add_handler(Everything(), handle)
    Runner(client, "def").run(proc, message("one"), message("two"))
    assert seen == ["clean", "one", "clean", "two"]


def test_concurrent_sends_are_isolated():
    """Concurrent sends of an async client run concurrently, each with its own context variables."""
    seen, proc = [], Processor()

    async def main():
        both = asyncio.Event()

        @proc.handle_for(Everything())
        async def handle(message, context):
            variable.set(message.message_id)
            if message.message_id == "1":
                await both.wait()
            both.set()
            seen.append((message.message_id, variable.get()))

        async with proc.test_client() as client:
            return await asyncio.gather(*(client.send(message("a", message_id=n)) for n in "12"))

    results = asyncio.run(main())
    assert [Outcome.acked] * 2 == [result.outcome for result in results]
    assert seen == [("2", "2"), ("1", "1")]


def test_async_handlers_run_on_the_loop_of_the_test():
    """With `async with`, async handlers run on the running loop, and sync handlers run in another thread."""
    where, proc = {}, Processor()

    async def on_loop(message, context):
        where["loop"] = asyncio.get_running_loop()

    proc.add_handler(Topic("a"), on_loop)
    proc.add_handler(Topic("b"), lambda m, c: where.update(thread=threading.get_ident()))

    async def main():
        async with proc.test_client() as client:
            await client.send(message("a"))
            await client.send(message("b"))
        return asyncio.get_running_loop()

    loop = asyncio.run(main())
    assert loop is where["loop"]
    assert threading.get_ident() != where["thread"]


def test_sync_handlers_run_in_the_thread_of_the_test():
    """With `with`, sync handlers run in the thread of the test, where a debugger works."""
    where, proc = [], Processor()
    proc.add_handler(Everything(), lambda m, c: where.append(threading.get_ident()))
    with proc.test_client() as client:
        client.send(message("a"))
    assert [threading.get_ident()] == where
