"""Redis Streams on a real server: envelope, fenced settlements, take-over and faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import missive
from missive import Fatal, RawMessage, Transient, UsageError
from missive.adapters import RedisStreamsAdapter, from_url
from missive.engine.runner import serve
from missive.matchers import Everything
from missive.testing.conformance.proxy import FaultProxy
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.redis import RedisServer

pytestmark = pytest.mark.redis

APPLICATION = """
import json, os, time
import missive
from missive.matchers import Everything

proc = missive.Processor(name="app", concurrency=int(os.environ.get("CONCURRENCY", "1")))

@proc.handle_for(Everything())
def handle(message, context):
    os.write(1, (json.dumps([message.raw_data.decode(), context.attempt]) + "\\n").encode())
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""
CREDIT = Credit(100, 10**6)


class Stream:
    """A new stream with a group, used through redis-py without Missive."""

    def __init__(self, server: RedisServer, *, group: bool = True) -> None:
        self.server = server
        self.name, self.group = f"s-{uuid.uuid4().hex[:8]}", "g"
        if group:
            with server.client() as client:
                client.xgroup_create(self.name, self.group, "0", mkstream=True)

    def publish(self, *bodies: bytes) -> list[bytes]:
        with self.server.client() as client:
            pipe = client.pipeline(transaction=False)
            for body in bodies:
                pipe.xadd(self.name, {"data": body})
            return pipe.execute()

    def url(self, **parameters: object) -> str:
        return self.server.url(self.name, self.group, **parameters)

    def adapter(self, **parameters: object) -> Any:
        return from_url(self.url(**parameters), missive.Processor(name="app"))

    def adapter_at(self, host: str, port: int) -> Any:
        return RedisStreamsAdapter(missive.Processor(name="app"), self.name, self.group, host=host, port=port)

    def pending(self) -> int:
        with self.server.client() as client:
            return int(client.xpending(self.name, self.group)["pending"])

    def unsettled(self) -> int:
        """Return the number of entries that are not acked."""
        with self.server.client() as client:
            group = client.xinfo_groups(self.name)[0]
            return int(group["pending"]) + int(group["lag"] or 0)


class BareHost:
    """A host that stores its reports."""

    service = "app"
    credit = Credit(5000, 64 * 1024 * 1024)

    def __init__(self) -> None:
        self.reports: list[str] = []

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def time(self) -> float:
        return time.time()

    def report(self, line: str) -> None:
        self.reports.append(line)


@contextlib.asynccontextmanager
async def sessions(*adapters: Any) -> AsyncIterator[list[Any]]:
    opened: list[Any] = [await adapter.connect(BareHost()) for adapter in adapters]
    try:
        yield opened
    finally:
        for session in opened:
            await session.close()


async def fetch(session: Session, count: int, seconds: float = 20) -> list[Delivery]:
    """Fetch at least `count` deliveries."""
    deliveries: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(deliveries) < count:
            deliveries += await session.fetch(CREDIT)
    return deliveries


def settlements(deliveries: list[Delivery], disposition: Disposition = Disposition.ack) -> list[Settlement]:
    return [Settlement(delivery, disposition) for delivery in deliveries]


@pytest.fixture
def work(missive: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Start a worker process on a stream."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def start(url: str, **env: str) -> Running:
        return missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db", env=env)

    return start


def test_the_envelope_arrives(redis: RedisServer):
    """Body, headers, id, timestamp and native fields arrive. Without a body field, the entry becomes a JSON object."""
    stream, seen = Stream(redis), []
    proc = missive.Processor(name="app")

    @proc.handle_for(Everything())
    async def handle(message: RawMessage, context: missive.HandlingContext) -> None:
        length = await context.adapter.acall(lambda: context.adapter.client.xlen(stream.name))
        seen.append((message, context.native, length))
        if len(seen) == 2:
            task.cancel()

    async def main() -> None:
        nonlocal task
        task = asyncio.ensure_future(serve(from_url(stream.url(), proc)))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)

    task: Any = None
    body = bytes(range(256))
    with redis.client() as client:
        first = client.xadd(stream.name, {b"data": body, b"a": b"\xc3\xa9", b"b": b"\xff"})
        client.xadd(stream.name, {b"x": b"1", b"y": b"\xc3\xa9"})
    asyncio.run(main())
    (one, native, length), (two, _, _) = seen
    assert (one.raw_data, dict(one.headers.items()), length) == (body, {"a": "é", "b": b"\xff"}, 2)
    assert one.message_id == first.decode() == native.id
    assert abs(one.timestamp - time.time()) < 60
    assert list(native.fields)[:2] == [b"data", body]
    assert json.loads(two.raw_data) == {"x": "1", "y": "é"}
    assert "\\xff" not in repr(native)
    assert stream.unsettled() == 0


