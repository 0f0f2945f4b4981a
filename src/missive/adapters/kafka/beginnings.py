"""Beginnings: which partitions existed when the group began. A partition that appears later starts at its beginning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import TopicPartition

from missive.adapters.kafka import positions
from missive.adapters.kafka.settings import Settings


class Beginnings:
    """The partitions that existed when the group began. An adapter keeps the object for all of its sessions.

    Every member commits the start of a partition at once, so the group has begun where it has a committed offset.
    """

    def __init__(self) -> None:
        self._existed: Mapping[str, Collection[int]] | None = None

    def note(self, client: Any, settings: Settings, topics: Mapping[str, Any]) -> None:
        """Note the partitions at the first contact with a broker. Later calls have no effect.

        `topics` is the metadata of existing topics. Raise `KafkaException` without a reply.
        """
        if self._existed is not None or settings.start == "earliest":
            return
        existed: dict[str, Collection[int]] = {}
        for name, found in topics.items():
            if found.error is None and settings.consumes(name):
                partitions = [TopicPartition(name, partition) for partition in found.partitions]
                committed = positions.committed(client, partitions) if partitions else ()
                existed[name] = () if any(one.offset >= 0 for one in committed) else found.partitions.keys()
        if settings.pattern is not None and not all(existed.values()):
            existed.clear()  # the group has begun, so a topic without a committed offset appeared later
        self._existed = existed

    def appeared_later(self, topic: str, partition: int) -> bool:
        """Return whether a partition without a committed offset appeared after the group had begun."""
        return self._existed is not None and partition not in self._existed.get(topic, ())
