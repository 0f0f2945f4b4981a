"""The dead letter store in Redis."""

from missive.dlq.redis.store import RedisStore

__all__ = ["RedisStore"]
