"""Assignment: lanes move to this process, and away from it while their messages run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from missive.engine.completion.exits import Exits
from missive.engine.completion.settlement import Settler
from missive.engine.intake.admission import Admission
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.source import Source
from missive.engine.runtime import Runtime
from missive.transport import Delivery, Watermark

_LAST_COMMIT = 1.0
"""Time for a last commit after running messages have missed the deadline, in seconds."""

logger = logging.getLogger("missive")


class Assignment:
    """The lanes of one source, where its transport gives each lane to one consumer at a time."""

    def __init__(
        self,
        source: Source,
        settler: Settler,
        backpressure: Backpressure,
        exits: Exits,
        admission: Admission,
        runtime: Runtime,
    ) -> None:
        self._source = source
        self._settler = settler
        self._backpressure = backpressure
        self._exits = exits
        self._admission = admission
        self._runtime = runtime

    async def gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Take over lanes at their watermarks."""
        # The earlier consumer may have died of a message, or parked a lane.
        for refresh in self._source.stages.refresh:
            await refresh()
        self._source.leaving.difference_update(watermarks)
        for lane in self._settler.gained(watermarks):
            logger.warning(
                "%s: the metadata of the committed position of %s was not written by Missive, and is ignored",
                self._source.adapter.url,
                lane,
            )

    async def lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Give up lanes. With `may_commit`, running messages have `deadline` seconds to finish and be committed."""
        source, lanes = self._source, dict.fromkeys(lanes)  # ordered, so that a simulated schedule can be repeated
        source.leave(lanes)
        waiting = self._exits.withdraw(lambda job: job.source is source and job.delivery.lane in lanes)
        self._settler.abandon(waiting)
        self._exits.forget(waiting)
        if may_commit and deadline > 0:
            quiet = asyncio.ensure_future(self._settler.quiet(lanes))
            if not await self._runtime.within(deadline, quiet):
                logger.warning(
                    "%s: %d lanes move to another consumer while their messages run; these messages are redelivered"
                    " there",
                    source.adapter.url,
                    len(lanes),
                )
                await self._runtime.within(_LAST_COMMIT, asyncio.ensure_future(self._settler.flush()))
        self._exits.revoke(self._settler.forget(lanes))
        self._backpressure.forget(lanes)

    async def deleted(self, lanes: Collection[str], unfetched: Sequence[Delivery]) -> None:
        """Keep the messages of lanes whose topic was deleted: they are handled, and nothing of them is committed."""
        source, lanes = self._source, dict.fromkeys(lanes)
        source.deleted_while_preparing.update(lanes)
        unfetched = self._settler.fresh(unfetched)
        held = [job for job in self._settler.forget(lanes) if job.owned]
        self._backpressure.forget(lanes)
        if held:
            self._exits.detach(source, held)
        self._admission.take_deleted(source, unfetched)
