"""URLs: secrets are never shown, and may come from the environment."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import UsageError
from missive.privacy import redact_url
from missive.urls import expand_environment
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
    """User, password, fragment and parameters that sound like secrets are left out, and the rest stays."""
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
    ],
)
def test_a_url_that_was_typed_wrong_shows_no_secret(url):
    """A password with characters that ought to be escaped, or a URL with a slip, is not shown either."""
    assert CANARY not in redact_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/queue.db?queue=orders",
        "file:events.jsonl",
        "file:logs/events.jsonl?start=beginning",
        "file:/var/log/events.jsonl",
        "x://host?flag&empty=&again=1&again=2",
    ],
)
def test_a_url_without_secrets_is_shown_as_it_is(url):
    """What holds no secret is shown unchanged, so that a user finds it again."""
    assert url == redact_url(url)


def test_a_url_that_cannot_be_read_shows_no_secret():
    """Where urllib cannot tell the parts apart, the password is left out all the same."""
    assert CANARY not in redact_url("amqp://user:hunter2@[::1/vhost")
    assert CANARY not in redact_url("amqp://user:hunter2@host:port/vhost")


@given(st.text(max_size=4), st.text(max_size=4))
@strategies.examples(30)
def test_an_escaped_password_is_never_shown(before, after):
    """Whatever a password is made of, percent-encoded as it should be, no part of it is shown."""
    password = before.encode("utf-8", "replace") + CANARY.encode() + after.encode("utf-8", "replace")
    escaped = quote(password, safe="")
    assert redact_url(f"amqp://user:{escaped}@host/v?queue=q") == "amqp://host/v?queue=q"
    assert redact_url(f"amqp://{escaped}@host/v?password={escaped}&queue=q") == "amqp://host/v?password=***&queue=q"


@given(st.text(st.sampled_from("ab:/?#@[]${}&=;%x0 "), max_size=30))
@strategies.examples(60)
def test_any_text_can_be_redacted(text):
    """What is no URL at all is no error."""
    assert isinstance(redact_url(text), str)


@pytest.mark.parametrize(
    ("url", "expanded"),
    [
        ("amqp://user:${PASSWORD}@${HOST}/", "amqp://user:hunter2@example.org/"),
        ("${WHOLE}", "redis://h/0?stream=s"),
        ("${HOST}${HOST}", "example.orgexample.org"),
        ("amqp://${EMPTY}h/", "amqp://h/"),
        ("amqp://h/?queue=${_under_Score9}", "amqp://h/?queue=ok"),
        ("amqp://h/?queue=$HOST", "amqp://h/?queue=$HOST"),
        ("amqp://h/?queue=${}", "amqp://h/?queue=${}"),
        ("amqp://h/?queue=${9A}", "amqp://h/?queue=${9A}"),
        ("amqp://h/?queue=${HOST", "amqp://h/?queue=${HOST"),
        ("amqp://h/?queue=${NESTED}", "amqp://h/?queue=${HOST}"),
        ("stdin:", "stdin:"),
    ],
)
def test_variables_are_replaced_once(monkeypatch, url, expanded):
    """`${NAME}` is replaced by the environment's value, which is not looked into again; anything else stays."""
    environment = {
        "PASSWORD": CANARY,
        "HOST": "example.org",
        "EMPTY": "",
        "_under_Score9": "ok",
        "NESTED": "${HOST}",
        "WHOLE": "redis://h/0?stream=s",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert expanded == expand_environment(url)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    """A missing variable raises, names itself, and shows nothing secret of the URL."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(UsageError, match=r"amqp://host/v\?queue=\$\{NOT_THERE\} uses \$\{NOT_THERE\}") as caught:
        expand_environment(f"amqp://user:{CANARY}@host/v?queue=${{NOT_THERE}}")
    assert CANARY not in str(caught.value)


def test_a_part_of_a_url_names_the_whole(monkeypatch):
    """`within` is the URL that the error about a part of it shows, without its secrets."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(UsageError, match=r"amqp://host/v uses \$\{NOT_THERE\}") as caught:
        expand_environment("${NOT_THERE}", within=f"amqp://{CANARY}:${{NOT_THERE}}@host/v")
    assert CANARY not in str(caught.value)
