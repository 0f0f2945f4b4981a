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
        ("kafka://h:9092/x?topic=t&group=g", "no path"),
        ("kafka:?topic=t&group=g", "names its brokers"),
    ],
)
def test_mistakes_in_a_url_are_named(url: str, text: str):
    """Each mistake in a URL raises an error of one line that names the parameter."""
    with pytest.raises(UsageError) as refused:
        from_url(url, missive.Processor())
    assert text in str(refused.value)


def test_an_unknown_librdkafka_setting_is_named(start_worker: Callable[..., Running], kafka: Kafka):
    """An unknown setting ends the worker with exit code 1, and the line contains its name, not its value."""
    process = start_worker(Topic(kafka), parameters={"no__such__setting": "secret-value"})
    _, err = process.finish()
    assert process.code == 1
    assert "librdkafka does not accept the setting no.such.setting" in err
    assert "secret-value" not in err


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
