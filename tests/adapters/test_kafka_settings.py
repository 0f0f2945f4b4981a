"""Settings of the Kafka adapter: mistakes in URLs, settings of librdkafka, and confidential passwords."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest

import missive
from missive import UsageError
from missive.adapters import KafkaAdapter, from_url
from missive.matchers import Everything
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import Member, Topic
from tests.support.process import Running

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("kafka://h:9092?topic=t", "group="),
        ("kafka://h:9092?group=g", "either topic="),
        ("kafka://h:9092?topic=t&pattern=^t&group=g", "either topic="),
        ("kafka://h:9092?pattern=t.*&group=g", "begins with ^"),
        ("kafka://h:9092?topic=t&group=g&enable.auto.commit=true", "Missive sets enable.auto.commit itself"),
        ("kafka://h:9092?topic=t&group=g&strat=x", "did you mean start=?"),
        ("kafka://h:9092?topic=t&group=g&start=soon", "start= must be earliest"),
        ("kafka://h:9092?topic=t&group=g&plugin.library.paths=/tmp/canary.so", "cannot set plugin.library.paths"),
        ("kafka://h:9092?topic=t&group=g&ssl.engine.location=canary", "cannot set ssl.engine.location"),
        ("kafka://h:9092?topic=t&group=g&ssl.providers=canary", "cannot set ssl.providers"),
        ("kafka://h:9092?topic=t&group=g&sasl.kerberos.kinit.cmd=canary", "cannot set sasl.kerberos.kinit.cmd"),
        ("kafka://h:9092?topic=t&group=g&sasl.oauthbearer.config=canary", "cannot set sasl.oauthbearer.config"),
        ("kafka://h:9092?topic=t&group=g&sasl.password=canary", "cannot set sasl.password"),
        ("kafka://h:9092?topic=t&group=g&metadata.broker.list=canary", "cannot set metadata.broker.list"),
        ("kafka://h:9092?topic=t&group=g&enable.ssl.certificate.verification=0", "cannot set enable.ssl.cert"),
        ("kafka://h:9092?topic=t&group=g&no.such.setting=canary", "cannot set no.such.setting"),
        ("kafka://h:9092?topic=t&group=g&session.timeout=1", "did you mean session.timeout.ms=?"),
        ("kafka://u:canary@h:9092?topic=t&group=g&security.protocol=sasl_plaintext", "add tls=off"),
        ("kafka://u:canary@h:9092?topic=t&group=g&security.protocol=PLAINTEXT", "add tls=off"),
        ("kafka://127.0.0.1,h?topic=t&group=g&security.protocol=SASL_PLAINTEXT", "add tls=off"),
        ("kafka://u:canary@h?topic=t&group=g&tls=on&security.protocol=SASL_PLAINTEXT", "tls=on contradicts"),
        ("kafka://u:canary@h?topic=t&group=g&tls=off&security.protocol=SASL_SSL", "tls=off contradicts"),
        ("kafka://h:9092/x?topic=t&group=g", "no path"),
        ("kafka:?topic=t&group=g", "names its brokers"),
    ],
)
def test_mistakes_in_a_url_are_named(url: str, text: str):
    """Each mistake in a URL raises an error of one line that names the parameter."""
    with pytest.raises(UsageError) as refused:
        from_url(url, missive.Processor())
    assert text in str(refused.value)
    assert "canary" not in str(refused.value)


def test_an_unknown_librdkafka_setting_is_named(kafka: Kafka):
    """An unknown setting given in Python is an error that contains its name, not its value."""
    proc = missive.Processor(name="app")
    proc.add_handler(Everything(), lambda message, context: None)
    settings = {"no.such.setting": "secret-value"}
    running = Member(proc, KafkaAdapter(proc, "t", "g", servers=kafka.servers, settings=settings))
    wait_until(lambda: running.error is not None, "the error")
    running.stop()
    assert "librdkafka does not accept the setting no.such.setting" in str(running.error)
    assert "secret-value" not in str(running.error)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("kafka://h:9092", "PLAINTEXT"),
        ("kafka://h:9092?tls=on", "SSL"),
        ("kafka://u:p@h:9092", "SASL_SSL"),
        ("kafka://u@10.0.0.1,127.0.0.1", "SASL_SSL"),
        ("kafka://u:p@localhost.example:9092", "SASL_SSL"),
        ("kafka://u:p@[2001:db8::1]:9092", "SASL_SSL"),
        ("kafka://u:p@h:9092?tls=off", "SASL_PLAINTEXT"),
        ("kafka://u:p@h:9092?tls=off&security.protocol=sasl_plaintext", "SASL_PLAINTEXT"),
        ("kafka://u:p@h:9092?security.protocol=SASL_SSL", "SASL_SSL"),
        ("kafka://u:p@localhost:9092", "SASL_PLAINTEXT"),
        ("kafka://u:p@127.0.0.2:9092,[::1]:9093,localhost", "SASL_PLAINTEXT"),
        ("kafka://u:p@localhost:9092?tls=on", "SASL_SSL"),
    ],
)
def test_credentials_leave_this_machine_with_tls_only(url: str, protocol: str):
    """A user implies TLS, except on this machine and with `tls=off`."""
    adapter = from_url(f"{url}{'&' if '?' in url else '?'}topic=t&group=g", missive.Processor())
    assert isinstance(adapter, KafkaAdapter)
    assert adapter.settings.configuration("app")["security.protocol"] == protocol


def test_credentials_in_settings_need_tls_too():
    """Credentials that Python passes as settings of librdkafka need TLS as well."""
    settings = {"sasl.username": "u", "sasl.password": "p", "security.protocol": "SASL_PLAINTEXT"}
    proc = missive.Processor()
    with pytest.raises(UsageError, match="add tls=off"):
        KafkaAdapter(proc, "t", "g", servers="h:9092", settings=settings)
    adapter = KafkaAdapter(proc, "t", "g", servers="h:9092", settings=settings, tls=False)
    assert adapter.settings.configuration("app")["security.protocol"] == "SASL_PLAINTEXT"
    free = {"plugin.library.paths": "", "sasl.kerberos.kinit.cmd": "kinit"}
    assert KafkaAdapter(proc, "t", "g", settings=free).settings.librdkafka == free


def test_a_failed_tls_handshake_says_so(kafka: Kafka, start_worker: Callable[..., Running]):
    """A broker without TLS is one line that names the remedy, and no credentials are sent."""
    topic = Topic(kafka)
    topic.publish([b"here"])
    process = start_worker(topic, login="worker:right", parameters={"tls": "on"})
    while "TLS" not in (line := process.error_line(40)):
        pass
    assert "the TLS handshake failed" in line
    assert "add tls=off" in line
    process.terminate()


def test_a_wrong_password_is_one_line_without_the_password(kafka: Kafka, start_worker: Callable[..., Running]):
    """Wrong credentials produce one line and exit code 1. The right credentials work."""
    topic = Topic(kafka)
    topic.publish([b"here"])
    wrong = start_worker(topic, login="worker:canary-pass")
    out, err = wrong.finish()
    assert wrong.code == 1
    assert "refused the credentials of user worker" in err
    assert "canary" not in out + err
    right = start_worker(topic, login="worker:right")
    assert json.loads(right.line())[0] == "here"


def test_the_client_logs_no_password(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """The client's log contains no password, even at its most verbose level."""
    topic, seen = Topic(kafka), []
    topic.publish([b"here"])
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "confluent_kafka")
    proc = missive.Processor(name="app")
    proc.add_handler(Everything(), lambda message, context: seen.append(message.raw_data))
    loud = {"debug": "all", "log_level": 7}
    for password in ("canary-pass", "right"):
        login = {"username": "worker", "password": password, "settings": loud}
        running = Member(proc, KafkaAdapter(proc, topic.name, topic.group, servers=kafka.sasl_servers, **login))
        wait_until(lambda running=running: seen or running.error, "an error or the message")
        running.stop()
    assert seen == [b"here"]
    assert "confluent_kafka" in {record.name for record in caplog.records}
    assert "canary" not in caplog.text
    assert "right" not in caplog.text.replace("copyright", "")


def test_reprs_and_urls_contain_no_password():
    """The password appears in no repr and in no displayed URL, but in the configuration of the client."""
    url = "kafka://me:canary-pass@h:9092?topic=t&group=g&sasl=SCRAM-SHA-256&tls=true"
    adapter = from_url(url, missive.Processor())
    assert isinstance(adapter, KafkaAdapter)
    assert "canary" not in f"{adapter!r} {adapter.settings!r} {adapter.url} {adapter.destination}"
    settings = adapter.settings.configuration("app")
    assert settings["sasl.password"] == "canary-pass"
    assert (settings["security.protocol"], settings["sasl.mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
