"""The checks of `missive doctor`: topics, their replicas, and messages deleted before the group read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from missive.adapters.base import Finding
from missive.adapters.kafka.client import create_admin
from missive.adapters.kafka.positions import REPLY_SECONDS, position_of
from missive.adapters.kafka.security import hosts_of, is_encrypted
from missive.adapters.kafka.settings import Settings
from missive.adapters.kafka.topics import TopicIds
from missive.urls import is_loopback


def diagnose(client: Any, settings: Settings, service: str, hazard: str | None) -> list[Finding]:
    """Check the topics of the adapter, and other members of its group. Runs on the client's thread.

    `hazard` is the reason why other members would break the order of a handler, or None.
    """
    topic_ids = TopicIds(settings, service)
    try:
        return [
            *_check_encryption(client, settings),
            *_check_topics(client, settings, topic_ids),
            *_other_members(settings, service, hazard),
        ]
    finally:
        topic_ids.close()


def _check_encryption(client: Any, settings: Settings) -> list[Finding]:
    """Return a finding where credentials or messages leave this machine without TLS, or TLS verifies nothing."""
    configuration = settings.configuration("doctor")
    if is_encrypted(settings.protocol):
        verifies = str(configuration.get("enable.ssl.certificate.verification", True)).lower() == "true"
        if verifies and configuration.get("ssl.endpoint.identification.algorithm") != "none":
            return []
        text = "the settings switch the check of the broker's certificate off, so another server can pose as the broker"
        return [Finding("warning", "tls", f"{text}; name its authority in ssl.ca.location instead")]
    brokers = client.list_topics(timeout=REPLY_SECONDS).brokers.values()
    if all(is_loopback(host) for host in [*hosts_of(settings.servers), *(broker.host for broker in brokers)]):
        return []
    what = "credentials and messages" if settings.protocol.startswith("SASL") else "messages"
    return [Finding("warning", "tls", f"{what} travel without TLS; add tls=on if the brokers have TLS")]


def _other_members(settings: Settings, service: str, hazard: str | None) -> list[Finding]:
    """Return a finding where other members of the group would break the order of a handler."""
    if hazard is None:
        return []
    admin = create_admin(settings, service)
    (described,) = admin.describe_consumer_groups([settings.group], request_timeout=REPLY_SECONDS).values()
    try:
        members = len(described.result(2 * REPLY_SECONDS).members)
    except (KafkaException, TimeoutError):
        text = f"the broker does not describe the group {settings.group}, whose other members would break ordered_by"
        return [Finding("unknown", "members", f"{text}: grant Describe on the group")]
    if not members:
        return []
    text = f"{members} other members consume in the group {settings.group}, but a handler uses ordered_by, and {hazard}"
    return [Finding("warning", "members", text)]


def _check_topics(client: Any, settings: Settings, topic_ids: TopicIds) -> list[Finding]:
    existing = client.list_topics(timeout=REPLY_SECONDS).topics
    names: Sequence[str] = settings.topics
    if settings.pattern is not None:
        pattern = re.compile(settings.pattern)
        names = [name for name in existing if pattern.search(name)]
    findings: list[Finding] = []
    ids = topic_ids.read(names)
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
        findings += _lost_positions(client, name, ids.get(name), [partition.id for partition in partitions])
    return findings


def _lost_positions(client: Any, topic: str, topic_id: str | None, partitions: Sequence[int]) -> list[Finding]:
    """Return a finding for each partition whose log does not contain the group's position."""
    findings = []
    for one in client.committed([TopicPartition(topic, partition) for partition in partitions], timeout=REPLY_SECONDS):
        position = position_of(one)
        if position is None:
            continue
        if not position.is_of(topic_id):
            text = f"{topic} was deleted and created again after the last commit; a worker starts at its beginning"
            return [Finding("warning", "offsets", text)]
        lane = f"{topic}/{one.partition}"
        low, high = client.get_watermark_offsets(TopicPartition(topic, one.partition), timeout=REPLY_SECONDS)
        if one.offset < low:
            text = f"{lane}: {low - one.offset} offsets were deleted before the group read them; raise the retention"
            findings.append(Finding("error", "retention", text))
        elif one.offset > high:
            text = f"{lane}: the group is beyond the end of a log that was truncated or recreated; reset the group"
            findings.append(Finding("error", "offsets", text))
    return findings