def test_fences_an_ack_after_a_take_over(redis: RedisServer):
    """The earlier owner of an entry can neither ack it nor renew its lease after another consumer took it over."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(), stream.adapter()) as (first, second):
            stream.publish(b"a", b"b")
            deliveries = await fetch(first, 2)
            await first.client.xclaim(stream.name, "g", second._name, 0, [deliveries[0].native_id])
            assert await first.extend(deliveries) == [SettlementResult.fenced, SettlementResult.confirmed]
            assert await first.settle(settlements(deliveries)) == [SettlementResult.fenced, SettlementResult.confirmed]
            assert stream.pending() == 1
            owners = await first.client.xpending_range(stream.name, "g", "-", "+", 10)
            assert [owner["consumer"] for owner in owners] == [second._name.encode()]

    asyncio.run(main())


def test_settling_twice_is_harmless(redis: RedisServer):
    """The second settlement of a delivery is `fenced` and changes nothing."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter()) as (session,):
            stream.publish(b"a", b"b")
            one, two = await fetch(session, 2)
            assert await session.settle(settlements([one])) == [SettlementResult.confirmed]
            assert await session.settle(settlements([one])) == [SettlementResult.fenced]
            assert stream.pending() == 1
            assert await session.settle(settlements([two])) == [SettlementResult.confirmed]

    asyncio.run(main())


def test_a_released_entry_is_free_at_once(redis: RedisServer):
    """Another consumer receives a released entry at once, and the release does not count as a delivery."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(), stream.adapter()) as (first, second):
            stream.publish(b"a")
            (delivery,) = await fetch(first, 1)
            assert await first.settle(settlements([delivery], Disposition.release)) == [SettlementResult.confirmed]
            (redelivered,) = await fetch(second, 1, 5)
            assert (redelivered.body, redelivered.attempt) == (b"a", 1)
            assert await second.settle(settlements([redelivered])) == [SettlementResult.confirmed]

    asyncio.run(main())
    assert stream.unsettled() == 0


def test_takes_over_entries_of_a_dead_consumer(redis: RedisServer):
    """After `claim_idle`, another consumer receives the entry with its delivery count. A late ack is fenced."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(claim_idle=1), stream.adapter(claim_idle=1)) as (first, second):
            stream.publish(b"a")
            (delivery,) = await fetch(first, 1)
            (redelivered,) = await fetch(second, 1)
            assert (redelivered.native_id, redelivered.attempt, redelivered.redelivered) == (
                delivery.native_id,
                2,
                True,
            )
            assert await first.settle(settlements([delivery])) == [SettlementResult.fenced]
            assert await second.settle(settlements([redelivered])) == [SettlementResult.confirmed]

    asyncio.run(main())
    assert stream.unsettled() == 0


