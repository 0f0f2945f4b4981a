"""Relief: waiting messages make room for others, in their transport first, and then in the store."""

from __future__ import annotations

import logging
import math
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from missive.dlq.failure import describe_exception
from missive.engine.intake.source import Source
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import Fatal, StoreError, Transient
from missive.transport import Session

if TYPE_CHECKING:
    from missive.engine.completion.relocation import Relocation
    from missive.engine.job import Job, JobsByLane

_PAUSE = 0.05
"""Time between two looks at a crowded source, in seconds."""
_SHORT_PAUSE = 0.005
"""The same after another window, which the transport fills meanwhile."""
_PATIENCE = 0.5
"""How long a source is crowded before messages are parked, in seconds."""
_QUICK = 200
"""Messages a second above which a crowded source is not relieved: its lanes are quick, and the store is slower."""
_REPORT_EVERY = 60.0
"""Minimum time between two reports of starvation, in seconds."""
_FULL = 0.75
"""Share of a limit above which a source counts as full."""
_KEPT = 0.25
"""Share of a limit to which waiting messages are reduced."""

logger = logging.getLogger("missive")


class Relief(Stage):
    """Keeps waiting messages from starving the others of one source.

    A message that waits for its lane, limit or retry stays unsettled, and the transport and the engine limit how many
    are. When waiting messages have used up most of a limit, the transport is asked for more. Past half of the engine's
    limit, or where the transport cannot deliver more, waiting messages are parked in the store. Without a store, the
    limits stay, and the starvation is logged.
    """

    def __init__(self, source: Source, relocation: Relocation | None, runtime: Runtime) -> None:
        self._source = source
        self._relocation = relocation
        self._runtime = runtime
        self._since: float | None = None
        """When the source became crowded, on the engine's clock; None while it is not."""
        self._fetched = 0
        """Number of fetched deliveries then."""
        self._shut: tuple[float, int] | None = None
        """Since when the window has been used up, with the number of fetched deliveries then; None while it is not."""
        self._patience = _PATIENCE
        """How long the source is crowded before messages are parked. It is short after some were parked."""
        self._next_report = -math.inf
        """When the starvation may be logged again, on the engine's clock."""
        self._session: Session | None = None

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Set the limit from which waiting deliveries count as a crowd, when a session begins."""
        if session is not self._session:
            self._session = session
            limit = source.limits.total_items
            source.crowded_at = 1 if session.capabilities.window else max(1, limit // 2)

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loop that relieves the source."""
        return [self._run()]

    async def _run(self) -> None:
        source = self._source
        while True:
            await source.crowded.wait()
            source.crowded.clear()
            session = source.session
            widened = session is not None and await self._look(session)
            await self._runtime.sleep(_SHORT_PAUSE if widened else _PAUSE)
            if self._since is not None or self._shut is not None:
                source.crowded.set()

    async def _look(self, session: Session) -> bool:
        """Relieve the source if that is needed. Return whether the transport delivers another window."""
        source, window = self._source, session.capabilities.window
        shut = self._is_shut(session)
        narrow = shut or self._is_narrow(session)
        if narrow and self._relocation is not None and not self._is_crowded and await self._widen(session):
            self._since = self._shut = None
            source.crowded.set()
            return True
        if not narrow and not self._is_crowded:
            self._since = None
            if self._shut is None:
                self._patience = _PATIENCE
            return False
        now = self._runtime.monotonic()
        if self._since is None:
            self._since, self._fetched = now, source.fetched
        if (elapsed := now - self._since) < self._patience and not shut:
            return False
        slow = shut or source.fetched - self._fetched < _QUICK * elapsed
        self._since, self._fetched = now, source.fetched
        if not slow:
            return False
        limit = window if narrow and not self._is_crowded else source.limits.total_items
        surplus = source.waiting - (0 if shut else int(limit * _KEPT))
        if self._relocation is None or not self._relocation.relieve(source, surplus):
            self._report()
        elif narrow:
            self._patience = _PAUSE  # the next messages are probably the same
        return False

    def _is_narrow(self, session: Session) -> bool:
        """Return whether the window of the transport is nearly used up by waiting deliveries."""
        window, source = session.capabilities.window, self._source
        if not window or not source.waiting:
            return False
        return session.room() + source.items - source.waiting < (window + 1) // 2

    def _is_shut(self, session: Session) -> bool:
        """Return whether running and waiting deliveries have used up the window of the transport for a while."""
        source, now = self._source, self._runtime.monotonic()
        if not session.capabilities.window or not source.waiting or session.room() > 0:
            self._shut = None
        elif self._shut is None or self._shut[1] != source.fetched:
            self._shut = now, source.fetched
        return self._shut is not None and now - self._shut[0] >= self._patience

    @property
    def _is_crowded(self) -> bool:
        """Whether waiting deliveries have used up much of the engine's limits."""
        source, limits = self._source, self._source.limits
        if source.waiting >= limits.total_items // 2:
            return True
        full = source.items >= limits.total_items * _FULL or source.bytes >= limits.bytes * _FULL
        return full and source.waiting > source.items // 2

    async def _widen(self, session: Session) -> bool:
        url = self._source.adapter.url
        try:
            return await session.widen()
        except (Transient, StoreError):
            return False  # the session is dying, which its fetch reports too
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of the adapter: messages are parked instead
            logger.error("%s failed while asking for more messages: %s", url, describe_exception(error))  # noqa: TRY400 - no text
            return False

    def _report(self) -> None:
        now = self._runtime.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + _REPORT_EVERY
        source = self._source
        logger.warning(
            "%s: %d of %d unsettled messages wait for their lane, limit or retry, and keep others out; %s",
            source.adapter.url,
            source.waiting,
            source.items,
            "their lanes cannot be parked"
            if self._relocation is not None
            else "set a dead letter store with dlq= or --dlq, so that they can wait there",
        )
