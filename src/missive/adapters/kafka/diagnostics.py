"""The checks of `missive doctor`: topics, their replicas, and messages deleted before the group read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from confluent_kafka import TopicPartition

from missive.adapters.base import Finding
from missive.adapters.kafka.positions import REPLY_SECONDS
from missive.adapters.kafka.settings import Settings


def diagnose(client: Any, settings: Settings) -> list[Finding]:
    """Check the topics of the adapter. Runs on the client's thread."""
    existing = client.list_topics(timeout=REPLY_SECONDS).topics
    names: Sequence[str] = settings.topics
    if settings.pattern is not None:
        pattern = re.compile(settings.pattern)
        names = [name for name in existing if pattern.search(name)]
    findings: list[Finding] = []
    if not names:
        findings.append(Finding("warning", "topics", f"no topic matches {settings.pattern} yet"))
    for name in names:
        partitions = existing[name].partitions.values()
        replicas = min((len(partition.replicas) for partition in partitions), default=0)
        behind = sum(len(partition.isrs) < len(partition.replicas) for partition in partitions)
        findings.append(Finding("ok", "topic", f"{name} has {len(partitions)} partitions"))
        if replicas == 1:
            text = f"{name} stores one copy of each message, and a lost broker loses it; raise its replication factor"
            findings.append(Finding("warning", "copies", text))
        if behind:
            text = f"{name}: {behind} partitions have replicas that lag behind; check the brokers"
            findings.append(Finding("warning", "copies", text))
        findings += _lost_positions(client, name, [partition.id for partition in partitions])
    return findings


def _lost_positions(client: Any, topic: str, partitions: Sequence[int]) -> list[Finding]:
    """Return a finding for each partition whose log does not contain the group's position."""
    findings = []
    for one in client.committed([TopicPartition(topic, partition) for partition in partitions], timeout=REPLY_SECONDS):
        if one.offset < 0:
            continue
        lane = f"{topic}/{one.partition}"
        low, high = client.get_watermark_offsets(TopicPartition(topic, one.partition), timeout=REPLY_SECONDS)
        if one.offset < low:
            text = f"{lane}: {low - one.offset} offsets were deleted before the group read them; raise the retention"
            findings.append(Finding("error", "retention", text))
        elif one.offset > high:
            text = f"{lane}: the group is beyond the end of a log that was truncated or recreated; reset the group"
            findings.append(Finding("error", "offsets", text))
    return findings
