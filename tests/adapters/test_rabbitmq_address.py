"""RabbitMQ, a real broker: certificates, heartbeats, and live parameters of pika's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

import missive
from missive import Fatal, Transient, UsageError
from missive.adapters import RabbitMQAdapter, from_url
from missive.testing.conformance.driver import KitHost
from missive.testing.conformance.proxy import Fault, FaultProxy
from missive.transport import Credit, Disposition, Settlement
from tests.support.certificates import Authority
from tests.support.process import Running
from tests.support.rabbitmq import TLS, RabbitMQ

pytestmark = pytest.mark.rabbitmq
SECONDS = 20.0
SECRET = "hunter2"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs in these tests."""
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@contextlib.contextmanager
def node(directory: Path, authority: Authority, *, asks_clients: bool) -> Iterator[RabbitMQ]:
    certificate, key = authority.sign(f"broker-{asks_clients}", "DNS:localhost")
    with RabbitMQ(directory, TLS(authority.certificate, certificate, key, asks_clients)) as broker:
        with broker.channel() as channel:
            channel.queue_declare("q", durable=True)
        yield broker


@pytest.fixture(scope="module")
def broker(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that speaks TLS, with a certificate for localhost."""
    with node(tmp_path_factory.mktemp("tls"), authority, asks_clients=False) as broker:
        yield broker


@pytest.fixture(scope="module")
def strict(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that asks its clients for a certificate."""
    with node(tmp_path_factory.mktemp("strict"), authority, asks_clients=True) as broker:
        yield broker


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("others") / "theirs")


def adapter(**options: Any) -> RabbitMQAdapter:
    return RabbitMQAdapter(missive.Processor(name="app"), "q", **options)


def tls(broker: RabbitMQ, **options: Any) -> RabbitMQAdapter:
    return adapter(**{"host": "localhost", "port": broker.tls_port, "tls": True, "password": "guest"} | options)


def consumed(source: RabbitMQAdapter, broker: RabbitMQ) -> bytes:
    """Publish one message in the clear, and return what the source takes."""

    async def take() -> bytes:
        async with asyncio.timeout(SECONDS):
            session = await source.connect(KitHost())
            (one,) = await session.fetch(Credit(1, 1000))
            await session.settle([Settlement(one, Disposition.ack)])
            await session.close()
        return one.body

    with broker.channel() as channel:
        channel.basic_publish("", "q", b"secret")
    return asyncio.run(take())


def refused(source: RabbitMQAdapter) -> str:
    """Return the one line of a connection that is fatal."""

    async def connect() -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                # A broker that refuses a certificate hangs up, which now and then is all that is seen of it.
                with contextlib.suppress(Transient):
                    await source.connect(KitHost())

    with pytest.raises(Fatal) as failed:
        asyncio.run(connect())
    assert "\n" not in str(failed.value)
    assert SECRET not in f"{failed.value!r} {source!r} {source.address!r}"
    return str(failed.value).removeprefix(f"{source.address.url}?queue=q")


@pytest.mark.openssl
def test_the_right_authority(broker: RabbitMQ, authority: Authority):
    """With the authority that signed the broker's certificate, by URL and by keyword, messages come over TLS."""
    source = tls(broker, ca_file=str(authority.certificate))
    assert consumed(source, broker) == b"secret"
    url = f"amqps://guest:guest@localhost:{broker.tls_port}/?queue=q&ca_file={authority.certificate}"
    by_url = from_url(url, missive.Processor())
    assert isinstance(by_url, RabbitMQAdapter)
    assert by_url.url == f"amqps://localhost:{broker.tls_port}/?queue=q"
    assert consumed(by_url, broker) == b"secret"


