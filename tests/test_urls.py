"""Environment variables in URLs."""

from __future__ import annotations

import pytest

from missive import UsageError
from missive.urls import expand_environment, is_loopback, parse_url

CANARY = "hunter2"


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
    """`${NAME}` is replaced by the value of the variable, which is not expanded again; other text stays."""
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


def test_an_error_names_an_unset_variable(monkeypatch):
    """The error for an unset variable names the variable and shows no secret of the URL."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(UsageError, match=r"amqp://host/v\?queue=\$\{NOT_THERE\} uses \$\{NOT_THERE\}") as caught:
        expand_environment(f"amqp://user:{CANARY}@host/v?queue=${{NOT_THERE}}")
    assert CANARY not in str(caught.value)


def test_an_error_about_a_part_shows_the_url(monkeypatch):
    """An error about a part of a URL shows the URL in `within`, without its secrets."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(UsageError, match=r"amqp://host/v uses \$\{NOT_THERE\}") as caught:
        expand_environment("${NOT_THERE}", within=f"amqp://{CANARY}:${{NOT_THERE}}@host/v")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:pa@evil.example/hunter2@host/db",
        "redis://user:6379/hunter2@host/0",
        "postgresql://app:hunter2#x@host/db",
        "redis://h/0?pw=hunter2&pw=hunter2",
        "redis://h/0?hunter2",
        "redis://[hunter2/0",
        "redis://user:hunter2@h/0\n",
    ],
)
def test_an_ambiguous_url_is_refused(url: str):
    """A URL whose password could be taken for a host, and a URL that cannot be read, are errors without secrets."""
    with pytest.raises(UsageError, match="cannot be read") as caught:
        parse_url(url)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_value_of_a_variable_is_literal(monkeypatch):
    """Special characters in the value of a variable do not change the other parts of a URL."""
    monkeypatch.setenv("PW", "a@b/c:d?e=f#g%41")
    url = parse_url("postgresql://app:${PW}@host:5432/db?application_name=${PW}")
    assert (url.username, url.password, url.host, url.port, url.path) == (
        "app",
        "a@b/c:d?e=f#g%41",
        "host",
        5432,
        "/db",
    )
    assert url.parameters == {"application_name": "a@b/c:d?e=f#g%41"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LocalHost", True), ("a.localhost", True), ("127.0.0.1", True),
        ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("db", False),
        ("127.0.0.1.evil.example", False), ("localhost.evil.example", False), ("::2", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine(host: str, expected: bool):
    """Only names and addresses that reach this machine are loopback."""
    assert expected is is_loopback(host)
