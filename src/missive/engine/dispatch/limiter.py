"""Limiters: how many messages of a handler or a source run at once, and how many start in a period."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from missive.engine.job import Work
from missive.rates import Rate

HELD = 100
"""How many messages wait in memory for one limiter before no parked message of its handlers is leased."""
AGAIN = 1.0
"""Time after which a limiter with enough waiting messages is asked again for parked ones, in seconds."""


class Limiter:
    """A limit within the total concurrency. Work that may not pass waits in line.

    A rate counts when handlers start, and not when work passes the limiter: a worker may start one handler late and the
    next one early. Work that has passed and not started counts already, so no window of the rate's length contains more
    starts than the rate allows.
    """

    def __init__(self, limit: int | None, rate: Rate | None, clock: Callable[[], float]) -> None:
        self.alarm: Callable[[], None] | None = None
        """Cancels the scheduled check of this limiter; None while no check is scheduled."""
        self.waiting: deque[Work] = deque()
        self._limit = limit
        self._rate = rate
        self._clock = clock
        self._running = 0
        self._inside: dict[Work, _Pass] = {}
        self._recent: deque[_Pass] = deque()
        self._used = 0
        """Number of messages that count against the rate now."""

    def admits(self, work: Work) -> bool:
        """Return whether work may pass now."""
        if self._full:
            return False
        if self._rate is None:
            return True
        self._forget_old(self._rate.seconds)
        return self._used + len(work.jobs) <= self._rate.messages

    def enter(self, work: Work) -> None:
        """Note that work passes."""
        self._running += 1
        if self._rate is not None:
            size = len(work.jobs)
            self._used += size
            self._inside[work] = passed = _Pass(work, size)
            self._recent.append(passed)

    def leave(self, work: Work) -> None:
        """Note that work came back from its worker."""
        self._running -= 1
        if self._rate is not None:
            # The work may run again, with another start.
            self._inside.pop(work).freeze()

    def withdrawn(self, work: Work) -> None:
        """Note that work was taken back before it started."""
        self._running -= 1
        if self._rate is not None:
            gone = self._inside.pop(work)
            self._used -= gone.size
            gone.void()

    def opens_in(self) -> float | None:
        """Return when waiting work may pass, in seconds from now; None when that depends on running work."""
        if not self.waiting or self._rate is None or not self._recent or self._full:
            return None
        began = self._recent[0].began
        return None if began is None else max(0.0, began + self._rate.seconds - self._clock())

    def busy_for(self) -> float:
        """Return for how long no parked message is needed, in seconds; 0 while few messages wait in line."""
        if len(self.waiting) < HELD:
            return 0.0
        rate = self._rate
        return AGAIN if rate is None else max(AGAIN, (len(self.waiting) - HELD) * rate.seconds / rate.messages)

    @property
    def interval(self) -> float:
        """Time between two messages of the rate, in seconds; 0 without a rate."""
        return 0.0 if self._rate is None else self._rate.seconds / self._rate.messages

    @property
    def _full(self) -> bool:
        return self._limit is not None and self._running >= self._limit

    def _forget_old(self, seconds: float) -> None:
        """Forget the starts that are older than the period of the rate."""
        now = self._clock()
        while self._recent and (began := self._recent[0].began) is not None and began + seconds <= now:
            self._used -= self._recent.popleft().size


class _Pass:
    """Work that passed: its number of messages, and when its handler started."""

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
