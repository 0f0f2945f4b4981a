"""A private Apache Kafka broker for tests: one node in KRaft mode, which is its own controller."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.ports import HOST, free_ports

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
REPLY_SECONDS: Final = 30.0
LOG_TAIL_LINES: Final = 40


def jars() -> Path:
    """Return the directory into which scripts/install-brokers puts Kafka's jars."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache, "missive", "kafka")


class KafkaError(Exception):
    """The broker did not start or stop. The message ends with the last lines of its log."""


class Kafka:
    """A private broker under `directory`, with the same addresses and data at every start.

    The broker has three listeners: `port` without a login, `sasl_servers` with a login, and `proxied_port` for a fault
    proxy. Clients of `proxied_port` learn the address `proxy_port`, on which the proxy must listen.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory.resolve()
        self.port, self._controller_port, self.proxied_port, self.proxy_port, self._sasl_port = free_ports(5)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @staticmethod
    def available() -> bool:
        """Return whether this machine has Java and Kafka's jars."""
        return shutil.which("java") is not None and any(jars().glob("kafka_2.13-*.jar"))

    @property
    def version(self) -> str:
        """The version of Kafka."""
        (jar,) = jars().glob("kafka_2.13-*.jar")
        return jar.stem.rpartition("-")[2]

    @property
    def servers(self) -> str:
        """The broker's address."""
        return f"{HOST}:{self.port}"

    @property
    def sasl_servers(self) -> str:
        """The address that requires a login. The user is `worker`, and the password is `right`."""
        return f"{HOST}:{self._sasl_port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None while the broker is down."""
        return None if self._process is None else self._process.pid

    def url(self, topic: str, group: str, **parameters: object) -> str:
        """Return the URL of an adapter."""
        more = "".join(f"&{name.replace('__', '.')}={value}" for name, value in parameters.items())
        return f"kafka://{self.servers}?topic={topic}&group={group}{more}"

    def start(self) -> None:
        """Start the broker, with the data of its last run. Return when it serves requests."""
        with self._lock:
            if self._process is not None:
                raise KafkaError("the broker is already running")
            self.directory.mkdir(parents=True, exist_ok=True)
            if not (self.directory / "server.properties").exists():
                self._format()
            with (self.directory / "output.log").open("ab") as output:
                self._process = subprocess.Popen(
                    self._java("kafka.Kafka", str(self.directory / "server.properties")),
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            try:
                self._wait_until_ready()
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        """Shut the broker down cleanly. Does nothing while it is down."""
        with self._lock:
            if self._process is None:
                return
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            self.kill()

    def kill(self) -> None:
        """Kill the broker with SIGKILL. Does nothing while it is down."""
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS)
                self._process = None

    def suspend(self) -> None:
        """Suspend the broker with SIGSTOP: connections stay open, and requests get no answer."""
        os.killpg(self._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]

    def resume(self) -> None:
        """Resume a suspended broker."""
        os.killpg(self._process.pid, signal.SIGCONT)  # type: ignore[union-attr]

    # Operations through confluent-kafka

    def admin(self) -> Any:
        """Return an admin client."""
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def create(self, topic: str, partitions: int = 1, **config: str) -> None:
        """Create a topic, and wait until it exists."""
        from confluent_kafka.admin import NewTopic

        named = {name.replace("_", "."): value for name, value in config.items()}
        admin = self.admin()  # the client must outlive its reply
        (created,) = admin.create_topics([NewTopic(topic, partitions, 1, config=named)]).values()
        created.result(REPLY_SECONDS)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        admin = self.admin()
        (deleted,) = admin.delete_topics([topic]).values()
        deleted.result(REPLY_SECONDS)

    def recreate(self, topic: str, partitions: int = 1) -> None:
        """Delete a topic and create it again at once."""
        from confluent_kafka import KafkaException

        self.delete(topic)
        deadline = time.monotonic() + REPLY_SECONDS
        while True:
            try:
                self.create(topic, partitions)
            except KafkaException:  # the broker still deletes the old one
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def add_partitions(self, topic: str, total: int) -> None:
        """Add partitions to a topic, up to a total."""
        from confluent_kafka.admin import NewPartitions

        admin = self.admin()
        (added,) = admin.create_partitions([NewPartitions(topic, total)]).values()
        added.result(REPLY_SECONDS)

    def publish(
        self, topic: str, bodies: Any, *, key: Any = None, partition: Any = None, headers: Any = None, **settings: Any
    ) -> None:
        """Publish bodies durably. `key` and `partition` may be functions of the number of the message."""
        from confluent_kafka import Producer

        settings = {name.replace("_", "."): value for name, value in settings.items()}
        base = {"bootstrap.servers": self.servers, "acks": "all", "linger.ms": 5, "log_level": 0}
        producer = Producer({**base, **settings})
        failed: list[Any] = []
        for number, body in enumerate(bodies):
            options: dict[str, Any] = {}
            if key is not None:
                options["key"] = key(number) if callable(key) else key
            if partition is not None:
                options["partition"] = partition(number) if callable(partition) else partition
            if headers is not None:
                options["headers"] = headers
            while True:
                try:
                    producer.produce(
                        topic, body, on_delivery=lambda error, _: failed.append(error) if error else None, **options
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        if producer.flush(REPLY_SECONDS) or failed:
            raise KafkaError(f"not all messages were published: {failed[:1]}")

    def committed(self, topic: str, group: str, partitions: int = 1) -> list[int]:
        """Return the committed offset of each partition, or -1001 for a partition without one."""
        return [one.offset for one in self.commits(topic, group, partitions)]

    def commits(self, topic: str, group: str, partitions: int = 1) -> list[Any]:
        """Return the committed offsets of a group, with their metadata."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, "log_level": 0})
        deadline = time.monotonic() + REPLY_SECONDS
        try:
            while True:
                try:
                    return consumer.committed([TopicPartition(topic, p) for p in range(partitions)], timeout=5)
                except KafkaException:  # the broker creates the topic for offsets with the first group
                    if time.monotonic() > deadline:
                        raise
        finally:
            consumer.close()

    def members(self, group: str) -> int:
        """Return the number of members of a group."""
        admin = self.admin()
        (described,) = admin.describe_consumer_groups([group]).values()
        return len(described.result(REPLY_SECONDS).members)

    def lag(self, topic: str, group: str, partitions: int = 1) -> int:
        """Return the number of messages that a group has not committed. Deleted messages do not count."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "lag", "log_level": 0})
        try:
            lag = 0
            for partition, committed in enumerate(self.committed(topic, group, partitions)):
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REPLY_SECONDS)
                lag += high - max(committed, low)
        finally:
            consumer.close()
        return lag

    def commit(self, topic: str, group: str, offset: int, metadata: str = "") -> None:
        """Commit an offset for a group without members."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, "log_level": 0})
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, offset, metadata)], asynchronous=False)
        finally:
            consumer.close()

    def trim(self, topic: str, offset: int, partition: int = 0) -> None:
        """Delete all messages of a partition before an offset, as retention does. -1 deletes all of them."""
        from confluent_kafka import TopicPartition

        admin = self.admin()
        (deleted,) = admin.delete_records([TopicPartition(topic, partition, offset)]).values()
        deleted.result(REPLY_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _java(self, *command: str) -> list[str]:
        return ["java", "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-cp", f"{jars()}/*:{self.directory}", *command]

    def _format(self) -> None:
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}"
            f",PROXIED://{HOST}:{self.proxied_port},SASL://{HOST}:{self._sasl_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port},PROXIED://{HOST}:{self.proxy_port}"
            f",SASL://{HOST}:{self._sasl_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ",PROXIED:PLAINTEXT,SASL:SASL_PLAINTEXT",
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule"
            ' required user_worker="right";',
            "log.dirs": str(self.directory / "data"),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            # After a kill, the broker can register again only when its old session has timed out.
            "broker.session.timeout.ms": "1500",
            "broker.heartbeat.interval.ms": "300",
            "group.min.session.timeout.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.backoff.ms": "100",
            "log.retention.check.interval.ms": "500",
            "log.flush.interval.messages": "1",
        } | {name.replace("_", "."): value for name, value in self._settings.items()}
        file = self.directory / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(file))
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            file.unlink()
            raise KafkaError(f"the storage was not formatted\n{done.stdout}{done.stderr}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                raise KafkaError(self._with_log("the broker stopped during its start"))
            if time.monotonic() > deadline:
                raise KafkaError(self._with_log(f"the broker did not start in {START_SECONDS:g} s"))
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
                break
            time.sleep(0.05)
        # The broker accepts connections before it can list its topics.
        while not self.admin().list_topics(timeout=REPLY_SECONDS).brokers:
            time.sleep(0.05)

    def _with_log(self, message: str) -> str:
        log = self.directory / "output.log"
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.exists() else []
        return "\n".join([message, *lines])
