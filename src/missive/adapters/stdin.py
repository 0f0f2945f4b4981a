"""Standard input as a source: each line is a message."""

from __future__ import annotations

import os
import selectors
import sys
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.errors import Fatal
from missive.transport import Capabilities, Credit, Delivery, EndOfInput, Host, Session, Settlement, SettlementResult

_CHUNK = 1 << 18


class StdinAdapter(Adapter):
    """Reads messages from standard input. A message is a line of any length and any bytes, without its newline.

    Standard input cannot take lines back. When processing stops, unhandled lines become dead letters with the reason
    `shutdown`. `context.native` is the number of the line, starting at 1. The client is the file descriptor.
    """

    transport = "stdin"
    shareable = False
    default_store = True  # a shell has a working directory

    @property
    def destination(self) -> str:
        """A dash, the usual name of standard input on command lines."""
        return "-"

    @property
    def identity(self) -> str:
        """The URL of the source."""
        return "stdin:"

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Report whether standard input is a terminal."""
        if os.isatty(session.client):
            return [Finding("warning", "standard input", "is a terminal: pipe messages in, one per line")]
        return [Finding("ok", "standard input", "is a pipe or a file")]

    async def connect(self, host: Host) -> StdinSession:  # noqa: ARG002 - the session does not need the host
        """Open a session. Raise `Fatal` if the process has no standard input."""
        try:
            return StdinSession(sys.stdin.fileno(), self.max_body)
        except (AttributeError, OSError, ValueError):
            raise Fatal("there is no standard input to read from") from None


class StdinSession(ThreadedSession):
    """A session that reads lines on its own thread, within the credit of each fetch."""

    capabilities = Capabilities(release="none", order="lane", durable=False)

    def __init__(self, fd: int, max_body: int = DEFAULT_MAX_BODY) -> None:
        super().__init__(ClientThread("missive-stdin"))
        self.client = fd
        self._max_body = max_body
        self._lines = LineBuffer(max_body)
        self._read: deque[Delivery] = deque()
        self._number = 0
        self._ended = False
        self._stopping = False
        self._wake_reader, self._wake_writer = os.pipe()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Wait for a line; return the available lines."""
        if not self._read:
            await self.thread.run(self._fill, credit)
        if not self._read:
            raise EndOfInput
        return [self._read.popleft() for _ in range(min(credit.items, len(self._read)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Do nothing: reading removed the line from standard input."""
        return [SettlementResult.confirmed] * len(settlements)

    async def stop_intake(self) -> Sequence[Delivery]:
        """Stop reading; return the lines that no fetch returned, including an unfinished last line."""
        if not self._stopping:
            self._stopping = True
            os.write(self._wake_writer, b"x")
            await self.thread.run(self._finish)
        left = list(self._read)
        self._read.clear()
        return left

    async def close(self) -> None:
        """End the reading thread. Standard input stays open, because it belongs to the process."""
        if not self._stopping:
            await self.stop_intake()
        await super().close()
        if self._wake_reader >= 0:
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            self._wake_reader = self._wake_writer = -1

    # On the reading thread

    def _fill(self, credit: Credit) -> None:
        """Read until a line is complete, the input ends, or the session stops."""
        while not self._stopping and not self._ended and not self._take(credit):
            if self._readable():
                try:
                    chunk = os.read(self.client, _CHUNK)
                except OSError as error:
                    raise Fatal(f"standard input cannot be read: {error.strerror}") from None
                self._lines.add(chunk)
                self._ended = not chunk
        if self._ended:
            self._finish()

    def _take(self, credit: Credit) -> bool:
        size = 0
        while len(self._read) < credit.items and size < credit.bytes:
            line = self._lines.take()
            if line is None:
                break
            size += len(line) if isinstance(line, bytes) else 0
            self._deliver(line)
        return bool(self._read)

    def _finish(self) -> None:
        while (line := self._lines.take()) is not None:
            self._deliver(line)
        if (rest := self._lines.rest()) is not None:
            self._deliver(rest)

    def _deliver(self, line: bytes | TooLong) -> None:
        self._number += 1
        if isinstance(line, TooLong):
            why = f"the line has {line.size} bytes, and max_body is {self._max_body}"
            self._read.append(Delivery(b"", native=self._number, too_large=why))
        else:
            self._read.append(Delivery(line, native=self._number))

    def _readable(self) -> bool:
        """Wait for input without reading it. Return False if the session stops first."""
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self.client, selectors.EVENT_READ)
            except (PermissionError, ValueError):  # a regular file is always readable
                return True
            selector.register(self._wake_reader, selectors.EVENT_READ)
            return any(key.fd == self.client for key, _ in selector.select())


class TooLong(NamedTuple):
    """Stands for a line that was too long to keep."""

    size: int
    """Its size in bytes."""


class LineBuffer:
    """Splits chunks of bytes into lines. The cost is linear in the number of bytes, also for long lines.

    A line of several chunks that is longer than `max_line` bytes is counted and not kept.
    """

    def __init__(self, max_line: int = DEFAULT_MAX_BODY) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._size = 0
        """Size of the unfinished line, in bytes."""
        self._lines: deque[bytes | TooLong] = deque()

    def add(self, chunk: bytes) -> None:
        """Add a chunk of bytes."""
        if b"\n" not in chunk:
            self._extend(chunk)
            return
        first, *others = chunk.split(b"\n")
        self._extend(first)
        self._lines.append(self._end())
        last = others.pop()
        self._lines.extend(others)
        self._extend(last)

    def _extend(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_line:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _end(self) -> bytes | TooLong:
        size, self._size = self._size, 0
        parts, self._parts = self._parts, []
        return TooLong(size) if size > self._max_line else b"".join(parts)

    def take(self) -> bytes | TooLong | None:
        """Return the next complete line without its newline, or None."""
        return self._lines.popleft() if self._lines else None

    def rest(self) -> bytes | TooLong | None:
        """Return the unfinished last line, or None."""
        return self._end() if self._size else None
