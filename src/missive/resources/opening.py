"""Openings: resources that are being opened, the tasks that wait for them, and circles among them."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from missive.errors import ResourceError
from missive.resources.key import ResourceKey

if TYPE_CHECKING:
    import asyncio

requesting: contextvars.ContextVar[ResourceKey[Any] | None] = contextvars.ContextVar("missive_resource", default=None)
"""The async resource whose opening runs here. It needs each resource that this code requests."""


class Opening:
    """A resource that is being opened. Other tasks can wait for it."""

    __slots__ = ("_error", "_ready", "_traceback", "_waiting", "needs")

    def __init__(self) -> None:
        self.needs: list[ResourceKey[Any]] = []
        """The resources that this opening waits for."""
        self._waiting = 0
        self._ready: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._traceback: Any = None

    async def wait(self) -> None:
        """Wait until the opening ends. Raise the exception that it failed with."""
        import asyncio  # noqa: PLC0415 - `import missive` does not load asyncio

        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
        self._waiting += 1
        try:
            try:
                # `asyncio.wait` does not cancel the future, which other tasks wait for, when this task is cancelled.
                await asyncio.wait([self._ready])
            finally:
                self._waiting -= 1
                if not self._waiting and not self._ready.done():
                    self.abandon()
            if self._error is not None:
                # All waiting tasks raise one exception object. Drop the frames of the tasks that raised it before.
                raise self._error.with_traceback(self._traceback)
        finally:
            del self  # it refers to the error, whose traceback refers to this frame

    def fail(self, error: BaseException) -> None:
        """Let the waiting tasks raise an exception when the opening ends."""
        self._error, self._traceback = error, error.__traceback__

    def end(self) -> None:
        """Wake the waiting tasks."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def abandon(self) -> None:
        """React when no task waits any more. An opening in the task of a handler continues."""


class Openings(dict["ResourceKey[Any] | None", Opening]):
    """The openings of one context, by resource."""

    def is_circular(self, key: ResourceKey[Any]) -> bool:
        """Return whether an opening waits for itself, through others."""
        seen: set[ResourceKey[Any]] = set()
        ahead = [key]
        while ahead:
            opening = self.get(ahead.pop())
            for needed in () if opening is None else opening.needs:
                if needed is key:
                    return True
                if needed not in seen:
                    seen.add(needed)
                    ahead.append(needed)
        return False


def circle(key: ResourceKey[Any]) -> ResourceError:
    """Return the error of a resource that needs itself."""
    return ResourceError(f"the resource {key.name} needs itself, through the resources that it opens. Break the circle")
