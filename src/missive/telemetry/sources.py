"""The source log: a line for each source when it is connected, and its backlog while the backlog grows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from missive.adapters.base import Adapter
from missive.telemetry.observer import Observer
from missive.transport import Session

LAG_SECONDS = 60.0
"""Time between two lines about the backlog of one source, in seconds."""

logger = logging.getLogger("missive.sources")


class SourceLog(Observer):
    """Logs the connections and the backlog of the sources of one engine."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connected: set[Adapter] = set()
        self._lags: dict[Adapter, tuple[float, int]] = {}

    def connected(self, adapter: Adapter, session: Session) -> None:
        """Log the first connection of a source."""
        if adapter.background or adapter in self._connected:
            return
        self._connected.add(adapter)
        facts = [session.broker or adapter.transport]
        if session.capabilities.lease is not None:
            facts.append(f"lease {session.capabilities.lease:g} s")
        logger.info("connected to %s (%s)", adapter.url, ", ".join(facts))

    def lag(self, adapter: Adapter, messages: int) -> None:
        """Log the backlog of a source every minute while the backlog grows."""
        now = self._clock()
        since, before = self._lags.setdefault(adapter, (now, messages))
        if now - since < LAG_SECONDS:
            return
        self._lags[adapter] = now, messages
        if messages > before:
            logger.info("%s: %d messages wait, %d more than a minute ago", adapter.url, messages, messages - before)
