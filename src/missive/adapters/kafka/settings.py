"""The settings of a Kafka adapter, checked, and their translation into settings of librdkafka."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from missive.adapters.kafka.security import security_protocol
from missive.errors import UsageError

OWNED = (
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
)
"""The settings of librdkafka that Missive sets itself, because its guarantees depend on them."""

_DEFAULTS: Mapping[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    # The client reads ahead in addition to the engine's credit. Its own default is 64 MiB.
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
    # The pause of the client before it reads ahead again. Its own default is 1 s, in which a lane may run dry.
    "fetch.queue.backoff.ms": 10,
    # The client finds new topics at this interval: missing ones, and further ones that match a pattern.
    "topic.metadata.refresh.interval.ms": 10_000,
    "log_level": 3,
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The parameters of a `KafkaAdapter`. Raise `UsageError` for values that cannot work."""

    topics: tuple[str, ...]
    pattern: str | None
    """A regular expression for the names of topics, in place of `topics`."""
    group: str
    servers: str
    """Addresses of brokers, separated by commas."""
    start: str | float
    """Start of a new group: `earliest`, `latest`, or a time in seconds since 1970."""
    instance_id: str | None
    handover: float
    """Time for running handlers when their partition moves to another member, in seconds."""
    username: str | None
    password: str | None
    sasl: str
    """SASL mechanism of the login."""
    tls: bool | None
    """Whether to encrypt the connection. None encrypts connections with a user to other machines."""
    librdkafka: Mapping[str, Any]
    """Further settings of librdkafka, by their names there."""
    shown: str | None = None
    """The URL to show, where variables of the environment must not be shown with their values."""

    def __post_init__(self) -> None:
        if not self.group:
            raise UsageError("a Kafka adapter needs a consumer group. Name it with group=, such as &group=billing")
        if bool(self.topics) == (self.pattern is not None):
            raise UsageError("a Kafka adapter needs either topic= (one, or several with commas) or pattern=")
        if self.pattern is not None and not self.pattern.startswith("^"):
            raise UsageError("pattern= must be a regular expression that begins with ^, such as ^orders-.*")
        if not self.handover >= 0:
            raise UsageError("handover= must be a number of seconds, zero or more")
        for name in self.librdkafka:
            if name in OWNED or name.endswith("_cb"):
                raise UsageError(f"Missive sets {name} itself. Use servers=, group=, instance_id= or start= instead")
        _ = self.protocol  # checked here

    @property
    def destination(self) -> str:
        """The topics, or the pattern for their names."""
        return self.pattern if self.pattern is not None else ",".join(self.topics)

    @property
    def url(self) -> str:
        """The URL as it may be shown."""
        return self.shown or self.identity

    @property
    def identity(self) -> str:
        """The brokers, topics and group, without credentials."""
        parameter = "topic" if self.pattern is None else "pattern"
        return f"kafka://{self.servers}?{parameter}={self.destination}&group={self.group}"

    def consumes(self, topic: str) -> bool:
        """Return whether the adapter consumes a topic. The client checks the pattern itself."""
        if self.pattern is None:
            return topic in self.topics
        try:
            return re.search(self.pattern, topic) is not None
        except re.error:
            return False

    @property
    def cooperative(self) -> bool:
        """Whether a rebalance moves single partitions, instead of all partitions together."""
        settings = {**_DEFAULTS, **self.librdkafka}
        strategy = str(settings["partition.assignment.strategy"])
        return "cooperative" in strategy or settings.get("group.protocol") == "consumer"

    @property
    def protocol(self) -> str:
        """The security protocol of the connection. Raise `UsageError` for credentials without TLS."""
        login = self.username is not None or "sasl.username" in self.librdkafka
        return security_protocol(self.servers, self.librdkafka, login=login, tls=self.tls)

    def configuration(self, service: str) -> dict[str, Any]:
        """Return the configuration of the client, including the password."""
        configuration: dict[str, Any] = {**_DEFAULTS, "client.id": f"missive-{service}", **self.librdkafka}
        if configuration.get("group.protocol") == "consumer":  # the broker assigns, and librdkafka refuses a strategy
            configuration.pop("partition.assignment.strategy")
        if self.username is not None:
            configuration["sasl.username"] = self.username
            configuration["sasl.password"] = self.password or ""
            configuration["sasl.mechanism"] = self.sasl
        configuration["security.protocol"] = self.protocol
        if self.instance_id is not None:
            configuration["group.instance.id"] = self.instance_id
        return configuration | {
            "bootstrap.servers": self.servers,
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # Missive reports a lost position. The client must not replace it silently.
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
        }

    def __repr__(self) -> str:
        return f"<Settings: {self.url}>"


def parse_topics(topic: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of topics in a text with commas, or in a sequence."""
    names = topic.split(",") if isinstance(topic, str) else list(topic or ())
    return tuple(name.strip() for name in names if name.strip())


def parse_start(start: str) -> str | float:
    """Return `earliest`, `latest`, or a time in seconds since 1970. Raise `UsageError` for anything else."""
    if start in ("earliest", "latest"):
        return start
    if re.fullmatch(r"\d+(\.\d+)?", start):
        return float(start)
    try:
        at = datetime.fromisoformat(start)
    except ValueError:
        raise UsageError(
            "start= must be earliest, latest, or a time such as 2026-01-31T12:00:00Z or 1769860800"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
