"""What a context has open: its resources, from their first use until they are closed in reverse order."""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from missive.errors import ProcessingFailed, ResourceError
from missive.resources.generator import AsyncSuspended, Suspended, call
from missive.resources.key import Overrides, ResourceKey

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Resolve = Callable[[Awaitable[Any]], object]
"""Waits, in a thread, for what runs on a loop."""

_Entry: TypeAlias = "Suspended | AsyncSuspended | _Living"

_UNOPENED: Any = object()

_asker: contextvars.ContextVar[ResourceKey[Any] | None] = contextvars.ContextVar("missive_resource", default=None)
"""Which async resource is being opened here: the one that needs what is asked for now."""


class Opened(ABC):
    """The resources that one context has open."""

    __slots__ = ("_entries", "_opening", "_sources", "_values")

    def __init__(self, overrides: Overrides) -> None:
        self._values: dict[ResourceKey[Any], Any] = dict(overrides.values)
        self._sources = overrides.sources
        self._entries: list[_Entry] = []
        self._opening: dict[ResourceKey[Any] | None, _Opening] = {}

    def get(self, key: ResourceKey[T], context: object) -> T:
        """Return a sync resource, opened now if it is not yet. Raises `ResourceError`, and what its function does."""
        if key.is_async:
            raise ResourceError(f"the resource {key.name} is async: await context.aget(…), in an async def")
        value = self._values.get(key, _UNOPENED)
        return cast("T", self._open(key, context) if value is _UNOPENED else value)

    async def aget(self, key: ResourceKey[T], context: object) -> T:
        """Return any resource, opened now if it is not yet: once, also where several ask while it opens."""
        value = self._values.get(key, _UNOPENED)
        if value is _UNOPENED:
            source = self._sources.get(key, key)
            value = await self._opened(key, source, context) if source.is_async else self._open(key, context)
        return cast("T", value)

    def _open(self, key: ResourceKey[Any], context: object) -> Any:
        source = self._sources.get(key, key)
        if source.is_async:
            raise ResourceError(f"the resource {source.name} is async: await context.aget(…), in an async def")
        if key in self._opening:
            raise _circle(key)
        self._opening[key] = _Opening()
        try:
            entry = Suspended(key, source, context, self._runner())
            value = entry.open()
        finally:
            del self._opening[key]
        self._keep(key, value, entry)
        return value

    async def _opened(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> Any:
        asker = _asker.get()
        needs = self._opening[asker].needs if asker in self._opening else []
        needs.append(key)
        try:
            if self._is_circular(key):
                raise _circle(key)
            while key not in self._values:
                if key in self._opening:
                    await self._wait(self._opening[key])
                else:
                    await self._begin(key, source, context)
            return self._values[key]
        finally:
            needs.remove(key)

    @abstractmethod
    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        """Open an async resource, or fail to."""

    @abstractmethod
    def _runner(self) -> Callable[..., Any]:
        """Return what calls the steps of a sync generator."""

    async def _wait(self, opening: _Opening) -> None:
        """Wait until an opening is over. Raises what it raised."""
        import asyncio  # noqa: PLC0415 - importing missive does not load it

        if opening.ready is None:
            opening.ready = asyncio.get_running_loop().create_future()
        opening.waiting += 1
        try:
            try:
                # Unlike awaiting it: who is cancelled here does not cancel what others wait for.
                await asyncio.wait([opening.ready])
            finally:
                opening.waiting -= 1
                if not opening.waiting and not opening.ready.done():
                    opening.abandon()
            if opening.error is not None:
                # One exception for all who wait: without the frames of those who had it before.
                raise opening.error.with_traceback(opening.traceback)
        finally:
            del opening  # it has the error, whose traceback has this frame

    def _is_circular(self, key: ResourceKey[Any]) -> bool:
        """Tell whether a resource that is being opened waits, through others, for itself."""
        seen: set[ResourceKey[Any]] = set()
        ahead = [key]
        while ahead:
            opening = self._opening.get(ahead.pop())
            for needed in () if opening is None else opening.needs:
                if needed is key:
                    return True
                if needed not in seen:
                    seen.add(needed)
                    ahead.append(needed)
        return False

    def _keep(self, key: ResourceKey[Any], value: object, entry: _Entry) -> None:
        self._values[key] = value
        self._entries.append(entry)

    def _forget(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._values.pop(entry.key, None)

    def _close_last(self, error: BaseException | None, resolve: Resolve) -> BaseException | None:
        """Close what was opened last, where it was opened; returns what the failure is then."""
        entry = self._entries[-1]
        try:
            if isinstance(entry, Suspended) and entry.thread == get_ident():
                return entry.close(error)
            return cast("BaseException | None", resolve(entry.aclose(error)))
        except BaseException as raised:  # noqa: BLE001 - the loop may be gone
            return raised
        finally:
            self._forget(entry)

    async def _aclose_last(self, error: BaseException | None) -> BaseException | None:
        entry = self._entries[-1]
        try:
            return await entry.aclose(error)
        finally:
            self._forget(entry)


class AttemptResources(Opened):
    """Those of one attempt at one message: they see its exception, and run where its handler does."""

    __slots__ = ()

    def close(self, error: BaseException | None, resolve: Resolve) -> BaseException | None:
        """Close all in reverse order, with the attempt's exception thrown in; returns the exception it ends with."""
        while self._entries:
            error = self._close_last(error, resolve)
        try:
            return error
        finally:
            del error  # its traceback has this frame

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Do the same on a loop."""
        while self._entries:
            error = await self._aclose_last(error)
        try:
            return error
        finally:
            del error  # as above; since Python 3.12 here too

    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        """Open it in the handler's own task, which then has the context variables that it sets."""
        opening = self._opening[key] = _Opening()
        asker = _asker.set(key)
        try:
            entry = AsyncSuspended(key, source, context)
            self._keep(key, await entry.open(), entry)
        except Exception as error:
            # Not where it was cancelled, which is nothing to the others: the next of them opens it.
            opening.fail(error)
            raise
        finally:
            _asker.reset(asker)
            del self._opening[key]
            opening.over()
            del opening  # it has the error, whose traceback has this frame

    def _runner(self) -> Callable[..., Any]:
        return call


class WorkerResources(Opened):
    """Those of one worker: they outlive the message that opens them, and have nothing of it."""

    __slots__ = ("_tasks",)

    def __init__(self, overrides: Overrides) -> None:
        super().__init__(overrides)
        self._tasks: set[asyncio.Task[BaseException | None]] = set()

    def close(self, resolve: Resolve) -> ProcessingFailed | None:
        """Close all in reverse order; returns why the processor failed, or None."""
        failed: ProcessingFailed | None = None
        while self._entries:
            name = self._entries[-1].key.name
            failed = _first(failed, name, self._close_last(None, resolve))
        if self._tasks:
            resolve(self._end_tasks())
        return failed

    async def aclose(self) -> ProcessingFailed | None:
        """Do the same on a loop."""
        failed: ProcessingFailed | None = None
        while self._entries:
            name = self._entries[-1].key.name
            failed = _first(failed, name, await self._aclose_last(None))
        if self._tasks:
            await self._end_tasks()
        return failed

    async def _begin(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        """Open it in a task of its own, which goes on for whoever waits when the first is cancelled."""
        living = self._opening[key] = _Living(self, key, source, context)
        self._tasks.add(living.task)
        try:
            await self._wait(living)
        finally:
            del living  # it may have the error, whose traceback has this frame

    def opened(self, living: _Living, value: object) -> None:
        """Take in what a task opened."""
        del self._opening[living.key]
        self._keep(living.key, value, living)

    def dropped(self, living: _Living) -> None:
        """Open it anew for whoever asks next: this one was given up, or ended without being asked to."""
        if self._opening.get(living.key) is living:
            del self._opening[living.key]
        else:  # what it ended with is said when the worker ends
            self._values.pop(living.key, None)

    def ended(self, living: _Living) -> None:
        """Let go of a task that is done."""
        self._tasks.discard(living.task)
        if self._opening.get(living.key) is living:
            del self._opening[living.key]

    async def _end_tasks(self) -> None:
        """End what is still being opened for nobody."""
        import asyncio  # noqa: PLC0415 - importing missive does not load it

        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _runner(self) -> Callable[..., Any]:
        return contextvars.Context().run  # a message's context variables are not the worker's


class _Opening:
    """A resource that is being opened, and who waits for that."""

    __slots__ = ("error", "needs", "ready", "traceback", "waiting")

    def __init__(self) -> None:
        self.needs: list[ResourceKey[Any]] = []
        self.waiting = 0
        self.ready: asyncio.Future[None] | None = None
        self.error: BaseException | None = None
        self.traceback: Any = None

    def fail(self, error: BaseException) -> None:
        self.error, self.traceback = error, error.__traceback__

    def over(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any more; who opens it in a task of another's goes on."""


class _Living(_Opening):
    """An async generator in a task of its own from its opening to its closing.

    So no message's cancellation reaches it, and its context variables, task groups and timeouts are entered and left
    in one task, as they must be.
    """

    __slots__ = ("_abandoned", "_closing", "_generator", "_owner", "key", "task")

    def __init__(
        self, owner: WorkerResources, key: ResourceKey[Any], source: ResourceKey[Any], context: object
    ) -> None:
        import asyncio  # noqa: PLC0415 - importing missive does not load it

        super().__init__()
        loop = asyncio.get_running_loop()
        self.key = key
        self._owner = owner
        self._abandoned = False
        self._closing: asyncio.Future[None] = loop.create_future()
        self._generator = AsyncSuspended(key, source, context)
        self.task = loop.create_task(self._live(), context=contextvars.Context())
        self.task.add_done_callback(self._ended)

    async def _live(self) -> BaseException | None:
        _asker.set(self.key)
        try:
            value = await self._generator.open()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self.fail(error)
            del self  # it has the error, whose traceback has this frame
            return None
        if self._abandoned:
            return await self._generator.aclose(None)
        self._owner.opened(self, value)
        self.over()
        del value
        cancelled: BaseException | None = None
        try:
            await self._closing
        except BaseException as raised:  # noqa: BLE001 - the loop ends, or a task group in the generator failed
            cancelled = raised
            self._owner.dropped(self)
        try:
            return await self._generator.aclose(cancelled)
        finally:
            del cancelled

    def _ended(self, _task: asyncio.Task[BaseException | None]) -> None:
        self._owner.ended(self)
        self.over()

    def abandon(self) -> None:
        self._abandoned = True
        self._owner.dropped(self)
        self.task.cancel()

    async def aclose(self, error: BaseException | None) -> BaseException | None:  # noqa: ARG002 - a worker has none
        import asyncio  # noqa: PLC0415 - importing missive does not load it

        if not self._closing.done():
            self._closing.set_result(None)
        try:
            await asyncio.wait([self.task])
        except asyncio.CancelledError as cancelled:
            self.task.cancel()
            await asyncio.wait([self.task])
            return cancelled
        return self.task.result()


def _first(failed: ProcessingFailed | None, name: str, error: BaseException | None) -> ProcessingFailed | None:
    if failed is not None or error is None:
        return failed
    return ProcessingFailed(f"the resource {name} raised {type(error).__qualname__} when it was closed")


def _circle(key: ResourceKey[Any]) -> ResourceError:
    return ResourceError(f"the resource {key.name} needs itself, by way of those that it opens")