def test_a_redelivery_to_the_same_consumer_fences_the_first(redis: RedisServer):
    """After its lease expired, an entry that returns to its consumer is a new delivery; the first settles nothing."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(claim_idle=0.5)) as (session,):
            stream.publish(b"a")
            (first,) = await fetch(session, 1)
            (second,) = await fetch(session, 1)
            assert second.attempt == 2
            assert await session.settle(settlements([first])) == [SettlementResult.fenced]
            assert stream.pending() == 1
            assert await session.settle(settlements([second])) == [SettlementResult.confirmed]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["fetch", "extend"])
def test_gives_back_stale_entries_that_were_read_ahead(redis: RedisServer, how: str):
    """A busy consumer gives back entries that it read ahead, at a renewal of leases or a late fetch, uncounted."""
    stream, credit = Stream(redis), Credit(100, 10**9)

    async def main() -> None:
        async with sessions(stream.adapter(claim_idle=20), stream.adapter(claim_idle=20)) as (session, other):
            stream.publish(*(b"%d" % number for number in range(300)))
            first = await session.fetch(credit)
            await asyncio.to_thread(wait_until, lambda: stream.pending() == 300, "the rest to be read ahead")
            with redis.client() as client:
                ids = [entry["message_id"] for entry in client.xpending_range(stream.name, stream.group, "-", "+", 300)]
                client.xclaim(stream.name, stream.group, "thief", 0, ids[250:], justid=True)
            session._arrived_at -= 6  # as if six seconds had passed
            session._next_takeover = 0.0
            mine: list[Delivery] = []
            if how == "extend":
                assert await session.extend(first) == [SettlementResult.confirmed] * 100
            else:
                mine = await fetch(session, 50)
            rest = [*mine, *await fetch(other, 150 - len(mine))]
            assert sorted(int(one.body) for one in rest) == list(range(100, 250))
            assert {one.attempt for one in rest} == {1}
            assert await session.settle(settlements([*first, *mine])) == [SettlementResult.confirmed] * (
                100 + len(mine)
            )
            assert await other.settle(settlements(rest[len(mine) :])) == [SettlementResult.confirmed] * (
                150 - len(mine)
            )

    asyncio.run(main())
    assert stream.pending() == 50


def test_a_stop_waits_until_entries_are_given_back(redis: RedisServer):
    """A fetch that is cancelled while it gives back stale entries still gives back all of them, uncounted."""
    stream, credit = Stream(redis), Credit(100, 10**9)

    async def main() -> None:
        async with sessions(stream.adapter()) as (session,):
            stream.publish(*(b"%d" % number for number in range(300)))
            first = await session.fetch(credit)
            await asyncio.to_thread(wait_until, lambda: stream.pending() == 300, "the rest to be read ahead")
            session._arrived_at -= 1000
            fetching = asyncio.ensure_future(session.fetch(credit))
            await asyncio.sleep(0)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            assert await session.stop_intake() == []
            assert (
                await session.settle([Settlement(one, Disposition.release) for one in first])
                == [SettlementResult.confirmed] * 100
            )
        async with sessions(stream.adapter()) as (session,):
            redelivered = await fetch(session, 300)
            assert {one.attempt for one in redelivered} == {1}

    asyncio.run(main())


def test_a_stop_returns_entries_that_could_not_be_given_back(redis: RedisServer):
    """Stale entries stay with the session while the server does not answer."""
    stream, credit = Stream(redis), Credit(100, 10**9)

    async def main() -> None:
        async with sessions(stream.adapter()) as (session,):
            stream.publish(*(b"%d" % number for number in range(300)))
            await session.fetch(credit)
            await asyncio.to_thread(wait_until, lambda: stream.pending() == 300, "the rest to be read ahead")
            session._arrived_at -= 1000
            await session.client.aclose()
            with redis.client() as client:
                client.client_kill_filter(skipme=True)
                client.config_set("maxclients", 1)
                try:
                    with pytest.raises(missive.Transient):
                        await session.fetch(credit)
                finally:
                    client.config_set("maxclients", 1000)
            assert len(await session.stop_intake()) == 200

    asyncio.run(main())


def test_renews_leases(redis: RedisServer, work: Callable[..., Running]):
    """A handler that takes three leases runs once, although another consumer takes over idle entries."""
    stream = Stream(redis)
    stream.publish(b"a", b"b")
    first = work(stream.url(claim_idle=1), SLEEP="3")
    assert json.loads(first.line())[0] == "a"
    second = work(stream.url(claim_idle=1), SLEEP="3")
    wait_until(lambda: stream.unsettled() == 0, "both to be acked")
    out = first.terminate()[0] + second.terminate()[0]
    assert [json.loads(line) for line in out.splitlines()] == [["b", 1]]


def test_reports_trimmed_entries_once(redis: RedisServer):
    """One line reports entries that were trimmed while they were pending. They give no deliveries."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(claim_idle=0.5)) as (first,):
            stream.publish(b"a", b"b", b"c")
            await fetch(first, 3)
        with redis.client() as client:
            client.xtrim(stream.name, maxlen=0)
            client.xadd(stream.name, {"data": b"d"})
        async with sessions(stream.adapter(claim_idle=0.5)) as (second,):
            (delivery,) = await fetch(second, 1)
            assert delivery.body == b"d"
            wait = asyncio.ensure_future(second.fetch(CREDIT))
            await asyncio.to_thread(wait_until, lambda: second._host.reports, "the line")
            wait.cancel()
            assert second._host.reports == [f"{second._settings.url}: 3 entries were trimmed before they were handled"]
            await second.settle(settlements([delivery]))

    asyncio.run(main())
    assert stream.pending() == 0


