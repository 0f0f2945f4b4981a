"""Sessions for blocking clients. A client belongs to one thread, which runs the calls in its mailbox."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from missive.transport import Session

P = ParamSpec("P")
T = TypeVar("T")


class ClientThread:
    """A thread that runs the calls of its mailbox one after the other until it is closed.

    For a client that must process events (heartbeats, incoming data), override `pump` to wait inside the client, and
    `wake` to end that wait from another thread.
    """

    def __init__(self, name: str) -> None:
        self._mailbox: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._mail = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call on the thread. Raise RuntimeError if the thread is closed."""
        future: Future[T] = Future()
        with self._lock:  # no call enters the mailbox after the thread has emptied it for the last time
            if self._closing:
                raise RuntimeError("the client's thread is closed")
            self._mailbox.append((future, lambda: fn(*args, **kwargs)))
        self.wake()
        return future

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on the thread and return its result. After a cancellation, the thread may still run the call."""
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def pump(self) -> None:
        """Wait until the mailbox has a call."""
        self._mail.wait()

    def wake(self) -> None:
        """End a waiting `pump`. Any thread may call it."""
        self._mail.set()

    async def close(self) -> None:
        """Run the calls in the mailbox, then end the thread."""
        with self._lock:
            self._closing = True
        self.wake()
        while self._thread.is_alive():  # noqa: ASYNC110 - the end of a thread sets no event
            await asyncio.sleep(0.001)

    def serve_mail(self) -> None:
        """Run the calls in the mailbox. The thread calls it, also from a callback of the client."""
        while self._mailbox:
            future, call = self._mailbox.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - the caller receives the exception
                    future.set_exception(error)
                del future, call

    def _main(self) -> None:
        while True:
            self._mail.clear()
            closing = self._closing  # read before the mailbox, which then contains every accepted call
            self.serve_mail()
            if closing:
                return
            if not self._closing:
                self.pump()


class ThreadedSession(Session):
    """A session whose client belongs to a `ClientThread`."""

    def __init__(self, thread: ClientThread) -> None:
        super().__init__()
        self.thread = thread

    def submit(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the client's thread."""
        return self.thread.submit(fn)

    async def quiesce(self) -> None:
        """Wait for the call of a cancelled fetch, which may still be running."""
        await self.thread.run(lambda: None)

    async def close(self) -> None:
        """End the client's thread."""
        await self.thread.close()
