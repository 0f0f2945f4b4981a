"""What goes wrong with Redis, by its codes; never by its texts, which may hold more than we know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from redis import exceptions

from missive.errors import Fatal, Transient

if TYPE_CHECKING:
    from missive.adapters.redis_streams.adapter import RedisStreamsAdapter


@contextlib.contextmanager
def translated(adapter: RedisStreamsAdapter) -> Iterator[None]:
    """Raise `Fatal` or `Transient` for what the client raises."""
    try:
        yield
        return
    except exceptions.RedisError as error:
        trouble = _trouble(error, adapter)
    except (OSError, TimeoutError) as error:
        trouble = Transient(f"{adapter.url} cannot be reached ({type(error).__name__})")
    except KeyError:  # the client was closed meanwhile, and knows its connection no more
        trouble = Transient(f"{adapter.url} lost its connection")
    raise trouble


def _trouble(error: Exception, adapter: RedisStreamsAdapter) -> Exception:
    url, word = adapter.url, code(error)
    if isinstance(error, exceptions.AuthenticationError) or word in ("WRONGPASS", "NOAUTH"):
        who = f"of user {adapter.username}" if adapter.username else "of the default user"
        return Fatal(f"{url} refused the credentials {who}")
    if isinstance(error, exceptions.NoPermissionError) or word == "NOPERM":
        return Fatal(f"{url}: this user may not consume it (that is +@stream +@scripting +@connection, and the key)")
    if word == "WRONGTYPE":
        return Fatal(f"{url}: the key {adapter.stream} is there, and is no stream")
    if word == "NOGROUP":
        return Transient(f"{url}: there is no stream {adapter.stream}, or no group {adapter.group}")
    if isinstance(error, exceptions.ResponseError):
        if "no such key" in str(error).lower():
            return Transient(f"{url}: there is no stream {adapter.stream} (create=true makes it)")
        return Transient(f"{url}: the server refused ({word})")
    return Transient(f"{url} cannot be reached ({type(error).__name__})")


def code(error: Exception) -> str:
    """Return the first word of an answer, which is its code."""
    word = str(error).partition(" ")[0]
    return word if word.isupper() and word.isalpha() else type(error).__name__
