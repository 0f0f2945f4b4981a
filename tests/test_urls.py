"""Environment variables in URLs."""

from __future__ import annotations

import pytest

from missive import UsageError
from missive.urls import expand_environment

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
