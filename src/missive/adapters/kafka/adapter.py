"""The Kafka adapter: its parameters, its URL and its connections."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import Adapter, Finding, open_session
from missive.adapters.kafka.settings import Settings, parse_start, parse_topics
from missive.adapters.parameters import constructor_arguments
from missive.app.processor import Processor
from missive.errors import MissingExtra, UsageError
from missive.transport import Host, Session
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.kafka.session import KafkaSession

_CONNECT_SECONDS = 10.0
_HANDOVER_SECONDS = 20.0


class KafkaAdapter(Adapter):
    """Consumes topics as a member of a group: `kafka://host:9092,host2:9092?topic=orders&group=billing`.

    - `topic` names one topic, or several topics with commas or as a list.
    - `pattern` is a regular expression that begins with `^`. The adapter consumes all topics that match.
    - `start` is the start of a partition without a committed offset: `earliest`, `latest`, or a time, as seconds since
      1970 or in ISO 8601.
    - `instance_id` makes a static member.
    - `handover` is the time that running handlers have when their partition moves to another member, in seconds.
    - `username` and `password` log in with the mechanism `sasl`. `tls=True` encrypts the connection.
    - `settings` holds further settings of librdkafka, by their names there. A URL gives them as parameters, such as
      `&session.timeout.ms=10000`.

    The client is the `confluent_kafka.Consumer`, which belongs to one thread: use it through `context.adapter.call`.
    `context.native` is the `confluent_kafka.Message`. A tombstone has an empty body, and its native value is None.

    Raise `UsageError` for parameters that cannot work, and `MissingExtra` when confluent-kafka is not installed.
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
        handover: float = _HANDOVER_SECONDS,
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
        self.settings = Settings(
            topics=parse_topics(topic),
            pattern=pattern,
            group=group,
            servers=servers,
            start=parse_start(start),
            instance_id=instance_id,
            handover=handover,
            username=username,
            password=password,
            sasl=sasl,
            tls=tls,
            librdkafka=dict(settings or {}),
        )

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter for a URL. Parameters with a dot are settings of librdkafka."""
        if not url.authority:
            raise UsageError("a Kafka URL names its brokers: kafka://host:9092,host2:9092?topic=orders&group=billing")
        if url.path.strip("/"):
            raise UsageError("a Kafka URL has no path. Name the topic in a parameter: ?topic=orders")
        plain = {name: value for name, value in url.parameters.items() if "." not in name}
        topic = plain.pop("topic", None)
        other_parts = ("topic", "servers", "username", "password", "settings")
        given = constructor_arguments(cls, dataclasses.replace(url, parameters=plain), exclude=other_parts)
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
        """The topics, or the pattern for their names."""
        return self.settings.destination

    @property
    def url(self) -> str:
        """The brokers, topics and group, without credentials."""
        return self.settings.url

    async def connect(self, host: Host) -> KafkaSession:
        """Connect to the brokers and check that the topics exist. The first fetch joins the group.

        Raise `Fatal` for refused credentials, missing rights and wrong settings, and `Transient` for other failures.
        """
        from missive.adapters.kafka.session import KafkaSession  # noqa: PLC0415 - the client is an extra

        session = KafkaSession(self.settings, host)
        return await open_session(session, session.open(_CONNECT_SECONDS))

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Check the replicas and partitions of the topics, and that the group's unread messages still exist."""
        from missive.adapters.kafka.diagnostics import diagnose  # noqa: PLC0415 - the client is an extra

        return await asyncio.wrap_future(session.submit(lambda: diagnose(session.client, self.settings)))
