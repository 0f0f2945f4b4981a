"""The member's part in rebalances: gain and lose lanes, and restart a lane whose position was lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaException, TopicPartition

from missive.adapters.kafka import positions
from missive.adapters.kafka.beginnings import Beginnings
from missive.adapters.kafka.flow import FlowControl
from missive.adapters.kafka.lanes import Lane, Lanes
from missive.adapters.kafka.settings import Settings
from missive.adapters.kafka.topics import TopicIds
from missive.transport import Delivery, Host, Watermark

_RETRY_SECONDS = 0.5
"""Time between two attempts to commit the starts of new lanes, in seconds."""

logger = logging.getLogger("missive")


class LanesLost(Protocol):
    """Handler on the engine's loop for lanes that this member loses."""

    def __call__(self, lanes: Collection[str], *, may_commit: bool) -> Coroutine[Any, Any, None]:
        """Return when the lanes may move to another member."""
        ...


class LanesDeleted(Protocol):
    """Handler on the engine's loop for lanes whose topic was deleted."""

    def __call__(self, lanes: Collection[str], buffered: Sequence[Delivery]) -> Coroutine[Any, Any, None]:
        """Return when the engine keeps the messages that were received, `buffered` ones included."""
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
        self,
        settings: Settings,
        host: Host,
        lanes: Lanes,
        flow: FlowControl,
        topic_ids: TopicIds,
        beginnings: Beginnings,
        *,
        engine: EngineCalls,
        lost: LanesLost,
        deleted: LanesDeleted,
    ) -> None:
        self._settings = settings
        self._host = host
        self._lanes = lanes
        self._flow = flow
        self._topic_ids = topic_ids
        self._beginnings = beginnings
        self._engine = engine
        self._lost = lost
        self._deleted = deleted
        self._uncommitted: dict[str, Any] = {}
        """The starts of lanes that the group must remember, and that are not committed yet."""
        self._next_try = 0.0

    def on_assign(self, client: Any, partitions: list[Any]) -> None:
        """Pass the committed watermarks of new lanes to the engine, and start to consume the partitions."""
        starts = partitions
        if partitions and not self._engine.leaving:
            starts, watermarks = self._open_lanes(client, partitions)
            self._engine.wait_for(self._host.lanes_gained(watermarks))
        if self._settings.cooperative:
            client.incremental_assign(starts)
        else:
            client.assign(starts)
        self._flow.pause_new(client, starts)
        self._commit_starts(client)

    def _open_lanes(self, client: Any, partitions: list[Any]) -> tuple[list[Any], dict[str, Watermark | None]]:
        """Make a lane of each partition. Return the starts of the partitions, and the committed watermarks."""
        # The ids come first: if a topic is created again meanwhile, its new id differs from them.
        ids = self._topic_ids.read({one.topic for one in partitions})
        starts: list[Any] = []
        watermarks: dict[str, Watermark | None] = {}
        later: set[str] = set()
        created_again: set[str] = set()
        for one in positions.committed(client, partitions):
            lane = self._lanes[one.topic, one.partition] = Lane(one.topic, one.partition, ids.get(one.topic))
            position = positions.position_of(one)
            if position is not None and position.is_of(lane.topic_id):
                lane.committed = True
                watermarks[lane.name] = position.watermark
                starts.append(TopicPartition(one.topic, one.partition, one.offset))
                continue
            watermarks[lane.name] = None
            if position is not None:
                created_again.add(one.topic)
            elif self._beginnings.appeared_later(one.topic, one.partition):
                later.add(lane.name)
            else:
                starts.append(self._find_start(client, lane, self._settings.start))
                continue
            starts.append(self._find_start(client, lane, "earliest"))
        self._report(created_again, later)
        return starts, watermarks

    def _find_start(self, client: Any, lane: Lane, start: str | float) -> Any:
        """Return the start of a lane without a committed offset, and note to commit it.

        With the commit, the messages that arrive before the first one is handled belong to the group, also after a
        restart.
        """
        offset = positions.find_start(client, lane, start)
        if self._settings.start != "earliest" or start != self._settings.start:
            self._uncommitted[lane.name] = positions.committing(lane, offset)
        return TopicPartition(lane.topic, lane.partition, offset)

    def _report(self, created_again: Collection[str], later: Collection[str]) -> None:
        url = self._settings.url
        for topic in sorted(created_again):
            logger.warning("%s: the topic %s was deleted and created again; starting at its beginning", url, topic)
        if later:
            names = ", ".join(sorted(later))
            logger.warning("%s: %s appeared after the group had begun; starting at the beginning", url, names)

    def _commit_starts(self, client: Any) -> None:
        """Commit the starts of new lanes. After a failure, `watch` tries again."""
        if not self._uncommitted:
            return
        self._next_try = time.monotonic() + _RETRY_SECONDS
        try:
            answers = client.commit(offsets=list(self._uncommitted.values()), asynchronous=False)
        except KafkaException:
            return
        for one in answers:
            if one.error is None:
                self._uncommitted.pop(f"{one.topic}/{one.partition}", None)
                if (lane := self._lanes.get((one.topic, one.partition))) is not None:
                    lane.committed = True

    def supersede(self, lanes: Iterable[str | None]) -> None:
        """Drop the starts of lanes that the engine commits now."""
        for name in lanes:
            self._uncommitted.pop(name or "", None)

    def watch(self, client: Any) -> None:
        """Restart the lanes of topics that were deleted and created again. Never waits for a broker without a cause."""
        if self._uncommitted and time.monotonic() >= self._next_try:
            self._commit_starts(client)
        for topic, topic_id in self._topic_ids.poll(self._lanes.topics()).items():
            self._compare(client, topic, topic_id)

    def _compare(self, client: Any, topic: str, topic_id: str | None) -> bool:
        """Restart the lanes of a topic whose id has changed. Return whether it has changed."""
        if topic_id is None:
            return False
        lanes = [lane for lane in self._lanes.values() if lane.topic == topic]
        changed = [lane for lane in lanes if lane.topic_id not in (None, topic_id)]
        for lane in lanes:
            if lane.topic_id is None:
                lane.topic_id = topic_id
        if changed:
            self._begin_again(client, changed, topic_id)
        return bool(changed)

    def _begin_again(self, client: Any, lanes: Sequence[Lane], topic_id: str | None) -> None:
        """Start lanes at the beginning of their topic, which was deleted and created again.

        The messages that were received are handled, but not committed: they do not exist any more.
        """
        self._report({lane.topic for lane in lanes}, ())
        for lane in lanes:
            lane.deleted = True
        if not self._engine.leaving:
            names = [lane.name for lane in lanes]
            buffered = [delivery for name in names for delivery in self._flow.unbuffer(name)[0]]
            self._engine.wait_for(self._deleted(names, buffered))
        if self._engine.leaving:
            return
        starts = []
        self._forget(lanes)
        for old in lanes:
            lane = self._lanes[old.topic, old.partition] = Lane(old.topic, old.partition, topic_id)
            offset = positions.find_start(client, lane, "earliest")
            self._uncommitted[lane.name] = positions.committing(lane, offset)
            starts.append(TopicPartition(lane.topic, lane.partition, offset))
        self._commit_starts(client)
        self._engine.wait_for(self._host.lanes_gained(dict.fromkeys([lane.name for lane in lanes])))
        if not self._engine.leaving:
            self._move(client, starts)

    def on_revoke(self, client: Any, partitions: list[Any]) -> None:
        """Give partitions back after the engine has finished their messages and committed."""
        self._give_up(client, partitions, may_commit=True)

    def on_lost(self, client: Any, partitions: list[Any]) -> None:
        """Give up partitions that another member may own already. Nothing is committed."""
        self._give_up(client, partitions, may_commit=False)

    def _give_up(self, client: Any, partitions: list[Any], *, may_commit: bool) -> None:
        if may_commit:
            self._commit_starts(client)
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

    def _forget(self, partitions: Iterable[Any]) -> None:
        for one in partitions:
            lane = self._lanes.pop((one.topic, one.partition), None)
            if lane is not None:
                self._flow.forget(lane.name)
                self._uncommitted.pop(lane.name, None)

    def recover(self, client: Any, topic: str, partition: int) -> None:
        """Continue a partition whose log does not contain its position, and log one line about the change.

        The partition continues at its first message, or at the end of a truncated log. A topic that was deleted and
        created again starts at its beginning.
        """
        if (lane := self._lanes.get((topic, partition))) is None:
            return
        if self._compare(client, topic, self._topic_ids.read([topic]).get(topic)):
            return
        here = TopicPartition(topic, partition)
        (committed,) = positions.committed(client, [here])
        if lane.committed and committed.offset < 0:  # the broker deleted the offset together with the topic
            self._begin_again(client, [lane], lane.topic_id)
            return
        at = client.position([here])[0].offset
        if at < 0:
            at = committed.offset
        if at < 0:  # the log has changed between the search for its start and the first message
            self._move(client, [self._find_start(client, lane, self._settings.start)])
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
            self._move(client, [TopicPartition(topic, partition, to)])

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
        new = self._lanes[lane.topic, lane.partition] = Lane(lane.topic, lane.partition, lane.topic_id)
        client.commit(offsets=[positions.committing(new, to)], asynchronous=False)
        self._engine.wait_for(self._host.lanes_gained({new.name: Watermark(to - 1)}))
        return not self._engine.leaving

    def _move(self, client: Any, to: Sequence[Any]) -> None:
        """Consume partitions from other offsets, and keep paused lanes paused.

        The client may have stopped the partitions, so `seek` does not work.
        """
        if self._settings.cooperative:
            client.incremental_unassign(to)
            client.incremental_assign(to)
        else:
            moved = {(one.topic, one.partition) for one in to}
            others = [one for one in client.assignment() if (one.topic, one.partition) not in moved]
            client.assign([*client.position(others), *to])
        self._flow.restore(client)