def test_two_groups_each_receive_all_entries(redis: RedisServer, work: Callable[..., Running]):
    """The adapter creates a group on request, and each group receives every entry."""
    stream = Stream(redis, group=False)
    with redis.client() as client:
        client.xadd(stream.name, {"data": b"a"})
    processes = [work(redis.url(stream.name, group, create="true")) for group in ("one", "two")]
    assert [json.loads(process.line())[0] for process in processes] == ["a", "a"]


def test_waits_for_a_missing_stream(redis: RedisServer, work: Callable[..., Running]):
    """A missing stream is reported and retried, and so is a deleted one. New entries are handled afterwards."""
    stream = Stream(redis, group=False)
    process = work(stream.url())
    assert f"there is no stream {stream.name}" in process.error_line()
    with redis.client() as client:
        client.xgroup_create(stream.name, "g", "0", mkstream=True)
    stream.publish(b"a")
    assert json.loads(process.line())[0] == "a"
    wait_until(lambda: stream.unsettled() == 0, "the ack")
    with redis.client() as client:
        client.delete(stream.name)
    assert "connected again" in process.error_line()
    with redis.client() as client:
        client.xgroup_create(stream.name, "g", "0", mkstream=True)
    stream.publish(b"b")
    assert json.loads(process.line())[0] == "b"


def test_a_key_of_another_type_is_fatal(redis: RedisServer, work: Callable[..., Running]):
    """A key that is not a stream ends the worker with exit code 1 and one line."""
    stream = Stream(redis, group=False)
    with redis.client() as client:
        client.set(stream.name, "canary")
    process = work(stream.url())
    _, err = process.finish()
    assert process.code == 1
    assert f"the key {stream.name} exists, but is not a stream" in err
    assert "canary" not in err
    assert "Traceback" not in err


def test_wrong_credentials_are_fatal_and_hidden(redis: RedisServer, work: Callable[..., Running]):
    """A wrong password ends the worker with exit code 1. No output contains a password."""
    stream = Stream(redis)
    with redis.client() as client:
        client.acl_setuser("worker", enabled=True, passwords=["+right-canary"], commands=["+@all"], keys=["*"])
    process = work(stream.server.url(stream.name, "g", user="worker:wrong-canary@"))
    _, err = process.finish()
    assert process.code == 1
    assert "refused the credentials of user worker" in err
    assert "canary" not in err
    stream.publish(b"a")
    process = work(stream.server.url(stream.name, "g", user="worker:${PASS}@"), PASS="right-canary")
    assert json.loads(process.line())[0] == "a"


def test_missing_permissions_are_fatal(redis: RedisServer):
    """A user without permission to read the stream gets an error that lists the permissions."""
    stream = Stream(redis)
    with redis.client() as client:
        client.acl_setuser("guest", enabled=True, passwords=["+p"], commands=["+ping", "+client"], keys=["*"])
    adapter = from_url(redis.url(stream.name, "g", user="guest:p@"), missive.Processor(name="app"))
    with pytest.raises(Fatal, match="has no permission to consume the stream"):
        asyncio.run(adapter.connect(BareHost()))


def test_an_absent_server_is_transient():
    """A refused connection is a transient error."""
    adapter = from_url("redis://127.0.0.1:9/0?stream=s&group=g", missive.Processor(name="app"))
    with pytest.raises(Transient, match="cannot be reached"):
        asyncio.run(adapter.connect(BareHost()))


@pytest.mark.openssl
def test_tls(tmp_path: Path):
    """`rediss://` uses TLS and accepts only trusted certificates."""
    with RedisServer(tmp_path, tls=True) as server:
        stream = Stream(server)
        stream.publish(b"a")

        async def main() -> None:
            async with sessions(stream.adapter(ca_file=server.certificate)) as (session,):
                (delivery,) = await fetch(session, 1)
                assert await session.settle(settlements([delivery])) == [SettlementResult.confirmed]
            with pytest.raises(Transient):
                await stream.adapter().connect(BareHost())

        asyncio.run(main())


