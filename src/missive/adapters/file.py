"""Files as sources: each line is a message. A run resumes where the previous run stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding, open_session
from missive.adapters.parameters import constructor_arguments
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.app.processor import Processor
from missive.errors import Fatal, Transient, UsageError
from missive.privacy.printing import printable
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    EndOfInput,
    Host,
    Session,
    Settlement,
    SettlementResult,
    Watermark,
)
from missive.urls import ParsedURL
from missive.words import counted

if TYPE_CHECKING:
    from typing_extensions import Self

_HEAD = 4096
"""Number of leading bytes that identify a file."""
_PIECE, _PIECES = 1 << 20, 64
"""Size of a piece of a line that is skipped, in bytes, and number of pieces that one call reads."""
_STARTS = ("resume", "beginning")


class FileAdapter(Adapter):
    """Reads messages from the lines of a file: `file:events.jsonl`, `file:/var/log/events.jsonl.gz`.

    A file whose name ends in `.gz` is decompressed. The dead letter store keeps a checkpoint for each service and path,
    and the next run resumes there. `start="beginning"` ignores the checkpoint. A different file under the same path is
    read from its beginning. A missing file is an error at start, unless `wait` is true. `progress` shows a progress
    bar; by default, it is shown on a terminal. `context.native` is the offset of the line in the decompressed file, in
    bytes. The client is the open file.
    """

    transport = "file"
    shareable = False
    default_store = True  # a shell has a working directory

    def __init__(
        self,
        processor: Processor[Any],
        path: str | Path,
        *,
        start: str = "resume",
        progress: bool | None = None,
        wait: bool = False,
        drain: float = 25,
        rate_limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        if start not in _STARTS:
            raise UsageError(f"start= must be one of: {', '.join(_STARTS)}")
        self.path = Path(path)
        self.start = start
        self.wait = wait
        self.opened = False
        """Whether the file existed once. From then on, a missing file is an outage and no mistake."""
        self.progress = sys.stderr.isatty() if progress is None else progress

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter for `file:PATH`."""
        path = url.authority + url.path
        if not path:
            raise UsageError("the URL has no path: write file:events.jsonl or file:/absolute/path/events.jsonl")
        return cls(processor, path, **constructor_arguments(cls, url, exclude=("path",)))

    @property
    def destination(self) -> str:
        """The path as written."""
        return str(self.path)

    async def connect(self, host: Host) -> FileSession:
        """Open the file at its checkpoint.

        Raise `Fatal` if it cannot be read, and `Transient` if it does not exist. At start and without `wait`, a missing
        file raises `UsageError`.
        """
        # A path may contain invalid UTF-8, but the store needs valid UTF-8.
        name = str(self.path.absolute()).encode("utf-8", "backslashreplace").decode()
        checkpoint = None if self.start == "beginning" else await host.load_checkpoint(f"file:{name}")
        session = FileSession(self, host, name)
        return await open_session(session, session.thread.run(session.open, checkpoint))

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Report the size of the file and whether its last line is complete."""
        return list(await asyncio.wrap_future(session.submit(lambda: list(_findings(self.path, session.client)))))


def _findings(path: Path, file: IO[bytes]) -> Iterator[Finding]:
    size = path.stat().st_size
    if not size:
        yield Finding("warning", "file", f"{path} is empty: processing ends at once")
        return
    yield Finding("ok", "file", f"{path} has {counted(size, 'byte')}")
    if path.suffix == ".gz":
        yield Finding("unknown", "last line", f"{path} is compressed: only reading it shows whether it is complete")
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        message = (
            f"{path} does not end with a newline: if its producer is still writing, the last message is incomplete"
        )
        yield Finding("warning", "last line", message)


class FileSession(ThreadedSession):
    """A session that reads the file once, from its checkpoint to its end."""

    capabilities = Capabilities(commit="cumulative", order="lane")

    def __init__(self, adapter: FileAdapter, host: Host, name: str) -> None:
        super().__init__(ClientThread("missive-file"))
        self._adapter = adapter
        self._host = host
        self._name = name
        self._read: deque[Delivery] = deque()
        self._offset = 0
        self._start: int | None = None
        """The offset of a line that is being skipped, because it is too large."""
        self._head = b""
        self._ended = False
        self._has_checkpoints = True
        self._progress = _Progress(adapter) if adapter.progress else None

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return the next lines."""
        while not self._read and not self._ended:
            await self.thread.run(self._fill, credit)
        if not self._read:
            raise EndOfInput
        return [self._read.popleft() for _ in range(min(credit.items, len(self._read)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Do nothing: `commit` records the progress."""
        return [SettlementResult.confirmed] * len(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Save the position as the file's checkpoint. Raise `StoreError` if the store fails."""
        position = watermarks[None].position
        if self._progress is not None:
            self._progress.at(position)
        if self._has_checkpoints:
            head = self._head[:position]
            value = json.dumps({"offset": position, "head": _digest(head), "head_size": len(head)})
            if not await self._host.save_checkpoint(f"file:{self._name}", value):
                self._has_checkpoints = False
                needs = "a checkpoint needs a dead letter store (--dlq): the next run starts at the beginning"
                self._host.report(f"{self._adapter.url}: {needs}")
        return dict.fromkeys(watermarks, SettlementResult.confirmed)

    async def close(self) -> None:
        """Close the file."""
        await super().close()
        if self._progress is not None:
            self._progress.close()
        if self.client is not None:
            self.client.close()

    # On the file's thread

    def open(self, checkpoint: str | None) -> None:
        """Open the file at its checkpoint."""
        path = self._adapter.path
        with _translated_errors(self._adapter.url):
            if path.is_dir():
                raise Fatal(f"{self._adapter.url} is a directory: name a file in it")
            if not (path.exists() or self._adapter.wait or self._adapter.opened):
                raise UsageError(f"{self._adapter.url} does not exist: to wait for it, write file:{path}?wait=true")
            self.client = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 - the session's
            self._adapter.opened = True
            self._head = self.client.read(_HEAD)
            self.client.seek(0)
            if checkpoint is not None:
                self._resume(json.loads(checkpoint))
        if self._progress is not None:
            self._progress.open(self._offset)

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        offset = int(checkpoint["offset"])
        file: IO[bytes] = self.client
        same = _digest(self._head[: checkpoint["head_size"]]) == checkpoint["head"]
        size = file.seek(0, 2) if self._adapter.path.suffix != ".gz" else offset
        if not same or size < offset:
            file.seek(0)
            self._host.report(f"{self._adapter.url} is not the file of the previous run: starting at its beginning")
            return
        self._offset = offset
        file.seek(offset)
        at_end = size == offset and file.read(1) == b""
        where = "has no new lines" if at_end else f"resumes at byte {offset}"
        file.seek(offset)
        self._host.report(f"{self._adapter.url} {where}; to read it again: {self._adapter.url}?start=beginning")

    def _fill(self, credit: Credit) -> None:
        size = 0
        with _translated_errors(self._adapter.url):
            if self._start is not None and not self._skip_line():
                return
            while len(self._read) < credit.items and size < credit.bytes and not self._ended:
                line = self.client.readline(self._adapter.max_body + 1)
                if not line:
                    self._ended = True
                    break
                start, self._offset = self._offset, self._offset + len(line)
                body = line[:-1] if line.endswith(b"\n") else line
                if len(body) > self._adapter.max_body:
                    self._start = start
                    if not self._skip_line():
                        return
                    continue
                size += len(body)
                self._read.append(Delivery(body, position=self._offset, native=start))

    def _skip_line(self) -> bool:
        """Skip the rest of a line that is too large, without keeping it. Return whether its end was found.

        Each call reads a limited number of pieces, so that the session can stop during a line without an end.
        """
        for _ in range(_PIECES):
            piece = self.client.readline(_PIECE)
            self._offset += len(piece)
            if not piece or piece.endswith(b"\n"):
                start, self._start = self._start or 0, None
                size = self._offset - start - piece.endswith(b"\n")
                why = f"the line has {size} bytes, and max_body is {self._adapter.max_body}"
                self._read.append(Delivery(b"", position=self._offset, native=start, too_large=why))
                return True
        return False


@contextlib.contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Translate errors of reading a file into `Transient` and `Fatal`."""
    try:
        yield
    except FileNotFoundError:
        error: Exception = Transient(f"{url} does not exist")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        error = Fatal(f"{url} is not a complete gzip file")
    except OSError as system_error:
        error = Fatal(f"{url} cannot be read: {system_error.strerror or type(system_error).__name__}")
    else:
        return
    raise error


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32]


class _Progress:
    """A progress bar on standard error. It shows the committed part of the file."""

    def __init__(self, adapter: FileAdapter) -> None:
        self._adapter = adapter
        self._bar: Any = None
        self._task: Any = None

    def open(self, offset: int) -> None:
        """Show the bar."""
        from rich.console import Console  # noqa: PLC0415 - slow, and only the bar needs it
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        # The size of a gzip file does not reveal the size of its content.
        total = None if self._adapter.path.suffix == ".gz" else self._adapter.path.stat().st_size
        self._task = self._bar.add_task(printable(self._adapter.path.name), total=total, completed=offset)
        self._bar.start()

    def at(self, offset: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=offset)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
