"""The registry of adapters: a URL becomes an adapter. Entry points of other packages add schemes."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.errors import UsageError
from missive.privacy import redact_url
from missive.urls import expand_environment, parse_url

_SCHEMES = {
    "stdin": "missive.adapters.stdin:StdinAdapter",
    "file": "missive.adapters.file:FileAdapter",
    "sqlite": "missive.adapters.sqlite:SQLiteAdapter",
    "rabbitmq": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "amqp": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "amqps": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "kafka": "missive.adapters.kafka:KafkaAdapter",
    "redis": "missive.adapters.redis_streams:RedisStreamsAdapter",
    "rediss": "missive.adapters.redis_streams:RedisStreamsAdapter",
}
_EXAMPLES = "stdin:, file:events.jsonl, sqlite:///queue.db?queue=orders, rabbitmq://host/vhost?queue=orders"


def from_url(url: str, processor: Processor[Any]) -> Adapter:
    """Return the adapter that a URL describes. It opens no connection.

    The parameters of the URL are the keyword arguments of the adapter. `${NAME}` in the URL stands for an environment
    variable, whose value is literal. A URL that starts with `${` is expanded before it is parsed. Raise `UsageError`
    for an unknown scheme, an unknown parameter or an invalid value.
    """
    written, url = url, expand_environment(url) if url.startswith("${") else url
    scheme = url.partition(":")[0].lower()
    if ":" not in url or (target := _find(scheme)) is None:
        raise UsageError(f"no adapter is known by the URL {redact_url(written)}: {_nearest(scheme)}")
    parts = parse_url(url)
    adapter: type[Adapter] = _load(target)
    made = adapter.from_parsed_url(parts, processor)
    if "${" in (shown := redact_url(written)):
        made.show_as(shown)
    return made


def _find(scheme: str) -> str | None:
    if scheme in _SCHEMES:
        return _SCHEMES[scheme]
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, and only adapters of other packages need it

    return next((point.value for point in entry_points(group="missive.adapters") if point.name == scheme), None)


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _nearest(scheme: str) -> str:
    near = difflib.get_close_matches(scheme, _SCHEMES, 1)
    return f"did you mean {near[0]}:?" if near else f"examples of known URLs: {_EXAMPLES}"
