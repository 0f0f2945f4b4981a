"""Replays: records run through handlers again, here or in the running workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from missive.adapters.replay import ReplayAdapter, Tolerance
from missive.app.processor import Processor
from missive.dlq.contract import Query, Replay, Store
from missive.dlq.pacing import pace
from missive.dlq.record import Status
from missive.errors import UsageError
from missive.ids import new_id
from missive.operations.selection import Selection


def start(store: Store, selection: Selection, replay: Replay) -> Replay:
    """Keep a replay of chosen records, under an id of its own; what arrives later is not in it.

    Raises `UsageError` for a rate of several services, which a command cannot keep.
    """
    _check_rate(replay, selection.services)
    replay = replace(replay, id=new_id())
    total = store.start_replay(replay, selection.ids)
    return replace(replay, total=total)


def _check_rate(replay: Replay, services: Sequence[str]) -> None:
    if replay.by_command and replay.rate is not None and len(services) > 1:
        raise UsageError(f"--rate is for one service at a time: add service:{services[0]}")


def run(
    store: Store,
    replay: Replay,
    processor: Processor[Any],
    *,
    concurrency: int | None = None,
    on_settled: Callable[[int], None] | None = None,
) -> Replay:
    """Run what is left of a replay through a processor, here and now, and close what it handles.

    Nothing is republished. Whatever fails again keeps its record, with one more line of history. The canaries run
    first, and the others only when these are resolved. Returns the replay as it is then; `left` are those that were
    not run, for `resume`. Raises `MissiveError` when the engine fails or is cut short: then also what was not handled
    is dead as before.
    """
    services = store.services(Query(replay=replay.id))
    tolerance = Tolerance(replay.until_failures)
    status = "stopped"
    try:
        before = replay.resolved
        if replay.canary is None or before >= replay.canary or _canaries(store, replay, processor, on_settled):
            if store.queue_remaining(replay.id) or store.count(Query(replay=replay.id, statuses=(Status.queued,))):
                _execute(store, replay, services, processor, tolerance, concurrency, on_settled)
            status = "done"
    finally:
        now = found(store, replay.id)
        whole = status == "done" and not tolerance.is_exceeded and not now.queued and not now.left
        # What another command has in hand that resumed it, too, is that one's.
        store.set_replay(replay.id, now.status if now.status == "cancelled" else "done" if whole else "stopped")
    return found(store, replay.id)


def _canaries(
    store: Store, replay: Replay, processor: Processor[Any], on_settled: Callable[[int], None] | None
) -> bool:
    """Run the canaries one after the other, and tell whether all are resolved."""
    wanted = (replay.canary or 0) - replay.resolved
    queued = store.count(Query(replay=replay.id, statuses=(Status.queued,)))
    if queued < wanted:
        queued += store.queue_remaining(replay.id, wanted - queued)
    _execute(store, replay, store.services(Query(replay=replay.id)), processor, Tolerance(1), 1, on_settled)
    return found(store, replay.id).resolved - replay.resolved >= queued


def _execute(
    store: Store,
    replay: Replay,
    services: list[str],
    processor: Processor[Any],
    tolerance: Tolerance,
    concurrency: int | None,
    on_settled: Callable[[int], None] | None,
) -> None:
    from missive.engine.runner import execute  # noqa: PLC0415 - listing dead letters does not load the engine

    adapters = [
        ReplayAdapter(
            processor,
            store,
            replay=replay.id,
            service=service,
            on_settled=on_settled,
            rate_limit=replay.rate,
            tolerance=tolerance,
        )
        for service in services
    ]
    if not adapters:
        return
    try:
        execute(adapters, sink=store, concurrency=concurrency)
    finally:
        for adapter in adapters:
            adapter.release_leases()


def found(store: Store, replay_id: str) -> Replay:
    """Return a replay. Raises `UsageError` for an id that is none's."""
    for replay in store.replays(replay_id):
        return replay
    raise UsageError(f"there is no replay {replay_id}: see missive dlq replays")


def resume(store: Store, replay_id: str, *, by_command: bool) -> Replay:
    """Let a replay run again that was stopped, cancelled or killed; `by_command` when our processor is to `run` it.

    Only what was not run is left. Raises `UsageError` for an id that is none's, or one that workers would stop at once.
    """
    replay = found(store, replay_id)
    if not by_command and pace(replay, 0.0).status == "stopped":
        raise UsageError(f"replay {replay_id} has failed as often as it may: say --with TARGET, or start another")
    _check_rate(replace(replay, by_command=by_command), store.services(Query(replay=replay_id)))
    store.set_replay(replay_id, "running", by_command=by_command)
    if not by_command:
        set_off(store, replay)
    return found(store, replay_id)


def set_off(store: Store, replay: Replay) -> None:
    """Leave what is left of a replay to the running workers, at its pace."""
    if replay.is_paced:
        store.advance()
    else:
        store.queue_remaining(replay.id)


def followed(store: Store, replay_id: str, seconds: float) -> Iterator[Replay]:
    """Yield how far a replay has come that running workers run, about every `seconds`, until it is over."""
    while True:
        replay = found(store, replay_id)
        yield replay
        if replay.status != "running":
            return
        time.sleep(seconds)


def cancel(store: Store, replay_id: str) -> Replay:
    """Make what nobody has taken up yet of a replay dead again; what runs ends as it ends.

    Raises `UsageError` for an id that is none's, or one that is over.
    """
    replay = found(store, replay_id)
    if replay.status != "running":
        raise UsageError(f"replay {replay_id} is {replay.status}: there is nothing to cancel")
    store.set_replay(replay_id, "cancelled")
    return found(store, replay_id)
