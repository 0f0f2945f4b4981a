"""The test clients: one attempt at a message through production's routing, execution and decision, no transport."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from missive.app.processor import Processor
from missive.durations import seconds
from missive.engine.job import Job, Work
from missive.errors import UsageError
from missive.messages import Message, RawMessage
from missive.resources.key import NO_OVERRIDES, Overrides
from missive.testing.attempts import Attempts
from missive.testing.execution import Handlers, group_batches
from missive.testing.result import Result

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class TestClient(Attempts[M]):
    """Sends messages to the handlers of a processor. Sync handlers run in the caller's thread, async ones on a loop."""

    __test__ = False

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        super().__init__(processor)
        self._runner = asyncio.Runner()
        self._handlers = Handlers(processor, overrides, self._wait)
        try:
            if self._handlers.has_sync:
                self._handlers.start()
            if self._handlers.has_async:
                self._wait(self._handlers.start_async())
        except BaseException:
            self.close()
            raise

    @overload
    def send(self: TestClient[RawMessage], message: Message) -> Result: ...
    @overload
    def send(self, message: M) -> Result: ...
    def send(self, message: Any) -> Result:
        """Run one attempt and return its result. Without a dead letter queue, raise in place of a dead letter.

        A processor without a message class takes a message of any class.
        """
        return self._run(self._make_job(message))

    @overload
    def send_batch(self: TestClient[RawMessage], messages: Sequence[Message]) -> list[Result]: ...
    @overload
    def send_batch(self, messages: Sequence[M]) -> list[Result]: ...
    def send_batch(self, messages: Sequence[Any]) -> list[Result]:
        """Run one attempt at each message, batch handlers with batches, and return the results in order."""
        jobs = [self._make_job(message) for message in messages]
        for work in group_batches(jobs):
            self._execute(work)
        return [self._finish(job) for job in jobs]

    def advance(self, after: float | timedelta) -> list[Result]:
        """Move the virtual clock forward, run the messages that fall due in their order, and return the results."""
        until, results = self._now + (seconds(after) or 0), []
        while (job := self._next_due(until)) is not None:
            results.append(self._run(job))
        self._now = until
        return results

    def close(self) -> None:
        """Run the `after_processing` hooks and close the resources of the workers."""
        try:
            self._end()
        finally:
            self._runner.close()

    def _end(self) -> None:
        try:
            if self._handlers.has_sync:
                self._handlers.end()
        finally:
            if self._handlers.has_async:
                self._wait(self._handlers.end_async())

    def _run(self, job: Job) -> Result:
        for work in group_batches([job]):
            self._execute(work)
        return self._finish(job)

    def _execute(self, work: Work) -> None:
        if not self._admit(work):
            return
        if self._handlers.is_sync(work):
            contextvars.copy_context().run(self._handlers.run, work)
        else:
            self._wait(self._handlers.run_async(work))
        self._conclude(work)

    def _wait(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self._runner.run(wait(), context=contextvars.copy_context())


class AsyncTestClient(Attempts[M]):
    """A test client for a running loop. Async handlers run on that loop, sync ones in a thread."""

    __test__ = False

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        super().__init__(processor)
        loop = asyncio.get_running_loop()

        def resolve(awaitable: Awaitable[Any]) -> object:
            async def wait() -> object:
                return await awaitable

            return asyncio.run_coroutine_threadsafe(wait(), loop).result()

        self._handlers = Handlers(processor, overrides, resolve)
        self._thread = ThreadPoolExecutor(1, "missive-test")

    @overload
    async def send(self: AsyncTestClient[RawMessage], message: Message) -> Result: ...
    @overload
    async def send(self, message: M) -> Result: ...
    async def send(self, message: Any) -> Result:
        """Run one attempt and return its result. Without a dead letter queue, raise in place of a dead letter.

        A processor without a message class takes a message of any class.
        """
        return await self._run(self._make_job(message))

    @overload
    async def send_batch(self: AsyncTestClient[RawMessage], messages: Sequence[Message]) -> list[Result]: ...
    @overload
    async def send_batch(self, messages: Sequence[M]) -> list[Result]: ...
    async def send_batch(self, messages: Sequence[Any]) -> list[Result]:
        """Run one attempt at each message, batch handlers with batches, and return the results in order."""
        jobs = [self._make_job(message) for message in messages]
        for work in group_batches(jobs):
            await self._execute(work)
        return [self._finish(job) for job in jobs]

    async def advance(self, after: float | timedelta) -> list[Result]:
        """Move the virtual clock forward, run the messages that fall due in their order, and return the results."""
        until, results = self._now + (seconds(after) or 0), []
        while (job := self._next_due(until)) is not None:
            results.append(await self._run(job))
        self._now = until
        return results

    async def open(self) -> None:
        """Run the `before_processing` hooks."""
        try:
            if self._handlers.has_sync:
                await self._in_thread(self._handlers.start)
            if self._handlers.has_async:
                await self._handlers.start_async()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Run the `after_processing` hooks and close the resources of the workers."""
        try:
            await self._end()
        finally:
            self._thread.shutdown()

    async def _end(self) -> None:
        try:
            if self._handlers.has_sync:
                await self._in_thread(self._handlers.end)
        finally:
            if self._handlers.has_async:
                await self._handlers.end_async()

    async def _run(self, job: Job) -> Result:
        for work in group_batches([job]):
            await self._execute(work)
        return self._finish(job)

    async def _execute(self, work: Work) -> None:
        if not self._admit(work):
            return
        if self._handlers.is_sync(work):
            await self._in_thread(self._handlers.run, work)
        else:
            # A new task has its own copy of the context variables.
            await asyncio.create_task(self._handlers.run_async(work))
        self._conclude(work)

    async def _in_thread(self, fn: Callable[..., T], *arguments: object) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: context.run(fn, *arguments))


class ClientSession(Generic[M]):
    """The result of `Processor.test_client()`. Enter it with `with` or `async with` to open a client."""

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        self._processor = processor
        self._overrides = overrides
        self._client: TestClient[M] | None = None
        self._async_client: AsyncTestClient[M] | None = None

    def __enter__(self) -> TestClient[M]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._client = TestClient(self._processor, self._overrides)
            return self._client
        raise UsageError("a loop is running in this thread. Use `async with proc.test_client() as client`.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    async def __aenter__(self) -> AsyncTestClient[M]:
        self._async_client = AsyncTestClient(self._processor, self._overrides)
        await self._async_client.open()
        return self._async_client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._async_client is not None:
            await self._async_client.close()
