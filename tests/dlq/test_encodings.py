"""Encodings of databases: any text is stored, or the store is refused at start."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from missive.dlq import open_store
from missive.errors import StoreRefused
from tests.support.stores import record

ODD = "caf\u00e9 \N{PILE OF POO} \u4e2d"


def created(server: Any, name: str, how: str) -> str:
    """Create a database, and return its URL."""
    with contextlib.closing(server.connect(server._home, autocommit=True)) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name} {how}")
    return str(server.url(name))


@pytest.mark.postgres
@pytest.mark.parametrize("parameters", ["", "?client_encoding=latin1"])
def test_sql_ascii_holds_any_text(postgres: Any, parameters: str, monkeypatch: pytest.MonkeyPatch):
    """A database without an encoding stores the UTF-8 of the client, whatever the environment says."""
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    name = "ascii1" if parameters else "ascii2"
    url = created(postgres, name, "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    with contextlib.closing(open_store(url + parameters)) as store:
        store.put([kept := record(error_text=ODD, detail=ODD, topic=ODD)])
        assert store.get(kept.id) == kept


@pytest.mark.postgres
def test_a_database_that_cannot_hold_text_is_refused(postgres: Any):
    """One line names the encoding and the remedy, and no table is created."""
    url = created(postgres, "latin", "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(StoreRefused, match=r"its encoding is LATIN1, .* create the database with ENCODING 'UTF8'"):
        open_store(url)
    with contextlib.closing(postgres.connect("latin")) as connection:
        assert connection.execute("SELECT to_regclass('missive_dead_letters')").fetchone() == (None,)


@pytest.mark.mariadb
@pytest.mark.parametrize("charset", ["latin1", "utf8mb3"])
def test_a_database_of_mariadb_with_another_character_set(mariadb: Any, charset: str):
    """The tables and connections have utf8mb4, whatever the database and the URL say."""
    url = created(mariadb, f"of_{charset}", f"CHARACTER SET {charset}")
    with contextlib.closing(open_store(f"{url}?charset={charset}")) as store:
        store.put([kept := record(error_text=ODD, detail=ODD, topic=ODD)])
        assert store.get(kept.id) == kept


@pytest.mark.mariadb
def test_converted_tables_of_mariadb_are_refused(mariadb: Any):
    """A table that was converted to a small character set is refused, with the statement that repairs it."""
    name = mariadb.database()
    open_store(mariadb.url(name)).close()
    with contextlib.closing(mariadb.connect(name)) as connection:
        connection.cursor().execute("ALTER TABLE missive_notes CONVERT TO CHARACTER SET utf8mb3")
        with pytest.raises(StoreRefused, match=r"has the character set utf8mb3, .*: (ALTER TABLE .*)") as raised:
            open_store(mariadb.url(name))
        connection.cursor().execute(str(raised.value).rpartition(": ")[2])
    open_store(mariadb.url(name)).close()
