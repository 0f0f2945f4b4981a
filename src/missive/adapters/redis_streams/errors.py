"""Translate redis-py's errors into Missive's, by code and never by text, which may hold message content."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from redis import exceptions

from missive.adapters.redis_streams.settings import Settings
from missive.errors import Fatal, SourceGone, Transient


@contextlib.contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Raise `Fatal` or `Transient` in place of an error of the client."""
    try:
        yield
        return
    except exceptions.RedisError as error:
        translation = _translate(error, settings)
    except (OSError, TimeoutError) as error:
        translation = Transient(f"{settings.url} cannot be reached ({type(error).__name__})")
    except KeyError:  # redis-py raises it when another task closed the client during a command
        translation = Transient(f"{settings.url} lost its connection")
    except (AttributeError, RuntimeError) as error:
        if not _is_from_event_loop(error):
            raise
        translation = Transient(f"{settings.url} lost its connection")
    raise translation


def _is_from_event_loop(error: Exception) -> bool:
    """Return whether the event loop raised an error, as it does for a write to a transport that it has closed.

    asyncio of Python 3.12 and 3.13 raises an `AttributeError` from `writelines`, and uvloop raises a `RuntimeError`.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in {"asyncio", "uvloop"}


def _translate(error: Exception, settings: Settings) -> Exception:
    url, code = settings.url, error_code(error)
    if isinstance(error, exceptions.AuthenticationError) or code in ("WRONGPASS", "NOAUTH"):
        user = f"user {settings.username}" if settings.username else "the default user"
        return Fatal(f"{url} refused the credentials of {user}")
    if isinstance(error, exceptions.NoPermissionError) or code == "NOPERM":
        return Fatal(
            f"{url}: the user has no permission to consume the stream;"
            " grant +@stream +@scripting +@connection and access to the key"
        )
    if code == "WRONGTYPE":
        return Fatal(f"{url}: the key {settings.stream} exists, but is not a stream")
    if code in ("NOGROUP", "UNBLOCKED"):  # UNBLOCKED: the stream was deleted during a blocking read
        return SourceGone(f"{url}: there is no stream {settings.stream}, or no group {settings.group}")
    if isinstance(error, exceptions.ResponseError):
        if "no such key" in str(error).lower():
            return SourceGone(f"{url}: there is no stream {settings.stream} (create=true creates it)")
        return Transient(f"{url}: the server refused a command ({code})")
    return Transient(f"{url} cannot be reached ({type(error).__name__})")


def error_code(error: Exception) -> str:
    """Return the code of an error reply, which is its first word, or else the name of the exception."""
    word = str(error).partition(" ")[0]
    return word if word.isupper() and word.isalpha() else type(error).__name__
