"""The Kafka adapter: what is consumed, as whom, and with which settings of the client library."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import Adapter, Finding
from missive.adapters.parameters import constructor_arguments
from missive.app.processor import Processor
from missive.errors import MissingExtra, UsageError
from missive.transport import Host, Session
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.kafka.session import KafkaSession

OWNED = (
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
)
"""What Missive itself sets, because what it promises depends on it."""

_DEFAULTS: Mapping[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    # What the client reads ahead is memory beyond the engine's credit: its own default is 64 MiB.
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
    # How long it waits before it reads ahead again: its own default is a second, in which a lane may run dry.
    "fetch.queue.backoff.ms": 10,
    # So that a topic that is made later, or that a pattern matches then, is found soon.
    "topic.metadata.refresh.interval.ms": 10_000,
    "log_level": 3,
}
_CONNECT_SECONDS = 10.0
_HANDOVER = 20.0


class KafkaAdapter(Adapter):
    """Consumes topics as a member of a group: `kafka://host:9092,host2:9092?topic=orders&group=billing`.

    `topic` is one, or several with commas or as a list; `pattern`, a regular expression that begins with `^`, is for
    all that match. `start` is where a partition begins for which the group has committed nothing: `earliest`, `latest`,
    or a time, as seconds since 1970 or in ISO 8601. `instance_id` makes a static member. `handover` is how many seconds
    running handlers have when a partition goes to another member. `username` and `password` log in by `sasl` (PLAIN),
    and `tls=True` speaks TLS. Every other setting of librdkafka may be given, by its own name: in `settings`, or in the
    URL, as `&session.timeout.ms=10000`.

    The client is the `confluent_kafka.Consumer`, which belongs to one thread: use it through `context.adapter.call`.
    `context.native` is the `confluent_kafka.Message`. A tombstone has an empty body, and None as its native value.
    """

    transport = "kafka"
    exclusive_lanes = True

    def __init__(
        self,
        processor: Processor[Any],
        topic: str | Sequence[str] | None = None,
        group: str = "",
        *,
        servers: str = "localhost:9092",
        pattern: str | None = None,
        start: str = "earliest",
        instance_id: str | None = None,
        handover: float = _HANDOVER,
        username: str | None = None,
        password: str | None = None,
        sasl: str = "PLAIN",
        tls: bool = False,
        settings: Mapping[str, Any] | None = None,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        if find_spec("confluent_kafka") is None:
            raise MissingExtra("Kafka", "kafka")
        names = topic.split(",") if isinstance(topic, str) else list(topic or ())
        self.topics = tuple(name.strip() for name in names if name.strip())
        self.pattern = pattern
        self.group = group
        self.servers = servers
        self.start = _start(start)
        self.instance_id = instance_id
        self.handover = handover
        self.username = username
        self.tls = tls
        self.settings = dict(settings or {})
        self._password = password
        self._sasl = sasl
        self._refuse()

    def _refuse(self) -> None:
        if not self.group:
            raise UsageError("a Kafka consumer is a member of a group: say which, such as &group=billing")
        if bool(self.topics) == (self.pattern is not None):
            raise UsageError("a Kafka consumer needs either topic=, one or several with commas, or pattern=")
        if self.pattern is not None and not self.pattern.startswith("^"):
            raise UsageError("pattern= is a regular expression that begins with ^, such as ^orders-.*")
        if not self.handover >= 0:
            raise UsageError("handover= is a number of seconds, zero or more")
        for name in self.settings:
            if name in OWNED or name.endswith("_cb"):
                raise UsageError(
                    f"{name} is Missive's own to set: servers=, group=, instance_id= and start= are what can be said"
                )

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of a URL; its parameters with a dot are librdkafka's settings."""
        if not url.authority:
            raise UsageError("a Kafka URL names its brokers: kafka://host:9092,host2:9092?topic=orders&group=billing")
        if url.path.strip("/"):
            raise UsageError("a Kafka URL has no path: its topic is a parameter, ?topic=orders")
        plain = {name: value for name, value in url.parameters.items() if "." not in name}
        topic = plain.pop("topic", None)
        said_elsewhere = ("topic", "servers", "username", "password", "settings")
        given = constructor_arguments(cls, dataclasses.replace(url, parameters=plain), exclude=said_elsewhere)
        return cls(
            processor,
            topic,
            servers=url.authority,
            username=url.username,
            password=url.password,
            settings={name: value for name, value in url.parameters.items() if "." in name},
            **given,
        )

    @property
    def destination(self) -> str:
        """The topics, or the pattern of them."""
        return self.pattern if self.pattern is not None else ",".join(self.topics)

    @property
    def url(self) -> str:
        """The brokers, topics and group, without credentials."""
        what = f"topic={','.join(self.topics)}" if self.pattern is None else f"pattern={self.pattern}"
        return f"kafka://{self.servers}?{what}&group={self.group}"

    @property
    def cooperative(self) -> bool:
        """Whether partitions come and go one by one, and not all together."""
        settings = {**_DEFAULTS, **self.settings}
        return (
            "cooperative" in str(settings["partition.assignment.strategy"])
            or settings.get("group.protocol") == "consumer"
        )

    def configuration(self, service: str) -> dict[str, Any]:
        """Return librdkafka's settings; the password is among them."""
        settings: dict[str, Any] = {**_DEFAULTS, "client.id": f"missive-{service}", **self.settings}
        if settings.get("group.protocol") == "consumer":  # where the broker assigns, and takes no strategy
            settings.pop("partition.assignment.strategy")
        if self.username is not None:
            settings["sasl.username"] = self.username
            settings["sasl.password"] = self._password or ""
            settings["sasl.mechanism"] = self._sasl
        if self.username is not None or self.tls:
            protocol = f"{'SASL_' if self.username is not None else ''}{'SSL' if self.tls else 'PLAINTEXT'}"
            settings.setdefault("security.protocol", protocol)
        if self.instance_id is not None:
            settings["group.instance.id"] = self.instance_id
        return settings | {
            "bootstrap.servers": self.servers,
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # A position that is gone is said aloud, and never silently another.
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
        }

    async def connect(self, host: Host) -> KafkaSession:
        """Reach the brokers, and see that the topics are there; the group is joined with the first fetch.

        Raises `Fatal` for credentials, rights and settings, `Transient` for all else.
        """
        from missive.adapters.kafka.session import KafkaSession  # noqa: PLC0415 - the client is an extra

        session = KafkaSession(self, host)
        try:
            await session.open(_CONNECT_SECONDS)
        except BaseException:
            await session.close()
            raise
        return session

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Look at the topics: copies, partitions, and whether what the group has not read yet is still there."""
        from missive.adapters.kafka.diagnostics import examine  # noqa: PLC0415 - the client is an extra

        return await asyncio.wrap_future(session.submit(lambda: examine(session.client, self.topics, self.pattern)))


def _start(start: str) -> str | float:
    """Return where to begin: `earliest`, `latest` or a time in seconds since 1970."""
    if start in ("earliest", "latest"):
        return start
    if re.fullmatch(r"\d+(\.\d+)?", start):
        return float(start)
    try:
        at = datetime.fromisoformat(start)
    except ValueError:
        raise UsageError("start= is earliest, latest, or a time such as 2026-01-31T12:00:00Z or 1769860800") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
