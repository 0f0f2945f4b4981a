"""The dead letter store in Redis, combined from its parts."""

from __future__ import annotations

from missive.dlq.contract import Store
from missive.dlq.redis.checkpoints import Checkpoints
from missive.dlq.redis.once import RedisOnce
from missive.dlq.redis.ownership import Ownership
from missive.dlq.redis.records import Records
from missive.dlq.redis.replays import Replays


class RedisStore(Records, Replays, Ownership, Checkpoints, RedisOnce, Store):
    """Dead letters in Redis: `redis://:${PASSWORD}@host:6379/0?prefix=missive`, or `rediss://` for TLS.

    All keys begin with `{prefix}:`, so that several stores and other applications can share a server. Records survive
    the death of the server only if it syncs an append-only file at each write (`appendonly yes`, `appendfsync always`).
    Opening a store on a server without an append-only file logs a warning. The parameters of the URL are `prefix`,
    `ca_file` for TLS, and `keep_resolved` and `keep_discarded`, the retention of closed records (`30d`, `forever`).

    `client` is your own `redis.Redis` instance, which the store uses and leaves open. If it has no `socket_timeout`,
    the store makes connections of its own with the same settings and a timeout of 10 seconds.

    Raises `UsageError` for a faulty URL, `StoreError` when the server cannot be reached or refuses the user, and
    `StoreRefused` when the store has a newer schema.
    """
