"""Claims of `once=` in an SQL database: a row for each claim."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection

from missive.dlq.once import ClaimAnswer, ClaimRequest, ClaimState, EffectKey, OnceStore, StoredClaim, decide_claim
from missive.dlq.sql.database import Database, portions, translated
from missive.dlq.sql.schema import claims


class SQLOnce(Database, OnceStore):
    """The part of the store that holds claims."""

    @translated("written")
    def once_begin(
        self, service: str, requests: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects in one transaction."""
        table, now = claims, self._clock()
        fresh = {"owner": owner, "fence": 1, "until": now + lease, "done": False, "expires_at": now + ttl}
        # All transactions lock in one order, so that they cannot deadlock.
        new = [{**fresh, "service": service, **one._asdict()} for one in sorted(requests)]

        def begin(connection: Connection) -> list[ClaimAnswer]:
            # The insert ignores existing rows, and waits for a transaction that writes the same effects.
            connection.execute(_insert_ignoring(table, connection.dialect.name), new)
            there = self._claimed(connection, service, [one.effect for one in requests])
            answers, changed = [], []
            for one in requests:
                row = there.get(one.effect)
                if row is None:  # another owner has dropped the claim since the insert
                    answers.append(ClaimAnswer(ClaimState.busy, 0, now))
                    continue
                answer, replacement = decide_claim(row, one, owner, now, lease, ttl)
                answers.append(answer)
                if replacement not in (None, row):
                    changed.append({**_bound(service, one.effect), **replacement._asdict()})
            if changed:
                connection.execute(table.update().where(*self._is_bound()), changed)
            return answers

        return self._tried(begin)

    @translated("written")
    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Extend the leases of claims in one transaction."""
        return self._change(service, effects, owner, {"until": self._clock() + lease})

    @translated("written")
    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember in one transaction that effects have happened."""
        return self._change(service, effects, owner, {"done": True, "expires_at": self._clock() + ttl})

    @translated("written")
    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Delete claims in one transaction."""

        def drop(connection: Connection) -> set[EffectKey]:
            there = self._claimed(connection, service, effects)
            ours = {effect for effect, row in there.items() if row.owner == owner and not row.done}
            self._delete_claims(connection, [(service, *effect) for effect in sorted(ours)])
            return ours

        return self._tried(drop)

    @translated("written")
    def once_purge(self, limit: int = 1000) -> int:
        """Delete expired claims in one transaction."""
        c, now = claims.c, self._clock()
        expired = (c.expires_at <= now) & (c.done | (c.until <= now))
        statement = sa.select(c.service, c.handler, c.digest).where(expired).order_by(c.expires_at).limit(limit)

        def purge(connection: Connection) -> int:
            keys = [tuple(row) for row in connection.execute(statement)]
            self._delete_claims(connection, keys)
            return len(keys)

        return self._tried(purge)

    def _change(
        self, service: str, effects: Collection[EffectKey], owner: str, values: dict[str, Any]
    ) -> set[EffectKey]:
        def change(connection: Connection) -> set[EffectKey]:
            there = self._claimed(connection, service, effects)
            ours = {effect for effect, row in there.items() if row.owner == owner}
            if ours:
                changed = [_bound(service, effect) for effect in sorted(ours)]
                connection.execute(claims.update().where(*self._is_bound()).values(values), changed)
            return ours

        return self._tried(change)

    def _claimed(
        self, connection: Connection, service: str, effects: Iterable[EffectKey]
    ) -> dict[EffectKey, StoredClaim]:
        """Return the rows of effects, and lock them."""
        c = claims.c
        found: dict[EffectKey, StoredClaim] = {}
        for some in portions(sorted(effects)):
            statement = (
                sa.select(c.handler, c.digest, c.body, c.owner, c.fence, c.until, c.done, c.expires_at)
                .where(c.service == service, sa.tuple_(c.handler, c.digest).in_(some))
                .order_by(c.handler, c.digest)
                .with_for_update()
            )
            for handler, digest, *rest in connection.execute(statement):
                found[handler, digest] = StoredClaim(*rest)
        return found

    def _delete_claims(self, connection: Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        c = claims.c
        for some in portions(keys):
            connection.execute(claims.delete().where(sa.tuple_(c.service, c.handler, c.digest).in_(some)))

    def _is_bound(self) -> tuple[sa.ColumnElement[bool], ...]:
        c = claims.c
        return (
            c.service == sa.bindparam("of_service"),
            c.handler == sa.bindparam("of_handler"),
            c.digest == sa.bindparam("of_digest"),
        )


def _bound(service: str, effect: EffectKey) -> dict[str, Any]:
    return {"of_service": service, "of_handler": effect[0], "of_digest": effect[1]}


def _insert_ignoring(table: sa.Table, dialect: str) -> sa.Insert:
    """Return an insert that ignores existing rows."""
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    # INSERT IGNORE takes read locks on existing rows. Two transactions that then lock them for writing deadlock.
    insert = mysql.insert(table)
    return insert.on_duplicate_key_update(digest=insert.inserted.digest)
