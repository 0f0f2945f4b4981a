"""The client library's consumer: its creation, and the check that the topics exist."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from missive.adapters.kafka import errors
from missive.adapters.kafka.settings import Settings
from missive.errors import Fatal, Transient

_TOPICS_SECONDS = 1.0
"""Time limit for one request of the topics, in seconds."""


def create(settings: Settings, service: str, on_error: Callable[[Any], None]) -> Any:
    """Return a consumer that is not connected yet. Raise `Fatal` for settings that librdkafka refuses."""
    configuration = settings.configuration(service)
    try:
        return Consumer({**configuration, "error_cb": on_error, "logger": _quiet_logger()})
    except (KafkaException, ValueError, TypeError) as error:
        refused = errors.describe_refused_setting(error)
    # Raised here and without a cause: the client's exception may quote the value of a setting.
    raise Fatal(f"{settings.url}: {refused}")


def create_admin(settings: Settings, service: str) -> Any:
    """Return a client for administration, with the connection and the login of the consumer."""
    configuration: Any = {**settings.configuration(service), "logger": _quiet_logger()}
    return AdminClient(configuration)


def check_topics(
    client: Any,
    settings: Settings,
    seconds: float,
    error: Callable[[], Exception | None],
    found: Callable[[Mapping[str, Any]], None],
) -> None:
    """Connect to a broker, and check that the topics exist.

    `found` receives the metadata of the topics before the check. `error` returns the error that the client has reported
    to its callback. Raise that error, `Fatal` for refused topics, and `Transient` for missing topics or when no broker
    answers within `seconds`.
    """
    url, topics = settings.url, settings.topics
    deadline = time.monotonic() + seconds
    existing: Mapping[str, Any] | None = None
    while existing is None:
        client.poll(0)  # calls the error callback
        if (reported := error()) is not None:
            raise reported
        if (left := deadline - time.monotonic()) <= 0:
            raise Transient(f"{url}: no broker answers")
        existing = _topics(client, settings, min(left, _TOPICS_SECONDS))
    found(existing)
    for topic in topics:
        metadata = existing.get(topic)
        if metadata is None or metadata.error is not None:
            fatal = None if metadata is None else errors.fatal_error(metadata.error, settings)
            raise fatal or Transient(f"{url}: the topic {topic} does not exist")


def _topics(client: Any, settings: Settings, seconds: float) -> Mapping[str, Any] | None:
    """Return the topics with their metadata, or None when no broker answered."""
    only = settings.topics[0] if len(settings.topics) == 1 else None
    try:
        topics: Mapping[str, Any] = client.list_topics(only, timeout=seconds).topics
    except KafkaException as caught:
        error = caught.args[0]
    else:
        return topics
    if (fatal := errors.fatal_error(error, settings)) is not None:
        raise fatal
    return None


def _quiet_logger() -> logging.Logger:
    """Return a logger that drops the client's lines by default: the engine reports the same failures in one line."""
    logger = logging.getLogger("confluent_kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    return logger
