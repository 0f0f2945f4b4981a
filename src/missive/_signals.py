"""Stop signals: SIGINT and SIGTERM reach whatever can stop, and are held while there is nothing to stop.

A process of `missive run` handles both signals to its last moment, and from the moment when Missive is imported: this
module is imported first, and recognizes the command. A signal that arrives before the run is delivered when the run
begins. A signal that arrives after the run does not change the exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from missive import _stacks

STOP = (signal.SIGINT, signal.SIGTERM)

_PATIENCE = 5.0
"""Time after a held signal until the process exits, even if an import or a leftover thread blocks it, in seconds."""


_LEAVE_SECONDS = 10.0
"""Time for leftover threads and exit functions to end after a run, in seconds."""


class _Held:
    """The state of a process that holds signals."""

    def __init__(self) -> None:
        self.active = False
        """Whether `hold` was called."""
        self.signals = 0
        """Number of held signals."""
        self.code = 0
        """The exit code of a process that does not end by itself after a held signal."""


_held = _Held()


def hold() -> None:
    """Hold stop signals from now on, until the process is gone."""
    if _held.active:
        return
    _held.active = True
    for number in STOP:
        signal.signal(number, _note)
    _stacks.print_on_request()
    if hasattr(signal, "pthread_sigmask"):  # a supervisor starts its workers with blocked signals
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    # While it exits, Python restores the default action of every handled signal, but not of ignored signals. Exit
    # functions run in reverse order, so the exit functions of the application run while signals are still held.
    for number in STOP:
        atexit.register(signal.signal, number, signal.SIG_IGN)


def held() -> bool:
    """Return whether a signal has arrived that nothing received."""
    return bool(_held.signals)


def leave(code: int) -> None:
    """Note that the run is over, with an exit code. End the process when leftover threads keep it for too long."""
    if not _held.active:
        return
    _held.code = code
    timer = threading.Timer(_LEAVE_SECONDS, _end_leftovers)
    timer.daemon = True
    timer.start()


def _end_leftovers() -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"missive: a thread or an exit function of the application does not end, and is cut off\n")
    os._exit(_held.code)


def _note(_number: int, _frame: FrameType | None) -> None:
    _held.signals += 1
    if _held.signals > 1:
        _exit()
    timer = threading.Timer(_PATIENCE, _exit)
    timer.daemon = True
    timer.start()


def _exit() -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"missive: ended by a signal outside of processing\n")
    os._exit(_held.code)


class Receiver:
    """Receives stop signals inside a block of `receiving`."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.earlier = {number: signal.signal(number, self._receive) for number in STOP}

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()

    def restore(self) -> bool:
        """Receive signals again that another function handles now. Return whether there were any."""
        changed = [number for number in STOP if signal.getsignal(number) != self._receive]
        for number in changed:
            signal.signal(number, self._receive)
        return bool(changed)


@contextlib.contextmanager
def receiving(stop: Callable[[], None]) -> Iterator[Receiver | None]:
    """Call `stop` for each stop signal inside the block, and once for held signals.

    Python calls it between two bytecodes of the main thread, so a handler that blocks a loop does not block Ctrl-C.
    Outside the main thread, no signal can be received, and the block only runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    receiver = Receiver(stop)
    _receivers.append(receiver)
    if held():
        stop()
    try:
        yield receiver
    except BaseException:
        _held.code = 1
        raise
    finally:
        _held.signals = 0
        _receivers.remove(receiver)
        _reset(receiver.earlier)


_receivers: list[Receiver] = []
"""The receivers of the running blocks, the innermost last."""


def _reset(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        # None stands for a handler that was not set from Python, which Python cannot restore.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _before_fork() -> None:
    # A signal that reaches the child before it has restored the handling would be lost. The mask belongs to the thread.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _in_child() -> None:
    """Handle signals in a forked child as before Missive, so that its parent can end it."""
    if _receivers:
        _reset(_receivers[0].earlier)
        _receivers.clear()
        signal.set_wakeup_fd(-1)  # the loop of the parent
    if _held.active:
        _reset({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL})
    _in_parent()


_forking = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block stop signals in this thread, so that a process that starts inside the block can hold them in time.

    Do not nest it, also not in another task of the thread.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def is_command(argv: Sequence[str]) -> bool:
    """Return whether a command line, with the interpreter and its options, is that of `missive run`."""
    words = iter(argv[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif word == "-m" or not word.startswith("-"):
            program = next(words, "") if word == "-m" else word.rpartition("/")[2]
            return program == "missive" and next(words, "") == "run"
        elif word == "-c":
            return False
    return False


if is_command(sys.orig_argv):
    hold()
