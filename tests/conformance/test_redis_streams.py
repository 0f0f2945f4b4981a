"""Redis Streams passes the conformance suite."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from missive import Processor
from missive.adapters.redis_streams import RedisStreamsAdapter
from missive.testing.conformance import Conformance, Harness, Sent
from tests.support.ports import HOST
from tests.support.redis import RedisServer

pytestmark = pytest.mark.redis


class RedisStreamsHarness(Harness):
    name = "redis streams"
    preserves = frozenset({"native_id"})
    headers = frozenset({"text", "bytes"})
    broker = True
    credentials = True
    groups = True
    redelivery_seconds = 8.0

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.stream = f"s-{uuid.uuid4().hex[:8]}"

    def adapter(self, processor: Processor[Any], **options: Any) -> RedisStreamsAdapter:
        host, port = options.get("address", self.address)
        login = {"username": "worker", "password": options["password"]} if "password" in options else {}
        if group := options.get("group"):
            with self.server.client() as client:
                client.xgroup_create(self.stream, group, "0")
        wanted = {"host": host, "port": port, "claim_idle": self.lease, **login}
        wanted |= {name: options[name] for name in ("max_body",) if name in options}
        return RedisStreamsAdapter(processor, self.stream, group or "g", **wanted)

    def create(self) -> None:
        with self.server.client() as client:
            client.xgroup_create(self.stream, "g", "0", mkstream=True)

    def publish(self, messages: Sequence[Sent]) -> None:
        with self.server.client() as client:
            pipe = client.pipeline(transaction=False)
            for sent in messages:
                pipe.xadd(self.stream, {"data": sent.body, **dict(sent.headers)})
            pipe.execute()

    def publish_odd(self) -> Sequence[bytes]:
        entries: list[dict[bytes, bytes]] = [
            {b"data": b"odd value", b"a": b"\xff"},
            {b"data": b"odd name", b"\xff": b"v"},
            {b"data": b"no name", b"": b""},
            {b"data": b"nul", b"\0": b"\0"},
            {b"data": b"\xff\xfe", b"a": b"1"},
            {b"data": b"", b"a": b"1"},
            {b"data": b"many", **{b"n%d" % number: b"v" for number in range(1000)}},
            {b"data": b"surrogate", "\ud800".encode("utf-8", "surrogatepass"): b"v"},
        ]
        bodies = [entry[b"data"] for entry in entries]
        with self.server.client() as client:
            pipe = client.pipeline(transaction=False)
            for entry in entries:
                pipe.xadd(self.stream, entry)
            pipe.execute_command("XADD", self.stream, "*", b"data", b"twice", b"a", b"1", b"data", b"x", b"a", b"2")
            pipe.xadd(self.stream, {b"\xff": b"\xfe"})
            for given in (
                b"1796000000000000-0",
                b"1796000000000000000-18446744073709551614",
                b"18446744073709551614-7",
            ):
                pipe.xadd(self.stream, {b"data": given, b"a": b"1"}, id=given)
                bodies.append(given)
            pipe.execute()
        return [*bodies, b"twice", b'{"\\\\xff": "\\\\xfe"}']

    def remaining(self) -> int:
        with self.server.client() as client:
            (group,) = [group for group in client.xinfo_groups(self.stream) if group["name"] == b"g"]
            return int(group["pending"]) + int(group["lag"] or 0)

    def delete_all(self) -> bool:
        with self.server.client() as client:
            client.xtrim(self.stream, maxlen=0, approximate=False)
        return True

    def destroy(self) -> bool:
        with self.server.client() as client:
            client.delete(self.stream)
        self.create()
        return True

    @property
    def address(self) -> tuple[str, int]:
        return (HOST, self.server.port)

    @property
    def url(self) -> str:
        return self.server.url(self.stream, "g", claim_idle=self.lease)

    def versions(self) -> str:
        import redis

        with self.server.client() as client:
            return f"Redis {client.info('server')['redis_version']}, redis-py {redis.__version__}"

    def kill(self) -> None:
        self.server.kill()

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()

    def close(self) -> None:
        if self.server.pid is None:
            self.server.start()
        with self.server.client() as client:
            client.delete(self.stream)


class TestRedisStreams(Conformance):
    """Run every case on a stream with a group."""

    @pytest.fixture
    def harness(self, redis: RedisServer) -> RedisStreamsHarness:
        return RedisStreamsHarness(redis)
