"""Gates: how many may be on their way through a handler, or come from a source, at once and in a stretch of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from missive.engine.job import Work
from missive.rates import Rate


class Limiter:
    """A limit of its own, within the concurrency of all. Who may not pass waits in line.

    A rate is kept by when handlers really began, and not by when they were let through: a worker may be late to
    start one and quick to start the next. What was let through and has not begun takes its place already, so that in
    no window of the rate's length more begin than it says.
    """

    def __init__(self, limit: int | None, rate: Rate | None, clock: Callable[[], float]) -> None:
        self.alarm: Callable[[], None] | None = None
        """Cancels the call that looks here again, while one is due."""
        self.waiting: deque[Work] = deque()
        self._limit = limit
        self._rate = rate
        self._clock = clock
        self._running = 0
        self._inside: dict[Work, _Pass] = {}
        self._recent: deque[_Pass] = deque()
        self._used = 0

    def admits(self, work: Work) -> bool:
        """Tell whether somebody could go on now."""
        if self._full:
            return False
        if self._rate is None:
            return True
        self._forget(self._rate.seconds)
        return self._used + len(work.jobs) <= self._rate.messages

    def enter(self, work: Work) -> None:
        """Note that somebody goes on, who may."""
        self._running += 1
        if self._rate is not None:
            size = len(work.jobs)
            self._used += size
            self._inside[work] = passed = _Pass(work, size)
            self._recent.append(passed)

    def leave(self, work: Work) -> None:
        """Note that one came back."""
        self._running -= 1
        if self._rate is not None:
            # From now on it may run again, and begin anew.
            self._inside.pop(work).freeze()

    def withdrawn(self, work: Work) -> None:
        """Note that one was taken back before it began."""
        self._running -= 1
        if self._rate is not None:
            gone = self._inside.pop(work)
            self._used -= gone.size
            gone.void()

    def opens_in(self) -> float | None:
        """Return after how many seconds somebody who waits may pass; None when that depends on those inside."""
        if not self.waiting or self._rate is None or not self._recent or self._full:
            return None
        began = self._recent[0].began
        return None if began is None else max(0.0, began + self._rate.seconds - self._clock())

    @property
    def _full(self) -> bool:
        return self._limit is not None and self._running >= self._limit

    def _forget(self, seconds: float) -> None:
        """Forget those that began longer ago than the rate looks back."""
        now = self._clock()
        while self._recent and (began := self._recent[0].began) is not None and began + seconds <= now:
            self._used -= self._recent.popleft().size


class _Pass:
    """One that was let through: how many messages it is, and when its handler began."""

    __slots__ = ("_began", "_work", "size")

    def __init__(self, work: Work, size: int) -> None:
        self.size = size
        self._work: Work | None = work
        self._began: float | None = None

    @property
    def began(self) -> float | None:
        return self._began if self._work is None else self._work.began

    def freeze(self) -> None:
        self._began, self._work = self.began, None

    def void(self) -> None:
        self._began, self._work, self.size = 0.0, None, 0
