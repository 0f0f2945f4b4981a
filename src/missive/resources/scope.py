"""Scopes: the open resources of an attempt or a worker, from their first use until they are closed in reverse order."""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from missive.errors import ProcessingFailed, ResourceError
from missive.resources.generator import AsyncResource, SyncResource, call
from missive.resources.key import Overrides, ResourceKey
from missive.resources.opening import Opening, Openings, circle, requesting
from missive.resources.task import ResourceTask

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Resolve = Callable[[Awaitable[Any]], object]
"""Runs an awaitable on its loop, and waits for the result in a thread."""

_Entry: TypeAlias = SyncResource | AsyncResource | ResourceTask

_UNOPENED: Any = object()


class OpenResources(ABC):
    """The open resources of one context."""

    __slots__ = ("_entries", "_openings", "_sources", "_values")

    def __init__(self, overrides: Overrides) -> None:
        self._values: dict[ResourceKey[Any], Any] = dict(overrides.values)
        self._sources = overrides.sources
        self._entries: list[_Entry] = []
        """The resources to close, in the order of their opening."""
        self._openings = Openings()

    def get(self, key: ResourceKey[T], context: object) -> T:
        """Return a sync resource, and open it first if necessary.

        Raise `ResourceError` for an async resource or a circle, and the exceptions of the generator.
        """
        if key.is_async:
            raise _is_async(key)
        value = self._values.get(key, _UNOPENED)
        return cast("T", self._open(key, context) if value is _UNOPENED else value)

    async def aget(self, key: ResourceKey[T], context: object) -> T:
        """Return a resource, and open it first if necessary. Concurrent requests share one opening.

        Raise `ResourceError` for a circle, and the exceptions of the generator.
        """
        value = self._values.get(key, _UNOPENED)
        if value is _UNOPENED:
            source = self._sources.get(key, key)
            value = await self._aopen(key, source, context) if source.is_async else self._open(key, context)
        return cast("T", value)

    def _open(self, key: ResourceKey[Any], context: object) -> Any:
        source = self._sources.get(key, key)
        if source.is_async:
            raise _is_async(source)
        if key in self._openings:
            raise circle(key)
        self._openings[key] = Opening()
        try:
            entry = SyncResource(key, source, context, self._runner())
            value = entry.open()
        finally:
            del self._openings[key]
        self._add(key, value, entry)
        return value

    async def _aopen(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> Any:
        outer = self._openings.get(requesting.get())
        needs = [] if outer is None else outer.needs
        needs.append(key)
        try:
            if self._openings and self._openings.is_circular(key):
                raise circle(key)
            while key not in self._values:
                if key in self._openings:
                    await self._openings[key].wait()
                else:
                    await self._begin(key, source, context)
            return self._values[key]
        finally:
            needs.remove(key)

    @abstractmethod
    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        """Open an async resource. Raise the exceptions of the generator."""

    @abstractmethod
    def _runner(self) -> Callable[..., Any]:
        """Return the function that calls the steps of a sync generator."""

    def _add(self, key: ResourceKey[Any], value: object, entry: _Entry) -> None:
        self._values[key] = value
        self._entries.append(entry)

    def _remove(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._values.pop(entry.key, None)

    def _close_last(self, error: BaseException | None, resolve: Resolve) -> BaseException | None:
        """Close the newest resource, in its thread or on its loop, and return the resulting failure."""
        entry = self._entries[-1]
        try:
            if isinstance(entry, SyncResource) and entry.thread == get_ident():
                return entry.close(error)
            return cast("BaseException | None", resolve(entry.aclose(error)))
        except BaseException as raised:  # noqa: BLE001 - the loop may be closed
            return raised
        finally:
            self._remove(entry)

    async def _aclose_last(self, error: BaseException | None) -> BaseException | None:
        entry = self._entries[-1]
        try:
            return await entry.aclose(error)
        finally:
            self._remove(entry)


class AttemptResources(OpenResources):
    """The open resources of one attempt. They see its exception, and run where its handler runs."""

    __slots__ = ()

    def close(self, error: BaseException | None, resolve: Resolve) -> BaseException | None:
        """Close all resources, with the exception of the attempt raised in them, and return the resulting failure."""
        while self._entries:
            error = self._close_last(error, resolve)
        try:
            return error
        finally:
            del error  # its traceback refers to this frame

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Close all resources on a loop; else as `close`."""
        while self._entries:
            error = await self._aclose_last(error)
        try:
            return error
        finally:
            del error  # as above, since Python 3.12 here too

    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        # In the task of the handler, which therefore has the context variables that the generator sets.
        opening = self._openings[key] = Opening()
        token = requesting.set(key)
        try:
            entry = AsyncResource(key, source, context)
            self._add(key, await entry.open(), entry)
        except Exception as error:
            # A cancellation concerns this task only: the next waiting task opens the resource.
            opening.fail(error)
            raise
        finally:
            requesting.reset(token)
            del self._openings[key]
            opening.end()
            del opening  # it refers to the error, whose traceback refers to this frame

    def _runner(self) -> Callable[..., Any]:
        return call


class WorkerResources(OpenResources):
    """The open resources of one worker. They outlive the message that opens them, and see nothing of it."""

    __slots__ = ("_tasks",)

    def __init__(self, overrides: Overrides) -> None:
        super().__init__(overrides)
        self._tasks: set[asyncio.Task[BaseException | None]] = set()

    def close(self, resolve: Resolve) -> ProcessingFailed | None:
        """Close all resources in reverse order, and return the reason why the processor failed, or None."""
        failed: ProcessingFailed | None = None
        while self._entries:
            name = self._entries[-1].key.name
            failed = _first(failed, name, self._close_last(None, resolve))
        if self._tasks:
            resolve(self._end_tasks())
        return failed

    async def aclose(self) -> ProcessingFailed | None:
        """Close all resources on a loop; else as `close`."""
        failed: ProcessingFailed | None = None
        while self._entries:
            name = self._entries[-1].key.name
            failed = _first(failed, name, await self._aclose_last(None))
        if self._tasks:
            await self._end_tasks()
        return failed

    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        # In a separate task, which continues for other waiting tasks when this one is cancelled.
        resource = self._openings[key] = ResourceTask(self, key, source, context)
        self._tasks.add(resource.task)
        try:
            await resource.wait()
        finally:
            del resource  # it may refer to the error, whose traceback refers to this frame

    def add_task(self, resource: ResourceTask, value: object) -> None:
        """Add a resource that its task has opened."""
        del self._openings[resource.key]
        self._add(resource.key, value, resource)

    def drop_task(self, resource: ResourceTask) -> None:
        """Open the resource anew for the next request: this one was abandoned, or ends before the worker."""
        if self._openings.get(resource.key) is resource:
            del self._openings[resource.key]
        else:  # `close` reports its failure when the worker ends
            self._values.pop(resource.key, None)

    def remove_task(self, resource: ResourceTask) -> None:
        """Forget a task that is done."""
        self._tasks.discard(resource.task)
        if self._openings.get(resource.key) is resource:
            del self._openings[resource.key]

    async def _end_tasks(self) -> None:
        """Cancel the abandoned openings that still run, and wait for their end."""
        import asyncio  # noqa: PLC0415 - `import missive` does not load asyncio

        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _runner(self) -> Callable[..., Any]:
        return contextvars.Context().run  # the worker's resources do not see the context variables of a message


def _first(failed: ProcessingFailed | None, name: str, error: BaseException | None) -> ProcessingFailed | None:
    if failed is not None or error is None:
        return failed
    return ProcessingFailed(f"the resource {name} raised {type(error).__qualname__} when it was closed")


def _is_async(key: ResourceKey[Any]) -> ResourceError:
    return ResourceError(f"the resource {key.name} is async: await context.aget(…), in an async def")
