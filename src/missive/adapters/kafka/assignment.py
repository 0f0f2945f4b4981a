"""The member's part in rebalances: gain and lose lanes, and restart a lane whose position was lost."""

from __future__ import annotations

import logging
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from missive.adapters.kafka import positions
from missive.adapters.kafka.flow import FlowControl
from missive.adapters.kafka.lanes import Lane, Lanes
from missive.adapters.kafka.settings import Settings
from missive.transport import Host, Watermark

logger = logging.getLogger("missive")


class LanesLost(Protocol):
    """Handler on the engine's loop for lanes that this member loses."""

    def __call__(self, lanes: Collection[str], *, may_commit: bool) -> Coroutine[Any, Any, None]:
        """Return when the lanes may move to another member."""
        ...


class EngineCalls(Protocol):
    """Calls from the consumer's thread to the engine."""

    @property
    def leaving(self) -> bool:
        """Whether the session closes, so that nothing waits for the engine any more."""
        ...

    def wait_for(self, call: Coroutine[Any, Any, None]) -> None:
        """Run a call on the engine's loop. Return when it has finished, or when the session closes."""
        ...


class Assignment:
    """The callbacks for rebalances. The client calls them on the consumer's thread, inside `poll`."""

    def __init__(
        self, settings: Settings, host: Host, lanes: Lanes, flow: FlowControl, *, engine: EngineCalls, lost: LanesLost
    ) -> None:
        self._settings = settings
        self._host = host
        self._lanes = lanes
        self._flow = flow
        self._engine = engine
        self._lost = lost

    def on_assign(self, client: Any, partitions: list[Any]) -> None:
        """Pass the committed watermarks of new lanes to the engine, and start to consume the partitions."""
        starts = partitions
        if partitions and not self._engine.leaving:
            committed = positions.committed(client, partitions)
            watermarks: dict[str, Watermark | None] = {}
            for one in committed:
                lane = self._lanes[one.topic, one.partition] = Lane(one.topic, one.partition)
                watermarks[lane.name] = positions.watermark_of(one)
            self._engine.wait_for(self._host.lanes_gained(watermarks))
            if not self._engine.leaving:
                starts = positions.starts(client, committed, self._settings.start)
        if self._settings.cooperative:
            client.incremental_assign(starts)
        else:
            client.assign(starts)
        self._flow.pause_new(client, starts)

    def on_revoke(self, client: Any, partitions: list[Any]) -> None:
        """Give partitions back after the engine has finished their messages and committed."""
        self._give_up(client, partitions, may_commit=True)

    def on_lost(self, client: Any, partitions: list[Any]) -> None:
        """Give up partitions that another member may own already. Nothing is committed."""
        self._give_up(client, partitions, may_commit=False)

    def _give_up(self, client: Any, partitions: list[Any], *, may_commit: bool) -> None:
        lanes = [self._lanes.get((one.topic, one.partition)) for one in partitions]
        names = [lane.name for lane in lanes if lane is not None]
        if not may_commit:  # from here on, commits for these lanes are refused
            self._forget(partitions)
        if names and not self._engine.leaving:
            self._engine.wait_for(self._lost(names, may_commit=may_commit))
        self._forget(partitions)
        if self._settings.cooperative:
            client.incremental_unassign(partitions)
        else:
            client.unassign()

    def _forget(self, partitions: Sequence[Any]) -> None:
        for one in partitions:
            lane = self._lanes.pop((one.topic, one.partition), None)
            if lane is not None:
                self._flow.forget(lane.name)

    def recover(self, client: Any, topic: str, partition: int) -> None:
        """Continue a partition whose log does not contain its position, and log one line about the change.

        The partition continues at its first message, or at the end of a truncated log.
        """
        if (lane := self._lanes.get((topic, partition))) is None:
            return
        here = TopicPartition(topic, partition)
        at = client.position([here])[0].offset
        if at < 0:
            at = positions.committed(client, [here])[0].offset
        if at < 0:  # no position yet: the client could not find the configured start
            self._move(client, positions.starts(client, [here], self._settings.start)[0])
            return
        low, high = client.get_watermark_offsets(here, timeout=positions.REPLY_SECONDS)
        truncated = at >= low
        to = min(at, high) if truncated else low
        cause = (
            "the log was truncated and ends before it"
            if truncated
            else "unread messages were deleted; raise the topic's retention"
        )
        url = self._settings.url
        logger.error("%s: the position %d of %s no longer exists (%s); continuing at %d", url, at, lane.name, cause, to)
        if not truncated or self._restart(client, lane, to):
            self._move(client, TopicPartition(topic, partition, to))

    def _restart(self, client: Any, lane: Lane, to: int) -> bool:
        """Replace a lane by a new one that starts at the end of its log. Return False when the session closes.

        The committed watermark is beyond the end of the log. It must not apply to the messages that arrive there.
        """
        end = TopicPartition(lane.topic, lane.partition, to)
        if not self._engine.leaving:
            self._engine.wait_for(self._lost([lane.name], may_commit=True))
        if self._engine.leaving:
            return False
        self._forget([end])
        new = self._lanes[lane.topic, lane.partition] = Lane(lane.topic, lane.partition)
        client.commit(offsets=[end], asynchronous=False)
        self._engine.wait_for(self._host.lanes_gained({new.name: Watermark(to - 1)}))
        return not self._engine.leaving

    def _move(self, client: Any, to: Any) -> None:
        """Consume a partition from another offset, and keep paused lanes paused.

        The client has stopped the partition, so `seek` does not work.
        """
        if self._settings.cooperative:
            client.incremental_unassign([to])
            client.incremental_assign([to])
        else:
            moved = (to.topic, to.partition)
            others = [one for one in client.assignment() if (one.topic, one.partition) != moved]
            client.assign([*client.position(others), to])
        self._flow.restore(client)
