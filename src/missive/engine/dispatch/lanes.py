"""Lanes: in each lane, one job or one batch runs, and the others wait in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.engine.job import Job


class Lanes:
    """Queues by key. Only the head of each queue runs. Every operation is O(1), whatever the number of keys."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._together: dict[Hashable, int] = {}
        """The number of jobs at the head of each lane whose head is several jobs."""

    def enter(self, key: Hashable, job: Job) -> bool:
        """Queue a job. Return whether its lane was empty, so that the job may run."""
        lane = self._waiting.get(key)
        if lane is None:
            self._waiting[key] = deque()
            return True
        lane.append(job)
        return False

    def enter_all(self, key: Hashable, jobs: Sequence[Job]) -> bool:
        """Queue jobs. Return whether their lane was empty, so that the first of them may run."""
        lane = self._waiting.get(key)
        if lane is None:
            lane = self._waiting[key] = deque(jobs)
            lane.popleft()
            return True
        lane.extend(jobs)
        return False

    def waiting(self, key: Hashable) -> Sequence[Job]:
        """Return the waiting jobs of a lane."""
        return self._waiting[key]

    def first(self, key: Hashable) -> Job | None:
        """Return the first waiting job of a lane."""
        lane = self._waiting.get(key)
        return lane[0] if lane else None

    def longest(self) -> list[tuple[Hashable, int]]:
        """Return the lanes with more than one job, the longest first, each with the number of jobs after the first."""
        found = [(key, len(lane) + self._together.get(key, 1) - 1) for key, lane in self._waiting.items()]
        return sorted([one for one in found if one[1]], key=lambda one: one[1], reverse=True)

    def heads(self, key: Hashable) -> int:
        """Return how many jobs are at the head of a lane."""
        return self._together.get(key, 1) if key in self._waiting else 0

    def follow(self, key: Hashable, count: int) -> list[Job]:
        """Move the first `count` waiting jobs to the head of their lane, and return them."""
        lane = self._waiting[key]
        self._together[key] = self._together.get(key, 1) + count
        return [lane.popleft() for _ in range(count)]

    def step_back(self, key: Hashable, jobs: list[Job]) -> None:
        """Move jobs from the head back to the front of the waiting jobs."""
        self._waiting[key].extendleft(reversed(jobs))
        self._set_together(key, self._together.get(key, 1) - len(jobs))

    def leave(self, key: Hashable, count: int = 1) -> Job | None:
        """Remove `count` jobs from the head of a lane. Return the next job when the head is empty."""
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
        """Remove a lane whose head is one job. Return its waiting jobs."""
        return list(self._waiting.pop(key))

    def _set_together(self, key: Hashable, count: int) -> None:
        if count > 1:
            self._together[key] = count
        else:
            self._together.pop(key, None)

    def withdraw(self) -> list[Job]:
        """Take out all waiting jobs."""
        jobs = [job for lane in self._waiting.values() for job in lane]
        for lane in self._waiting.values():
            lane.clear()
        return jobs

    def __len__(self) -> int:
        return len(self._waiting)
