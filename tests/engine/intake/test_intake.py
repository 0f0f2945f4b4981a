"""The intake of one source: it replaces sessions that are lost."""

from __future__ import annotations

import asyncio

import pytest

from missive.engine.intake import watchdog
from missive.errors import Transient
from missive.matchers import Everything
from tests.support.broker import Broker
from tests.support.engine import bodies, processor, run, until


class FirstSessionFails(Broker):
    """A broker whose first session fails at one method, and whose close of the first session hangs."""

    def __init__(self, *arguments, found_by):
        super().__init__(*arguments)
        self.found_by = found_by
        if found_by == "status":
            self.intercept["fetch"] = self._fetch_nothing
        self.intercept |= {found_by: self._fail, "close": self._close}

    def _fail(self, session, *_):
        if session is self.sessions[0]:
            raise Transient("the connection is lost")

    async def _fetch_nothing(self, session, credit):
        if session is self.sessions[0]:
            await asyncio.Event().wait()

    async def _close(self, session):
        if session is self.sessions[0]:
            if self.found_by == "settle":
                session._give_back(list(self.held))
            await asyncio.sleep(60)


@pytest.mark.parametrize("found_by", ["fetch", "settle", "status"])
def test_a_close_that_hangs_does_not_delay_the_next_session(found_by, monkeypatch):
    """When the close of a dead session hangs, its source connects again and settles the redelivered messages."""
    monkeypatch.setattr(watchdog, "EVERY", 0.02)
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = FirstSessionFails(proc, bodies(3), found_by=found_by)

    async def meanwhile(engine):
        if found_by != "status":
            await until(lambda: len(broker.sessions) > 1, "another session", seconds=6)

    run(broker, meanwhile=meanwhile, seconds=10)
    assert len(broker.sessions) == 2
    assert len(broker.acked) == 3
