"""The host: the engine as the sessions of one source see it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.engine.runtime import Runtime
from missive.engine.store import StoreClient
from missive.errors import StoreError
from missive.transport import Credit, Delivery, Watermark

if TYPE_CHECKING:
    from missive.engine.intake.assignment import Assignment

logger = logging.getLogger("missive")


class SourceHost:
    """The `Host` of one source."""

    assignment: Assignment
    """Takes over and gives up lanes; set by the assembly, before the first session."""

    def __init__(self, service: str, runtime: Runtime, store: StoreClient) -> None:
        self.service = service
        self.credit = Credit(runtime.limits.total_items, runtime.limits.bytes)
        self._runtime = runtime
        self._store = store

    async def sleep(self, seconds: float) -> None:
        """Wait on the engine's clock."""
        await self._runtime.sleep(seconds)

    def time(self) -> float:
        """Return the engine's wall clock, in seconds since 1970."""
        return self._runtime.time()

    async def load_checkpoint(self, source: str) -> str | None:
        """Return the checkpoint of a source, or None."""
        return await self._store.load_checkpoint(self.service, source)

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Store a checkpoint beside the dead letters; return False where there is no store."""
        return await self._store.save_checkpoint(self.service, source, value)

    def report(self, line: str) -> None:
        """Log one line for the operator."""
        logger.info(line)

    def store_failed(self, error: str) -> None:
        """Note that the source that reads the dead letter store cannot do so now."""
        self._store.failed("read", StoreError(error))

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Take over lanes at their watermarks."""
        await self.assignment.gained(watermarks)

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Give up lanes."""
        await self.assignment.lost(lanes, may_commit=may_commit, deadline=deadline)

    async def lanes_deleted(self, lanes: Collection[str], unfetched: Sequence[Delivery]) -> None:
        """Keep the messages of deleted lanes."""
        await self.assignment.deleted(lanes, unfetched)