def test_a_killed_server_loses_nothing(tmp_path: Path, work: Callable[..., Running]):
    """After a server is killed under load and restarted, every entry is handled and acked."""
    with RedisServer(tmp_path / "redis") as server:
        stream = Stream(server)
        stream.publish(*(b"%d" % n for n in range(3000)))
        process = work(stream.url(claim_idle=2), SLEEP="0.0005")
        seen = [process.line() for _ in range(300)]
        for _ in range(3):
            server.kill()
            server.start()
            seen += [process.line() for _ in range(100)]
        wait_until(lambda: stream.unsettled() == 0, "all to be acked")
        seen += process.terminate()[0].splitlines()
    assert {json.loads(line)[0] for line in seen} == {str(n) for n in range(3000)}


def test_a_killed_worker_loses_nothing(redis: RedisServer, work: Callable[..., Running]):
    """After several workers are killed, every entry is handled."""
    stream = Stream(redis)
    stream.publish(*(b"%d" % n for n in range(2000)))
    seen: list[str] = []
    for _ in range(4):
        process = work(stream.url(claim_idle=1))
        seen += [process.line() for _ in range(250)]
        seen += [line for line in process.kill()[0].splitlines() if line.endswith("]")]
    process = work(stream.url(claim_idle=1))
    wait_until(lambda: stream.unsettled() == 0, "all to be acked")
    seen += process.terminate()[0].splitlines()
    assert {json.loads(line)[0] for line in seen} == {str(n) for n in range(2000)}


def test_detects_a_half_open_connection(tmp_path: Path, work: Callable[..., Running]):
    """The worker detects a server that stops answering, and reconnects when it answers again."""
    with RedisServer(tmp_path / "redis") as server:
        stream = Stream(server)
        process = work(stream.url(claim_idle=2))
        stream.publish(b"a")
        assert json.loads(process.line())[0] == "a"
        server.suspend()
        try:
            assert server.url("", "").partition("?")[0] in process.error_line(40)
        finally:
            server.resume()
        stream.publish(b"b")
        assert json.loads(process.line())[0] == "b"


def test_closing_a_session_fails_its_settlement(tmp_path: Path):
    """A settlement that waits for its answer when the session closes fails with a transient error."""

    async def main(server: RedisServer, stream: Stream) -> None:
        async with sessions(stream.adapter()) as (session,):
            settling = asyncio.ensure_future(session.settle(settlements(await fetch(session, 1))))
            server.suspend()
            await asyncio.sleep(0)  # the command is sent and waits for its answer
            await session.close()
            server.resume()
            with pytest.raises(Transient):
                await settling

    with RedisServer(tmp_path / "redis") as server:
        stream = Stream(server)
        stream.publish(b"0")
        asyncio.run(main(server, stream))


def test_removes_a_consumer_that_leaves(redis: RedisServer):
    """A consumer without pending entries leaves the group. One with pending entries stays, for the take-over."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter(), stream.adapter()) as (first, second):
            stream.publish(b"a")
            (delivery,) = await fetch(first, 1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(second.fetch(CREDIT), 0.2)
            assert await first.settle(settlements([delivery])) == [SettlementResult.confirmed]
        async with sessions(stream.adapter()) as (third,):
            stream.publish(b"b")
            await fetch(third, 1)

    asyncio.run(main())
    with redis.client() as client:
        assert [consumer["pending"] for consumer in client.xinfo_consumers(stream.name, "g")] == [1]


def test_lag_and_age(redis: RedisServer):
    """The status has the number of unread entries and the age of the first of them."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter()) as (session,):
            assert await session.status() == (True, 0, None)
            stream.publish(*[b"x"] * 7)
            status = await session.status()
            assert (status.connected, status.lag) == (True, 7)
            assert 0 <= status.oldest_age < 30

    asyncio.run(main())


