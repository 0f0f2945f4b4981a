"""Databases that refuse a store: the error names the cause, and shows no value of the server's message."""

from __future__ import annotations

from pathlib import Path

import pytest

from missive.dlq import open_store
from missive.errors import StoreError
from tests.conftest import wait_until
from tests.support.databases import MariaDB, PostgreSQL
from tests.support.ports import free_port

SECRETS = ("hunter2", "secured", "absent")


def complaint(url: str) -> str:
    """Return the error of a store that cannot be opened, without the URL."""
    with pytest.raises(StoreError) as raised:
        open_store(url)
    where, _, cause = str(raised.value).partition(" cannot be opened: ")
    assert where.startswith("the dead letter store ")
    assert not [secret for secret in SECRETS if secret in cause]
    return cause


@pytest.mark.postgres
def test_postgresql_names_the_cause(postgres: PostgreSQL):
    """The cause is the server, the host, the database, the user, or the password."""
    with postgres.connect("postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE secured LOGIN PASSWORD 'right'")
        rules = Path(connection.execute("SHOW hba_file").fetchone()[0])
        first = "host all secured all scram-sha-256\nhost all barred all reject\n"
        rules.write_text(first + rules.read_text(encoding="utf-8"), encoding="utf-8")
        connection.execute("SELECT pg_reload_conf()")
    at = f"127.0.0.1:{postgres.port}/"
    wait_until(lambda: "pg_hba.conf" in complaint(f"postgresql://barred@{at}postgres"), "the new rules")
    assert "no server answers there" in complaint(f"postgresql://test@127.0.0.1:{free_port()}/postgres")
    assert "name of its host cannot be resolved" in complaint("postgresql://test@absent.invalid/postgres?tls=off")
    assert "no such database" in complaint(f"postgresql://test@{at}absent")
    assert "no such user" in complaint(f"postgresql://absent@{at}postgres")
    assert "refuses the user or the password" in complaint(f"postgresql://secured:hunter2@{at}postgres")
    assert "asks for a password" in complaint(f"postgresql://secured@{at}postgres")


@pytest.mark.mariadb
def test_mariadb_names_the_cause(mariadb: MariaDB):
    """The cause is the server, the host, the database, the user, or the password."""
    at = f"127.0.0.1:{mariadb.port}/"
    assert "no server answers there" in complaint(f"mysql://root@127.0.0.1:{free_port()}/mysql")
    assert "name of its host cannot be resolved" in complaint("mysql://root@absent.invalid/mysql?tls=off")
    assert "no such database" in complaint(f"mysql://root@{at}absent")
    assert "refuses the user or the password" in complaint(f"mysql://absent:hunter2@{at}mysql")
