"""Assignment: lanes of a transport that come to this process, and go to another, while messages of them run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.engine.completion.settlement import Settler
from missive.engine.intake.backpressure import Pauser
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.transport import Watermark

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

_LAST_COMMIT = 1.0
"""Seconds to commit what is done, when something else was not in time."""

logger = logging.getLogger("missive")


class Assignment:
    """The lanes of one source, where its transport gives them to one consumer at a time.

    `withdraw` takes out the jobs that have not begun for which a test is true, and `forget` lets go of them. `revoke`
    is called with jobs that run, or are being filed, and are nobody's business here any more. `look` is awaited before
    lanes are taken up: whoever had them may have died of one of their messages.
    """

    def __init__(
        self,
        source: Source,
        runtime: Runtime,
        settler: Settler,
        pauser: Pauser,
        *,
        withdraw: Callable[[Callable[[Job], bool]], list[Job]],
        forget: Callable[[Sequence[Job]], None],
        revoke: Callable[[Sequence[Job]], None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._source = source
        self._runtime = runtime
        self._settler = settler
        self._pauser = pauser
        self._withdraw = withdraw
        self._forget = forget
        self._revoke = revoke
        self._look = look

    async def gained(self, marks: Mapping[str, Watermark | None]) -> None:
        """Take up lanes where their marks are."""
        await self._look()
        self._source.leaving.difference_update(marks)
        for lane in self._settler.gained(marks):
            logger.warning(
                "%s: what was committed for %s beside its position is not Missive's, and is ignored",
                self._source.adapter.url,
                lane,
            )

    async def lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Let go of lanes: what runs has `deadline` seconds to end and be committed, if it may."""
        source, lanes = self._source, dict.fromkeys(lanes)  # in their order, so that a schedule is the same each time
        source.leave(lanes)
        waiting = self._withdraw(lambda job: job.source is source and job.delivery.lane in lanes)
        self._settler.let_go(waiting)
        self._forget(waiting)
        if may_commit and deadline > 0:
            quiet = asyncio.ensure_future(self._settler.quiet(lanes))
            if not await self._runtime.within(deadline, quiet):
                logger.warning(
                    "%s: %d lanes go to somebody else with messages of them still running; these come again there",
                    source.adapter.url,
                    len(lanes),
                )
                await self._runtime.within(_LAST_COMMIT, asyncio.ensure_future(self._settler.flush()))
        self._revoke(self._settler.forget(lanes))
        self._pauser.forget(lanes)
