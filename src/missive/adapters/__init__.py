"""Adapters: the sources of messages. Input: a URL or constructor arguments. Output: sessions that deliver messages.

`registry` finds the adapter for a URL, and `parameters` converts the URL's parameters. `base` has the class `Adapter`,
and `running` starts the engine. `threaded` supports blocking clients. `stdin`, `file`, `sqlite`, `rabbitmq`, `kafka`
and `redis_streams` are the transports; `replay` delivers dead letters again. An adapter is imported at its first use,
so `import missive` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from missive.adapters.base import Adapter
    from missive.adapters.file import FileAdapter
    from missive.adapters.kafka import KafkaAdapter
    from missive.adapters.rabbitmq import RabbitMQAdapter
    from missive.adapters.redis_streams import RedisStreamsAdapter
    from missive.adapters.registry import from_url
    from missive.adapters.sqlite import SQLiteAdapter
    from missive.adapters.stdin import StdinAdapter

__all__ = [
    "Adapter",
    "FileAdapter",
    "KafkaAdapter",
    "RabbitMQAdapter",
    "RedisStreamsAdapter",
    "SQLiteAdapter",
    "StdinAdapter",
    "from_url",
]

_MODULES = {
    "Adapter": "base",
    "FileAdapter": "file",
    "KafkaAdapter": "kafka",
    "RabbitMQAdapter": "rabbitmq",
    "RedisStreamsAdapter": "redis_streams",
    "SQLiteAdapter": "sqlite",
    "StdinAdapter": "stdin",
    "from_url": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
