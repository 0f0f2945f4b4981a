"""The dead letter store in Redis: a hash for each record, with sorted sets as indexes.

`database` opens the server and runs the Lua `scripts`. `records`, `queries`, `changes`, `leases` and `replays`
implement the store's contract for records, `checkpoints` and `once` the rest of it. `fields` and `keys` define the
stored form. `matching` applies the conditions that no index answers. `store` combines the parts.
"""

from missive.dlq.redis.store import RedisStore

__all__ = ["RedisStore"]
