"""What `missive doctor` looks at: are the topics there, with copies, and is what was not read yet still in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from confluent_kafka import TopicPartition

from missive.adapters.base import Finding

_REPLY = 15.0


def examine(client: Any, topics: Sequence[str], pattern: str | None) -> list[Finding]:
    """Look at the topics, or those that match a pattern."""
    there = client.list_topics(timeout=_REPLY)
    names = list(topics)
    if pattern is not None:
        matching = re.compile(pattern)
        names = [name for name in there.topics if matching.search(name)]
    findings: list[Finding] = []
    if not names:
        findings.append(Finding("warning", "topics", f"no topic matches {pattern} yet"))
    for name in names:
        partitions = there.topics[name].partitions.values()
        copies = min((len(partition.replicas) for partition in partitions), default=0)
        behind = sum(len(partition.isrs) < len(partition.replicas) for partition in partitions)
        findings.append(Finding("ok", "topic", f"{name} has {len(partitions)} partitions"))
        if copies == 1:
            says = f"{name} has one copy of each message: a broker that is lost loses them; raise its replication"
            findings.append(Finding("warning", "copies", says))
        if behind:
            says = f"{name}: copies of {behind} partitions are behind; look at the brokers"
            findings.append(Finding("warning", "copies", says))
        findings += _unread(client, name, [partition.id for partition in partitions])
    return findings


def _unread(client: Any, topic: str, partitions: Sequence[int]) -> list[Finding]:
    """Look whether what the group has not read yet is still there."""
    findings = []
    for one in client.committed([TopicPartition(topic, partition) for partition in partitions], timeout=_REPLY):
        if one.offset < 0:
            continue
        low, high = client.get_watermark_offsets(TopicPartition(topic, one.partition), timeout=_REPLY)
        if one.offset < low:
            says = f"{topic}/{one.partition}: {low - one.offset} offsets were deleted before the group read them"
            findings.append(Finding("error", "retention", f"{says}; raise the topic's retention"))
        elif one.offset > high:
            says = f"{topic}/{one.partition}: the group is beyond the end of the log, which was truncated, or made anew"
            findings.append(Finding("error", "offsets", f"{says}: reset the group"))
    return findings
