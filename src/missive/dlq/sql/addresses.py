"""Addresses of databases: the URL of a store as SQLAlchemy's URL, with verified TLS to other machines."""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Mapping

import sqlalchemy as sa

from missive.dlq.retention import Retention
from missive.errors import UsageError
from missive.urls import ParsedURL, is_loopback

_POSTGRESQL = frozenset({
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "gssencmode", "host", "hostaddr",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "options", "passfile",
    "port", "require_auth", "sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert", "target_session_attrs",
    "tcp_user_timeout", "tls",
})  # fmt: skip
_MYSQL = frozenset({"charset", "connect_timeout", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "tls", "unix_socket"})
_PARAMETERS = {"postgresql": _POSTGRESQL, "mysql": _MYSQL, "mariadb": _MYSQL}
_ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})
"""Values of libpq's `sslmode` that never fall back to clear text."""


def database_url(parts: ParsedURL, parameters: Mapping[str, str], shown: str) -> sa.URL:
    """Return SQLAlchemy's URL of a database. `shown` is the URL without secrets, for errors.

    Raise `UsageError` for another database, a missing name, an unknown parameter, and a connection to another machine
    that may be in clear text.
    """
    backend = parts.scheme.partition("+")[0]
    name = parts.path[1:]
    if backend == "sqlite":
        if parts.authority or not name or name == ":memory:":
            raise UsageError(f"{shown} names no file: write sqlite:///path/to/file.db")
        if parameters:
            raise UsageError(f"{shown}: {Retention.unknown(min(parameters))}")
        return sa.URL.create("sqlite", database=name)
    if backend not in _PARAMETERS:
        raise UsageError(f"{shown}: use a URL that starts with sqlite:///, postgresql:// or mysql://")
    if not name:
        raise UsageError(f"{shown} names no database: end it with /database")
    _check_known(parameters, _PARAMETERS[backend], shown)
    secure = _postgresql if backend == "postgresql" else _mysql
    return sa.URL.create(
        parts.scheme,
        username=parts.username or None,
        password=parts.password,
        host=parts.host,
        port=parts.port,
        database=name,
        query=secure(parts, dict(parameters), shown),
    )


def _check_known(parameters: Mapping[str, str], known: frozenset[str], shown: str) -> None:
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, "keep_resolved", "keep_discarded"], 1)
            hint = f"did you mean {near[0]}=?" if near else f"known parameters: {', '.join(sorted(known))}"
            raise UsageError(f"{shown}: there is no parameter {name}=: {hint}")
    if parameters.get("tls", "off") != "off":
        raise UsageError(f"{shown}: tls= takes off only; without it, connections to other machines use TLS")


def is_elsewhere(parts: ParsedURL) -> bool:
    """Return whether the server of a database may be another machine.

    Each place that can name the server counts: the URL, its parameters, and for libpq the environment. A service file
    (PGSERVICE) can name any server.
    """
    backend, parameters, environment = parts.scheme.partition("+")[0], parts.parameters, os.environ
    if backend == "postgresql":
        hosts = [parts.host or parameters.get("host") or environment.get("PGHOST"), parameters.get("host")]
        hosts.append(parameters.get("hostaddr") or environment.get("PGHOSTADDR"))
        if environment.get("PGSERVICE"):
            return True
    else:
        hosts = [] if parameters.get("unix_socket") else [parts.host]
    one_by_one = [one for host in hosts for one in (host or "").split(",")]
    return any(one and not one.startswith("/") and not is_loopback(one) for one in one_by_one)


def _needs_tls(parts: ParsedURL, parameters: dict[str, str]) -> bool:
    """Return whether the server may be another machine, and the URL does not give up TLS."""
    return parameters.pop("tls", None) != "off" and is_elsewhere(parts)


def _postgresql(parts: ParsedURL, parameters: dict[str, str], shown: str) -> dict[str, str]:
    """Return the parameters for libpq. They override its environment and its service file."""
    if not _needs_tls(parts, parameters):
        return parameters
    mode = parameters.setdefault("sslmode", "verify-full")
    if mode not in _ENCRYPTED:
        raise UsageError(
            f"{shown}: sslmode={mode} may send messages and the password in clear text. Use sslmode=verify-full, or"
            " tls=off if you accept that"
        )
    if mode == "verify-full":
        parameters.setdefault("sslrootcert", "system")
    # A password may also come from PGPASSWORD or a file. A server that asks for it in clear text does not get it.
    parameters.setdefault("require_auth", "scram-sha-256" if parts.password else "!password,!md5")
    return parameters


def _mysql(parts: ParsedURL, parameters: dict[str, str], shown: str) -> dict[str, str]:
    """Return the parameters for PyMySQL. It verifies the server only if it gets certificates."""
    if not parameters.get("unix_socket", "/"):
        raise UsageError(f"{shown}: unix_socket= names no socket")
    if not _needs_tls(parts, parameters):
        return parameters
    if "ssl_ca" not in parameters and "ssl_capath" not in parameters:
        paths = ssl.get_default_verify_paths()
        system = {"ssl_ca": paths.cafile, "ssl_capath": paths.capath}
        parameters |= {name: path for name, path in system.items() if path is not None}
    parameters["ssl_check_hostname"] = "true"
    return parameters
