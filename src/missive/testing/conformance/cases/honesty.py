"""Cases 68 and 72: what is told of a source is so, and what a test client says is what happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.app.retry import Retry
from missive.dlq.record import Status
from missive.errors import DeadLetter
from missive.messages import RawMessage
from missive.outcome import Outcome
from missive.testing.client import TestClient
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.transport import SessionStatus

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_WAITING, _AGE = 5, 1.2
_TOLD = 5.0
"""Seconds until what a transport tells must have caught up."""


@case(68)
async def lag(driver: Driver) -> CaseOutcome:
    """The messages that wait and the age of the oldest, where a session tells them, are what was published."""
    ahead = driver.harness.read_ahead
    waiting = _WAITING + 2 * ahead
    await driver.publish(b"first")
    session = await driver.open()
    await driver.settle(session, await driver.take(session, 1))
    published = time.time()
    await driver.publish(*(b"%d" % number for number in range(waiting)))
    await asyncio.sleep(_AGE)
    told = await driver.status(session, lambda status: status.lag is None or 0 <= waiting - status.lag <= ahead, _TOLD)
    check(told.lag is None or 0 <= waiting - told.lag <= ahead, f"the lag is {told.lag} of {waiting}")
    if told.oldest_age is not None:
        age = time.time() - published
        check(
            _AGE - 0.1 <= told.oldest_age <= age + 1.0,
            f"the oldest is {told.oldest_age:.1f} s old, and not {age:.1f} s",
        )
    await driver.settle(session, await driver.take(session, waiting))
    told_then = await driver.status(session, lambda status: status.lag in (None, 0), _TOLD)
    check(told_then.lag in (None, 0) and not told_then.oldest_age, f"with nothing left it says {told_then}")
    check((told.lag is None) == (told_then.lag is None), "it tells the lag only now and then")
    return CaseOutcome.refused if told == SessionStatus(told.connected) else CaseOutcome.passed


class _Story:
    """What became of messages: the attempts at each, and its dead letter."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ran: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def processor(self) -> Processor[RawMessage]:
        """Return a processor of which each message ends in another way."""
        processor = Processor(name="conformance", dlq=self.url)

        def named(name: str, retry: Retry | None = None) -> None:
            @processor.handle_for(lambda message: message.raw_data.startswith(name.encode()), name=name, retry=retry)
            async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
                body = message.raw_data.decode()
                self.ran[body].append((name, context.attempt))
                self.end(body, context, len(self.ran[body]))

        for name in ("ack", "return", "nack", "retry", "letter", "discard", "raise", "dead", "two", "twofold"):
            named(name)
        named("again", Retry(attempts=3, immediate=0, delays=(0.05,)))
        named("spent", Retry(attempts=2))
        return processor

    @staticmethod
    def end(body: str, context: HandlingContext[RawMessage], times: int) -> None:
        """End an attempt as the body says."""
        if body == "ack":
            context.ack()
        elif body == "nack" and times == 1:
            context.nack()
        elif body == "retry" and times < 3:
            context.retry(0.05)
        elif body == "letter":
            context.dead_letter("not wanted", detail="at all")
        elif body == "discard":
            context.discard("of no use")
        elif body in {"raise", "spent"} or (body == "again" and times == 1):
            raise ValueError(body)
        elif body == "dead":
            raise DeadLetter("refused")

    def foretold(self) -> Letters:
        """Run all messages in a test client; returns what becomes a dead letter, and why."""
        letters: Letters = {}
        with contextlib.closing(TestClient(self.processor())) as client:
            for body in _BODIES:
                result = client.send(RawMessage(body.encode()))
                while result.outcome in {Outcome.retried, Outcome.nacked}:
                    (result,) = client.advance((result.delay or 0) + 0.001)
                if result.outcome is Outcome.dead_lettered:
                    error = result.exception
                    raised = None if error is None or isinstance(error, DeadLetter) else type(error).__name__
                    letters[body] = (result.reason, result.handler, raised)
        return letters

    @property
    def attempts(self) -> int:
        """How many there were in all."""
        return sum(map(len, self.ran.values()))


Letters = dict[str, tuple[str | None, str | None, str | None]]
"""Of each message that is a dead letter the label or reason, the handler, and the exception's type."""


def _filed(driver: Driver) -> Letters:
    return {
        one.body.decode(): (one.label or str(one.reason), one.handler, one.error_type)
        for one in driver.dead_letters()
        if one.status is Status.dead  # a pipe's nacks are parked, and resolved
    }


_BODIES = ("ack", "return", "nack", "retry", "letter", "discard", "raise", "dead", "twofold", "again", "spent", "none")


@case(72)
async def agree(driver: Driver) -> CaseOutcome:
    """Each outcome, as a test client says it, is what happens with the real adapter: attempts and dead letters."""
    real, client = _Story(driver.dlq), _Story("sqlite://")
    letters = await driver.in_thread(client.foretold)
    await driver.publish(*(body.encode() for body in _BODIES))
    async with driver.serving(driver.adapter(real.processor())):
        await driver.until(lambda: set(_filed(driver)) >= set(letters), "the dead letters that the client foretells")
        await driver.until(lambda: real.attempts >= client.attempts, "the attempts that the client foretells")
        await driver.until_empty()
    differ = sorted(body for body, _ in _filed(driver).items() ^ letters.items())
    check(not differ, f"the dead letters of {differ} are others")
    differ = sorted(body for body in _BODIES if real.ran[body] != client.ran[body])
    check(not differ, f"handlers or attempts of {differ} are others")
    driver.log.handled.update(body.encode() for body in _BODIES)
    return CaseOutcome.passed
