"""Deadlines of requests to a database server, which the client libraries lack.

A server that is suspended, or behind a network that drops everything, neither answers nor closes the connection. The
libraries then wait for ever. At the deadline of a request, a thread shuts the socket down, and the library raises.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.engine import Engine

_REQUESTS = ("do_execute", "do_executemany", "do_execute_no_params", "do_commit", "do_rollback", "do_ping")
"""The methods of a dialect that send a request. The first argument is a cursor or a connection."""
_SILENT = "missive_silent"
"""The attribute of an exception whose request had no answer at its deadline: the deadline, in seconds."""
_FEWEST_LOOKS, _PER_DEADLINE = 0.01, 20


class _Request:
    __slots__ = ("connection", "late", "until")

    def __init__(self, connection: Any, until: float) -> None:
        self.connection = connection
        self.until = until
        self.late = False


class Deadlines:
    """Ends the requests of one engine that take longer than `patience()` seconds."""

    def __init__(self, patience: Callable[[], float]) -> None:
        self._patience = patience
        self._requests: dict[int, _Request] = {}
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._watching = False

    def guard(self, engine: Engine) -> None:
        """Watch every request that the dialect of an engine sends."""
        for name in _REQUESTS:
            setattr(engine.dialect, name, self._guarded(getattr(engine.dialect, name)))

    def _guarded(self, send: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(send)
        def request(first: Any, *arguments: Any, **options: Any) -> Any:
            with self.request(first):
                return send(first, *arguments, **options)

        return request

    @contextmanager
    def request(self, owner: Any) -> Iterator[None]:
        """Watch one request of a cursor or connection."""
        connection = getattr(owner, "driver_connection", None) or getattr(owner, "connection", None) or owner
        patience = self._patience()
        one = _Request(connection, time.monotonic() + patience)
        with self._lock:
            self._requests[id(one)] = one
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="missive-deadlines", daemon=True).start()
        try:
            yield
        except Exception as error:
            if one.late:
                setattr(error, _SILENT, patience)
            raise
        finally:
            with self._lock:
                self._requests.pop(id(one), None)

    def _watch(self) -> None:
        """Shut down the sockets of late requests, until no request runs for a while."""
        idle_since = None
        while True:
            time.sleep(max(_FEWEST_LOOKS, self._patience() / _PER_DEADLINE))
            now = time.monotonic()
            with self._lock:
                late = [one for one in self._requests.values() if one.until <= now and not one.late]
                for one in late:
                    one.late = True
                    _shut_down(one.connection)
                if self._requests:
                    idle_since = None
                elif idle_since is None:
                    idle_since = now
                elif now - idle_since > self._patience():
                    self._watching = False
                    return


def silence_of(error: BaseException | None) -> float | None:
    """Return the deadline that the request of an exception missed, in seconds, or None."""
    return getattr(error, _SILENT, None)


def _shut_down(connection: Any) -> None:
    """Shut the socket of a connection down, so that the thread that waits for the socket continues."""
    with suppress(Exception):  # the connection is closed already
        # pymysql has no public access to its socket.
        fileno = connection.fileno() if hasattr(connection, "fileno") else connection._sock.fileno()  # noqa: SLF001
        with socket.socket(fileno=os.dup(fileno)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
