"""A private Redis server for tests, with an append-only file that is synced after each write."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.certificates import Authority
from tests.support.ports import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0


class RedisError(Exception):
    """Raised when a server fails to start. The message is the tail of its log."""


class RedisServer:
    """A private server under ``directory``, with the same port and data at every start."""

    def __init__(self, directory: Path, *options: str, tls: bool = False) -> None:
        self.directory = directory.resolve()
        self.port = free_port()
        self.tls = tls
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._lock = threading.RLock()

    @staticmethod
    def available() -> bool:
        """Return whether this machine has redis-server."""
        return shutil.which("redis-server") is not None

    def url(self, stream: str, group: str, user: str = "", **parameters: object) -> str:
        """Return the URL of an adapter for a stream and group."""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{user}{HOST}:{self.port}/0?stream={stream}&group={group}{more}"

    def store(self, user: str = "", **parameters: object) -> str:
        """Return the URL of a dead letter store with a new prefix."""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{user}{HOST}:{self.port}/0?prefix={secrets.token_hex(6)}{more}"

    @property
    def pid(self) -> int | None:
        """The process id, or None while the server is down."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server with its earlier data, and return when it answers.

        After a kill, rewrite its append-only file, as docs/dead-letters.md advises operators to do.
        """
        with self._lock:
            self.directory.mkdir(parents=True, exist_ok=True)
            ports = ["--port", str(self.port)]
            if self.tls:
                ports = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
                ports += ["--tls-cert-file", str(self._files[0]), "--tls-key-file", str(self._files[1])]
            command = ["redis-server", *ports, "--bind", HOST, "--dir", str(self.directory), "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "always", *self._options]
            with (self.directory / "output.log").open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            try:
                self._wait_until_ready()
                if self._killed:
                    self._rewrite()
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        """Shut the server down cleanly. Do nothing while it is down."""
        with self._lock:
            if self._process is not None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
                self.kill()

    def kill(self) -> None:
        """Kill the server with SIGKILL. Do nothing while it is down."""
        with self._lock:
            if self._process is not None:
                self._killed = self._process.poll() is None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS)
                self._process = None

    def suspend(self) -> None:
        """Suspend the server with SIGSTOP: its connections stay open, but it does not answer."""
        os.killpg(self._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]

    def resume(self) -> None:
        """Resume the server with SIGCONT."""
        os.killpg(self._process.pid, signal.SIGCONT)  # type: ignore[union-attr]

    @property
    def certificate(self) -> Path:
        """The certificate of the authority that signed the server's certificate."""
        return self._authority.certificate

    @contextlib.contextmanager
    def client(self, **options: Any) -> Any:
        """Connect with redis-py and yield the client."""
        import redis

        if self.tls:
            options = {"ssl": True, "ssl_ca_certs": str(self.certificate), **options}
        client = redis.Redis(host=HOST, port=self.port, protocol=2, socket_timeout=30, **options)
        try:
            yield client
        finally:
            client.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @functools.cached_property
    def _authority(self) -> Authority:
        return Authority(self.directory / "certificates")

    @functools.cached_property
    def _files(self) -> tuple[Path, Path]:
        return self._authority.sign("server", f"IP:{HOST}", "DNS:localhost")

    def _rewrite(self) -> None:
        with self.client() as client:
            client.bgrewriteaof()
            deadline = time.monotonic() + START_SECONDS
            while (state := client.info("persistence"))["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
                if time.monotonic() > deadline:
                    raise RedisError("the rewrite of the append-only file did not finish")
                time.sleep(0.005)
            if state["aof_last_bgrewrite_status"] != "ok":
                raise RedisError("the rewrite of the append-only file failed")

    def _wait_until_ready(self) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        deadline, at_once = time.monotonic() + START_SECONDS, Retry(NoBackoff(), 0)
        while True:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RedisError((self.directory / "output.log").read_text(errors="replace")[-2000:])
            try:
                with self.client(retry=at_once) as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:  # the server is starting, or loads its data
                time.sleep(0.02)
