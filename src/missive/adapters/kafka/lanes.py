"""The partitions that the group has assigned to this member, as lanes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import TopicPartition


class Lane:
    """One assignment of a partition. A partition that is assigned again gets a new lane."""

    __slots__ = ("committed", "deleted", "name", "partition", "prefix", "topic", "topic_id")

    def __init__(self, topic: str, partition: int, topic_id: str | None = None) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_id = topic_id
        """The id of the topic, or None where the broker has not told it."""
        self.committed = False
        """Whether the group has a committed offset in the partition."""
        self.deleted = False
        """Whether the topic has been deleted, so that its offsets mean nothing."""
        self.name = f"{topic}/{partition}"
        self.prefix = f"{self.name}/"


class Lanes(dict[tuple[str, int], Lane]):
    """The lanes of this member, by topic and partition. The consumer's thread changes them."""

    def names(self) -> set[str]:
        """Return the names of all lanes."""
        return {lane.name for lane in self.values()}

    def topics(self) -> set[str]:
        """Return the topics of all lanes."""
        return {lane.topic for lane in self.values()}

    def snapshot(self) -> Mapping[str, Lane]:
        """Return the current lanes by name. Safe on any thread.

        A call for a lane waits in the mailbox. When it runs, the snapshot shows whether the member has lost the lane.
        """
        return {lane.name: lane for lane in list(self.values())}

    def owns(self, lane: Lane | None) -> bool:
        """Return whether this very assignment is still in force. False after the partition left and returned."""
        return lane is not None and self.get((lane.topic, lane.partition)) is lane

    def partitions(self, names: Collection[str]) -> list[Any]:
        """Return the client's objects for the named lanes."""
        return [TopicPartition(lane.topic, lane.partition) for lane in self.values() if lane.name in names]
