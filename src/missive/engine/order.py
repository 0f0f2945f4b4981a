"""Order across processes: which handlers with `ordered_by` keep their order when several processes share a source."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from missive.adapters.base import Adapter
from missive.app.terms import HandlerRoute
from missive.engine.state import EngineState
from missive.errors import UsageError
from missive.transport import Session

_SHOWN = 3
"""Maximum number of handlers that one line names."""

logger = logging.getLogger("missive")


def order_hazards(
    routes: Sequence[HandlerRoute], adapter: Adapter, sources: int, session: Session | None = None
) -> dict[str, list[str]]:
    """Return the handlers whose order holds within one process only, by the reason.

    `sources` is the number of sources of the processor. Without a session, handlers for which only a session can tell
    are missing.
    """
    hazards: dict[str, list[str]] = {}
    if adapter.background or not adapter.shareable:  # other processes do not share its messages
        return hazards
    for route in routes:
        key = route.terms.ordered_by
        if key is None:
            continue
        if (hazard := adapter.order_hazard(key, session)) is None and sources > 1:
            hazard = "the processor has several sources, and a key may be in a lane of each"
        if hazard is not None:
            hazards.setdefault(hazard, []).append(route.name)
    return hazards


def check_order(adapters: Sequence[Adapter], workers: int) -> None:
    """Raise `UsageError` where several workers would break the order of a handler."""
    for adapter in adapters:
        sources = sum(other.processor is adapter.processor and not other.background for other in adapters)
        for hazard, names in order_hazards(adapter.processor.routes(), adapter, sources).items():
            raise _refusal(f"--workers {workers}", names, hazard)


def _refusal(where: str, names: Sequence[str], hazard: str) -> UsageError:
    return UsageError(
        f"{where}: {_joined(names)} ordered_by, which holds within one process, but {hazard}. Omit --workers and raise"
        " --concurrency, or omit ordered_by."
    )


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} {'has' if len(names) == 1 else 'have'}"


class OrderCheck:
    """Compares each new session with the handlers that have `ordered_by`."""

    def __init__(self, routes: Sequence[HandlerRoute], state: EngineState) -> None:
        self._routes = [route for route in routes if route.terms.ordered_by is not None]
        self._state = state
        self._reported: set[Any] = set()

    def check(self, adapter: Adapter, session: Session) -> None:
        """Log once for each source where the order of a handler holds within this process only.

        Raise `UsageError` for one of several workers.
        """
        if not self._routes:
            return
        sources = sum(not source.adapter.background for source in self._state.sources)
        hazards = order_hazards(self._routes, adapter, sources, session)
        for hazard, names in hazards.items():
            if self._state.one_of_several:
                raise _refusal("--workers above 1", names, hazard)
            if adapter not in self._reported:
                logger.warning("ordered within this process only: %s ordered_by, but %s", _joined(names), hazard)
        self._reported.add(adapter)
