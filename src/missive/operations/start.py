"""The first lines of a run: its service, handlers, store, concurrency and drain time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from missive.adapters.base import Adapter
from missive.dlq import DLQ
from missive.dlq.contract import Sink
from missive.privacy import redact_url
from missive.version import VERSION

logger = logging.getLogger("missive")


def log_start(adapters: Sequence[Adapter], dlq: DLQ, concurrency: int | None, workers: int) -> None:
    """Log the facts that all processes of a run share, after the checks of its declarations."""
    processor = adapters[0].processor
    logger.info("missive %s", VERSION)
    logger.info("service: %s", processor.name)
    logger.info("handlers: %d", len(processor.freeze()))
    logger.info("dead letters: %s", _name(dlq))
    logger.info("concurrency: %d × workers: %d", concurrency or processor.concurrency, workers)
    logger.info("drain: %g s", max(adapter.drain for adapter in adapters))


def _name(dlq: DLQ) -> str:
    if isinstance(dlq, str):
        return redact_url(dlq)
    return getattr(dlq, "url", type(dlq).__name__) if isinstance(dlq, Sink) else type(dlq).__name__
