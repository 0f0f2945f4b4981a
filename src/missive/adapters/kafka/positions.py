"""The positions of the group: read and commit offsets, and find the start of a partition."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException, TopicPartition

from missive.adapters.kafka import errors
from missive.adapters.kafka.lanes import Lane, Lanes
from missive.adapters.kafka.settings import Settings
from missive.transport import SettlementResult, Watermark

REPLY_SECONDS = 15.0
"""Time limit for a reply of a broker."""
_RETRY_SECONDS = 0.02


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


def starts(client: Any, partitions: Sequence[Any], start: str | float) -> list[Any]:
    """Return the start of each partition: its committed offset, or the place that `start` describes.

    Raise `KafkaException` when the broker cannot translate a time into offsets.
    """
    new = [one for one in partitions if one.offset < 0]
    if isinstance(start, float):
        times = [TopicPartition(one.topic, one.partition, int(start * 1000)) for one in new]
        found = client.offsets_for_times(times, timeout=REPLY_SECONDS) if times else []
        if (error := next((one.error for one in found if one.error is not None), None)) is not None:
            raise KafkaException(error)
        new = [TopicPartition(o.topic, o.partition, o.offset if o.offset >= 0 else OFFSET_END) for o in found]
    else:
        offset = OFFSET_BEGINNING if start == "earliest" else OFFSET_END
        new = [TopicPartition(one.topic, one.partition, offset) for one in new]
    return [*(TopicPartition(o.topic, o.partition, o.offset) for o in partitions if o.offset >= 0), *new]


def watermark_of(partition: Any) -> Watermark | None:
    """Return the watermark in a committed offset and its metadata, or None where the group committed nothing."""
    if partition.offset < 0:
        return None
    return Watermark(partition.offset - 1, (partition.metadata or "").encode())


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
        elif watermark.acked_beyond:
            metadata = watermark.acked_beyond.decode("ascii")
            offsets.append(TopicPartition(lane.topic, lane.partition, watermark.position + 1, metadata))
        else:
            offsets.append(TopicPartition(lane.topic, lane.partition, watermark.position + 1))
    if not offsets:
        return results
    error = None
    try:
        answers = client.commit(offsets=offsets, asynchronous=False)
    except KafkaException as caught:
        error, answers = caught.args[0], offsets
    for one in answers:
        results[f"{one.topic}/{one.partition}"] = _result(error or one.error, settings)
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
