"""In-flight log: the messages that each worker of a process runs, in shared memory that survives the process.

The log contains delivery marks, and no message content.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

if TYPE_CHECKING:
    from missive.app.terms import HandlerRoute
    from missive.engine.job import BatchJob, Job
    from missive.transport import Delivery

try:
    import fcntl
except ImportError:  # Windows has no lock that ends with its process and can be tested
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_MAGIC = 0x4D49535356453032
_HEADER = 3
"""Number of words before the slots: the magic number, whether the process is stopping, and the only mark to blame."""
_WORD = 8
"""Size of a word, in bytes."""
_SHARED = "/dev/shm"  # noqa: S108 - the private directory in it is checked before use
_LOW = 0xFFFFFFFF
_WHOLE = 64 * 1024
"""Maximum size of a body whose checksum covers all of it, in bytes."""
_END = 4096
"""Size of each end that the checksum of a larger body covers, in bytes."""


def delivery_mark(delivery: Delivery) -> int:
    """Return 64 bits that the redeliveries of a message share, in this process and others; never 0.

    The mark combines the position in the source, or the id, with the checksum of the body. For a large body, the
    checksum covers its two ends and its length. A replayed dead letter has another mark, because its body may have been
    edited.
    """
    body = delivery.body
    if len(body) > _WHOLE:
        body = body[:_END] + body[-_END:] + len(body).to_bytes(_WORD)
    where = delivery.position
    if where is None:
        name = delivery.record_id or delivery.native_id or delivery.producer_id or ""
        where = crc32(name.encode("utf-8", "surrogatepass"))
    elif (lane := delivery.record_id or delivery.lane) is not None:
        where ^= crc32(lane.encode("utf-8", "surrogatepass"))
    return (crc32(body) << 32 | where & _LOW) or 1


class InFlightSlot:
    """The part of the log for one worker: the mark of its running message, or the marks of its running batch."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview, first: int, width: int) -> None:
        self._words = words[first : first + width]

    def recording(
        self, handlers: dict[HandlerRoute, Callable[[Any, Any], T]]
    ) -> dict[HandlerRoute, Callable[[Any, Any], T]]:
        """Return compiled handlers that write delivery marks into this slot before they run."""
        return _RecordingHandlers(self._words, handlers)

    def clear(self) -> None:
        """Remove all marks, because the worker is idle."""
        _clear(self._words)


def _clear(words: memoryview) -> None:
    if len(words) == 1:
        words[0] = 0
    else:
        words[:] = memoryview(bytes(len(words) * _WORD)).cast("Q")


class _RecordingHandlers(dict[Any, Any]):
    """Recording handlers by route, each created at its first use: a process may have many routes and many workers."""

    def __init__(self, words: memoryview, handlers: dict[Any, Callable[[Any, Any], Any]]) -> None:
        super().__init__()
        self._words = words
        self._handlers = handlers

    def __missing__(self, route: Any) -> Callable[[Any, Any], Any]:
        words, handler = self._words, self._handlers[route]

        def record_one(job: Job, worker: Any) -> Any:
            words[0] = delivery_mark(job.delivery)
            return handler(job, worker)

        def record_all(work: Job | BatchJob, worker: Any) -> Any:
            _clear(words)
            for place, job in enumerate(work.jobs):
                words[place] = delivery_mark(job.delivery)
            return handler(work, worker)

        self[route] = recording = record_one if len(words) == 1 else record_all
        return recording


