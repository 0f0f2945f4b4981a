"""Redaction of secrets in URLs."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.privacy import redact_url
from tests.support import strategies

CANARY = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:hunter2@host:5672/vhost?queue=orders", "amqp://host:5672/vhost?queue=orders"),
        ("amqp://hunter2@host/vhost", "amqp://host/vhost"),
        ("redis://:hunter2@host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@more@host/0", "redis://host/0"),
        ("amqps://user:hunter2@[::1]:5671/", "amqps://[::1]:5671/"),
        ("postgresql://u:hunter2@/db?host=/run/pg", "postgresql:///db?host=/run/pg"),
        ("sqs://queue?region=eu&secret_access_key=hunter2", "sqs://queue?region=eu&secret_access_key=***"),
        ("x://h?Password=hunter2&sasl.password=hunter2", "x://h?Password=***&sasl.password=***"),
        ("x://h?session_token=hunter2&api_key=hunter2", "x://h?session_token=***&api_key=***"),
        ("http://host/path#hunter2", "http://host/path"),
        ("rabbitmq://guest:${PASSWORD}@host/?queue=${QUEUE}", "rabbitmq://host/?queue=${QUEUE}"),
        ("stdin:", "stdin:"),
        ("kafka://one:9092,two:9092?topic=orders+new", "kafka://one:9092,two:9092?topic=orders+new"),
        ("sqlite:///queue.db?queue=orders", "sqlite:///queue.db?queue=orders"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
    ],
)
def test_a_url_is_shown_without_secrets(url, shown):
    """User, password, fragment and values of secret parameters are removed; the rest stays."""
    assert shown == redact_url(url)
    assert CANARY not in redact_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:hunter2/x@host/vhost",
        "amqp://user:x/hunter2@host/vhost",
        "amqp://user:hunter2?x@host/vhost",
        pytest.param("amqp://user:hunter2#x@host/vhost"),
        "user:hunter2@host/vhost",
        "amqp:user:hunter2@host/vhost",
        "amqp:/user:hunter2@host/vhost",
        "amqp:///user:hunter2@host/vhost",
        "x://host?pwd=hunter2",
        "x://host?pw=hunter2",
        "x://host?hunter2",
        "x://host?auth=hunter2&jwt=hunter2&dsn=hunter2",
        "postgresql://app:hunter2/db",
        "postgresql://app:hunter2",
        "postgresql:app:hunter2/db",
        "postgresql://app:hunter2/db?sslmode=require",
        "postgresql://app:pa@hunter2/@host/db",
    ],
)
def test_a_mistyped_url_shows_no_secret(url):
    """A password with unescaped characters, or in a mistyped URL, is removed."""
    assert CANARY not in redact_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/queue.db?queue=orders",
        "file:events.jsonl",
        "file:logs/events.jsonl?start=beginning",
        "file:/var/log/events.jsonl",
        "x://host?create&empty=&start=1&start=2",
    ],
)
def test_a_url_without_secrets_is_unchanged(url):
    """A URL without secrets is shown unchanged, so a user can search for it."""
    assert url == redact_url(url)


def test_an_invalid_url_shows_no_secret():
    """The password is removed from a URL that urllib cannot parse."""
    assert CANARY not in redact_url("amqp://user:hunter2@[::1/vhost")
    assert CANARY not in redact_url("amqp://user:hunter2@host:port/vhost")


@given(st.text(max_size=4), st.text(max_size=4))
@strategies.examples(30)
def test_an_escaped_password_is_never_shown(before, after):
    """No part of a percent-encoded password is shown, whatever its characters."""
    password = before.encode("utf-8", "replace") + CANARY.encode() + after.encode("utf-8", "replace")
    escaped = quote(password, safe="")
    assert redact_url(f"amqp://user:{escaped}@host/v?queue=q") == "amqp://host/v?queue=q"
    assert redact_url(f"amqp://{escaped}@host/v?password={escaped}&queue=q") == "amqp://host/v?password=***&queue=q"


@given(st.text(st.sampled_from("ab:/?#@[]${}&=;%x0 "), max_size=30))
@strategies.examples(60)
def test_any_text_can_be_redacted(text):
    """A text that is not a URL raises no error."""
    assert isinstance(redact_url(text), str)
