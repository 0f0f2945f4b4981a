"""The Redis Streams adapter: consume the entries of a consumer group under leases, through redis-py.

The adapter takes keywords or a URL, and its sessions give deliveries to the engine and acks to the server. `adapter`
checks the options, `settings` holds them, and `client` connects. `session` reads and settles, `entries` turns an entry
into a delivery, `scripts` runs on the server, and `errors` translates redis-py's errors. `diagnostics` serves
`missive doctor`.
"""

from missive.adapters.redis_streams.adapter import RedisStreamsAdapter

__all__ = ["RedisStreamsAdapter"]
