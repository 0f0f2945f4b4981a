"""Resource tasks: run the async resource of a worker in its own task."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from missive.resources.generator import AsyncResource
from missive.resources.key import ResourceKey
from missive.resources.opening import Opening, requesting

if TYPE_CHECKING:
    import asyncio

    from missive.resources.scope import WorkerResources


class ResourceTask(Opening):
    """An async generator that runs in its own task, from its opening to its end.

    The cancellation of a message therefore does not reach it, and its context variables, task groups and timeouts are
    entered and left in the same task, as asyncio requires.
    """

    __slots__ = ("_abandoned", "_closing", "_generator", "_owner", "key", "task")

    def __init__(
        self, owner: WorkerResources, key: ResourceKey[Any], source: ResourceKey[Any], context: object
    ) -> None:
        import asyncio  # noqa: PLC0415 - `import missive` does not load asyncio

        super().__init__()
        loop = asyncio.get_running_loop()
        self.key = key
        self._owner = owner
        self._abandoned = False
        self._closing: asyncio.Future[None] = loop.create_future()
        self._generator = AsyncResource(key, source, context)
        self.task = loop.create_task(self._live(), context=contextvars.Context())
        self.task.add_done_callback(self._done)

    async def _live(self) -> BaseException | None:
        requesting.set(self.key)
        try:
            value = await self._generator.open()
        except BaseException as error:  # noqa: BLE001 - the waiting tasks raise it
            self.fail(error)
            del self  # it refers to the error, whose traceback refers to this frame
            return None
        if self._abandoned:
            return await self._generator.aclose(None)
        self._owner.add_task(self, value)
        self.end()
        del value
        cancelled: BaseException | None = None
        try:
            await self._closing
        except BaseException as raised:  # noqa: BLE001 - the loop ends, or a task group of the generator failed
            cancelled = raised
            self._owner.drop_task(self)
        try:
            return await self._generator.aclose(cancelled)
        finally:
            del cancelled

    def _done(self, _task: asyncio.Task[BaseException | None]) -> None:
        self._owner.remove_task(self)
        self.end()

    def abandon(self) -> None:
        """Cancel the opening, because no task waits for it any more."""
        self._abandoned = True
        self._owner.drop_task(self)
        self.task.cancel()

    async def aclose(self, error: BaseException | None) -> BaseException | None:  # noqa: ARG002 - workers have none
        """Run the generator to its end, and return the resulting failure."""
        import asyncio  # noqa: PLC0415 - as above

        if not self._closing.done():
            self._closing.set_result(None)
        try:
            await asyncio.wait([self.task])
        except asyncio.CancelledError as cancelled:
            self.task.cancel()
            await asyncio.wait([self.task])
            return cancelled
        return self.task.result()
