"""Make redis-py clients of one connection each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from missive.adapters.redis_streams.settings import Settings

REPLY_SECONDS = 10.0
"""Limit for a reply to a command that does not block, in seconds. A slower connection counts as half open."""


def make_client(settings: Settings, timeout: float, name: str, closed: Callable[[], bool]) -> Redis:
    """Return a client of one connection that fails when a reply takes longer than `timeout` seconds.

    The client does not connect again once `closed` returns true. A command that still waited for the connection when
    the session closed would otherwise open a connection that nothing closes.
    """

    async def connected(connection: Any) -> None:
        if closed():
            raise RedisConnectionError("the session is closed")
        await connection.on_connect()

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
        redis_connect_func=connected,
        ssl=settings.tls,
        ssl_ca_certs=settings.ca_file,
        ssl_check_hostname=True,
    )
    # Return the raw reply: `entries` reads it at a lower cost than redis-py.
    client.set_response_callback("XREADGROUP", lambda response, **_: response)
    return client
