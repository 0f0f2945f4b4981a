"""The positions of the group: read and commit offsets, and find the start of a partition."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from missive.adapters.kafka import errors
from missive.adapters.kafka.lanes import Lane, Lanes
from missive.adapters.kafka.settings import Settings
from missive.transport import SettlementResult, Watermark

REPLY_SECONDS = 15.0
"""Time limit for a reply of a broker."""
_ASK_SECONDS = 2.0
"""Time limit for a reply that only a drain waits for."""
_RETRY_SECONDS = 0.02
_TOPIC = "m1t"
"""Prefix of metadata that begins with the id of the topic."""


def committed(client: Any, partitions: Sequence[Any]) -> Sequence[Any]:
    """Return the committed offsets, with their metadata. Retry while the group's coordinator is not ready.

    Raise `KafkaException` for other errors, and after `REPLY_SECONDS`.
    """
    deadline = time.monotonic() + REPLY_SECONDS
    while True:
        try:
            found: Sequence[Any] = client.committed(partitions, timeout=REPLY_SECONDS)
            error = next((one.error for one in found if one.error is not None), None)
        except KafkaException as caught:
            error = caught.args[0]
        if error is None:
            return found
        if error.code() not in errors.NOT_READY or time.monotonic() > deadline:
            raise KafkaException(error)
        time.sleep(_RETRY_SECONDS)


def find_start(client: Any, partition: Any, start: str | float) -> int:
    """Return the offset that `start` describes in a partition. Raise `KafkaException` without a reply of the broker."""
    here = TopicPartition(partition.topic, partition.partition)
    # The end is read first: a message that arrives meanwhile is after it, or is found by its time.
    low, high = client.get_watermark_offsets(here, timeout=REPLY_SECONDS)
    if start == "earliest":
        return int(low)
    if isinstance(start, float):
        at = TopicPartition(here.topic, here.partition, int(start * 1000))
        (found,) = client.offsets_for_times([at], timeout=REPLY_SECONDS)
        if found.error is not None:
            raise KafkaException(found.error)
        if found.offset >= 0:
            return int(found.offset)
    return int(high)


class Position(NamedTuple):
    """The committed position of a partition."""

    watermark: Watermark
    topic_id: str | None
    """The id of the topic at the time of the commit, where Missive wrote it."""

    def is_of(self, topic_id: str | None) -> bool:
        """Return whether the position can belong to the topic with this id."""
        return None in (topic_id, self.topic_id) or topic_id == self.topic_id


def position_of(partition: Any) -> Position | None:
    """Return the position in a committed offset and its metadata, or None where the group committed nothing."""
    if partition.offset < 0:
        return None
    metadata, topic_id = partition.metadata or "", None
    if metadata.startswith(_TOPIC):
        topic_id, _, metadata = metadata[len(_TOPIC) :].partition(":")
    return Position(Watermark(partition.offset - 1, metadata.encode()), topic_id)


def committing(lane: Lane, offset: int, acked_beyond: bytes = b"") -> Any:
    """Return the client's object for the commit of an offset. Its metadata has the id of the topic."""
    metadata = acked_beyond.decode("ascii")
    if lane.topic_id is not None:
        metadata = f"{_TOPIC}{lane.topic_id}:{metadata}"
    return TopicPartition(lane.topic, lane.partition, offset, metadata or None)


def commit(
    client: Any,
    lanes: Lanes,
    watermarks: Mapping[str | None, Watermark],
    snapshot: Mapping[str, Lane],
    settings: Settings,
) -> Mapping[str | None, SettlementResult]:
    """Commit watermarks and return a result for each lane.

    The result is `fenced` for a lane of `snapshot` that this member lost meanwhile. Raise `Fatal` where every other
    connection would be refused too.
    """
    results: dict[str | None, SettlementResult] = {}
    offsets = []
    for name, watermark in watermarks.items():
        lane = snapshot.get(name or "")
        if lane is None or client is None or not lanes.owns(lane):
            results[name] = SettlementResult.fenced
        elif lane.deleted:  # there is nothing to commit any more
            results[name] = SettlementResult.confirmed
        else:
            offsets.append(committing(lane, watermark.position + 1, watermark.acked_beyond))
    if not offsets:
        return results
    error = None
    try:
        answers = client.commit(offsets=offsets, asynchronous=False)
    except KafkaException as caught:
        error, answers = caught.args[0], offsets
    for one in answers:
        results[f"{one.topic}/{one.partition}"] = result = _result(error or one.error, settings)
        if result is SettlementResult.confirmed:
            lanes[one.topic, one.partition].committed = True
    return results


def _result(error: Any, settings: Settings) -> SettlementResult:
    if error is None:
        return SettlementResult.confirmed
    if error.code() in errors.FENCED:
        return SettlementResult.fenced
    if (fatal := errors.fatal_error(error, settings)) is not None:
        raise fatal
    return SettlementResult.unknown if error.code() in errors.UNANSWERED else SettlementResult.failed


def lag(client: Any, lanes: Lanes) -> int | None:
    """Return the number of messages in this member's partitions that the client did not consume yet.

    Return None without partitions, and after the client has closed.
    """
    if not lanes or client is None:
        return None
    total = 0
    for at in client.position([TopicPartition(*where) for where in lanes]):
        known = client.get_watermark_offsets(at, cached=True)
        if known is not None and at.offset >= 0:
            total += max(0, known[1] - at.offset)
    return total


def first_positions(client: Any, lanes: Sequence[Lane]) -> dict[str, int]:
    """Return the first offset of each lane's log. After a call without an answer, the result has no further lanes."""
    first: dict[str, int] = {}
    if client is None:
        return first
    for lane in lanes:
        try:
            low, _ = client.get_watermark_offsets(TopicPartition(lane.topic, lane.partition), timeout=_ASK_SECONDS)
        except KafkaException:
            break
        first[lane.name] = low
    return first
