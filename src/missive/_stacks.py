"""Stacks on request: SIGUSR1 prints what every thread and task is doing, and does not end the process."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_forward: list[Callable[[], None]] = []


def print_on_request(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Print stacks on standard error at SIGUSR1, unless the application handles SIGUSR1 itself.

    The output shows all threads and the suspended tasks of `loop`. It contains files, lines and functions, and no
    values. Call this function in the main thread; elsewhere it has no effect.
    """
    if loop is not None:
        _loops.add(loop)
    if not hasattr(signal, "SIGUSR1") or signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
        return
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGUSR1, _on_signal)
        with contextlib.suppress(OSError):  # standard error is not a file
            if sys.__stderr__ is not None:
                # This prints the threads even when the main thread is stuck, and then calls the handler above.
                faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, chain=True)


@contextlib.contextmanager
def forwarding(forward: Callable[[], None]) -> Iterator[None]:
    """Call `forward` at each SIGUSR1 inside the block, after the stacks of this process were printed."""
    _forward.append(forward)
    try:
        yield
    finally:
        _forward.remove(forward)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    import asyncio  # noqa: PLC0415 - this module is imported before anything that takes time

    with contextlib.suppress(OSError, ValueError):  # standard error is closed
        for loop in list(_loops):
            for task in asyncio.all_tasks(loop):
                _print_task(task)
    for forward in _forward:
        forward()


def _print_task(task: asyncio.Task[Any]) -> None:
    frames = list(_suspended_frames(task.get_coro()))
    if frames and sys.__stderr__ is not None:
        lines = [f'  File "{one.f_code.co_filename}", line {one.f_lineno} in {one.f_code.co_name}' for one in frames]
        print("Task (most recent call last):", *lines, sep="\n", file=sys.__stderr__, flush=True)


def _suspended_frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, and of all that it waits for, with the innermost frame last."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if not isinstance(frame, FrameType):
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
