"""Private PostgreSQL and MariaDB servers for tests, from Debian's packages, on free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from tests.support.ports import HOST, free_port

SECONDS: Final = 60.0
LOG_TAIL_LINES: Final = 20
NOBODY: Final = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
"""Command prefix that drops root, because both servers refuse to run as root."""


class DatabaseError(Exception):
    """A server did not start or stop. The message ends with the tail of its log."""


class DatabaseServer(ABC):
    """A private server with its default durability. It has the same data and URL after each start."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix=f"missive-{self.name}-"))
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self._directory, "nobody", "nogroup")

    @classmethod
    @abstractmethod
    def available(cls) -> bool:
        """Return whether the server and its client library are installed."""

    @abstractmethod
    def url(self, database: str) -> str:
        """Return the URL of a database."""

    @abstractmethod
    def connect(self, database: str, **options: Any) -> Any:
        """Connect with the DB-API client."""

    @abstractmethod
    def source(self, database: str) -> str:
        """Return the body of a function that returns a connection."""

    @property
    @abstractmethod
    def _home(self) -> str:
        """The database that exists from the start."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create the files of a new server."""

    @property
    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    def database(self) -> str:
        """Create a database, and return its name."""
        self._databases += 1
        name = f"t{self._databases}"
        with contextlib.closing(self.connect(self._home, autocommit=True)) as connection:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return name

    def start(self) -> None:
        """Start the server, and return when it answers. Raises `DatabaseError`."""
        if not (self._directory / "data").exists():
            self._prepare()
        self._spawn()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.connect(self._home).close()
            except Exception:  # noqa: BLE001 - each client has its own exceptions
                ended, late = self._process.poll() is not None, time.monotonic() > deadline
                if ended and not late and "memory block" in self._with_log(""):
                    self._spawn()  # child processes of a killed server are still running
                elif ended or late:
                    self.kill()
                    raise DatabaseError(self._with_log(f"{self.name} does not start")) from None
                time.sleep(0.05)
            else:
                return

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_nobody(), *self._command], stdout=log, stderr=log, cwd=self._directory, start_new_session=True
            )

    def stop(self) -> None:
        """Shut the server down gracefully."""
        if (process := self._process) is not None:
            process.send_signal(signal.SIGINT if self.name == "postgres" else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
            self.kill()

    def kill(self) -> None:
        """Kill the server and its child processes with SIGKILL."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(SECONDS)

    def _run(self, *command: str) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run([*_as_nobody(), *command], stdout=log, stderr=log, cwd=self._directory, check=False)
        if done.returncode:
            raise DatabaseError(self._with_log(f"{command[0]} failed"))

    def _with_log(self, text: str) -> str:
        tail = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([text, *tail])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


class PostgreSQL(DatabaseServer):
    """A PostgreSQL server."""

    name = "postgres"
    _home = "postgres"

    @classmethod
    def available(cls) -> bool:
        return _program("postgres") is not None and _imports("psycopg")

    def url(self, database: str) -> str:
        return f"postgresql://test@{HOST}:{self.port}/{database}"

    def connect(self, database: str, **options: Any) -> Any:
        import psycopg

        return psycopg.connect(host=HOST, port=self.port, user="test", dbname=database, **options)

    def source(self, database: str) -> str:
        return f"    import psycopg\n    return psycopg.connect({self.url(database)!r})"

    def _prepare(self) -> None:
        self._run(str(_program("initdb")), "-D", "data", "-A", "trust", "-U", "test", "-E", "UTF8", "--locale=C")

    @property
    def _command(self) -> Sequence[str]:
        settings = ("-c", f"listen_addresses={HOST}", "-c", "max_connections=50", "-c", "shared_buffers=16MB")
        return (str(_program("postgres")), "-D", "data", "-p", str(self.port), "-k", str(self._directory), *settings)


class MariaDB(DatabaseServer):
    """A MariaDB server."""

    name = "mariadb"
    _home = "mysql"

    @classmethod
    def available(cls) -> bool:
        return None not in (_program("mariadbd"), _program("mariadb-install-db")) and _imports("pymysql")

    def url(self, database: str) -> str:
        return f"mysql://root@{HOST}:{self.port}/{database}"

    def connect(self, database: str, **options: Any) -> Any:
        import pymysql

        return pymysql.connect(host=HOST, port=self.port, user="root", database=database, **options)

    def source(self, database: str) -> str:
        options = f"host={HOST!r}, port={self.port}, user='root', database={database!r}"
        return f"    import pymysql\n    return pymysql.connect({options})"

    def _prepare(self) -> None:
        self._run(
            str(_program("mariadb-install-db")), "--no-defaults", f"--datadir={self._directory / 'data'}",
            "--auth-root-authentication-method=normal", "--skip-test-db",
        )  # fmt: skip

    @property
    def _command(self) -> Sequence[str]:
        return (
            str(_program("mariadbd")), "--no-defaults", f"--datadir={self._directory / 'data'}", f"--port={self.port}",
            f"--bind-address={HOST}", f"--socket={self._directory / 's'}", "--innodb-buffer-pool-size=16M",
        )  # fmt: skip


def _as_nobody() -> Sequence[str]:
    return NOBODY if os.geteuid() == 0 else ()


def _program(name: str) -> str | None:
    versions = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    places = [*versions, "/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))


def _imports(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