class InFlightLog:
    """The in-flight log of this process: a file in shared memory that the process locks until it ends.

    The name of the file contains a digest of the service and the working directory, and the lowest number that no
    living process uses.
    """

    def __init__(self, directory: InFlightDirectory, size: int, width: int = 1) -> None:
        self._path, self._lock = directory.lock_file()
        try:
            self._words = _map(self._path, (_HEADER + size * width) * _WORD)
        except BaseException:
            os.close(self._lock)
            raise
        self._words[0] = _MAGIC
        self._free = deque(InFlightSlot(self._words, _HEADER + number * width, width) for number in range(size))
        _open_logs.add(self)
        # A process that ends normally was not killed by a message, even if its threads still run handlers.
        self._end = weakref.finalize(self, _remove, self._words, self._path, self._lock)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def acquire(self) -> InFlightSlot | None:
        """Return a free slot, on any thread; None when all are in use."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def release(self, slot: InFlightSlot) -> None:
        """Clear a slot and make it free again, on any thread."""
        slot.clear()
        self._free.append(slot)

    def blame(self, mark: int) -> None:
        """Let a death count for one delivery mark only; for all running messages again when the mark is 0."""
        self._words[2] = mark

    def stopping(self) -> None:
        """Note that the process is stopping. Messages that still run at its end did not kill it."""
        self._words[1] = 1

    def close(self) -> None:
        """Remove the file. A stuck worker that still writes to the memory has no effect."""
        self._end()

    def forked(self) -> None:
        """Give the lock up in a child that a handler forked, because the child may outlive this process."""
        self._end.detach()
        os.close(self._lock)


def _map(path: Path, length: int) -> memoryview:
    # With its own descriptor: a forked child closes the descriptor of the lock, so that it does not keep the lock.
    mapped = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Write zeros instead of only setting the length. Without free memory, this raises now; a sparse file would kill
        # the process later, when a slot is first written.
        os.pwrite(mapped, bytes(length), 0)
        return memoryview(mmap.mmap(mapped, length)).cast("Q")
    finally:
        os.close(mapped)


_open_logs: weakref.WeakSet[InFlightLog] = weakref.WeakSet()


def _in_child() -> None:
    for log in list(_open_logs):
        log.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _remove(words: memoryview, path: Path, lock: int) -> None:
    words[1] = 1
    with contextlib.suppress(OSError):
        path.unlink()  # while locked: a process that opened the file meanwhile checks whether it still exists
    os.close(lock)


class InFlightDirectory:
    """The in-flight logs of one service's processes on this machine, in a private directory of the user.

    The constructor raises OSError when the system has no file locks or the directory is not private.
    """

    def __init__(self, service: str) -> None:
        if fcntl is None:
            raise OSError("files cannot be locked here")
        shared = _SHARED if os.access(_SHARED, os.W_OK) else tempfile.gettempdir()
        self._directory = Path(shared) / f"missive-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise OSError(f"{self._directory} is not a private directory of this user")
        try:
            where = os.getcwd()  # noqa: PTH109 - equivalent
        except OSError:
            where = ""
        # The working directory separates two applications that have the same name.
        self._name = hashlib.sha256(f"{service}\0{where}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def lock_file(self) -> tuple[Path, int]:
        """Lock the file with the lowest free number. Return its path and the descriptor that holds the lock.

        A file with marks of a dead process is not free.
        """
        number = 0
        while True:
            path = self._directory / f"{self._name}.{number}"
            lock = _lock(path, os.O_CREAT)
            if lock is not None:
                if not _read_marks(lock):
                    os.ftruncate(lock, 0)
                    return path, lock
                os.close(lock)
            number += 1

    @contextlib.contextmanager
    def abandoned(self) -> Iterator[list[int]]:
        """Yield the delivery marks of messages that ran when their processes died.

        The files of the dead processes are removed afterwards, unless the block raises.
        """
        locked: list[tuple[Path, int]] = []
        found: list[int] = []
        try:
            for path in sorted(self._directory.glob(f"{self._name}.[0-9]*")):
                if (lock := _lock(path)) is not None:
                    locked.append((path, lock))
                    found += _read_marks(lock)
            yield found
            for path, _ in locked:
                path.unlink(missing_ok=True)
        finally:
            for _, lock in locked:
                os.close(lock)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lock against all other processes of this user on this machine."""
        lock = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _lock(path: Path, flags: int = 0) -> int | None:
    """Open and lock a file. Return its descriptor; None when a living process holds it or it was removed."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = path.stat()
        if (there.st_dev, there.st_ino) == ((mine := os.fstat(lock)).st_dev, mine.st_ino):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _read_marks(lock: int) -> Sequence[int]:
    """Return the delivery marks in a locked file; an empty list if its process was stopping."""
    content = os.pread(lock, os.fstat(lock).st_size, 0)
    words = memoryview(content[: len(content) // _WORD * _WORD]).cast("Q")
    if len(words) < _HEADER or words[0] != _MAGIC or words[1]:
        return []
    return [words[2]] if words[2] else [word for word in words[_HEADER:] if word]
