"""A TCP proxy that causes faults: latency, resets, half-open connections, truncation and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_CHUNK = 1 << 16
_LINGER = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """A fault of the proxy. It applies to open and new connections alike, unless its text names one kind."""

    none = "none"
    half_open = "half-open"
    """Accept connections, read and drop the data, and close nothing."""
    refuse = "refuse"
    """Reset new connections at once; leave open connections alone."""
    truncate = "truncate"
    """Forward half of the next data from the server, then reset."""


class FaultProxy:
    """A context manager that forwards a local port to `host` and `port`, in a thread. `listen` is the local port."""

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self._target = (host, port)
        self._fault = Fault.none
        self._latency = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._hung: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="fault-proxy", daemon=True)
        self.address = ("127.0.0.1", listen)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # In any thread

    def set(self, fault: Fault = Fault.none, *, latency: float = 0.0) -> None:
        """Cause this fault from now on, and delay each piece of data by `latency` seconds."""
        self._fault, self._latency = fault, latency

    def reset(self) -> None:
        """Reset the open connections."""
        asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result()

    def hang(self) -> None:
        """Make the open connections half-open until they close: the proxy drops their data. New connections work."""
        self._loop.call_soon_threadsafe(lambda: self._hung.update(self._writers))

    @property
    def connections(self) -> int:
        """Number of open connections of clients."""
        return len(self._writers) // 2

    # In the thread of the proxy

    def _main(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, *self.address)
        self.address = ("127.0.0.1", server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stop.wait()
        server.close()
        await self._reset()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.refuse:
            _abort(writer)
            return
        try:
            onward = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        self._writers |= {writer, onward[1]}
        both = (self._pass(reader, onward[1]), self._pass(onward[0], writer, from_server=True))
        tasks = [asyncio.ensure_future(one) for one in both]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, onward[1]):
            _abort(end)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)
        self._writers -= {writer, onward[1]}
        self._hung -= {writer, onward[1]}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._latency:
                    await asyncio.sleep(self._latency)
                if self._fault is Fault.half_open or writer in self._hung:
                    continue
                if self._fault is Fault.truncate and from_server:
                    self._fault = Fault.none
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
