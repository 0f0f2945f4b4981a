"""A private RabbitMQ node for tests, run from Debian's rabbitmq-server package.

Each node has its own name, cookie, data directory, ports and port mapper (epmd), all on the loopback interface. It
therefore never meets the node of another test run or of the machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from tests.support.ports import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
KILL_SECONDS: Final = 15.0
REPLY_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02
LOG_TAIL_LINES: Final = 40

# Debian's /usr/sbin/rabbitmq-server switches to the rabbitmq user and the node of the machine, so look for the script
# that it wraps.
SCRIPT_PLACES: Final = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
    "/usr/local/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
)
WRAPPER: Final = "/usr/sbin/rabbitmq-server"

AMQP_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME_ON_CHANNEL_0: Final = b"\x01\x00\x00"


class RabbitMQError(Exception):
    """Raised when a node fails to start or stop. The message ends with the tail of its log."""


class TLS(NamedTuple):
    """The certificates of a node that also accepts TLS, at ``tls_port``."""

    ca: Path
    certificate: Path
    key: Path
    requires_client_certificate: bool
    """Whether a client must present a certificate that ``ca`` signed."""


class RabbitMQ:
    """A private RabbitMQ node under ``directory``, with the same URL and data at every start.

    Use it as a context manager, or call :meth:`start` and finally :meth:`stop`. :meth:`stop` and :meth:`kill` leave no
    process behind. Any thread may call the methods; each waits until the others have finished.
    """

    def __init__(self, directory: Path, tls: TLS | None = None, settings: str = "") -> None:
        """`settings` are more settings of the broker, as Erlang terms that start with a comma."""
        self._settings = settings
        self.directory = directory.resolve()
        self.port = free_port()
        self.tls = tls
        self.tls_port = free_port() if tls is not None else None
        self.name = f"missive-{secrets.token_hex(6)}@localhost"
        self._cookie = secrets.token_hex(16)
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        # One thread may call start() as soon as it sees the death of the node, while kill() in another thread still
        # ends the last helpers.
        self._lock = threading.RLock()

    @staticmethod
    def available() -> bool:
        """Return whether this machine has the server's script, Erlang and its port mapper."""
        return _find_script() is not None and _find_program("erl") is not None and _find_program("epmd") is not None

    @property
    def pid(self) -> int | None:
        """The process id of the Erlang VM, or None while the node is down."""
        return self._node.pid if self._node is not None else None

    def url(self, queue: str | None = None, user: str = "guest", password: str = "guest") -> str:
        """Return the ``amqp://`` URL of the node's default virtual host, with ``?queue=`` if a queue is given."""
        query = f"?queue={quote(queue, safe='')}" if queue is not None else ""
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@{HOST}:{self.port}/%2F{query}"

    def start(self) -> None:
        """Start the node with its earlier data, and return when it answers AMQP.

        Kill the node and raise RabbitMQError if it exits or needs more than 60 seconds.
        """
        with self._lock:
            if self._node is not None:
                raise RabbitMQError(f"{self.name} is already running: call stop() or kill() first")
            deadline = time.monotonic() + START_SECONDS
            try:
                self._launch()
                self._wait_until_ready(deadline)
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        """Shut the node down cleanly. Do nothing while it is down.

        Kill the node and raise RabbitMQError if the shutdown takes more than 30 seconds.
        """
        with self._lock:
            if self._node is None:
                return
            self._node.terminate()  # RabbitMQ's handler for SIGTERM stops the applications, then the VM
            try:
                self._node.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise RabbitMQError(self._with_log(f"{self.name} did not stop in {STOP_SECONDS:g} s")) from None
            finally:
                self.kill()

    def kill(self) -> None:
        """Kill the node with SIGKILL, as the kernel's out-of-memory killer does. Do nothing while it is down.

        The VM dies first, then its helpers and the port mapper; all are gone when this returns. Raise RabbitMQError,
        which lists the remaining processes, after 15 seconds.
        """
        with self._lock:
            deadline = time.monotonic() + KILL_SECONDS
            for process in (self._node, self._epmd):
                if process is not None and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(deadline - time.monotonic())
            # The VM starts each helper in a separate session, which killpg does not reach.
            while left := self._remaining():
                if time.monotonic() > deadline:
                    raise RabbitMQError(
                        f"{self.name}: {KILL_SECONDS:g} s after SIGKILL, these processes remain: {left}"
                    )
                for helper in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(helper, signal.SIGKILL)
                time.sleep(POLL_SECONDS)
            self._node = self._epmd = None

    def _remaining(self) -> dict[int, str]:
        own = [process for process in (self._node, self._epmd) if process is not None and process.poll() is None]
        return {process.pid: str(process.args) for process in own} | _processes_with(f"RABBITMQ_NODENAME={self.name}")

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """Connect with pika and yield a channel with publisher confirms. Every wait has a limit."""
        import pika

        patience = "&".join(f"{kind}_timeout={REPLY_SECONDS:g}" for kind in ("blocked_connection", "socket", "stack"))
        connection = pika.BlockingConnection(pika.URLParameters(f"{self.url()}?{patience}"))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        script, epmd = _find_script(), _find_program("epmd")
        if script is None or epmd is None:
            raise RabbitMQError("this machine has no rabbitmq-server: run scripts/install-brokers")
        epmd_port, distribution_port = free_port(), free_port()
        self._write_files(Path(script).resolve().parent.parent / "plugins")
        environment = self._environment(epmd_port, distribution_port)
        self._epmd = self._spawn([epmd, "-port", str(epmd_port), "-address", HOST], environment)
        self._node = self._spawn([script], environment)

    def _write_files(self, libraries: Path) -> None:
        plugins = self.directory / "plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        # A start reads every plugin that it finds, enabled or not, for more than a second. Link only the broker itself;
        # Erlang finds its dependencies elsewhere.
        for broker in libraries.glob("rabbit-*"):
            link = plugins / broker.name
            link.unlink(missing_ok=True)
            link.symlink_to(broker)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)  # Erlang refuses a cookie that others can read
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "env.conf").write_text("")
        # Without this file, Erlang runs helper processes to resolve the only name, localhost.
        (self.directory / "inetrc").write_text('{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n')
        # The node reads Erlang terms directly, but translates a rabbitmq.conf first, which takes longer.
        (self.directory / "advanced.config").write_text(
            f'[{{rabbit, [{{tcp_listeners, [{{"{HOST}", {self.port}}}]}},{self._tls_settings()}'
            # An alarm on a full machine would silently block publishers.
            f" {{disk_free_limit, 0}}, {{vm_memory_high_watermark, 1.0}}{self._settings}]}}].\n"
        )

    def _tls_settings(self) -> str:
        if self.tls is None:
            return ""
        files = (
            f'{{cacertfile, "{self.tls.ca}"}}, {{certfile, "{self.tls.certificate}"}}, {{keyfile, "{self.tls.key}"}}'
        )
        required = "true" if self.tls.requires_client_certificate else "false"
        return (
            f' {{ssl_listeners, [{{"{HOST}", {self.tls_port}}}]}},'
            f" {{ssl_options, [{files}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, {required}}}]}},"
        )

    def _environment(self, epmd_port: int, distribution_port: int) -> dict[str, str]:
        # Inherit only the search path, to exclude the settings of the node of the machine.
        place = self.directory
        return {
            "PATH": _search_path(),
            "LC_ALL": "C.UTF-8",
            "HOME": str(place),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_INETRC": str(place / "inetrc"),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_BASE": str(place),
            "RABBITMQ_MNESIA_BASE": str(place / "mnesia"),
            "RABBITMQ_MNESIA_DIR": str(place / "mnesia" / "node"),
            "RABBITMQ_SCHEMA_DIR": str(place / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(place / "config"),
            "RABBITMQ_PLUGINS_DIR": str(place / "plugins"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(place / "expanded"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_LOGS": str(place / "log" / "node.log"),
            "RABBITMQ_PID_FILE": str(place / "node.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(place / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "advanced.config"),
            # With these, the script execs the VM instead of waiting for it, so that signals reach the VM.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.directory / "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _wait_until_ready(self, deadline: float) -> None:
        while not _speaks_amqp(self.port):
            for process in (self._node, self._epmd):
                if process is not None and process.poll() is not None:
                    raise RabbitMQError(self._with_log(f"{self.name} exited with {process.returncode} while starting"))
            if time.monotonic() > deadline:
                raise RabbitMQError(self._with_log(f"{self.name} did not start in {START_SECONDS:g} s"))
            time.sleep(POLL_SECONDS)

    def _with_log(self, message: str) -> str:
        tails = [message]
        for log in (self.directory / "output.log", self.directory / "log" / "node.log"):
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                tails.append("\n".join([f"--- {log}", *lines]))
        return "\n".join(tails)


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"])


def _find_program(name: str) -> str | None:
    return shutil.which(name, path=_search_path())


def _find_script() -> str | None:
    for place in SCRIPT_PLACES:
        for script in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if os.access(script, os.X_OK):
                return str(script)
    # On other systems than Debian, the program on the search path is the server's script itself.
    found = _find_program("rabbitmq-server")
    return found if found != WRAPPER else None


def _speaks_amqp(port: int) -> bool:
    """Return whether a broker answers the protocol header. It may accept connections before it is ready."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(AMQP_PROTOCOL_HEADER)
            return connection.recv(3, socket.MSG_WAITALL) == METHOD_FRAME_ON_CHANNEL_0
    except OSError:
        return False


def _processes_with(setting: str) -> dict[int, str]:
    """Return the pid and state of each live process whose environment has ``setting``, given as ``NAME=value``."""
    proc = Path("/proc")
    found: dict[int, str] = {}
    if not (proc / "self").exists() or (proc / "self").readlink().name != str(os.getpid()):
        return found  # /proc is missing, or belongs to another pid namespace
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended, or belongs to another user
            if setting.encode() not in (process / "environ").read_bytes().split(b"\0"):
                continue
            # "17 (name (of any kind)) S 1 …": https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
            name, _, rest = (process / "stat").read_text(errors="replace").rpartition(")")
            if rest.split()[0] not in "ZX":
                found[int(process.name)] = f"{name}) in state {rest.split()[0]}"
    return found
