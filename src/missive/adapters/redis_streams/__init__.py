"""Redis Streams, through redis-py: a group's entries, under leases."""

from missive.adapters.redis_streams.adapter import RedisStreamsAdapter

__all__ = ["RedisStreamsAdapter"]
