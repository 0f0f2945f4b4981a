"""Checkpoints of sources, and attempts at messages that stay unsettled, in an SQL database."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.sql.database import Database, portions, translated
from missive.dlq.sql.schema import SOURCE_LENGTH
from missive.dlq.sql.schema import attempts as attempts_table
from missive.dlq.sql.schema import checkpoints as checkpoints_table


class Checkpoints(Database):
    """The part of the store that remembers how far sources have been processed."""

    @translated("read")
    def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return the checkpoint of a service and source, or None."""
        c, source = checkpoints_table.c, _key_of(source)
        statement = sa.select(c.value).where(c.service == service, c.source == source)
        with self._read() as connection:
            return connection.execute(statement).scalar()

    @translated("written")
    def save_checkpoint(self, service: str, source: str, value: str) -> None:
        """Store the checkpoint of a service and source."""
        c, source = checkpoints_table.c, _key_of(source)
        with self._write() as connection:
            update = checkpoints_table.update().where(c.service == service, c.source == source).values(value=value)
            if not connection.execute(update).rowcount:
                connection.execute(checkpoints_table.insert().values(service=service, source=source, value=value))

    @translated("written")
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Store the numbers of attempts spent, by identity."""
        with self._write() as connection:
            self._drop_attempts(connection, service, spent)
            now = self._clock()
            rows = [{"service": service, "identity": one, "attempt": n, "at": now} for one, n in spent.items()]
            if rows:
                connection.execute(attempts_table.insert(), rows)

    @translated("read")
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return the numbers of attempts spent on some identities."""
        c, found = attempts_table.c, dict[str, int]()
        with self._read() as connection:
            for some in portions(list(identities)):
                statement = sa.select(c.identity, c.attempt).where(c.service == service, c.identity.in_(some))
                found.update((one, int(attempt)) for one, attempt in connection.execute(statement))
        return found

    @translated("written")
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Delete the numbers of attempts spent on some identities."""
        with self._write() as connection:
            self._drop_attempts(connection, service, identities)

    @staticmethod
    def _drop_attempts(connection: Connection, service: str, identities: Collection[str]) -> None:
        c = attempts_table.c
        for some in portions(list(identities)):
            connection.execute(attempts_table.delete().where(c.service == service, c.identity.in_(some)))


def _key_of(source: str) -> str:
    """Return the key of a source: its name, or a digest of a name that is too long for a key."""
    return source if len(source) <= SOURCE_LENGTH else hashlib.sha256(source.encode()).hexdigest()
