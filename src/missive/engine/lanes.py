"""Lanes: what keeps order where order is asked for. One job of a lane runs; the others wait behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.engine.job import Job


class Lanes:
    """Queues by key of which only the heads run. Entering and leaving are O(1) whatever the number of keys."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Job]] = {}

    def enter(self, key: Hashable, job: Job) -> bool:
        """Queue a job; True when its lane was empty, and it may run."""
        lane = self._waiting.get(key)
        if lane is None:
            self._waiting[key] = deque()
            return True
        lane.append(job)
        return False

    def leave(self, key: Hashable) -> Job | None:
        """End the running job of a lane; returns the next that may run."""
        lane = self._waiting[key]
        if lane:
            return lane.popleft()
        del self._waiting[key]
        return None

    def withdraw(self) -> list[Job]:
        """Take out every job that waits behind another."""
        jobs = [job for lane in self._waiting.values() for job in lane]
        for lane in self._waiting.values():
            lane.clear()
        return jobs

    def __len__(self) -> int:
        return len(self._waiting)