@pytest.mark.openssl
def test_a_wrong_authority(broker: RabbitMQ, other: Authority, missive: Any, tmp_path: Path):
    """A certificate that nobody trusted signed is fatal: one line with the way out, no password in it, exit code 1."""
    for source in (tls(broker), tls(broker, ca_file=str(other.certificate), username="u", password=SECRET)):
        says = refused(source)
        assert says.startswith(": the broker's certificate is not trusted (")
        assert says.endswith("): ca_file= names who signed it")
    (tmp_path / "app.py").write_text("import missive\nproc = missive.Processor(name='app')\n")
    url = f"amqps://u:{SECRET}@localhost:{broker.tls_port}/?queue=q"
    process: Running = missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db")
    _, err = process.finish()
    assert (process.code, "is not trusted" in err.splitlines()[-1], SECRET in err) == (1, True, False)
    assert "Traceback" not in err


@pytest.mark.openssl
def test_a_wrong_host_name(broker: RabbitMQ, authority: Authority):
    """A certificate for another host is fatal, whoever signed it; unless it is not to be checked."""
    source = tls(broker, host="127.0.0.1", ca_file=str(authority.certificate))
    assert refused(source) == ": the broker's certificate is not for the host 127.0.0.1"
    assert consumed(tls(broker, host="127.0.0.1", verify=False), broker) == b"secret"


@pytest.mark.openssl
def test_a_client_certificate(strict: RabbitMQ, authority: Authority, other: Authority):
    """Where the broker asks for a client's certificate, the right one is taken, and none and another's are fatal."""
    trusted = {"ca_file": str(authority.certificate)}
    certificate, key = map(str, authority.sign("client"))
    assert consumed(tls(strict, cert_file=certificate, key_file=key, **trusted), strict) == b"secret"
    both = authority.directory / "both.pem"
    both.write_text(Path(certificate).read_text() + Path(key).read_text())
    assert consumed(tls(strict, cert_file=str(both), **trusted), strict) == b"secret"
    theirs, their_key = map(str, other.sign("client"))
    for files in ({}, {"cert_file": theirs, "key_file": their_key}):
        says = refused(tls(strict, **files, **trusted))
        assert says.startswith(": the broker asks for a certificate, or refused the one it was shown (")
        assert says.endswith("): cert_file= and key_file= name it")


@pytest.mark.openssl
def test_files_that_cannot_be_read(authority: Authority, other: Authority, tmp_path: Path):
    """A file that is missing, is no certificate, or is not the key of one is named, in one line."""
    certificate, _ = map(str, authority.sign("lonely"))
    _, key = map(str, other.sign("stranger"))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for options, says in (
        ({"ca_file": "/nowhere"}, "ca_file=/nowhere cannot be read: No such file or directory"),
        ({"ca_file": str(nonsense)}, f"ca_file={nonsense} cannot be read: "),
        ({"cert_file": "/nowhere"}, "cert_file=/nowhere cannot be read: No such file or directory"),
        ({"cert_file": certificate, "key_file": key}, f"cert_file={certificate} cannot be read: "),
        ({"cert_file": certificate}, f"cert_file={certificate} cannot be read: "),
    ):
        assert refused(adapter(tls=True, **options)).startswith(says)


def test_a_half_open_connection_is_noticed(rabbitmq: RabbitMQ):
    """When nothing comes any more, a waiting fetch ends within twice the heartbeat, and leaves no socket open."""
    beat = 1

    async def run(proxy: FaultProxy) -> float:
        host, port = proxy.address
        session = await adapter(host=host, port=port, heartbeat=beat).connect(KitHost())
        fetch = asyncio.ensure_future(session.fetch(Credit(1, 1000)))
        await asyncio.wait([fetch], timeout=2.5 * beat)
        assert not fetch.done()  # an idle connection is kept
        proxy.set(Fault.half_open)
        began = time.monotonic()
        with pytest.raises(Transient, match="is half open"):
            await asyncio.wait_for(fetch, SECONDS)
        took = time.monotonic() - began
        await session.close()
        assert session._connection.is_closed
        return took

    with rabbitmq.channel() as channel:
        channel.queue_declare("q", durable=True)
    with FaultProxy("127.0.0.1", rabbitmq.port) as proxy:
        assert asyncio.run(run(proxy)) < 2 * beat + 0.5


