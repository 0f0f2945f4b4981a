"""Handlers and resources of every kind, under test clients and the engine."""

from __future__ import annotations

import asyncio
import contextvars
import functools

from missive import ProcessingContext, Processor, RawMessage
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.testing import MemoryAdapter

CANARY = "canary-4711"
variable = contextvars.ContextVar("variable", default="clean")


def as_async(fn):
    """Return an async generator function with the behaviour of a sync one."""

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
            except BaseException as error:  # noqa: BLE001 - a sync generator receives all exceptions
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(next, inner)

    return generator


class RecordingAdapter(MemoryAdapter):
    """An adapter that appends each settled outcome to a log."""

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
    """Handlers and resources of one kind, under a test client or the engine."""

    def __init__(self, runner, handlers, resources, method):
        self.runner, self.handlers, self.resources, self.method = runner, handlers, resources, method
        self.log = []
        self.dead = {}
        self.proc = Processor(name="t", dlq=self.dead)
        self.errors = []

    def resource(self, fn, scope="message"):
        """Declare a resource of this kind, given as a sync generator function."""
        return self.proc.resource(scope)(fn if self.resources == "def" else as_async(fn))

    def logged(self, name, scope="message", value=None):
        """Declare a resource that logs its opening, its closing, and the exception at its yield."""

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

    def requesting(self, fn, *keys):
        """Return a function that requests resources from its last argument, a context, and passes both to `fn`."""
        if self.handlers == "def":

            def call(_, context):
                return fn(context, *[context.get(key) for key in keys])

        elif self.method == "get":

            async def call(_, context):
                return fn(context, *[context.get(key) for key in keys])

        else:

            async def call(_, context):
                return fn(context, *[await context.aget(key) for key in keys])

        return call

    def hook(self, fn, *keys):
        """Return a processing hook of this kind."""
        two = self.requesting(fn, *keys)
        if self.handlers == "def":
            return lambda worker: two(None, worker)

        async def one(worker):
            await two(None, worker)

        return one

    def handle(self, fn, *keys, matcher=Everything()):  # noqa: B008 - frozen
        """Add a handler that requests resources and passes its context and them to `fn`."""
        self.proc.add_handler(matcher, self.requesting(fn, *keys))

    def run(self, *bodies):
        """Send bodies one after another, and return the outcomes. The log receives each outcome at its settlement."""
        if self.runner == "engine":
            adapter = RecordingAdapter(self.proc, bodies, self.log)
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
        """The reasons of the dead letters."""
        return [reason for _, reason in self.dead.values()]


RUNNERS = ["client", "async-client", "engine"]
"""The code that runs the handlers."""

KINDS = {
    "def": ("def", "def", "get"),
    "async-get": ("async", "def", "get"),
    "async-aget": ("async", "def", "aget"),
    "async": ("async", "async", "aget"),
}
"""The kind of the handlers, the kind of the resources, and the method that requests them."""


def raise_error(error):
    """Raise an exception, in a lambda."""
    raise error


def fails_to_close(context):
    """Raise after a successful attempt."""
    yield
    raise OSError("commit")


def never(context):
    """Return before the yield."""
    if context is None:
        yield


def run_with_worker(main):
    """Run a coroutine function with a worker's context, and then close the open resources of the worker."""

    async def whole():
        worker = ProcessingContext(Processor())
        await asyncio.wait_for(main(worker), 20)
        failed = None if worker.opened is None else await worker.opened.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return failed

    return asyncio.run(whole())


def gated(scope, log):
    """Return a resource that waits in its opening, and the event that lets it continue."""
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


async def run_tasks():
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)
