"""Lanes: what keeps order where order is asked for. One job of a lane runs, or one batch; the others wait behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.engine.job import Job


class Lanes:
    """Queues by key of which only the heads run. Entering and leaving are O(1) whatever the number of keys."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._together: dict[Hashable, int] = {}
        """How many jobs are at the head at once, where that is a batch of several."""

    def enter(self, key: Hashable, job: Job) -> bool:
        """Queue a job; True when its lane was empty, and it may run."""
        lane = self._waiting.get(key)
        if lane is None:
            self._waiting[key] = deque()
            return True
        lane.append(job)
        return False

    def enter_all(self, key: Hashable, jobs: Sequence[Job]) -> bool:
        """Queue several jobs; True when their lane was empty, and the first of them may run."""
        lane = self._waiting.get(key)
        if lane is None:
            lane = self._waiting[key] = deque(jobs)
            lane.popleft()
            return True
        lane.extend(jobs)
        return False

    def waiting(self, key: Hashable) -> Sequence[Job]:
        """Return those that wait in a lane."""
        return self._waiting[key]

    def first(self, key: Hashable) -> Job | None:
        """Return the first that waits in a lane."""
        lane = self._waiting.get(key)
        return lane[0] if lane else None

    def follow(self, key: Hashable, count: int) -> list[Job]:
        """Let the first that wait be at the head, beside those that are, and return them."""
        lane = self._waiting[key]
        self._together[key] = self._together.get(key, 1) + count
        return [lane.popleft() for _ in range(count)]

    def step_back(self, key: Hashable, jobs: list[Job]) -> None:
        """Let jobs of the head wait again, before all others, because one beside them holds the lane."""
        self._waiting[key].extendleft(reversed(jobs))
        self._set_together(key, self._together.get(key, 1) - len(jobs))

    def leave(self, key: Hashable, count: int = 1) -> Job | None:
        """End jobs at the head of a lane; returns the next that may run, when none is left there."""
        if self._together and (together := self._together.get(key)) is not None:
            self._set_together(key, together - count)
            if together > count:
                return None
        lane = self._waiting[key]
        if lane:
            return lane.popleft()
        del self._waiting[key]
        return None

    def end(self, key: Hashable) -> list[Job]:
        """Forget a lane, whose head is one job; returns those that waited behind it."""
        return list(self._waiting.pop(key))

    def _set_together(self, key: Hashable, count: int) -> None:
        if count > 1:
            self._together[key] = count
        else:
            self._together.pop(key, None)

    def withdraw(self) -> list[Job]:
        """Take out every job that waits behind another."""
        jobs = [job for lane in self._waiting.values() for job in lane]
        for lane in self._waiting.values():
            lane.clear()
        return jobs

    def __len__(self) -> int:
        return len(self._waiting)