def test_a_loop_that_was_busy_is_no_silence(rabbitmq: RabbitMQ):
    """A connection is not given up because this process had no time to read from it."""

    async def run() -> bool | None:
        session = await adapter(host="127.0.0.1", port=rabbitmq.port, heartbeat=1).connect(KitHost())
        loop, blocked = asyncio.get_running_loop(), asyncio.Event()

        def wait_for_a_look() -> None:
            loop.call_at(session._listening.when() - 1e-4, block)

        def block() -> None:
            """Block the loop when it is about to look, and finds nothing new before it has read."""
            if session._connection.bytes_received != session._heard[0]:
                loop.call_later(0.01, wait_for_a_look)
            else:
                time.sleep(1.7)
                blocked.set()

        wait_for_a_look()
        await asyncio.wait_for(blocked.wait(), SECONDS)
        status = await session.status()
        await session.close()
        return status.connected

    with rabbitmq.channel() as channel:
        channel.queue_declare("q", durable=True)
    assert asyncio.run(run())


def test_a_half_open_connection_is_closed(rabbitmq: RabbitMQ):
    """Closing a session whose broker does not answer ends in time, and closes the socket."""

    async def run(proxy: FaultProxy) -> None:
        host, port = proxy.address
        session = await adapter(host=host, port=port).connect(KitHost())
        proxy.set(Fault.half_open)
        await asyncio.wait_for(session.close(), SECONDS)
        assert session._connection.is_closed

    with rabbitmq.channel() as channel:
        channel.queue_declare("q", durable=True)
    with FaultProxy("127.0.0.1", rabbitmq.port) as proxy:
        asyncio.run(run(proxy))


@pytest.mark.openssl
def test_live_parameters(broker: RabbitMQ, rabbitmq: RabbitMQ, authority: Authority):
    """Pika's own parameters take the place of the address, are not changed, and are not shown."""
    with rabbitmq.channel() as channel:
        channel.queue_declare("q", durable=True)
    url = pika.URLParameters(rabbitmq.url())
    assert consumed(adapter(connection_parameters=url), rabbitmq) == b"secret"
    assert not url.client_properties
    context = ssl.create_default_context(cafile=str(authority.certificate))
    options = pika.SSLOptions(context, "localhost")
    parameters = pika.ConnectionParameters("localhost", broker.tls_port, ssl_options=options, heartbeat=7)
    source = adapter(connection_parameters=parameters)
    assert source.url == f"amqps://localhost:{broker.tls_port}/?queue=q"
    assert consumed(source, broker) == b"secret"
    wrong = pika.ConnectionParameters("127.0.0.1", rabbitmq.port, credentials=pika.PlainCredentials("u", SECRET))
    assert refused(adapter(connection_parameters=wrong)) == " refused the credentials of user u"


def test_what_does_not_go_together():
    """Address and live parameters, files without TLS, and values that cannot be, are refused with one line."""
    parameters = pika.ConnectionParameters()
    for options, says in (
        ({"connection_parameters": parameters, "host": "h"}, "leave out host="),
        ({"connection_parameters": parameters, "heartbeat": 5}, "leave out host="),
        ({"connection_parameters": "amqp://h"}, "is a pika.ConnectionParameters"),
        ({"ca_file": "ca.pem"}, "are for TLS"),
        ({"verify": False}, "are for TLS"),
        ({"tls": True, "key_file": "key.pem"}, "say cert_file= too"),
        ({"tls": True, "ca_file": "ca.pem", "verify": False}, "leave out verify=false"),
        ({"heartbeat": 0}, "heartbeat= is a whole number"),
    ):
        with pytest.raises(UsageError, match=says):
            adapter(**options)
    with pytest.raises(UsageError, match="has no parameter connection_parameters="):
        from_url("amqp://h/?queue=q&connection_parameters=x", missive.Processor())
