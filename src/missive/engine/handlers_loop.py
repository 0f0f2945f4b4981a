"""The handlers' loop: it runs until the engines end, whatever handlers leave on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from missive.dlq.failure import describe_exception
from missive.engine.uncaught import describe_context

T = TypeVar("T")

_LEFTOVER_SECONDS = 1.0
"""Time for the tasks that handlers left to end after their cancellation, in seconds."""

logger = logging.getLogger("missive")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory if uvloop is installed, else None, which means asyncio's loop."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


def run_on_handlers_loop(main: Coroutine[Any, Any, T], closing: Callable[[], None]) -> T:
    """Run the main coroutine on a new loop, and return its result.

    A handler can leave a callback or a task that raises SystemExit or KeyboardInterrupt, or stop the loop. Both would
    end `asyncio.run`. Here, the loop continues. `closing` is called before the leftovers are cancelled.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = (loop_factory() or asyncio.new_event_loop)()
    else:
        main.close()
        raise RuntimeError("run() cannot be called from a running loop: await serve() there")
    try:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(_report)
        task = loop.create_task(main)
        _drive(loop, task)
        return task.result()
    finally:
        closing()
        _close(loop)


def _drive(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]) -> None:
    """Run a loop until a future is done."""
    while not future.done():
        try:
            loop.run_until_complete(future)
        except BaseException as raised:
            if loop.is_closed():
                raise
            if not future.done():
                logger.error("a handler left work that would end the handlers' loop: %s", describe_exception(raised))  # noqa: TRY400 - no text


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception of a leftover by type and location. asyncio would log its text, and arguments of callbacks."""
    logger.error("a handler left work on the handlers' loop that failed: %s", describe_context(context))


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        waiting = loop.create_task(_wait(left))
        _drive(loop, waiting)
    asyncio.set_event_loop(None)
    loop.close()


async def _wait(tasks: set[asyncio.Task[Any]]) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.wait(tasks, timeout=_LEFTOVER_SECONDS)
    if stubborn := sum(not task.done() for task in tasks):
        logger.warning("%d tasks that handlers left ignore their cancellation, and end with the process", stubborn)
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            _report(loop, {"exception": error})
    closing = asyncio.ensure_future(loop.shutdown_asyncgens())
    await asyncio.wait([closing], timeout=_LEFTOVER_SECONDS)
