"""Seats: what each worker of a process runs just now, in shared memory that outlives it. Fingerprints, no content."""

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
except ImportError:  # Windows: nothing there tells that a process died holding a file
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_MAGIC = 0x4D49535356453031
_HEADER = 2
"""Words before the seats: what kind of file it is, and whether its process was told to stop."""
_WORD = 8
_SHARED = "/dev/shm"  # noqa: S108 - in it, a directory of our own is made, and looked at before it is used
_LOW = 0xFFFFFFFF
_WHOLE = 64 * 1024
_END = 4096


def delivery_mark(delivery: Delivery) -> int:
    """Return 64 bits that the redeliveries of a message share, in this process and others; never 0.

    They tell where it is in its source, or its id, and the checksum of its body; of a large one, that of its ends.
    A replayed dead letter has a fingerprint of its own, for its message may have been mended.
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
    """One worker's place: the message that it runs, or those of a batch."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview, first: int, width: int) -> None:
        self._words = words[first : first + width]

    def around(
        self, chains: dict[HandlerRoute, Callable[[Any, Any], T]]
    ) -> dict[HandlerRoute, Callable[[Any, Any], T]]:
        """Return chains that take the seat before they run."""
        return _Seated(self._words, chains)

    def clear(self) -> None:
        """Say that nothing runs."""
        _clear(self._words)


def _clear(words: memoryview) -> None:
    if len(words) == 1:
        words[0] = 0
    else:
        words[:] = memoryview(bytes(len(words) * _WORD)).cast("Q")


class _Seated(dict[Any, Any]):
    """Chains that are made as they are needed: there may be very many routes, and as many workers."""

    def __init__(self, words: memoryview, chains: dict[Any, Callable[[Any, Any], Any]]) -> None:
        super().__init__()
        self._words = words
        self._chains = chains

    def __missing__(self, route: Any) -> Callable[[Any, Any], Any]:
        words, chain = self._words, self._chains[route]

        def run(job: Job, worker: Any) -> Any:
            words[0] = delivery_mark(job.delivery)
            return chain(job, worker)

        def run_beside_batches(work: Job | BatchJob, worker: Any) -> Any:
            _clear(words)
            for place, job in enumerate(work.jobs):
                words[place] = delivery_mark(job.delivery)
            return chain(work, worker)

        self[route] = seated = run if len(words) == 1 else run_beside_batches
        return seated


class InFlightLog:
    """The seats of this process: a file in shared memory that it holds locked for as long as it lives.

    Its name is made from the service's, the working directory, and the lowest number that no living process has.
    """

    def __init__(self, room: InFlightDirectory, size: int, width: int = 1) -> None:
        self._path, self._lock = room.claim()
        try:
            self._words = _map(self._path, (_HEADER + size * width) * _WORD)
        except BaseException:
            os.close(self._lock)
            raise
        self._words[0] = _MAGIC
        self._free = deque(InFlightSlot(self._words, _HEADER + number * width, width) for number in range(size))
        _open.add(self)
        # A process that comes to its end by itself was not killed by a message, whatever its threads still do.
        self._end = weakref.finalize(self, _give_up, self._words, self._path, self._lock)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def take(self) -> InFlightSlot | None:
        """Return a free seat, on any thread; None where there is none."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def give_back(self, seat: InFlightSlot) -> None:
        """Let somebody else have a seat."""
        seat.clear()
        self._free.append(seat)

    def stopping(self) -> None:
        """Say that the process was told to stop: what it leaves then was not killed by what it ran."""
        self._words[1] = 1

    def close(self) -> None:
        """Remove the file, in good order. What a stuck worker still writes, it writes to nobody."""
        self._end()

    def forked(self) -> None:
        """Let go of the lock, in a child that was forked by a handler, and may live longer than this process."""
        self._end.detach()
        os.close(self._lock)


def _map(path: Path, length: int) -> memoryview:
    # A descriptor of its own: that of the lock is closed in a forked child, which must not keep it, and this is not.
    mapped = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Written, and not only made so long: where memory has run out, this raises, and a seat taken later would kill.
        os.pwrite(mapped, bytes(length), 0)
        return memoryview(mmap.mmap(mapped, length)).cast("Q")
    finally:
        os.close(mapped)


_open: weakref.WeakSet[InFlightLog] = weakref.WeakSet()


def _in_child() -> None:
    for seats in list(_open):
        seats.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _give_up(words: memoryview, path: Path, lock: int) -> None:
    words[1] = 1
    with contextlib.suppress(OSError):
        path.unlink()  # while it is locked: whoever opened it meanwhile looks whether it is still there
    os.close(lock)


class InFlightDirectory:
    """Where the seats of one service's processes on this machine are: a private directory for each user.

    Raises OSError from its constructor where there can be none.
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
            where = os.getcwd()  # noqa: PTH109 - the same
        except OSError:
            where = ""
        # Two applications of one name, each in its directory, know nothing of one another's messages.
        self._name = hashlib.sha256(f"{service}\0{where}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def claim(self) -> tuple[Path, int]:
        """Lock the lowest file that nobody has, and return it. What a dead process left is not touched."""
        slot = 0
        while True:
            path = self._directory / f"{self._name}.{slot}"
            lock = _lock(path, os.O_CREAT)
            if lock is not None:
                if not _read(lock):
                    os.ftruncate(lock, 0)
                    return path, lock
                os.close(lock)
            slot += 1

    @contextlib.contextmanager
    def left(self) -> Iterator[list[int]]:
        """Give what was running in processes that died of themselves; in good order, it is removed afterwards."""
        locked: list[tuple[Path, int]] = []
        found: list[int] = []
        try:
            for path in sorted(self._directory.glob(f"{self._name}.[0-9]*")):
                if (lock := _lock(path)) is not None:
                    locked.append((path, lock))
                    found += _read(lock)
            yield found
            for path, _ in locked:
                path.unlink(missing_ok=True)
        finally:
            for _, lock in locked:
                os.close(lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process of this user on this machine that is in here."""
        held = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
        finally:
            os.close(held)


def _lock(path: Path, flags: int = 0) -> int | None:
    """Open and lock a file; None where a living process has it, or it went away."""
    try:
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = path.stat()
        if (there.st_dev, there.st_ino) == ((mine := os.fstat(held)).st_dev, mine.st_ino):
            return held
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(held)
        raise
    os.close(held)
    return None


def _read(held: int) -> Sequence[int]:
    """Return the fingerprints that count in a file: none of a process that was told to stop."""
    content = os.pread(held, os.fstat(held).st_size, 0)
    words = memoryview(content[: len(content) // _WORD * _WORD]).cast("Q")
    if len(words) < _HEADER or words[0] != _MAGIC or words[1]:
        return []
    return [word for word in words[_HEADER:] if word]
