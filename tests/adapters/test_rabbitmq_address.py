"""A real RabbitMQ broker is reached with certificates, heartbeats and parameters of pika."""

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
from missive.testing.conformance.host import KitHost
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
    """The authority that the clients trust."""
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@contextlib.contextmanager
def node(directory: Path, authority: Authority, *, requires_client_certificate: bool) -> Iterator[RabbitMQ]:
    certificate, key = authority.sign(f"broker-{requires_client_certificate}", "DNS:localhost")
    with RabbitMQ(directory, TLS(authority.certificate, certificate, key, requires_client_certificate)) as broker:
        with broker.channel() as channel:
            channel.queue_declare("q", durable=True)
        yield broker


@pytest.fixture(scope="module")
def broker(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that accepts TLS, with a certificate for localhost."""
    with node(tmp_path_factory.mktemp("tls"), authority, requires_client_certificate=False) as broker:
        yield broker


@pytest.fixture(scope="module")
def strict(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that requires a client certificate."""
    with node(tmp_path_factory.mktemp("strict"), authority, requires_client_certificate=True) as broker:
        yield broker


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that neither side trusts."""
    return Authority(tmp_path_factory.mktemp("others") / "theirs")


def adapter(**options: Any) -> RabbitMQAdapter:
    return RabbitMQAdapter(missive.Processor(name="app"), "q", **options)


def tls(broker: RabbitMQ, **options: Any) -> RabbitMQAdapter:
    return adapter(**{"host": "localhost", "port": broker.tls_port, "tls": True, "password": "guest"} | options)


def consumed(source: RabbitMQAdapter, broker: RabbitMQ) -> bytes:
    """Publish one message without TLS, and return the body that the source receives."""

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
    """Return the error of a fatal connection: one line, without the URL before it."""

    async def connect() -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                # A broker that refuses a certificate closes the connection, sometimes before its alert arrives.
                with contextlib.suppress(Transient):
                    await source.connect(KitHost())

    with pytest.raises(Fatal) as failed:
        asyncio.run(connect())
    assert "\n" not in str(failed.value)
    assert SECRET not in f"{failed.value!r} {source!r} {source.settings!r}"
    return str(failed.value).removeprefix(f"{source.settings.address.url}?queue=q")


@pytest.mark.openssl
def test_a_trusted_authority(broker: RabbitMQ, authority: Authority):
    """With the authority that signed the broker's certificate, by keyword and by URL, messages arrive over TLS."""
    source = tls(broker, ca_file=str(authority.certificate))
    assert consumed(source, broker) == b"secret"
    url = f"amqps://guest:guest@localhost:{broker.tls_port}/?queue=q&ca_file={authority.certificate}"
    by_url = from_url(url, missive.Processor())
    assert isinstance(by_url, RabbitMQAdapter)
    assert by_url.url == f"amqps://localhost:{broker.tls_port}/?queue=q"
    assert consumed(by_url, broker) == b"secret"


@pytest.mark.openssl
def test_an_untrusted_authority(broker: RabbitMQ, other: Authority, missive: Any, tmp_path: Path):
    """A certificate of an untrusted authority is fatal: exit code 1, and one line with the remedy and no password."""
    for source in (tls(broker), tls(broker, ca_file=str(other.certificate), username="u", password=SECRET)):
        message = refused(source)
        assert message.startswith(": the broker's certificate is not trusted (")
        assert message.endswith("): set ca_file= to the authority that signed it")
    (tmp_path / "app.py").write_text(
        "import missive\nproc = missive.Processor(name='app')\nproc.discard_for(lambda _: False, reason='never')\n"
    )
    url = f"amqps://u:{SECRET}@localhost:{broker.tls_port}/?queue=q"
    process: Running = missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db")
    _, err = process.finish()
    assert (process.code, "is not trusted" in err.splitlines()[-1], SECRET in err) == (1, True, False)
    assert "Traceback" not in err


@pytest.mark.openssl
def test_a_wrong_host_name(broker: RabbitMQ, authority: Authority):
    """A certificate for another host is fatal, even from a trusted authority, unless verification is off."""
    source = tls(broker, host="127.0.0.1", ca_file=str(authority.certificate))
    assert refused(source) == ": the broker's certificate is not for the host 127.0.0.1"
    assert consumed(tls(broker, host="127.0.0.1", verify=False), broker) == b"secret"


@pytest.mark.openssl
def test_a_client_certificate(strict: RabbitMQ, authority: Authority, other: Authority):
    """A broker that requires a client certificate accepts a trusted one; a missing or untrusted one is fatal."""
    trusted = {"ca_file": str(authority.certificate)}
    certificate, key = map(str, authority.sign("client"))
    assert consumed(tls(strict, cert_file=certificate, key_file=key, **trusted), strict) == b"secret"
    both = authority.directory / "both.pem"
    both.write_text(Path(certificate).read_text() + Path(key).read_text())
    assert consumed(tls(strict, cert_file=str(both), **trusted), strict) == b"secret"
    theirs, their_key = map(str, other.sign("client"))
    for files in ({}, {"cert_file": theirs, "key_file": their_key}):
        message = refused(tls(strict, **files, **trusted))
        assert message.startswith(": the broker requires a client certificate, or refused the client's (")
        assert message.endswith("): set cert_file= and key_file=")


@pytest.mark.openssl
def test_unreadable_files(authority: Authority, other: Authority, tmp_path: Path):
    """One line names a file that is missing, is not a certificate, or does not hold the key of the certificate."""
    certificate, _ = map(str, authority.sign("lonely"))
    _, key = map(str, other.sign("stranger"))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for options, message in (
        ({"ca_file": "/nowhere"}, "ca_file=/nowhere cannot be read: No such file or directory"),
        ({"ca_file": str(nonsense)}, f"ca_file={nonsense} cannot be read: "),
        ({"cert_file": "/nowhere"}, "cert_file=/nowhere cannot be read: No such file or directory"),
        ({"cert_file": certificate, "key_file": key}, f"cert_file={certificate} cannot be read: "),
        ({"cert_file": certificate}, f"cert_file={certificate} cannot be read: "),
    ):
        assert refused(adapter(tls=True, **options)).startswith(message)


def test_detects_a_half_open_connection(rabbitmq: RabbitMQ):
    """When no more data arrives, a waiting fetch ends within twice the heartbeat and leaves no socket open."""
    beat = 1

    async def run(proxy: FaultProxy) -> float:
        host, port = proxy.address
        session = await adapter(host=host, port=port, heartbeat=beat).connect(KitHost())
        fetch = asyncio.ensure_future(session.fetch(Credit(1, 1000)))
        await asyncio.wait([fetch], timeout=2.5 * beat)
        assert not fetch.done()  # an idle connection stays open
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


def test_a_busy_loop_does_not_count_as_silence(rabbitmq: RabbitMQ):
    """A connection survives when this process had no time to read from it."""

    async def run() -> bool | None:
        session = await adapter(host="127.0.0.1", port=rabbitmq.port, heartbeat=1).connect(KitHost())
        loop, blocked = asyncio.get_running_loop(), asyncio.Event()

        def wait_for_a_check() -> None:
            loop.call_at(session._next_check.when() - 1e-4, block)

        def block() -> None:
            """Block the loop right before a check that finds no new data."""
            if session._connection.bytes_received != session._received[0]:
                loop.call_later(0.01, wait_for_a_check)
            else:
                time.sleep(1.7)
                blocked.set()

        wait_for_a_check()
        await asyncio.wait_for(blocked.wait(), SECONDS)
        status = await session.status()
        await session.close()
        return status.connected

    with rabbitmq.channel() as channel:
        channel.queue_declare("q", durable=True)
    assert asyncio.run(run())


def test_closes_a_half_open_connection(rabbitmq: RabbitMQ):
    """Closing a session whose broker does not answer finishes in time and closes the socket."""

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
def test_pika_parameters(broker: RabbitMQ, rabbitmq: RabbitMQ, authority: Authority):
    """Parameters of pika replace the address. They are not changed, and no output shows their password."""
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


def test_conflicting_options():
    """One line refuses an address next to parameters of pika, files without TLS, and values out of range."""
    parameters = pika.ConnectionParameters()
    for options, message in (
        ({"connection_parameters": parameters, "host": "h"}, "leave out host="),
        ({"connection_parameters": parameters, "heartbeat": 5}, "leave out host="),
        ({"connection_parameters": "amqp://h"}, "must be a pika.ConnectionParameters"),
        ({"ca_file": "ca.pem"}, "need TLS"),
        ({"verify": False}, "need TLS"),
        ({"tls": True, "key_file": "key.pem"}, "add cert_file="),
        ({"tls": True, "ca_file": "ca.pem", "verify": False}, "or verify=false"),
        ({"heartbeat": 0}, "heartbeat= must be a whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            adapter(**options)
    with pytest.raises(UsageError, match="has no parameter connection_parameters="):
        from_url("amqp://h/?queue=q&connection_parameters=x", missive.Processor())
