"""Replays: records run through handlers again, by this command or by the running workers of their service."""

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
from missive.operations.outages import survive
from missive.operations.selection import Selection, is_part, only_id


def start_replay(store: Store, selection: Selection, replay: Replay) -> Replay:
    """Store a replay of the selected records under a new id, and return it. No record runs yet.

    Raise `UsageError` for a replay of several services that this command would have to run at one rate.
    """
    _check_rate(replay, selection.services)
    replay = replace(replay, id=new_id())
    total = store.start_replay(replay, selection.ids)
    return replace(replay, total=total)


def _check_rate(replay: Replay, services: Sequence[str]) -> None:
    if replay.by_command and replay.rate is not None and len(services) > 1:
        raise UsageError(f"--rate works for one service at a time: add service:{services[0]} to the query")


def run_replay(
    store: Store,
    replay: Replay,
    processor: Processor[Any],
    *,
    concurrency: int | None = None,
    on_settled: Callable[[int], None] | None = None,
) -> Replay:
    """Run the remaining records of a replay through a processor, resolve the handled ones, and return the replay.

    The canaries run first. The other records run only when all canaries are resolved. A record that fails again stays
    dead and gains a line of history. The count `left` of the returned replay is the number of records that did not run;
    `resume_replay` continues with them. `on_settled` is called with the number of newly settled records.

    Raise `MissiveError` when the engine fails or is stopped by force; unhandled records are dead again then, too.
    """
    services = store.services(Query(replay=replay.id))
    tolerance = Tolerance(replay.until_failures)
    finished = False
    try:
        before = replay.resolved
        if replay.canary is None or before >= replay.canary or _run_canaries(store, replay, processor, on_settled):
            if store.queue_remaining(replay.id) or store.count(Query(replay=replay.id, statuses=(Status.queued,))):
                _execute(store, replay, services, processor, tolerance, concurrency, on_settled)
            finished = True
    finally:
        now = survive(lambda: find_replay(store, replay.id))
        # Records that are still queued are leased by another command that resumed the same replay.
        done = finished and not tolerance.is_exceeded and not now.queued and not now.left
        status = now.status if now.status == "cancelled" else "done" if done else "stopped"
        survive(lambda: store.set_replay(replay.id, status))
    return survive(lambda: find_replay(store, replay.id))


def _run_canaries(
    store: Store, replay: Replay, processor: Processor[Any], on_settled: Callable[[int], None] | None
) -> bool:
    """Run the canaries one after the other. Return whether all of them are resolved."""
    wanted = (replay.canary or 0) - replay.resolved
    queued = store.count(Query(replay=replay.id, statuses=(Status.queued,)))
    if queued < wanted:
        queued += store.queue_remaining(replay.id, wanted - queued)
    _execute(store, replay, store.services(Query(replay=replay.id)), processor, Tolerance(1), 1, on_settled)
    return find_replay(store, replay.id).resolved - replay.resolved >= queued


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

    identity = processor.identity
    name = identity.name
    for service in services:
        adapter = ReplayAdapter(
            processor,
            store,
            replay=replay.id,
            service=service,
            on_settled=on_settled,
            rate_limit=replay.rate,
            tolerance=tolerance,
        )
        try:
            # The records run as messages of their service: `once=` then knows the effects of its workers.
            identity.name = service
            execute([adapter], sink=store, concurrency=concurrency)
        finally:
            identity.name = name
            adapter.release_leases()


def find_replay(store: Store, name: str) -> Replay:
    """Return a replay by its id, or by a beginning or end of the id that no other replay has.

    Raise `UsageError` when the store has no such replay, and when it has several.
    """
    for replay in store.replays(name):
        return replay
    part = name.upper()
    ids = [one.id for one in store.replays() if one.id.startswith(part) or one.id.endswith(part)]
    replay_id = only_id(ids, name) if is_part(name) else None
    for replay in [] if replay_id is None else store.replays(replay_id):
        return replay
    raise UsageError(f"there is no replay {name}: see missive dlq replays")


def resume_replay(store: Store, replay_id: str, *, by_command: bool) -> Replay:
    """Continue a stopped, cancelled or killed replay with the records that did not run, and return the replay.

    With `by_command`, the caller runs the replay next with `run_replay`. Otherwise the running workers do.

    Raise `UsageError` for an unknown id, and for a replay that the workers would stop at once because it has reached
    its limit of failures.
    """
    replay = find_replay(store, replay_id)
    if not by_command and pace(replay, 0.0).status == "stopped":
        raise UsageError(
            f"replay {replay.id} has reached its limit of failures: run the rest here with --with TARGET, or start"
            " another replay"
        )
    _check_rate(replace(replay, by_command=by_command), store.services(Query(replay=replay.id)))
    store.set_replay(replay.id, "running", by_command=by_command)
    if not by_command:
        hand_over_replay(store, replay)
    return find_replay(store, replay.id)


def hand_over_replay(store: Store, replay: Replay) -> None:
    """Leave the remaining records of a replay to the running workers, at the pace of the replay."""
    if replay.is_paced:
        store.advance()
    else:
        store.queue_remaining(replay.id)


def follow_replay(store: Store, replay_id: str, seconds: float) -> Iterator[Replay]:
    """Yield the state of a replay that workers run, about every `seconds`, until the replay ends.

    An outage of the store is waited for.
    """
    while True:
        replay = survive(lambda: find_replay(store, replay_id))
        yield replay
        if replay.status != "running":
            return
        time.sleep(seconds)


def count_removed(replay: Replay) -> int:
    """Return how many records have left a replay: replayed by another one, restored or deleted."""
    return replay.total - replay.queued - replay.resolved - replay.failed - replay.discarded - replay.left


def cancel_replay(store: Store, replay_id: str) -> Replay:
    """Cancel a replay and return it: records not yet started return to `dead`; running ones finish.

    Raise `UsageError` for an unknown id, and for a replay that has ended.
    """
    replay = find_replay(store, replay_id)
    if replay.status != "running":
        raise UsageError(f"replay {replay.id} is {replay.status}: there is nothing to cancel")
    store.set_replay(replay.id, "cancelled")
    return find_replay(store, replay.id)
