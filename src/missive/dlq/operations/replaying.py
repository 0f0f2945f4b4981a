"""Replays: records run through handlers again, here or in the running workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from missive.dlq.contract import Query, Store
from missive.dlq.operations.selection import Selection
from missive.dlq.record import Status
from missive.dlq.source import ReplayAdapter
from missive.ids import new_id
from missive.processor import Processor


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay."""

    replay: str
    chosen: int
    resolved: int
    failed: int
    discarded: int
    left: int
    """Not taken up: still queued when the replay was stopped, and dead again."""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON would have them."""
        return {name: getattr(self, name) for name in self.__slots__}


def replay(
    store: Store,
    selection: Selection,
    processor: Processor[Any],
    *,
    concurrency: int | None = None,
    on_settled: Callable[[int], None] | None = None,
) -> Replayed:
    """Run chosen records through a processor, here and now, and close those that it handles.

    Nothing is republished. Whatever fails again keeps its record, with one more line of history. Raises
    `MissiveError` when the engine fails or is cut short: what was not handled then is dead as before.
    """
    from missive.engine.run import execute  # noqa: PLC0415 - listing dead letters does not load the engine

    name = new_id()
    chosen = store.queue(selection.ids, name)
    adapters = [
        ReplayAdapter(processor, store, replay=name, service=service, on_settled=on_settled)
        for service in selection.services
    ]
    left = 0
    if chosen:
        try:
            execute(adapters, sink=store, concurrency=concurrency)
        finally:
            left = store.unqueue(name)
    resolved = store.count(Query(replay=name, statuses=(Status.resolved,)))
    discarded = store.count(Query(replay=name, statuses=(Status.discarded,)))
    return Replayed(name, chosen, resolved, chosen - resolved - discarded - left, discarded, left)


def queue(store: Store, selection: Selection) -> tuple[str, int]:
    """Leave chosen records to the running workers of their service; returns the replay and how many."""
    name = new_id()
    return name, store.queue(selection.ids, name)
