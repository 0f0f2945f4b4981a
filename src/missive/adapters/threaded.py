"""A thread that owns a blocking client: calls go into its mailbox, results come back as futures."""

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
    """Runs calls one after the other on one thread of its own, until it is closed.

    A client that must be pumped (heartbeats, arriving data) overrides `pump`, which waits inside the client until
    `wake` is called from another thread.
    """

    def __init__(self, name: str) -> None:
        self._mailbox: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._mail = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call on the thread. Raises RuntimeError when it is closed."""
        future: Future[T] = Future()
        with self._lock:  # a call that is accepted is answered: none slips in behind the last look
            if self._closing:
                raise RuntimeError("the client's thread is closed")
            self._mailbox.append((future, lambda: fn(*args, **kwargs)))
        self.wake()
        return future

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on the thread and wait for its result. Cancelled, the call may still be made."""
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def pump(self) -> None:
        """Wait for mail."""
        self._mail.wait()

    def wake(self) -> None:
        """End a waiting `pump`, from any thread."""
        self._mail.set()

    async def close(self) -> None:
        """Run what is in the mailbox, then end the thread."""
        with self._lock:
            self._closing = True
        self.wake()
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread's end sets no event
            await asyncio.sleep(0.001)

    def serve_mail(self) -> None:
        """Make the calls that wait in the mailbox; on the thread, also from inside a call of the client's."""
        while self._mailbox:
            future, call = self._mailbox.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - the caller gets it
                    future.set_exception(error)
                del future, call

    def _main(self) -> None:
        while True:
            self._mail.clear()
            closing = self._closing  # before the mailbox: what was accepted before that is still in it
            self.serve_mail()
            if closing:
                return
            if not self._closing:
                self.pump()


class ThreadedSession(Session):
    """A session whose client lives on a `ClientThread`."""

    def __init__(self, thread: ClientThread) -> None:
        super().__init__()
        self.thread = thread

    def submit(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the client's thread."""
        return self.thread.submit(fn)

    async def quiesce(self) -> None:
        """Wait until the call of a cancelled fetch, which may still be at work, is done."""
        await self.thread.run(lambda: None)

    async def close(self) -> None:
        """End the client's thread."""
        await self.thread.close()
