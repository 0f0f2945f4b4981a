"""Addresses of databases: the parameters of a URL, and the connection to other machines."""

from __future__ import annotations

import pytest

from missive import UsageError
from missive.dlq import open_store
from missive.dlq.retention import Retention
from missive.dlq.sql.addresses import database_url, is_elsewhere
from missive.urls import parse_url

CANARY = "hunter2"
VERIFIED = {"sslmode": "verify-full", "sslrootcert": "system", "require_auth": "!password,!md5"}
ENVIRONMENT = ("PGHOST", "PGHOSTADDR", "PGSERVICE")


def address(url: str) -> dict[str, object]:
    """Return the parameters for the client library."""
    parts = parse_url(url)
    return dict(database_url(parts, Retention.parse(parts.parameters)[1], "URL").query)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hunter2/db",
        "postgresql://app:hunter2@host:port/db",
        "postgresql://app:pa@evil.example/hunter2@host/db",
        "mysql://app:hunter2@host/db?local_infile=1",
        "mysql://app:hunter2@host/db?read_default_file=/etc/hunter",
        "mysql://app:hunter2@host/db?pw=hunter2",
        "postgresql://app:hunter2@host/db?sslmod=require",
        "postgresql://app:hunter2@host/",
        "postgresql+asyncpg://app:hunter2@/",
        "sqlite://app:hunter2@host/dlq.db",
        "sqlite:///:memory:?pw=hunter2",
        "sqlite:///dlq.db?pw=hunter2",
        "${MISSIVE_WHOLE}",
    ],
)
def test_a_wrong_url_of_a_store_is_one_line_without_secrets(url: str, monkeypatch: pytest.MonkeyPatch):
    """An error names the fault, and shows no password."""
    monkeypatch.setenv("MISSIVE_WHOLE", "postgresql://app:hunter2/db")
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_parameter_names_the_nearest():
    """A parameter that no store has is an error with the nearest known name."""
    with pytest.raises(UsageError, match=r"no parameter sslmod=: did you mean sslmode=\?"):
        address("postgresql://app@host/db?sslmod=require")


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        (
            "postgresql://app:x@db.example/db",
            {"sslmode": "verify-full", "sslrootcert": "system", "require_auth": "scram-sha-256"},
        ),
        ("postgresql://app@db.example/db", VERIFIED),
        (
            "postgresql://app@/db?host=db.example",
            {**VERIFIED, "host": "db.example"},
        ),
        (
            "postgresql://app@localhost/db?hostaddr=10.0.0.1",
            {**VERIFIED, "hostaddr": "10.0.0.1"},
        ),
        (
            "postgresql://app:x@db.example/db?sslrootcert=ca.pem&require_auth=none",
            {"sslmode": "verify-full", "sslrootcert": "ca.pem", "require_auth": "none"},
        ),
        ("postgresql://app@db.example/db?sslmode=require", {"sslmode": "require", "require_auth": "!password,!md5"}),
        ("postgresql://app:x@db.example/db?tls=off", {}),
        ("postgresql://app:x@localhost/db", {}),
        ("postgresql://app:x@127.0.0.1/db?tls=off", {}),
        ("postgresql://app@/db?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("mysql://app:x@localhost/db", {}),
        ("mysql://app:x@db.example/db?tls=off", {}),
        ("mysql://app:x@db.example/db?ssl_ca=ca.pem", {"ssl_ca": "ca.pem", "ssl_check_hostname": "true"}),
        ("mysql://app:x@db.example/db?unix_socket=/run/mysql", {"unix_socket": "/run/mysql"}),
        ("mysql://app:x@db.example/db?unix_socket=/run/mysql&tls=off", {"unix_socket": "/run/mysql"}),
    ],
)
def test_other_machines_are_reached_by_verified_tls(
    url: str, parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """Off this machine, the server is verified unless the URL says otherwise."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert parameters == address(url)


@pytest.mark.parametrize(
    ("url", "variable", "value"),
    [
        ("postgresql://app@/db", "PGHOST", "db.example"),
        ("postgresql://app@/db", "PGHOSTADDR", "10.0.0.1"),
        ("postgresql://app@localhost/db", "PGHOSTADDR", "10.0.0.1"),
        ("postgresql://app@/db?host=/run/postgresql", "PGHOSTADDR", "10.0.0.1"),
        ("postgresql://app@/db", "PGSERVICE", "orders"),
        ("postgresql://app@localhost/db", "PGSERVICE", "orders"),
    ],
)
def test_the_environment_may_name_another_machine(url: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    """Libpq reads its environment and service files where a URL leaves a part out: TLS holds there, too."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert address(url)["sslmode"] == "verify-full"
    assert "sslmode" not in address(url + ("&" if "?" in url else "?") + "tls=off")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@localhost/db?tls=off&hostaddr=10.0.0.1",
        "postgresql://app@/db?tls=off&host=db.example",
        "postgresql://app@/db?tls=off&host=localhost,db.example",
        "mysql://app@db.example/db?tls=off",
    ],
)
def test_each_name_of_another_machine_counts(url: str):
    """The warning about clear text depends on no single place that names the server."""
    assert is_elsewhere(parse_url(url))


@pytest.mark.parametrize(
    "url", ["postgresql://app@localhost/db", "mysql://app@db.example/db?unix_socket=/run/mysql", "mysql://app@/db"]
)
def test_a_server_on_this_machine_is_not_elsewhere(url: str, monkeypatch: pytest.MonkeyPatch):
    """A loopback address and a socket stay on this machine."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert not is_elsewhere(parse_url(url))


def test_an_empty_socket_does_not_give_up_tls():
    """PyMySQL would connect to the host of the URL."""
    with pytest.raises(UsageError, match="unix_socket= names no socket"):
        address("mysql://app:x@db.example/db?unix_socket=")


def test_mysql_verifies_with_the_certificates_of_the_system():
    """Without ssl_ca=, PyMySQL gets the authorities that the system trusts."""
    given = address("mysql://app:x@db.example/db")
    assert given["ssl_check_hostname"] == "true"
    assert {"ssl_ca", "ssl_capath"} & given.keys()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_mode_that_may_be_clear_text_is_refused(mode: str):
    """A weak sslmode needs tls=off."""
    with pytest.raises(UsageError, match=f"sslmode={mode} may send messages and the password in clear text"):
        address(f"postgresql://app:x@db.example/db?sslmode={mode}")
    assert address(f"postgresql://app:x@db.example/db?sslmode={mode}&tls=off") == {"sslmode": mode}


def test_tls_takes_off_only():
    """Another value of tls= is an error."""
    with pytest.raises(UsageError, match="tls= takes off only"):
        address("mysql://app@db.example/db?tls=no")