def test_acks_ids_chosen_by_a_producer(redis: RedisServer):
    """Entries with any id are acked. An id that could share its position with another has no position."""
    stream = Stream(redis)

    async def main() -> None:
        async with sessions(stream.adapter()) as (session,):
            with redis.client() as client:
                for entry in ("1-0", "1-5", "1-1048576", "1-1048577", "2-0"):
                    client.xadd(stream.name, {"data": b"a"}, id=entry)
            deliveries = await fetch(session, 5)
            assert [one.position for one in deliveries] == [1 << 20, (1 << 20) + 5, None, None, 2 << 20]
            assert await session.settle(settlements(deliveries[::-1])) == [SettlementResult.confirmed] * 5

    asyncio.run(main())
    assert stream.unsettled() == 0


def test_the_doctor_reports_unread_trimmed_entries(redis: RedisServer):
    """Trimmed entries are a finding only if the group had not read them."""
    stream = Stream(redis)

    async def main(*, read: bool) -> list[str]:
        adapter = stream.adapter()
        async with sessions(adapter) as (session,):
            stream.publish(b"a", b"b", b"c")
            if read:
                await session.settle(settlements(await fetch(session, 3)))
            with redis.client() as client:
                client.xtrim(stream.name, maxlen=0)
            stream.publish(b"d")
            found = [finding.check for finding in await adapter.diagnose(session)]
            await session.settle(settlements(await fetch(session, 1)))
            return found

    assert "trimming" not in asyncio.run(main(read=True))
    assert "trimming" in asyncio.run(main(read=False))


def test_the_doctor_reports_settings_that_lose_entries(tmp_path: Path):
    """A missing append-only file and an eviction policy are findings."""
    with RedisServer(tmp_path, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru") as server:
        stream = Stream(server)

        async def main() -> list[tuple[str, str]]:
            adapter = stream.adapter()
            async with sessions(adapter) as (session,):
                return [finding[:2] for finding in await adapter.diagnose(session)]

        found = asyncio.run(main())
    assert found == [("warning", "appendonly"), ("warning", "maxmemory-policy"), ("ok", "stream")]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h:1/0?stream=s", "needs ?group="),
        ("redis://h:1/0?group=g", "needs ?stream="),
        ("redis://h:1/x?stream=s&group=g", "number of a database"),
        ("redis://h:1/0?stream=s&group=g&claim_idel=3", "did you mean claim_idle=?"),
        ("redis://h:1/0?stream=s&group=g&claim_idle=0", "from 0.1 to 604800"),
        ("redis://h:1/0?stream=s&group=g&claim_idle=inf", "from 0.1 to 604800"),
        ("redis:?stream=s&group=g", "must name a host"),
    ],
)
def test_refuses_a_wrong_url(url: str, message: str):
    """Each mistake in a URL gives one line that names it."""
    with pytest.raises(UsageError) as refused:
        from_url(url, missive.Processor())
    assert message in str(refused.value)


def test_hides_the_password():
    """No repr and no displayed URL contains the password."""
    adapter = from_url("rediss://me:canary@h:1/2?stream=s&group=g", missive.Processor())
    assert isinstance(adapter, RedisStreamsAdapter)
    assert "canary" not in f"{adapter!r} {adapter.url} {adapter.destination} {adapter.settings!r}"
    assert adapter.url == "rediss://h:1/2?stream=s&group=g"


def test_a_command_that_waits_while_the_session_closes_opens_no_connection(redis: RedisServer) -> None:
    """A queued command of a session that closed leaves no connection behind."""
    stream = Stream(redis)
    stream.publish(b"0", b"1")

    async def run(proxy: FaultProxy) -> None:
        host, port = proxy.address
        async with sessions(stream.adapter_at(host, port)) as (session,):
            first, second = await fetch(session, 2)
            proxy.hang()
            settling = [
                asyncio.ensure_future(session.settle([Settlement(one, Disposition.ack)])) for one in (first, second)
            ]
            await asyncio.sleep(0)
        results = await asyncio.gather(*settling, return_exceptions=True)
        assert [Transient, Transient] == [type(result) for result in results]
        async with asyncio.timeout(10):
            while proxy.connections:  # noqa: ASYNC110 - the proxy runs in a thread of its own
                await asyncio.sleep(0.01)

    with FaultProxy("127.0.0.1", redis.port) as proxy:
        asyncio.run(run(proxy))
