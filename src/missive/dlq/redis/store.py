"""The dead letter store in Redis: a hash for each record, found by sorted sets that change with it in one step."""

from __future__ import annotations

from missive.dlq.contract import Store
from missive.dlq.redis.checkpoints import Checkpoints
from missive.dlq.redis.once import RedisOnce
from missive.dlq.redis.replaying import Replaying


class RedisStore(Replaying, Checkpoints, RedisOnce, Store):
    """Dead letters in Redis: `redis://:${PASSWORD}@host:6379/0?prefix=missive`, or `rediss://` for TLS.

    All keys begin with `{prefix}:`, so that several stores, and other things, may share a server. What `put` returned
    from survives the server's death where it has an append-only file that is synced at each write (`appendonly yes`,
    `appendfsync always`); opening one without such a file logs a warning. Parameters: `prefix`, `ca_file` for TLS,
    and `keep_resolved` and `keep_discarded`, how long what is closed is kept (`30d`, `forever`).

    `client` is a `redis.Redis` of yours in place of a connection of the store's own; it stays open.

    Raises `UsageError` for a URL that says something else, `StoreError` when the server cannot be reached or refuses
    the user, `StoreRefused` when the store in it is of a newer schema.
    """
