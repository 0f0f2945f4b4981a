"""The host of the sessions that a case opens without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence

from missive.dlq.sql import SQLStore
from missive.transport import Credit, Delivery, Watermark


class KitHost:
    """A minimal `Host`. With `dlq`, the URL of a SQL store, it stores checkpoints there."""

    service = "conformance"
    credit = Credit(1000, 64 << 20)

    def __init__(self, dlq: str | None = None) -> None:
        self._dlq = dlq
        self.gained: dict[str, Watermark | None] = {}
        """The lanes that the session owns now, with the watermark of each."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def time(self) -> float:
        """Return the wall clock."""
        return time.time()

    async def load_checkpoint(self, source: str) -> str | None:
        """Return the checkpoint that an engine or another host stored."""
        return await asyncio.to_thread(self._load, source)

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Store the checkpoint; return False without a store."""
        return await asyncio.to_thread(self._save, source, value)

    def _load(self, source: str) -> str | None:
        if self._dlq is None:
            return None
        with contextlib.closing(SQLStore(self._dlq)) as store:
            return store.load_checkpoint(self.service, source)

    def _save(self, source: str, value: str) -> bool:
        if self._dlq is None:
            return False
        with contextlib.closing(SQLStore(self._dlq)) as store:
            store.save_checkpoint(self.service, source, value)
        return True

    def report(self, line: str) -> None:
        """Drop the line."""

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Record the lanes and their watermarks."""
        self.gained.update(watermarks)

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:  # noqa: ARG002
        """Forget the lanes. Return at once: a case runs no handler that must end first."""
        for lane in lanes:
            self.gained.pop(lane, None)

    async def lanes_deleted(self, lanes: Collection[str], unfetched: Sequence[Delivery]) -> None:  # noqa: ARG002
        """Forget the lanes."""
        for lane in lanes:
            self.gained.pop(lane, None)
