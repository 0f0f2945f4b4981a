"""Cases 68 and 72: the status of a session and the results of a test client agree with the transport."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict

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
from missive.testing.conformance.driver import Driver, numbered
from missive.transport import SessionStatus

_WAITING, _AGE = 5, 1.2
_LATEST = 5.0
"""Time limit for a status to be up to date, in seconds."""


@case(68)
async def lag(driver: Driver) -> CaseOutcome:
    """The lag and the oldest age, where a session reports them, agree with the published messages."""
    ahead = driver.harness.read_ahead
    waiting = _WAITING + 2 * ahead
    await driver.publish(b"first")
    session = await driver.open()
    await driver.settle(session, await driver.take(session, 1))
    published = time.time()
    await driver.publish(*numbered(waiting))
    await asyncio.sleep(_AGE)
    status = await driver.status(
        session, lambda status: status.lag is None or 0 <= waiting - status.lag <= ahead, _LATEST
    )
    check(
        status.lag is None or 0 <= waiting - status.lag <= ahead,
        f"the lag is {status.lag}, but {waiting} messages wait",
    )
    if status.oldest_age is not None:
        age = time.time() - published
        check(
            _AGE - 0.1 <= status.oldest_age <= age + 1.0,
            f"the oldest age is {status.oldest_age:.1f} s, but the message is {age:.1f} s old",
        )
    await driver.settle(session, await driver.take(session, waiting))
    empty = await driver.status(session, lambda status: status.lag in (None, 0), _LATEST)
    check(empty.lag in (None, 0) and not empty.oldest_age, f"the status of an empty source is {empty}")
    check((status.lag is None) == (empty.lag is None), "the session reports its lag at some times only")
    return CaseOutcome.refused if status == SessionStatus(status.connected) else CaseOutcome.passed


class _Run:
    """One run of the messages of the case: the handlers and attempts of each message."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ran: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def processor(self) -> Processor[RawMessage]:
        """Return a processor that ends each message in a different way."""
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
        """End an attempt in the way that the body names."""
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

    def expected(self) -> Letters:
        """Run the messages in a test client, and return the dead letters."""
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
        """Number of attempts at all messages."""
        return sum(map(len, self.ran.values()))


Letters = dict[str, tuple[str | None, str | None, str | None]]
"""By body of a dead letter: its label or reason, its handler, and the type of the exception."""


def _stored(driver: Driver) -> Letters:
    return {
        one.body.decode(): (one.label or str(one.reason), one.handler, one.error_type)
        for one in driver.dead_letters()
        if one.status is Status.dead  # nacks from a pipe are parked and resolved
    }


_BODIES = ("ack", "return", "nack", "retry", "letter", "discard", "raise", "dead", "twofold", "again", "spent", "none")


@case(72)
async def agree(driver: Driver) -> CaseOutcome:
    """The test client and the real adapter have the same handlers, attempts and dead letters."""
    real, client = _Run(driver.dlq), _Run("sqlite://")
    letters = await driver.in_thread(client.expected)
    await driver.publish(*(body.encode() for body in _BODIES))
    async with driver.serving(driver.adapter(real.processor())):
        await driver.until(lambda: set(_stored(driver)) >= set(letters), "the dead letters of the test client")
        await driver.until(lambda: real.attempts >= client.attempts, "the attempts of the test client")
        await driver.until_empty()
    differ = sorted(body for body, _ in _stored(driver).items() ^ letters.items())
    check(not differ, f"the adapter and the test client disagree about the dead letters of {differ}")
    differ = sorted(body for body in _BODIES if real.ran[body] != client.ran[body])
    check(not differ, f"the adapter and the test client disagree about the handlers or attempts of {differ}")
    driver.log.handled.update(body.encode() for body in _BODIES)
    return CaseOutcome.passed
