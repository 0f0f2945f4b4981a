"""The Kafka adapter: its parameters, its URL and its connections."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding, open_session
from missive.adapters.kafka.security import check_url_settings
from missive.adapters.kafka.settings import OWNED, Settings, parse_start, parse_topics
from missive.adapters.parameters import constructor_arguments
from missive.app.checks import check_key
from missive.app.processor import Processor
from missive.errors import MissingExtra, RegistrationError, UsageError
from missive.matchers import by_field
from missive.transport import Host, Session
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.kafka.beginnings import Beginnings
    from missive.adapters.kafka.session import KafkaSession

_CONNECT_SECONDS = 10.0
_HANDOVER_SECONDS = 20.0


class KafkaAdapter(Adapter):
    """Consumes topics as a member of a group: `kafka://host:9092,host2:9092?topic=orders&group=billing`.

    - `topic` names one topic, or several topics with commas or as a list.
    - `pattern` is a regular expression that begins with `^`. The adapter consumes all topics that match.
    - `start` is the start of a new group: `earliest`, `latest`, or a time, as seconds since 1970 or in ISO 8601. A
      partition that appears later starts at its beginning.
    - `instance_id` makes a static member.
    - `handover` is the time that running handlers have when their partition moves to another member, in seconds.
    - `partitioned_by` returns the value by which producers choose the partition of a message, where that is not its
      key. A URL names a field: `&partitioned_by=customer`.
    - `username` and `password` log in with the mechanism `sasl`. `tls` encrypts the connection. By default, connections
      with a user are encrypted, except on this machine.
    - `settings` holds further settings of librdkafka, by their names there. A URL may set most of them, as parameters
      such as `&session.timeout.ms=10000`.

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
        partitioned_by: Callable[[Any], Hashable] | None = None,
        username: str | None = None,
        password: str | None = None,
        sasl: str = "PLAIN",
        tls: bool | None = None,
        settings: Mapping[str, Any] | None = None,
        drain: float = 25,
        rate_limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        if find_spec("confluent_kafka") is None:
            raise MissingExtra("Kafka", "kafka")
        self._begun: Beginnings | None = None
        if partitioned_by is not None:
            try:
                check_key(partitioned_by, "the Kafka adapter", "partitioned_by=", processor.message_cls)
            except RegistrationError as error:
                raise UsageError(str(error)) from None
            self.partitioned_by = partitioned_by
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
        field = plain.pop("partitioned_by", None)
        other_parts = ("topic", "partitioned_by", "servers", "username", "password", "settings")
        settings = {name: value for name, value in url.parameters.items() if "." in name}
        if owned := [name for name in settings if name in OWNED]:
            raise UsageError(f"Missive sets {owned[0]} itself. Use servers=, group=, instance_id= or start= instead")
        check_url_settings(settings)
        given = constructor_arguments(cls, dataclasses.replace(url, parameters=plain), exclude=other_parts)
        return cls(
            processor,
            topic,
            servers=url.authority,
            username=url.username,
            password=url.password,
            partitioned_by=None if field is None else by_field(field),
            settings=settings,
            **given,
        )

    @property
    def destination(self) -> str:
        """The topics, or the pattern for their names."""
        return self.settings.destination

    @property
    def identity(self) -> str:
        """The brokers, topics and group, without credentials."""
        return self.settings.identity

    def show_as(self, url: str) -> None:
        """Show another URL, also in the errors of sessions."""
        super().show_as(url)
        self.settings = replace(self.settings, shown=url)

    def order_hazard(self, key: Callable[[Any], Hashable], session: Session | None = None) -> str | None:
        """Return why equal values of `key` may run in several processes at once, or None."""
        hazard = super().order_hazard(key, session)
        if hazard is None and (self.settings.pattern is not None or len(self.settings.topics) > 1):
            return f"{self.url} reads several topics, and a key may be in a partition of each"
        return hazard

    async def connect(self, host: Host) -> KafkaSession:
        """Connect to the brokers and check that the topics exist. The first fetch joins the group.

        Raise `Fatal` for refused credentials, missing rights and wrong settings, and `Transient` for other failures.
        """
        from missive.adapters.kafka.session import KafkaSession  # noqa: PLC0415 - the client is an extra

        session = KafkaSession(self.settings, host, self._beginnings())
        return await open_session(session, session.open(_CONNECT_SECONDS))

    def _beginnings(self) -> Beginnings:
        from missive.adapters.kafka.beginnings import Beginnings  # noqa: PLC0415 - the client is an extra

        if self._begun is None:
            self._begun = Beginnings()
        return self._begun

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Check the topics, other members of the group, and that the group's unread messages still exist."""
        from missive.adapters.kafka.diagnostics import diagnose  # noqa: PLC0415 - the client is an extra

        keys = [key for route in self.processor.freeze() if (key := route.terms.ordered_by) is not None]
        hazard = next((hazard for key in keys if (hazard := self.order_hazard(key, session))), None)
        service = self.processor.name
        return await asyncio.wrap_future(
            session.submit(lambda: diagnose(session.client, self.settings, service, hazard))
        )
