"""Make redis-py clients of one connection each."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from missive.adapters.redis_streams.settings import Settings

REPLY_SECONDS = 10.0
"""Limit for a reply to a command that does not block, in seconds. A slower connection counts as half open."""


def make_client(settings: Settings, timeout: float, name: str) -> Redis:
    """Return a client of one connection that fails when a reply takes longer than `timeout` seconds."""
    client = Redis(
        host=settings.host,
        port=settings.port,
        db=settings.db,
        username=settings.username,
        password=settings.password,
        protocol=2,
        single_connection_client=True,
        socket_timeout=timeout,
        socket_connect_timeout=REPLY_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # the engine reconnects, and no command is sent twice
        client_name=name,
        ssl=settings.tls,
        ssl_ca_certs=settings.ca_file,
        ssl_check_hostname=True,
    )
    # Return the raw reply: `entries` reads it at a lower cost than redis-py.
    client.set_response_callback("XREADGROUP", lambda response, **_: response)
    return client
