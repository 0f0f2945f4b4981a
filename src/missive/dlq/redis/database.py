"""The Redis server of a dead letter store: connections, schema, scripts, and translated errors."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis import ConnectionPool, Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from missive.dlq.redis.scripts import SCRIPTS
from missive.dlq.retention import Retention
from missive.dlq.times import AheadCheck, wall
from missive.dlq.translation import Translation
from missive.errors import StoreError, StoreRefused, UsageError
from missive.privacy import redact_url
from missive.urls import ParsedURL, cleartext_risk, parse_url

logger = logging.getLogger("missive")

SCHEMA_VERSION = 1
AT_ONCE = 500
"""Largest number of records in one step on the server."""
_PORT = 6379
_CONNECT, _REPLY = 5.0, 10.0
"""Timeouts for a connection and for a reply, in seconds."""
_TRIES = 50
_PAUSE = 0.005
_EXAMPLE = "redis://:${PASSWORD}@host:6379/0?prefix=missive"

T = TypeVar("T")


translated = Translation((exceptions.RedisError, OSError), lambda error: (StoreError, _reason(error)))


class Database:
    """The base of the parts of the store: one server."""

    def __init__(
        self,
        url: str,
        *,
        client: Redis | None = None,
        create: bool = True,
        clock: Callable[[], float] = wall,
    ) -> None:
        self.url = redact_url(url)
        self._clock = clock
        self._ahead = AheadCheck()
        parts = parse_url(url)
        self.retention, others = Retention.parse(dict(parts.parameters))
        prefix = others.pop("prefix", "missive")
        ca_file = others.pop("ca_file", None)
        if others:
            raise UsageError(f"{self.url}: {Retention.unknown(min(others))}, prefix and ca_file")
        if not prefix or not prefix.isprintable() or set(prefix) & set("{} "):
            raise UsageError(f"{self.url}: prefix= must be a printable word without spaces and braces")
        # In braces, so that a cluster places all keys of one store on one server.
        self._prefix = f"{{{prefix}}}"
        self._owned = client is None
        self._client: Any = _connected(parts, self.url, ca_file) if client is None else _patient(client)
        self._owned |= self._client is not client
        if self._client.connection_pool.connection_kwargs.get("decode_responses"):
            raise UsageError(
                "the dead letter store needs a client that returns bytes: create it without decode_responses"
            )
        self._scripts = {name: self._client.register_script(body) for name, body in SCRIPTS.items()}
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise

    @translated("opened")
    def _open(self, *, create: bool) -> None:
        key = self._key("schema")
        if create:
            self._client.set(key, SCHEMA_VERSION, nx=True)
        version = self._client.get(key)
        if version is None:
            raise UsageError(f"there is no dead letter store {self.url}")
        if not version.isdigit() or int(version) > SCHEMA_VERSION:
            raise StoreRefused(
                f"the dead letter store {self.url} has a newer schema than this Missive knows ({SCHEMA_VERSION}):"
                " upgrade Missive"
            )
        for warning in self.diagnose():
            logger.warning("the dead letter store %s: %s", self.url, warning)

    @translated("read")
    def diagnose(self) -> list[str]:
        """Describe each setting of the server that may lose dead letters. A server may hide its settings."""
        risk = cleartext_risk(self.url)
        found = [] if risk is None else [risk]
        try:
            answers = {
                name: value
                for setting in ("appendonly", "maxmemory-policy")
                for name, value in self._client.config_get(setting).items()
            }
        except exceptions.ResponseError:  # hosted servers refuse the command
            return found
        settings = {_text(name): _text(value) for name, value in answers.items()}
        if settings.get("appendonly") == "no":
            found.append(
                "the server has no append-only file and loses dead letters when it is killed: set appendonly to yes"
            )
        if settings.get("maxmemory-policy", "noeviction") != "noeviction":
            found.append(
                f"maxmemory-policy {settings['maxmemory-policy']} may evict dead letters: set it to noeviction"
            )
        return found

    def close(self) -> None:
        """Close the connections, unless the client was passed in."""
        if self._owned:
            self._client.close()

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _run(self, script: str, *arguments: str | bytes | float) -> Any:
        """Run a script as one atomic step on the server."""
        return self._scripts[script](keys=[self._prefix], args=arguments)

    def _pipeline(self) -> Any:
        return self._client.pipeline(transaction=False)

    @staticmethod
    def _tried(work: Callable[[], T | None]) -> T:
        """Retry on an optimistic-lock conflict, which `work` reports by None."""
        for tried in range(_TRIES):
            if (done := work()) is not None:
                return done
            time.sleep(random.random() * _PAUSE * tried)  # noqa: S311 - so that the same workers do not collide again
        raise exceptions.WatchError


def _connected(parts: ParsedURL, url: str, ca_file: str | None) -> Redis:
    """Return a client for a server. It connects at the first command."""
    if not parts.authority:
        raise UsageError(f"{url} names no host: write {_EXAMPLE}")
    db = parts.path.strip("/") or "0"
    if not (db.isascii() and db.isdecimal()):
        raise UsageError(f"{url}: the path must be the number of a database, as in {_EXAMPLE}")
    return Redis(
        host=parts.host or "localhost",
        port=parts.port or _PORT,
        db=int(db),
        username=parts.username or None,
        password=parts.password,
        protocol=2,
        socket_connect_timeout=_CONNECT,
        socket_timeout=_REPLY,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # a command that may have run is never repeated
        client_name="missive-dlq",
        ssl=parts.scheme == "rediss",
        ssl_ca_certs=ca_file,
        ssl_check_hostname=True,
    )


def _patient(client: Redis) -> Redis:
    """Return a client whose requests have a deadline: the given one, or a copy with connections of its own."""
    pool = client.connection_pool
    settings = pool.connection_kwargs
    if settings.get("socket_timeout") is not None or type(pool) is not ConnectionPool:
        return client
    limits = {"socket_timeout": _REPLY, "socket_connect_timeout": settings.get("socket_connect_timeout") or _CONNECT}
    return Redis.from_pool(ConnectionPool(pool.connection_class, **{**settings, **limits}))


def portions(things: Iterable[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """Yield portions that fit into one step."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def _reason(error: Exception) -> str:
    """Describe an exception of the client without its message, because the server quotes values there."""
    word = str(error).partition(" ")[0]
    word = word if word.isupper() and word.isalpha() else ""
    if isinstance(error, exceptions.AuthenticationError) or word in ("WRONGPASS", "NOAUTH"):
        return "it refuses the user or the password"
    if isinstance(error, exceptions.NoPermissionError) or word == "NOPERM":
        return "the user lacks a permission: it needs +@all -@dangerous and the keys {PREFIX}:*"
    if isinstance(error, exceptions.BusyLoadingError) or word == "LOADING":
        return "the server is loading its data"
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return "it does not answer"
    if isinstance(error, exceptions.WatchError):
        return "other workers keep changing the same records"
    if isinstance(error, exceptions.ResponseError):
        return f"the server answered {word or 'with an error'}"
    return f"it cannot be reached ({type(error).__name__})"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
