"""The ids of topics. A topic that was deleted and created again has another id, and its offsets begin again."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection

from missive.adapters.kafka import client as clients
from missive.adapters.kafka.settings import Settings

_INTERVAL = 1.0
"""Time between two requests for the ids, in seconds."""
_REPLY_SECONDS = 5.0
"""Time limit for a reply of a broker, in seconds."""
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""The id that a broker reports for a topic without one."""


class TopicIds:
    """Reads the ids of topics with a client of its own, because the consumer does not report them.

    A broker before Kafka 2.8 has no ids, and a user may lack the right to describe a topic. The ids are missing then.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._admin: Any = None
        self._requested: Mapping[str, Future[Any]] | None = None
        self._next = 0.0

    def read(self, topics: Collection[str]) -> Mapping[str, str]:
        """Return the ids of topics, by topic. Wait for the broker."""
        requested = self._request(topics)
        return _ids(requested)

    def poll(self, topics: Collection[str]) -> Mapping[str, str]:
        """Return the ids of topics about once a second, and else nothing. Never wait."""
        if self._requested is not None:
            if not all(one.done() for one in self._requested.values()):
                return {}
            requested, self._requested = self._requested, None
            return _ids(requested)
        if topics and (now := time.monotonic()) >= self._next:
            self._next = now + _INTERVAL
            self._requested = self._request(topics)
        return {}

    def close(self) -> None:
        """Close the client."""
        self._admin = self._requested = None

    def _request(self, topics: Collection[str]) -> Mapping[str, Future[Any]]:
        if self._admin is None:
            self._admin = clients.create_admin(self._settings, self._service)
        self._admin.poll(0)
        found: Mapping[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection(list(topics)), request_timeout=_REPLY_SECONDS
        )
        return found


def _ids(described: Mapping[str, Future[Any]]) -> Mapping[str, str]:
    ids: dict[str, str] = {}
    for topic, future in described.items():
        try:
            topic_id = str(future.result(2 * _REPLY_SECONDS).topic_id)
        except (KafkaException, TimeoutError):  # the topic may be missing for a moment
            continue
        if topic_id != _NO_ID:
            ids[topic] = topic_id
    return ids
