"""Replays in an SQL database: the records of each replay, its pace and its results."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import Replay
from missive.dlq.pacing import pace
from missive.dlq.record import Status
from missive.dlq.sql.changes import NO_LEASE
from missive.dlq.sql.conditions import status_of_chosen
from missive.dlq.sql.database import STEP, in_steps, translated
from missive.dlq.sql.group_counts import GroupCounts
from missive.dlq.sql.leases import FAR, Leases
from missive.dlq.sql.schema import paced
from missive.dlq.sql.schema import records as records_table
from missive.dlq.sql.schema import replayed as replayed_table
from missive.dlq.sql.schema import replays as replays_table

_OF_A_REPLAY = ("id", "by", "query", "by_command", "canary", "rate", "until_failures", "status")
_QUEUED = {"status": Status.queued, "due": None, **NO_LEASE}
_DEAD = {"status": Status.dead, **NO_LEASE}


class Replays(Leases):
    """The part of the store for replays. A replay runs the ids it was started with, and no later failures."""

    @translated("written")
    def start_replay(self, replay: Replay, ids: Collection[str]) -> int:
        """Store a replay and assign its records. The last transaction stores the replay."""
        row = {name: getattr(replay, name) for name in _OF_A_REPLAY}
        mine = {**_DEAD, "replay": replay.id}
        steps = list(in_steps(ids))

        def start(connection: Connection, counts: GroupCounts, some: Sequence[str], total: int) -> int:
            rows = self._move(connection, counts, some, mine, self._free())
            selected = [{"replay": replay.id, "record": row.id, "attempts": row.attempts} for row in rows]
            if selected:
                connection.execute(replayed_table.insert(), selected)
            total += len(rows)
            if some is steps[-1]:
                now = self._clock()
                connection.execute(replays_table.insert().values({**row, "created_at": now, "total": total}))
            return total

        total = 0
        for some in steps:
            total = self._changing(functools.partial(start, some=some, total=total))
        return total

    @translated("written")
    def queue_remaining(self, replay: str, limit: int | None = None) -> int:
        """Queue remaining records of a running replay."""
        of = replays_table.c
        runs = sa.select(of.by_command).where(of.id == replay, of.status == "running").with_for_update()

        def queue(connection: Connection, counts: GroupCounts, size: int) -> int:
            by_command = connection.execute(runs).scalar()
            return (
                0 if by_command is None else self._queue_left(connection, counts, replay, size, by_command=by_command)
            )

        count = 0
        while size := STEP if limit is None else min(STEP, limit - count):
            done = self._changing(functools.partial(queue, size=size))
            count += done
            if done < size:
                break
        return count

    def _queue_left(
        self, connection: Connection, counts: GroupCounts, replay: str, limit: int | None, *, by_command: bool
    ) -> int:
        c, selected = records_table.c, replayed_table.c
        left = (
            sa.select(c.id)
            .join(replayed_table, (selected.record == c.id) & (selected.replay == c.replay))
            .where(c.replay == replay, c.status == Status.dead, c.attempts == selected.attempts)
            .order_by(c.id)
            .limit(limit)
        )
        ids = list(connection.execute(left).scalars())
        mine = (sa.func.coalesce(c.replay, "") == replay) & (status_of_chosen == Status.dead)
        return len(self._move(connection, counts, ids, {**_QUEUED, "ready": FAR if by_command else 0.0}, mine))

    @translated("written")
    def advance(self) -> None:
        """Queue more records of replays that workers run, as far as canaries, rates and failures allow."""
        of = replays_table.c
        runs = sa.select(replays_table).where(of.status == "running", of.by_command.is_(sa.false()), paced)
        with self._read() as connection:
            ids = [row.id for row in connection.execute(runs)]

        def advance(connection: Connection, counts: GroupCounts, one: str) -> None:
            row = connection.execute(runs.where(of.id == one).with_for_update(skip_locked=True)).first()
            if row is None:  # another worker advances the replay, or it has ended
                return
            replay = _replay_of(row, self._counted(connection, one))
            now = self._clock()
            step = pace(replay, now)
            values: dict[str, Any] = {"status": step.status, "paced_until": step.paced_until}
            if step.status != "running":
                values["finished_at"] = now
                self._unqueue(connection, counts, one, None)
            elif step.queue is None or step.queue:
                self._queue_left(connection, counts, one, step.queue, by_command=False)
            connection.execute(replays_table.update().where(of.id == one).values(values))

        for one in ids:
            self._changing(functools.partial(advance, one=one))

    @translated("written")
    def set_replay(self, replay: str, status: str, *, by_command: bool | None = None) -> None:
        """Set the status of a replay."""
        ended = status != "running"
        values: dict[str, Any] = {"status": status, "finished_at": self._clock() if ended else None}
        if by_command is not None:
            values["by_command"] = by_command

        def change(connection: Connection, counts: GroupCounts) -> None:
            connection.execute(replays_table.update().where(replays_table.c.id == replay).values(values))
            if ended:
                self._unqueue(connection, counts, replay, None)
            self._offer(connection, replay)

        if ended:  # in several transactions, so that others can write in between
            while self._changing(lambda connection, counts: self._unqueue(connection, counts, replay, STEP)) == STEP:
                pass
        self._changing(change)

    def _offer(self, connection: Connection, replay: str) -> None:
        """Set the time from which workers can lease queued records of a replay: never, while a command runs it."""
        c, of = records_table.c, replays_table.c
        elsewhere = sa.select(of.id).where(of.id == replay, of.status == "running", of.by_command.is_(sa.true()))
        due, until = sa.func.coalesce(c.due, 0.0), sa.func.coalesce(c.leased_until, 0.0)
        ready = sa.case((due > until, due), else_=until)
        queued = records_table.update().where(c.replay == replay, c.status == Status.queued)
        connection.execute(queued.values(ready=FAR if connection.execute(elsewhere).first() else ready))

    def _unqueue(self, connection: Connection, counts: GroupCounts, replay: str, limit: int | None) -> int:
        """Make queued records dead if no lease holds them."""
        c = records_table.c
        queued = (c.replay == replay, c.status == Status.queued, self._free())
        ids = list(connection.execute(sa.select(c.id).where(*queued).order_by(c.id).limit(limit)).scalars())
        still = (sa.func.coalesce(c.replay, "") == replay, status_of_chosen == Status.queued, self._free())
        return len(self._move(connection, counts, ids, _DEAD, *still))

    @translated("read")
    def replays(self, replay: str | None = None, *, limit: int | None = None, offset: int = 0) -> list[Replay]:
        """Return replays with their results, newest first, or one replay."""
        of = replays_table.c
        statement = sa.select(replays_table).order_by(of.id.desc()).limit(limit).offset(offset)
        with self._read() as connection:
            found = connection.execute(statement if replay is None else statement.where(of.id == replay)).all()
            return [_replay_of(row, self._counted(connection, row.id)) for row in found]

    @staticmethod
    def _counted(connection: Connection, replay: str) -> Sequence[Any]:
        c, selected = records_table.c, replayed_table.c
        again = sa.case((c.attempts > selected.attempts, 1), else_=0)
        counts = (
            sa.select(c.status, again, sa.func.count())
            .join(replayed_table, (selected.record == c.id) & (selected.replay == c.replay))
            .where(c.replay == replay)
            .group_by(c.status, again)
        )
        return connection.execute(counts).all()


def _replay_of(row: sa.Row[Any], counted: Sequence[Any]) -> Replay:
    counts = dict.fromkeys(("queued", "resolved", "discarded", "failed", "left"), 0)
    for status, again, count in counted:
        name = ("failed" if again else "left") if status == Status.dead else str(status)
        counts["failed" if name == Status.parked else name] += int(count)
    names = (*_OF_A_REPLAY, "created_at", "paced_until", "finished_at", "total")
    return Replay(**{name: getattr(row, name) for name in names}).with_counts(**counts)
