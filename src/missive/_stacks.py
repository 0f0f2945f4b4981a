"""Stacks on request: SIGUSR1 prints what every thread and task is doing, and does not end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_forward: list[Callable[[], None]] = []
_printing: list[bool] = []


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


@contextlib.contextmanager
def forwarding(forward: Callable[[], None]) -> Iterator[None]:
    """Call `forward` at each SIGUSR1 inside the block, after the stacks of this process were printed."""
    _forward.append(forward)
    try:
        yield
    finally:
        _forward.remove(forward)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    if _printing:  # a signal that arrives meanwhile asks for the same stacks
        return
    _printing.append(True)
    try:
        with contextlib.suppress(OSError):  # standard error is closed
            os.write(2, "".join(_stacks()).encode(errors="backslashreplace"))
        for forward in _forward:
            forward()
    finally:
        _printing.clear()


def _stacks() -> Iterator[str]:
    """Yield the lines of all stacks.

    faulthandler would print the threads of a process that is stuck in C code too, but it may crash the process.
    """
    import asyncio  # noqa: PLC0415 - this module is imported before anything that takes time

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way
        yield from _lines(f"Thread {names.get(ident, ident)}", [one for one, _ in traceback.walk_stack(frame)][::-1])
    for loop in list(_loops):
        for task in asyncio.all_tasks(loop):
            yield from _lines("Task", list(_suspended_frames(task.get_coro())))


def _lines(title: str, frames: list[FrameType]) -> Iterator[str]:
    if frames:
        yield f"{title} (most recent call last):\n"
        for one in frames:
            yield f'  File "{one.f_code.co_filename}", line {one.f_lineno} in {one.f_code.co_name}\n'


def _suspended_frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, and of all that it waits for, with the innermost frame last."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if not isinstance(frame, FrameType):
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
